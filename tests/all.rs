//! Every test outside `src`, in one binary.

mod shared;
