//! A world whose truth is known, as raw counts: cell types x perturbations x batches.
//!
#![doc = include_str!("simulate/rules.md")]

mod cells;
mod truth;

use std::path::Path;

pub use cells::Draw;
pub use truth::Truth;

use crate::data::h5ad::{self, Cells, Column, Extra, Frame, Labels, X};
use crate::data::shard::MOST_GENES;
use crate::error::{Error, Result};
use crate::memory;
use crate::rng::Rng;

/// The label of control cells.
pub const CONTROL: &str = "non-targeting";
const RULES: &str = include_str!("simulate/rules.md");

/// The size of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Cells in all, controls included, 1 or more.
    pub cells: usize,
    /// Cells of the world that come before these: other cells of the same world have other numbers.
    pub skip: usize,
    /// Genes, 10 to [`MOST_GENES`].
    pub genes: usize,
    /// Perturbations without the control, 1 or more.
    pub perturbations: usize,
    /// Cell types, 1 or more.
    pub cell_types: usize,
    /// Batches, 1 or more.
    pub batches: usize,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cells: 20_000,
            skip: 0,
            genes: 2_000,
            perturbations: 20,
            cell_types: 4,
            batches: 2,
            seed: 0,
        }
    }
}

impl Settings {
    /// Refuses what is out of range, and a world that does not fit in memory.
    fn check(&self) -> Result<()> {
        let fields = [
            ("cells", self.cells, 1, u32::MAX as usize),
            ("skip", self.skip, 0, u32::MAX as usize),
            ("genes", self.genes, 10, MOST_GENES),
            ("perturbations", self.perturbations, 1, 100_000),
            ("cell_types", self.cell_types, 1, 10_000),
            ("batches", self.batches, 1, 10_000),
        ];
        for (field, value, least, most) in fields {
            if !(least..=most).contains(&value) {
                return Err(Error::setting(field, format!("is {value}; it must be from {least} to {most}")));
            }
        }
        // Effects are held in full: 2^31 numbers are 8 GiB.
        if self.effects() > 1 << 31 {
            return Err(Error::setting(
                "perturbations",
                "genes x perturbations x cell types is above 2^31; lower one of them",
            ));
        }
        // About one number in eight is non-zero and takes eight bytes.
        let cells = self.cells as u64 * self.genes as u64;
        memory::check(
            "cells",
            "the simulated cells and their true effects",
            cells + self.effects() * size_of::<f32>() as u64,
        )
    }

    /// How many numbers the truth's effects hold.
    fn effects(&self) -> u64 {
        self.genes as u64 * (self.perturbations as u64 + 1) * self.cell_types as u64
    }
}

/// Cells and the truth they were drawn from.
pub struct Simulated {
    /// Raw counts, `[cells, G]`.
    pub counts: Cells,
    /// Labels and state of each cell, `[cells]`.
    pub cells: Vec<Draw>,
    /// What is true of the world.
    pub truth: Truth,
    settings: Settings,
}

brief!(Simulated, |world| settings: world.settings);

/// Draws a world and its cells.
///
/// # Errors
/// Settings that are out of range, or a world that does not fit in memory.
pub fn simulate(settings: &Settings) -> Result<Simulated> {
    settings.check()?;
    let truth = Truth::draw(settings, CONTROL);
    let rng = Rng::new(settings.seed).at(2);
    let numbers = settings.skip as u64..(settings.skip + settings.cells) as u64;
    let cells = cells::labels(&truth, numbers, rng.at(1));
    let counts = cells::counts(&truth, &cells, settings.skip as u64, rng.at(2));
    let counts = Cells::new((settings.cells, settings.genes), counts.starts, counts.genes, counts.values);
    Ok(Simulated { counts, cells, truth, settings: *settings })
}

impl Simulated {
    /// Writes an h5ad: X raw counts (CSR), obs `perturbation`, `cell_type`, `batch`; the truth under `uns/simulation`, in arrays
    /// named like the fields of [`Truth`], with first axes in the order of `uns/simulation/{cell_types,perturbations,batches}`.
    ///
    /// # Errors
    /// As [`h5ad::write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let truth = &self.truth;
        let column = |names: &[String], code: &dyn Fn(&Draw) -> u32| {
            let codes = self.cells.iter().map(|cell| code(cell) as i32).collect();
            Column::Categorical(Labels { codes, names: names.to_vec() })
        };
        let obs = Frame {
            index: (1..=self.cells.len()).map(|i| format!("cell{}", self.settings.skip + i)).collect(),
            columns: vec![
                ("perturbation".into(), column(&truth.perturbations, &|cell| cell.perturbation)),
                ("cell_type".into(), column(&truth.cell_types, &|cell| cell.cell_type)),
                ("batch".into(), column(&truth.batches, &|cell| cell.batch)),
            ],
        };
        let var = Frame { index: truth.genes.clone(), columns: Vec::new() };
        let library: Vec<f32> = self.cells.iter().map(|cell| cell.library).collect();
        let responds: Vec<f32> = self.cells.iter().map(|cell| f32::from(u8::from(cell.responds))).collect();
        h5ad::write(path, &obs, &var, X::Sparse(&self.counts), &self.extras(&library, &responds))
    }

    /// `library` and `responds` hold one number per cell.
    fn extras<'a>(&'a self, library: &'a [f32], responds: &'a [f32]) -> Vec<(String, Extra<'a>)> {
        let truth = &self.truth;
        let (genes, perturbations) = (truth.genes.len(), truth.perturbations.len());
        let (types, batches) = (truth.cell_types.len(), truth.batches.len());
        let programs = truth.programs.len() / genes;
        let numbers = |name: &str, shape: &[usize], values: &'a [f32]| {
            (format!("uns/simulation/{name}"), Extra::Numbers { shape: shape.to_vec(), values })
        };
        let strings = |name: &str, values: &[String]| {
            (format!("uns/simulation/{name}"), Extra::Strings(values.to_vec()))
        };
        vec![
            ("uns/simulation/rules".into(), Extra::Text(RULES.into())),
            ("uns/simulation/settings".into(), Extra::Text(format!("{:?}", self.settings))),
            strings("perturbations", &truth.perturbations),
            strings("cell_types", &truth.cell_types),
            strings("batches", &truth.batches),
            numbers("effects", &[types, perturbations, genes], &truth.effects),
            numbers("strengths", &[perturbations], &truth.strengths),
            numbers("responders", &[perturbations], &truth.responders),
            numbers("programs", &[programs, genes], &truth.programs),
            numbers("weights", &[perturbations, programs], &truth.weights),
            numbers("gains", &[types, programs], &truth.gains),
            numbers("base", &[types, genes], &truth.base),
            numbers("batch", &[batches, genes], &truth.batch),
            numbers("loadings", &[truth::LATENT, genes], &truth.loadings),
            numbers("dispersion", &[genes], &truth.dispersion),
            numbers("library", &[self.cells.len()], library),
            numbers("responds", &[self.cells.len()], responds),
        ]
    }
}
