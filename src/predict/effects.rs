//! Mean effects of the predicted populations, as a table: a row for each population.

use std::path::Path;

use crate::data::h5ad::{self, Column, Extra, Frame, Growing, X, make_unique};
use crate::data::shard::Manifest;
use crate::error::Result;
use crate::memory;
use crate::predictor::{ControlCells, Means};

/// Effects of populations, for a file.
pub struct MeanEffects<'a> {
    manifest: &'a Manifest,
    /// `[P, G]`: predicted mean minus the mean of the control cells that its cells were made from, on the log1p scale.
    effects: Vec<f32>,
    /// `[P, G]`: the mean of the control cells that its cells were made from.
    resting: Vec<f32>,
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
    /// Room for so many populations, if memory has it.
    pub fn room(populations: usize, manifest: &'a Manifest) -> Result<MeanEffects<'a>> {
        let bytes = (populations as u64).saturating_mul(3 * 4 * manifest.genes.len() as u64);
        memory::check("--effects-out", &format!("the mean effects of {populations} populations"), bytes)?;
        Ok(MeanEffects {
            manifest,
            effects: Vec::new(),
            resting: Vec::new(),
            spread: Vec::new(),
            agreement: Vec::new(),
            labels: Default::default(),
            names: Vec::new(),
            cells: Vec::new(),
        })
    }

    /// Appends a population whose cells were made `from` these of the control cells. Their own mean is subtracted, not that of all:
    /// which cells were drawn is no effect.
    pub fn push(&mut self, labels: [&str; 3], means: &Means, controls: &ControlCells, from: &[usize]) {
        let factor = f64::from(self.manifest.factor);
        let resting: Vec<f64> =
            controls.mean_of(from.iter().copied()).into_iter().map(|x| x * factor).collect();
        let effect = means.mean().into_iter().zip(&resting).map(|(after, before)| (after - before) as f32);
        self.effects.extend(effect);
        self.resting.extend(resting.iter().map(|&x| x as f32));
        self.spread.extend(means.spread().into_iter().flatten().map(|x| x as f32));
        self.agreement.extend(means.agreement(&resting));
        self.labels.iter_mut().zip(labels).for_each(|(column, label)| column.push(label));
        self.names.push(labels.join(" / "));
        self.cells.push(from.len() as i64);
    }

    /// Writes them: X the effects, `layers/control` the control cells' means and, of several runs, `layers/spread` and
    /// `obs["agreement"]`.
    pub fn write(self, path: &Path, notes: &[(String, String)]) -> Result<()> {
        let MeanEffects { manifest, effects, resting, spread, agreement, labels, mut names, cells } = self;
        make_unique(&mut names);
        let shape = (names.len(), manifest.genes.len());
        let own = &manifest.columns;
        let [cell_type, perturbation, batch] =
            labels.map(|column| Column::Categorical(column.finish().sorted()));
        let labelled = [
            (Some(own.perturbation.as_str()), perturbation),
            (Some(own.cell_type.as_str()), cell_type),
            (own.batch.as_deref(), batch),
            (Some("cells"), Column::Integer(cells)),
            ((!agreement.is_empty()).then_some("agreement"), Column::Float(agreement)),
        ];
        let mut obs = Frame { index: names, columns: Vec::new() };
        for (name, column) in labelled {
            // One column of the source may be two kinds of label.
            if let Some(name) = name.filter(|name| obs.column(name).is_none()) {
                obs.columns.push((name.to_string(), column));
            }
        }
        let var = Frame { index: manifest.genes.clone(), columns: Vec::new() };
        let layers =
            [("control", &resting), ("spread", &spread)].into_iter().filter(|(_, of)| !of.is_empty());
        let told = notes.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let told = told.chain([("program", crate::aside::PROGRAM), ("unit", "log1p effect")]);
        let extras: Vec<(String, Extra)> = layers
            .map(|(name, values)| {
                (format!("layers/{name}"), Extra::Numbers { shape: vec![shape.0, shape.1], values })
            })
            .chain(told.map(|(name, text)| (format!("uns/scale_engine/{name}"), Extra::Text(text.into()))))
            .collect();
        h5ad::write(path, &obs, &var, X::Dense { shape, numbers: &effects }, &extras)
    }
}
