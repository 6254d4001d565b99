//! Every test outside `src`, in one binary.

mod shards;
mod shared;
mod small_data;
