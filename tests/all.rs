//! Every test outside `src`, in one binary.

mod h5ad;
mod loader;
mod preprocess;
mod scanpy;
mod shard_lies;
mod shards;
mod shared;
mod small_data;
mod split;
