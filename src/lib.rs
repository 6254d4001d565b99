//! scale-engine trains and runs SCALE (arXiv 2603.17380): how a population of single cells responds to a perturbation.
//!
//! Seven words hold it all: [`tensor::Tensor`] (shape + contiguous numbers), op ([`ops`]: a forward and a backward, one file),
//! kernel (that op's CUDA file), [`tape::Tape`] (records ops, walks back once), [`params::Params`] (all weights in one flat
//! buffer, with names), [`data::loader::Batch`] (sets of cells, from shards) and [`config::Config`].
//!
//! Where to start, each with an example: [`data::loader`] (sets of cells of a condition), [`optim`] (any model of the tape's ops),
//! [`predictor`] (a trained run and cells from memory), [`mod@evaluate`] (scores of two matrices), [`data::h5ad`] (files in and out).
//! What the program does, command by command, is in [`data::preprocess`], [`train`], [`predict`] and [`baseline`].

#![deny(missing_docs)]
#![deny(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links, rustdoc::invalid_html_tags)]

#[cfg(not(target_os = "linux"))]
compile_error!("scale-engine runs on Linux");

// Floors, from the lowest; tests/floors.rs holds modules to them.
// 0
pub mod aside;
pub mod config;
pub mod correlation;
pub mod error;
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
