//! From the mean of a measurement to a single measurement (`predict.observe = "poisson"`).
//!
//! A decoded value is the mean m over cells of x = log1p(k * target / n), where k is a gene's count in a cell of n counts
//! in all. A cell is drawn by finding the Poisson rate whose expected x is m, drawing k, and transforming back: the mean
//! is preserved and zeros become real zeros. Counts become logs by the f32 steps of measured ones, so that equal counts of cells
//! with equal totals tie in a rank test.
//!
//!   f_s(r)   = sum_k e^-r r^k / k! * log1p(s k),   s = target / n            expected x at rate r; rising and concave in r
//!   rate     = f_s^-1(m) = expm1(m) / s * q_s(m)                             q_s: since the mean of logs is < the log of the mean
//!
//! q_s runs smoothly from s / log1p(s) at m = 0 to 1 at large m, so it is what the tables hold: one table per library-size bin
//! (eight per octave), with an entry every 1/32 of m, interpolated linearly in both directions. Worst error of the rate over
//! libraries of 30 to 100,000 counts (target 10,000): 0.1 %, tested. A library far outside that range costs accuracy, nothing else.

mod table;

use std::sync::OnceLock;

use crate::config::Observe;
use crate::data::draws::{open_unit, poisson};
use crate::data::normalise::{LogValues, divisor};
use crate::data::shard::Scale;
use crate::error::{Error, Result};
use crate::rng::Rng;
use table::{STEP, Table};

/// Bins per octave of library size.
const BINS_AN_OCTAVE: f64 = 8.0;
/// Octaves of target / library covered on either side of 1.
const OCTAVES: f64 = 20.0;

/// False for the library size of an empty cell.
pub fn known(library: f32) -> bool {
    library > 0.0 && library.is_finite()
}

/// Draws measurement-like cells around decoded means. Each table is made when a library size first needs it.
pub struct Observer {
    target: f64,
    /// Whether what is drawn stays counts.
    counts: bool,
    bins: Vec<OnceLock<Table>>,
}

brief!(Observer, |observer| target: observer.target);

/// Why no counts can be drawn.
pub const UNTOLD_TOTAL: &str = "drawing counts needs the total to which cells were scaled before log1p, \
                                which these data do not record; give it with \
                                `preprocess::Settings::target = N`, or use `observe = none`";

impl Observer {
    /// The observer that was requested, if any: the same rule for a model and for baselines. Counts are drawn only if the data
    /// record their `target`; an empty control cell, whose library size is unknown, is treated as one of `target` counts.
    ///
    /// # Errors
    /// Counts are asked for, but the target is unknown or not a positive number.
    pub fn asked(observe: Observe, target: Option<f64>) -> Result<Option<Observer>> {
        match (observe, target) {
            (Observe::None, _) => Ok(None),
            (Observe::Poisson, Some(target)) if target > 0.0 && target.is_finite() => {
                Ok(Some(Observer::new(target)))
            }
            (Observe::Poisson, Some(target)) => {
                Err(Error::setting("target", format!("is {target}; it must be a positive number of counts")))
            }
            (Observe::Poisson, None) => Err(Error::setting("observe", UNTOLD_TOTAL)),
        }
    }

    /// `target`: counts to which every cell was scaled before log1p.
    ///
    /// # Panics
    /// If that is not a positive number.
    pub fn new(target: f64) -> Observer {
        assert!(target > 0.0 && target.is_finite(), "observer: target {target} is not a positive number");
        let bins = (2.0 * OCTAVES * BINS_AN_OCTAVE) as usize + 2;
        Observer { target, counts: false, bins: (0..bins).map(|_| OnceLock::new()).collect() }
    }

    /// One that leaves the counts as they are drawn.
    pub fn in_counts(self) -> Observer {
        Observer { counts: true, ..self }
    }

    /// Replaces decoded means by a measurement of them, both log1p(count * target / library), or by its counts
    /// ([`Observer::in_counts`]), `[G]`.
    ///
    /// Means below 0 count as 0, those above log1p(target) (all counts of the cell in one gene) as log1p(target); NaN stays
    /// NaN. A `library` that is not a positive number (an empty cell) is taken as `target`.
    pub fn observe(&self, mean_log1p: &mut [f32], library: f32, rng: Rng) {
        let rates = self.rates(library);
        let mut logs = LogValues::new(Scale::Counts, rates.divisor);
        each_rate(mean_log1p.len(), rng, |gene, v| {
            let mean = mean_log1p[gene];
            if rates.surely_none(mean, v) {
                mean_log1p[gene] = 0.0;
            } else if !mean.is_nan() {
                let count = poisson(rates.at(mean), v, || rng.at(gene as u64));
                mean_log1p[gene] = if self.counts { count as f32 } else { logs.of(count as f32) };
            }
        });
    }

    /// The table for one library size: an interpolation of its two neighbouring bins.
    fn rates(&self, library: f32) -> Rates {
        let (scale, divisor) = match known(library) {
            true => (self.target / f64::from(library), divisor(library, self.target)),
            false => (1.0, 1.0),
        };
        let place = ((scale.log2() + OCTAVES) * BINS_AN_OCTAVE).clamp(0.0, (self.bins.len() - 2) as f64);
        let (below, share) = (place.floor() as usize, place.fract());
        let (low, high) = (self.bin(below), self.bin(below + 1));
        let correction: Table = low.iter().zip(high).map(|(a, b)| a + share * (b - a)).collect();
        let most = correction.iter().copied().fold(0.0, f64::max) / scale;
        Rates { scale, divisor, top: self.target.ln_1p(), most: most * (1.0 + 1e-9), correction }
    }

    fn bin(&self, i: usize) -> &Table {
        let scale = (i as f64 / BINS_AN_OCTAVE - OCTAVES).exp2();
        self.bins[i].get_or_init(|| table::make(scale, self.target.ln_1p()))
    }
}

/// Mean to rate for one library size.
struct Rates {
    /// target / library.
    scale: f64,
    /// library / target, as measured counts are divided by it.
    divisor: f32,
    /// Largest possible mean.
    top: f64,
    /// No rate is more than this times expm1(mean).
    most: f64,
    correction: Table,
}

impl Rates {
    /// Whether `v` settles that there are no counts (v >= rate, as in [`poisson`]) without the rate, as it does for most genes of a
    /// cell: expm1(m) <= m + m^2 up to m = 1.79. False for NaN.
    fn surely_none(&self, mean: f32, v: f64) -> bool {
        let mean = f64::from(mean);
        mean < 1.75 && v >= (mean + mean * mean) * self.most
    }

    fn at(&self, mean: f32) -> f64 {
        let mean = f64::from(mean).clamp(0.0, self.top);
        let place = mean / STEP;
        let below = place as usize;
        let (low, high) = (self.correction[below], self.correction[below + 1]);
        mean.exp_m1() / self.scale * (low + (place - below as f64) * (high - low))
    }
}

/// Calls `draw(gene, v)` with each gene's own uniform number; one block of the generator serves four genes.
fn each_rate(genes: usize, rng: Rng, mut draw: impl FnMut(usize, f64)) {
    for first in (0..genes).step_by(4) {
        let words = rng.block(first as u64 / 4);
        for (gene, word) in (first..genes.min(first + 4)).zip(words) {
            draw(gene, open_unit(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::normalise::log_value;

    #[test]
    fn what_is_settled_without_the_rate_is_settled_as_by_it() {
        let observer = Observer::new(1e4);
        let mut settled = 0;
        for library in [30.0f32, 1_777.0, 5_000.0, 100_000.0] {
            let rates = observer.rates(library);
            for mean in (-4..200).map(|i| 0.01 * i as f32) {
                let rate = rates.at(mean);
                for v in [rate.next_down(), rate, 1.01 * rate, 1.5 * rate, 0.9].map(|v| v.max(1e-10)) {
                    let none = rates.surely_none(mean, v);
                    assert!(!none || v >= rate, "library {library}, mean {mean}: {v} is below {rate}");
                    settled += u32::from(none);
                }
            }
        }
        assert!(settled > 300, "{settled}");
    }

    #[test]
    fn rates_between_the_table_points_are_within_a_thousandth() {
        let observer = Observer::new(1e4);
        for library in [30.0f32, 333.0, 1_777.0, 5_000.0, 12_345.0, 100_000.0] {
            let rates = observer.rates(library);
            for i in 0..400 {
                let mean = 0.001 + 0.0227 * f64::from(i);
                let exact = table::rate_of(mean, rates.scale, rates.at(mean as f32));
                let error = (rates.at(mean as f32) / exact - 1.0).abs();
                assert!(error < 1e-3, "library {library}, mean {mean}: error {error}");
            }
        }
    }

    #[test]
    fn a_measurement_keeps_the_mean_and_makes_zeros() {
        let observer = Observer::new(1e4);
        let means = [0.003f32, 0.05, 0.4, 1.0, 2.5, 4.0, 6.5];
        let cells = 100_000;
        for library in [800.0f32, 4_000.0] {
            let (mut sums, mut squares, mut zeros) = ([0.0f64; 7], [0.0f64; 7], [0u32; 7]);
            for cell in 0..cells {
                let mut x = means;
                observer.observe(&mut x, library, Rng::new(1).at(cell));
                for (g, x) in x.into_iter().enumerate() {
                    sums[g] += f64::from(x);
                    squares[g] += f64::from(x * x);
                    zeros[g] += u32::from(x == 0.0);
                }
            }
            for (g, mean) in means.into_iter().map(f64::from).enumerate() {
                let measured = sums[g] / cells as f64;
                let noise = ((squares[g] / cells as f64 - measured * measured) / cells as f64).sqrt();
                assert!((measured - mean).abs() < 4.0 * noise + 1e-3 * mean, "mean {mean} became {measured}");
            }
            assert!(zeros[0] > 99_000 && zeros[2] > 60_000 && zeros[6] == 0, "zeros {zeros:?}");
        }
    }

    #[test]
    fn a_draw_depends_on_its_stream_alone_and_is_of_counts() {
        let observer = Observer::new(1e4);
        let means: Vec<f32> = (0..97).map(|g| 0.07 * g as f32).collect();
        let draw = |seed| {
            let mut x = means.clone();
            observer.observe(&mut x, 2_500.0, Rng::new(seed));
            x
        };
        assert_eq!(draw(4), draw(4));
        assert_ne!(draw(4), draw(5));
        for x in draw(4) {
            let count = f64::from(x).exp_m1() / 4.0;
            assert!((count - count.round()).abs() < 1e-5 * (1.0 + count), "{count}");
        }
    }

    #[test]
    fn drawn_counts_have_the_bits_of_measured_ones() {
        let observer = Observer::new(1e4);
        let means: Vec<f32> = (0..200).map(|g| 0.03 * g as f32).collect();
        for library in [733.0f32, 2_537.0, 7_919.0, 31_117.0] {
            let mut x = means.clone();
            observer.observe(&mut x, library, Rng::new(3));
            for x in x {
                let count = (f64::from(x).exp_m1() * f64::from(library) / 1e4).round() as f32;
                assert_eq!(x, log_value(count, Scale::Counts, divisor(library, 1e4)), "{count} of {library}");
            }
        }
    }

    #[test]
    fn totals_that_are_no_numbers_of_counts_are_refused() {
        for target in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let told = Observer::asked(Observe::Poisson, Some(target)).expect_err("a refusal").to_string();
            assert!(told.contains("a positive number of counts"), "{told}");
            assert!(Observer::asked(Observe::None, Some(target)).is_ok_and(|asked| asked.is_none()));
        }
    }

    #[test]
    fn odd_means_and_libraries_do_no_harm() {
        let observer = Observer::new(1e4);
        for library in [f32::NAN, 0.0, -3.0, 1e-30, 1e30, f32::INFINITY] {
            let mut x = [f32::NAN, -1.0, f32::INFINITY, 1e9, 0.0];
            observer.observe(&mut x, library, Rng::new(0));
            assert!(x[0].is_nan() && x[1] == 0.0 && x[4] == 0.0, "library {library}: {x:?}");
        }
    }

    #[test]
    fn a_cell_of_unknown_total_is_drawn_as_one_with_the_target() {
        let observer = Observer::new(1e4);
        let draw = |library: f32| {
            let mut x: Vec<f32> = (0..90).map(|g| 0.05 * g as f32).collect();
            observer.observe(&mut x, library, Rng::new(2));
            x
        };
        assert!(draw(1e4).iter().any(|&x| x > 0.0));
        for library in [0.0, -3.0, f32::NAN, f32::INFINITY] {
            assert_eq!(draw(library), draw(1e4), "{library}");
        }
    }

    #[test]
    fn large_counts_of_two_genes_are_drawn_apart() {
        let observer = Observer::new(1e4);
        let same = (0..50).filter(|&cell| {
            let mut x = [6.0, 6.0];
            observer.observe(&mut x, 1e4, Rng::new(1).at(cell));
            x[0] == x[1]
        });
        assert!(same.count() < 10);
    }
}
