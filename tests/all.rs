//! Every test outside `src`, in one binary.

mod h5ad;
mod preprocess;
mod scanpy;
mod shards;
mod shared;
mod small_data;
