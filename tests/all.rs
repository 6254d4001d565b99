//! Every test outside `src`, in one binary.

mod loader;
mod shard_lies;
mod shards;
mod shared;
mod small_data;
mod split;
