//! Names for what a profiler sees: NVTX ranges by op, layer and phase, in nsys and ncu.
//!
//! Only with the feature `nvtx`: the crate behind it needs libclang to build. Without it a range costs nothing.

use std::fmt;

/// A named stretch of this thread's time; ends when dropped.
#[derive(Debug)]
pub struct Range {
    #[cfg(feature = "nvtx")]
    _open: nvtx::LocalRange,
}

/// Begins a range: `let _range = trace::range(format_args!("flow.blocks.{i}"));`
#[cfg(feature = "nvtx")]
pub fn range(name: fmt::Arguments) -> Range {
    Range { _open: nvtx::LocalRange::new(nvtx::Str::from_str_lossy(&name.to_string())) }
}

/// Begins a range: `let _range = trace::range(format_args!("flow.blocks.{i}"));`
#[cfg(not(feature = "nvtx"))]
#[inline(always)]
pub fn range(_name: fmt::Arguments) -> Range {
    Range {}
}
