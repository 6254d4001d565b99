//! What users type.

pub mod evaluate;
