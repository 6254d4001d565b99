//! Every test outside `src`, in one binary.

mod h5ad;
mod shared;
mod simulate;
