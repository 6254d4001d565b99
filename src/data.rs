//! From the field's files to sets of cells.

pub mod counts;
pub mod h5ad;
pub mod observe;
pub mod preprocess;
pub mod shard;
pub mod simulate;
