//! Every test outside `src`, in one binary.

mod evaluate;
mod h5ad;
mod shared;
