//! Every test outside `src`, in one binary.

mod h5ad;
mod ops;
mod shared;
