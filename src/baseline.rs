//! stub
pub mod algebra;
