//! Every test outside `src`, in one binary.

mod baseline;
mod h5ad;
mod shared;
mod simulate;
