//! From the field's files to sets of cells.

pub mod shard;
