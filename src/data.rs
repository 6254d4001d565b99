//! From the field's files to sets of cells.

pub mod controls;
pub mod loader;
pub mod sampler;
pub mod shard;
pub mod split;
