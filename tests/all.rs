//! Every test outside `src`, in one binary.

mod floors;
mod golden;
mod h5ad;
mod model;
mod shared;
