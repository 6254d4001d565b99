//! Every test outside `src`, in one binary.

mod baseline;
mod h5ad;
mod shards;
mod shared;
mod simulate;
mod small_data;
