//! Library-size normalisation and log1p of one cell, rounded as in scanpy.

use crate::correlation;
use crate::data::shard::Scale;

/// Total of a cell's counts: summed in f64, kept in f32.
pub fn total(counts: &[f32]) -> f32 {
    // f64 holds every partial sum of whole numbers exactly, so the order is free: eight sums at once do not wait for each other.
    let (eights, rest) = counts.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, &count)| *sum += f64::from(count));
    }
    (sums.iter().sum::<f64>() + rest.iter().map(|&count| f64::from(count)).sum::<f64>()) as f32
}

/// The divisor that brings a cell's counts to `target` in total; 1 for a cell without counts, which stays empty.
pub fn factor(total: f32, target: f32) -> f32 {
    let factor = total / target;
    if factor == 0.0 { 1.0 } else { factor }
}

/// log1p-scale value of a stored value; `factor` as returned by [`factor`], used only for counts.
///
/// Computed in f64 and rounded once: the f32 functions of different systems differ in the last bit, and so would the chosen genes.
pub fn log_value(stored: f32, scale: Scale, factor: f32) -> f32 {
    match scale {
        // One division by a rounded factor, not a product: this is where scanpy rounds.
        Scale::Counts => f64::from(stored / factor).ln_1p() as f32,
        Scale::Log1p => stored,
        Scale::Log1p10 => stored * 10.0,
    }
}

/// Undoes a logarithm, rounded like [`log_value`].
pub fn exp_m1(log: f32) -> f32 {
    f64::from(log).exp_m1() as f32
}

/// [`median`](correlation::median) of f32, rounded to f32.
pub fn median(mut totals: Vec<f32>) -> Option<f32> {
    correlation::median(&mut totals).map(|median| median as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_above_two_to_the_24_are_summed_exactly() {
        assert_eq!(total(&[16_777_216.0, 1.0, 1.0]), 16_777_218.0);
    }
}
