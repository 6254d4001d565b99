//! scale-engine trains and runs SCALE (arXiv 2603.17380), a model of how a population of single cells responds to a perturbation.
//!
//! Seven terms cover the code: [`tensor::Tensor`] (a shape and contiguous numbers), op ([`ops`]: a forward and a backward, in one
//! file), kernel (that op's CUDA file), [`tape::Tape`] (records ops, then runs them backwards once), [`params::Params`] (all weights
//! in one flat buffer, with names), [`data::loader::Batch`] (sets of cells, read from shards) and [`config::Config`].
//!
//! Where to start; the first nine have examples, the others are the functions behind the commands:
//!
//! | to                                                     | see                  |
//! |--------------------------------------------------------|----------------------|
//! | predict from cells in memory with a trained run        | [`predictor`]        |
//! | read and write h5ad                                    | [`data::h5ad`]       |
//! | score two matrices                                     | [`mod@evaluate`]     |
//! | draw sets of cells from a data directory               | [`data::loader`]     |
//! | train a model of your own on the tape                  | [`optim`]            |
//! | make a data directory of h5ad files                    | [`data::preprocess`] |
//! | make one of cells in memory                            | [`write_cells`]      |
//! | train the model                                        | [`train`]            |
//! | predict what a split holds out                         | [`predict`]          |
//! | score or write cells of a data directory               | [`data::population`] |
//! | say which cells are for training                       | [`data::split`]      |
//! | describe perturbations, to predict unseen ones         | [`data::features`]   |
//! | open a run's checkpoint                                | [`checkpoint`]       |
//! | compare with simple models                             | [`baseline`]         |
//!
//! [`write_cells`]: data::shard::write_cells
//!
//! Work on a device, that of tapes and models too, belongs inside [`gpu::guard`], which makes the device's failure an error; it
//! covers its own thread. Our own commands and the functions behind them do so.
//!
//! `preprocess`, `train` and `predict` are given a [`progress::Progress`], which is told what happens and can stop them; nothing is
//! printed. Signatures show matrices of [sprs](https://docs.rs/sprs) and values of [serde_json](https://docs.rs/serde_json); both are
//! handed on.
//!
//! What it does to its process: it computes on rayon's pool, the global one or that in which it is called; threads of its own
//! (those that read ahead, that write checkpoints, and ranks beside each other) compute on the global one. Reading parquet wraps
//! the panic hook, which is then silent while that crate reads. Failures of a GPU and of that crate are caught as panics, so the
//! program may not be built with `panic = "abort"`. A rank whose NCCL hangs ends its process ([`train::train`]). How the
//! allocator treats freed memory, which decides how fast training is, is left to the program: [`memory::keep`].
//!
//! The feature `cli` is the program: without it there are no `demo`, `profile`, `selftest` and `Progress::terminal`, and none of the
//! crates that they need. `default-features = false` also leaves out `parquet`, the reading of parquet files.

#![deny(missing_docs)]
#![warn(missing_debug_implementations, clippy::missing_panics_doc, clippy::missing_errors_doc)]
// Some of what the floors below offer within the crate is for the program only.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]
#![deny(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links, rustdoc::invalid_html_tags)]

#[cfg(not(target_os = "linux"))]
compile_error!("scale-engine runs on Linux");

pub use {serde_json, sprs};

/// The program's name and version, as written into outputs.
pub const PROGRAM: &str = concat!("scale-engine ", env!("CARGO_PKG_VERSION"));

// Floors, lowest first: a module uses only those below its own; tests/floors.rs enforces it.
// 0
pub mod error;
mod lock;
// 1
#[macro_use]
mod brief;
#[doc(hidden)]
pub mod aside;
pub mod config;
pub mod correlation;
mod folder;
pub mod memory;
pub mod progress;
pub mod rng;
pub mod run_folder;
#[doc(hidden)]
pub mod trace;
// 2
pub mod gpu;
// 3
#[doc(hidden)]
pub mod laps;
pub mod tensor;
// 4
pub mod tape;
// 5
pub mod ops;
// 6
pub mod params;
// 7
pub mod data;
pub mod model;
// 8
pub mod checkpoint;
pub mod collective;
pub mod optim;
// 9
pub mod predictor;
// 10
pub mod baseline;
pub mod evaluate;
pub mod predict;
pub mod train;
// 11 and above: the program's
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
pub mod demo;
#[cfg(feature = "cli")]
pub mod profile;
#[cfg(feature = "cli")]
pub mod selftest;
