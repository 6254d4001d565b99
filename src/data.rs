//! From the field's files to sets of cells.

pub mod controls;
pub mod h5ad;
pub mod loader;
pub mod preprocess;
pub mod sampler;
pub mod shard;
pub mod split;
