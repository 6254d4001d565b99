//! The mean cell of every group, on the log1p scale.

use rayon::prelude::*;

use super::side::{Matrix, Rows};

/// Rows summed by one task; fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 1024;

/// Mean profiles, f64 sums rounded to f32: the control's and one per perturbation.
#[derive(Clone)]
pub struct Pseudobulk {
    /// `[G]`.
    pub control: Vec<f32>,
    /// `[P, G]`, perturbations sorted.
    pub perturbed: Vec<Vec<f32>>,
}

brief!(Pseudobulk, |means| genes: means.control.len(), perturbations: means.perturbed.len());

impl Pseudobulk {
    /// Means of the groups' cells.
    pub fn of(rows: Rows) -> Pseudobulk {
        let count = rows.groups.starts.len() - 1;
        let of = |g| mean(rows.matrix(g), rows.groups.group(g));
        let mut means: Vec<Vec<f32>> = (0..count).into_par_iter().map(of).collect();
        let perturbed = means.split_off(1);
        Pseudobulk { control: means.remove(0), perturbed }
    }

    /// Perturbed minus control, in f32, `[P, G]`.
    pub fn deltas(&self) -> Vec<Vec<f32>> {
        let minus = |row: &Vec<f32>| row.iter().zip(&self.control).map(|(a, b)| a - b).collect();
        self.perturbed.iter().map(minus).collect()
    }
}

fn mean(x: &Matrix, cells: &[u32]) -> Vec<f32> {
    let parts: Vec<Vec<f64>> = cells.par_chunks(ROWS).map(|cells| sum(x, cells)).collect();
    let mut total = vec![0.0; x.shape().1];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total.iter().map(|t| (t / cells.len() as f64) as f32).collect()
}

fn sum(x: &Matrix, cells: &[u32]) -> Vec<f64> {
    let mut total = vec![0.0; x.shape().1];
    for &cell in cells {
        let row = x.row(cell as usize);
        let values = &x.values()[row.clone()];
        match x {
            Matrix::Sparse(x) => {
                for (&gene, &value) in x.indices()[row].iter().zip(values) {
                    total[gene as usize] += f64::from(value);
                }
            }
            Matrix::Dense { .. } => total.iter_mut().zip(values).for_each(|(t, &v)| *t += f64::from(v)),
        }
    }
    total
}
