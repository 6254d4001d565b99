//! One op per file: recording on the tape, the tuned CPU path, and the plain reference that judges it.
//!
//! A reference is loops over f64 that a student can check against the paper. Tests check the tuned path against the reference, and
//! the reference against central differences. Ops that only move or add numbers are their own reference and have none. Whatever the
//! number of threads, an op gives the same bits: work is cut into blocks whose size does not depend on threads, and partial sums
//! are added in order.
//!
//! Every op panics, with its name, if shapes do not fit, or not all tensors are on one device or are stored otherwise than it needs
//! ([`agree`](crate::tensor::agree)). The sections on panics below name what else it refuses.
//!
//! Eight files are not ops but parts of ops: [`blocks`] (fixed blocks over all cores), [`vector`] (loops the compiler vectorises,
//! with exp and its kin), [`gemm`] and [`product`] (matrix products, on the host and on a device), [`gate`] (SwiGLU within wider
//! rows), [`column_sums`], [`loss`] (a loss's last pass) and [`cast`] (from one storage to the other).

#[doc(hidden)]
pub mod blocks;
#[doc(hidden)]
pub mod cast;
#[doc(hidden)]
pub mod column_sums;
#[doc(hidden)]
pub mod gate;
#[doc(hidden)]
pub mod gemm;
#[doc(hidden)]
pub mod loss;
#[doc(hidden)]
pub mod product;
#[doc(hidden)]
pub mod vector;

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod cells;
pub mod elementwise;
pub mod embedding;
pub mod flow;
pub mod gather;
pub mod layer_norm;
pub mod matmul;
pub mod matmul_swiglu;
pub mod mmd;
pub mod patch_embed;
pub mod pool;
pub mod rms_norm;
pub mod seed_attention;
pub mod squared_error;
pub mod swiglu;
pub mod time;
pub mod tokens;
