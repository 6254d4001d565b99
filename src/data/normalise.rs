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

/// What a cell's counts are divided by to bring its `library`, the total of all its counts, to `target`: both in f32, as in scanpy.
/// 1 for a cell without counts, which stays empty.
pub fn divisor(library: f32, target: f64) -> f32 {
    let divisor = library / target as f32;
    if divisor == 0.0 { 1.0 } else { divisor }
}

/// log1p-scale value of a gene on which all counts of a cell scaled to `target` fall: no measured cell exceeds it. Infinite if the
/// total is unknown.
pub fn greatest(target: Option<f64>) -> f32 {
    target.map_or(f32::INFINITY, |target| target.ln_1p() as f32)
}

/// log1p-scale value of a stored value; `divisor` as returned by [`divisor`], used only for counts.
///
/// Computed in f64 and rounded once: the f32 functions of different systems differ in the last bit, and so would the chosen genes.
pub fn log_value(stored: f32, scale: Scale, divisor: f32) -> f32 {
    match scale {
        // One division by a rounded divisor, not a product: this is where scanpy rounds.
        Scale::Counts => f64::from(stored / divisor).ln_1p() as f32,
        Scale::Log1p => stored,
        Scale::Log1p10 => stored * 10.0,
    }
}

/// The count of which this is the [`log_value`], if the count is below 100,000.
pub fn count_of(log: f32, divisor: f32) -> f32 {
    (f64::from(log).exp_m1() * f64::from(divisor)).round() as f32
}

/// [`log_value`] of one cell's values. A cell has hundreds of ones and twos: each small count is computed once.
pub struct LogValues {
    scale: Scale,
    divisor: f32,
    /// By count; NaN until it is asked for.
    small: [f32; 32],
}

brief!(LogValues, |logs| scale: logs.scale, divisor: logs.divisor);

impl LogValues {
    /// For a cell whose counts are divided by `divisor`.
    pub fn new(scale: Scale, divisor: f32) -> LogValues {
        LogValues { scale, divisor, small: [f32::NAN; 32] }
    }

    /// The same bits as [`log_value`].
    pub fn of(&mut self, stored: f32) -> f32 {
        let count = stored as usize;
        match self.small.get_mut(count) {
            Some(known) if self.scale == Scale::Counts && count > 0 && count as f32 == stored => {
                if known.is_nan() {
                    *known = log_value(stored, self.scale, self.divisor);
                }
                *known
            }
            _ => log_value(stored, self.scale, self.divisor),
        }
    }
}

/// Undoes a logarithm, rounded like [`log_value`].
pub fn exp_m1(log: f32) -> f32 {
    f64::from(log).exp_m1() as f32
}

/// Total counts of a cell that holds these values: as told, or their sum, or for logs an estimate ([`library_of_logs`]).
pub fn library(values: &[f32], told: Option<f32>, scale: Scale, target: Option<f64>) -> f32 {
    match (told, scale) {
        (Some(told), _) => told,
        (None, Scale::Counts) => total(values),
        (None, _) => library_of_logs(values, scale, target),
    }
}

/// Total counts of a cell that holds logs `values` of counts scaled to `target`: an estimate, that its smallest value above zero is
/// one count. NaN without such a value or without a target.
pub fn library_of_logs(values: &[f32], scale: Scale, target: Option<f64>) -> f32 {
    let smallest = values.iter().copied().filter(|&value| value > 0.0).fold(f32::INFINITY, f32::min);
    match target.filter(|_| smallest.is_finite()) {
        Some(target) => target as f32 / exp_m1(log_value(smallest, scale, 1.0)),
        None => f32::NAN,
    }
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

    #[test]
    fn the_smallest_log_tells_how_many_counts_there_were() {
        for (scale, by) in [(Scale::Log1p, 1.0), (Scale::Log1p10, 10.0)] {
            let logs = [0.0, 3.0, 1.0].map(|count| log_value(count, Scale::Counts, divisor(5e3, 1e4)) / by);
            let library = library_of_logs(&logs, scale, Some(1e4));
            assert!((library / 5e3 - 1.0).abs() < 1e-6, "{library}");
            assert!(library_of_logs(&logs, scale, None).is_nan());
        }
        assert!(library_of_logs(&[0.0], Scale::Log1p, Some(1e4)).is_nan());
    }

    #[test]
    fn values_looked_up_have_the_bits_of_computed_ones() {
        let odd = [-1.0, -0.0, 0.5, f32::NAN, f32::INFINITY, 31.5, 1e9];
        let values: Vec<f32> = (0..100).map(|count| count as f32).chain(odd).collect();
        for (scale, divisor) in [(Scale::Counts, 0.731), (Scale::Log1p, 0.731), (Scale::Log1p10, 2.0)] {
            let mut logs = LogValues::new(scale, divisor);
            for &value in values.iter().chain(&values) {
                let (found, wanted) = (logs.of(value), log_value(value, scale, divisor));
                assert!(found.to_bits() == wanted.to_bits(), "{scale:?} {value}: {found}, not {wanted}");
            }
        }
    }

    #[test]
    fn a_log_tells_its_count() {
        for library in [30.0f32, 1_777.0, 5_000.0, 100_000.0, 3e6] {
            let divisor = divisor(library, 1e4);
            let of = |count: u32| count_of(log_value(count as f32, Scale::Counts, divisor), divisor);
            assert!((0..100_000).all(|count| of(count) == count as f32), "{library}");
        }
    }

    #[test]
    fn a_total_that_f32_holds_divides_as_in_f64() {
        for target in [1e4, 1e6, 4321.5] {
            let same = |library: f32| divisor(library, target) == (f64::from(library) / target) as f32;
            assert!((1..20_000).all(|library| same(library as f32)), "{target}");
        }
    }
}
