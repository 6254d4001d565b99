//! Mean effects of the predicted populations, as a table: a row for each population.

use std::path::Path;

use crate::PROGRAM;
use crate::data::h5ad::{self, Column, Extra, Frame, Growing, X, make_unique};
use crate::data::population::{CONTROL_PERT, EFFECTS, PERT_COL, UNIT, labelled, recorded};
use crate::data::shard::Manifest;
use crate::error::Result;
use crate::memory;
use crate::predictor::Means;

/// Effects of populations, for a file.
pub struct MeanEffects<'a> {
    manifest: &'a Manifest,
    /// `[P, G]`: predicted mean minus the mean of the control cells that its cells were made from, on the log1p scale.
    effects: Vec<f32>,
    /// `[P, G]`: the mean of these control cells.
    controls: Vec<f32>,
    /// `[P, G]` of several runs: the standard deviation of their effects.
    spread: Vec<f32>,
    /// Of several runs, for each population: the mean correlation of two runs' effects.
    agreement: Vec<f64>,
    /// Cell type, perturbation, batch.
    labels: [Growing; 3],
    names: Vec<String>,
    cells: Vec<i64>,
}

impl<'a> MeanEffects<'a> {
    /// Of so many populations by so many runs, none of them there yet.
    ///
    /// # Errors
    /// More than memory holds.
    pub fn with_capacity(populations: usize, runs: usize, manifest: &'a Manifest) -> Result<MeanEffects<'a>> {
        let numbers = populations.saturating_mul(manifest.genes.len());
        let spreads = if runs > 1 { numbers } else { 0 };
        let bytes = (2 * numbers as u64).saturating_add(spreads as u64).saturating_mul(4);
        memory::check("effects_out", &format!("the mean effects of {populations} populations"), bytes)?;
        Ok(MeanEffects {
            manifest,
            effects: Vec::with_capacity(numbers),
            controls: Vec::with_capacity(numbers),
            spread: Vec::with_capacity(spreads),
            agreement: Vec::new(),
            labels: Default::default(),
            names: Vec::new(),
            cells: Vec::new(),
        })
    }

    /// Appends a population of so many cells.
    pub fn push(&mut self, labels: [&str; 3], cells: usize, means: &Means) {
        let narrow = |numbers: Vec<f64>| numbers.into_iter().map(|x| x as f32);
        self.effects.extend(narrow(means.effect()));
        self.controls.extend(means.controls.iter().map(|&x| x as f32));
        self.spread.extend(means.spread().into_iter().flat_map(narrow));
        self.agreement.extend(means.agreement());
        self.labels.iter_mut().zip(labels).for_each(|(column, label)| column.push(label));
        self.names.push(labels.join(" / "));
        self.cells.push(cells as i64);
    }

    /// Writes them: X the effects, `layers/control` the control cells' means and, of several runs, `layers/spread` and
    /// `obs["agreement"]`.
    pub fn write(self, path: &Path, notes: &[(String, String)]) -> Result<()> {
        let MeanEffects { manifest, effects, controls, spread, agreement, labels, mut names, cells } = self;
        make_unique(&mut names);
        let shape = (names.len(), manifest.genes.len());
        let own = &manifest.columns;
        let columns = labelled(own, labels.map(|column| column.finish().sorted()));
        let mut obs = Frame { index: names, columns };
        add(&mut obs, "cells", Column::Integer(cells));
        if !agreement.is_empty() {
            add(&mut obs, "agreement", Column::Float(agreement));
        }
        let var = Frame { index: manifest.genes.clone(), columns: Vec::new() };
        let layers = [("control", &controls), ("spread", &spread)];
        let layers = layers.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| {
            (format!("layers/{name}"), Extra::Numbers { shape: vec![shape.0, shape.1], values })
        });
        let told = notes.iter().map(|(name, text)| (name.as_str(), text.as_str())).chain([
            ("program", PROGRAM),
            (UNIT, EFFECTS),
            (PERT_COL, &own.perturbation),
            (CONTROL_PERT, &manifest.control),
        ]);
        let extras: Vec<(String, Extra)> = layers.chain(recorded(told)).collect();
        h5ad::write(path, &obs, &var, X::Dense { shape, numbers: &effects }, &extras)
    }
}

/// Adds a column of ours, with a name that no label has.
fn add(obs: &mut Frame, name: &str, column: Column) {
    let mut name = name.to_string();
    while obs.column(&name).is_some() {
        name.insert_str(0, "predicted_");
    }
    obs.columns.push((name, column));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_ours_gives_way_to_a_label_of_its_name() {
        let mut obs = Frame::default();
        for cells in 1..4 {
            add(&mut obs, "cells", Column::Integer(vec![cells]));
        }
        let names: Vec<&str> = obs.columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cells", "predicted_cells", "predicted_predicted_cells"]);
    }
}
