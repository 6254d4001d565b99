//! scale-engine trains and runs SCALE (arXiv 2603.17380), a model of how a population of single cells responds to a perturbation.
//!
//! Seven terms cover the code: [`tensor::Tensor`] (a shape and contiguous numbers), op ([`ops`]: a forward and a backward, in one
//! file), kernel (that op's CUDA file), [`tape::Tape`] (records ops, then runs them backwards once), [`params::Params`] (all weights
//! in one flat buffer, with names), [`data::loader::Batch`] (sets of cells, read from shards) and [`config::Config`].
//!
//! Where to start; each of these has an example: [`data::loader`] draws sets of cells from a data directory, [`optim`] trains a model
//! of your own on the tape, [`predictor`] predicts from cells in memory with a trained run, [`mod@evaluate`] scores two matrices, and
//! [`data::h5ad`] reads and writes h5ad. The functions behind the commands are in [`data::preprocess`], [`train`], [`predict`] and
//! [`baseline`].

#![deny(missing_docs)]
#![deny(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links, rustdoc::invalid_html_tags)]

#[cfg(not(target_os = "linux"))]
compile_error!("scale-engine runs on Linux");

// Floors, lowest first: a module uses only those below its own; tests/floors.rs enforces it.
// 0
pub mod aside;
pub mod config;
pub mod correlation;
pub mod error;
mod folder;
pub mod memory;
pub mod progress;
pub mod rng;
pub mod trace;
// 1
pub mod gpu;
// 2
pub mod laps;
pub mod tensor;
// 3
pub mod tape;
// 4
pub mod ops;
// 5
pub mod params;
// 6
pub mod data;
pub mod model;
// 7
pub mod checkpoint;
pub mod collective;
pub mod optim;
pub mod predictor;
// 8
pub mod baseline;
pub mod evaluate;
pub mod predict;
pub mod train;
// 9 and above
pub mod cli;
pub mod demo;
pub mod profile;
pub mod selftest;
