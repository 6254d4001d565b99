//! From the field's files to sets of cells.

pub mod controls;
pub mod counts;
pub mod h5ad;
pub mod observe;
pub mod population;
pub mod shard;
pub mod simulate;
pub mod split;
