//! From the field's files to sets of cells.

pub mod counts;
pub mod observe;
pub mod simulate;
