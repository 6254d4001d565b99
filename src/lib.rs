//! scale-engine trains and runs SCALE (arXiv 2603.17380): how a population of single cells responds to a perturbation.
//!
//! Seven words hold it all: [`tensor::Tensor`] (shape + contiguous numbers), op ([`ops`]: a forward and a backward, one file),
//! kernel (that op's CUDA file), [`tape::Tape`] (records ops, walks back once), [`params::Params`] (all weights in one flat
//! buffer, with names), [`data::loader::Batch`] (sets of cells, from shards) and [`config::Config`].

#![deny(missing_docs)]

pub mod aside;
pub mod config;
pub mod error;
pub mod progress;
pub mod rng;

pub mod tensor;

pub mod tape;

pub mod ops;
pub mod params;

pub mod data;

pub mod cli;
