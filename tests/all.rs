//! Every test outside `src`, in one binary.

mod baseline;
mod evaluate;
mod floors;
mod golden;
mod h5ad;
mod model;
mod preprocess;
mod scanpy;
mod shards;
mod shared;
mod simulate;
mod small_data;
