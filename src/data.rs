//! From the field's files to sets of cells.

pub mod h5ad;
pub mod preprocess;
pub mod shard;
