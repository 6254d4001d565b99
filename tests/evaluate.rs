//! cell-eval's numbers, and what evaluation refuses.

mod board;
mod command;
mod files;
mod page;
mod parity;
mod ranksum;
mod refused;
mod rules;

use std::path::{Path, PathBuf};

use scale_engine::data::h5ad::{self, Cells, Column, Frame, Labels, X};
use scale_engine::evaluate::Settings;
use scale_engine::evaluate::files::Files;
use scale_engine::evaluate::side::{Matrix, Side};
use scale_engine::rng::Rng;

fn files(dir: &Path) -> Files {
    Files {
        real: dir.join("real.h5ad"),
        pred: dir.join("pred.h5ad"),
        perturbation: "target_gene".to_string(),
        cell_type: None,
    }
}

/// `cells[0]` control cells, then `cells[p]` cells of perturbation p, in mixed order. A value is zero with chance `zeros`, else one
/// of `levels` levels (0: any number).
fn simulated(cells: &[usize], genes: usize, zeros: f32, levels: u64, seed: u64) -> Side {
    let rng = Rng::new(seed);
    let mut labels: Vec<String> = Vec::new();
    for (g, &n) in cells.iter().enumerate() {
        labels.extend(std::iter::repeat_n(if g == 0 { "ctrl".to_string() } else { format!("P{g:03}") }, n));
    }
    rng.at(1).shuffle(&mut labels);
    let value = |i: u64| {
        if rng.at(2).uniform(i) < zeros {
            return 0.0;
        }
        match levels {
            0 => 0.01 + 3.0 * rng.at(3).uniform(i),
            levels => 0.25 + rng.at(4).below(i, levels) as f32 * 0.5,
        }
    };
    let values = (0..(labels.len() * genes) as u64).map(value).collect();
    Side {
        source: PathBuf::from("simulated"),
        x: Matrix::Dense { genes, values },
        labels: Labels::of(&labels),
        genes: (0..genes).map(|g| format!("G{g}")).collect(),
        total: None,
    }
}

/// The same side in CSR; stored zeros stay stored if `keep` is true.
fn sparse(side: &Side, keep: bool) -> Side {
    let (cells, genes) = side.x.shape();
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in side.x.values().chunks(genes) {
        for (gene, &value) in row.iter().enumerate().filter(|(_, value)| keep || **value != 0.0) {
            columns.push(gene as u32);
            values.push(value);
        }
        starts.push(values.len());
    }
    Side { x: Matrix::Sparse(Cells::new((cells, genes), starts, columns, values)), ..side.clone() }
}

fn settings() -> Settings {
    Settings { control: "ctrl".to_string(), ..Settings::default() }
}

fn values(side: &Side, cells: &[u32], gene: usize) -> Vec<f32> {
    let genes = side.genes.len();
    cells.iter().map(|&cell| side.x.values()[cell as usize * genes + gene]).collect()
}

/// Writes a side with its cell types to an h5ad file.
fn write_h5ad(path: &Path, side: &Side, types: &[&str]) {
    let (cells, genes) = side.x.shape();
    let obs = Frame {
        index: (0..cells).map(|i| format!("cell{i}")).collect(),
        columns: vec![
            ("target_gene".to_string(), Column::Categorical(side.labels.clone())),
            ("line".to_string(), Column::Categorical(Labels::of(types))),
        ],
    };
    let var = Frame { index: side.genes.clone(), columns: Vec::new() };
    let x = match &side.x {
        Matrix::Sparse(cells) => X::Sparse(cells),
        Matrix::Dense { values, .. } => X::Dense { shape: (cells, genes), numbers: values },
    };
    h5ad::write(path, &obs, &var, x, &[]).expect("written");
}
