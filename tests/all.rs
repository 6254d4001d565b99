//! Every test outside `src`, in one binary.

mod baseline;
mod bench;
mod distrust;
mod emulate;
mod emulator;
mod encodings;
mod evaluate;
mod figures;
mod filters;
mod floors;
mod golden;
mod h5ad;
mod inputs;
mod inspect;
mod kernels;
mod loader;
mod model;
mod nvidia;
mod ops;
mod parts;
mod predict;
mod preprocess;
mod profile;
mod ranks;
mod refused;
mod scanpy;
mod shard_lies;
mod shards;
mod shared;
mod simulate;
mod small_data;
mod split;
#[cfg(feature = "parquet")]
mod tahoe;
mod tenx;
mod train;
