//! Random counts from counter-based uniform numbers: Poisson and negative binomial.
//!
//! Most genes of a cell have rates far below one, so the draws take the uniform number from the upper tail:
//!   K = the smallest k with P(K > k) <= v,   v uniform in (0, 1)
//! and since P(K > 0) <= E K (Markov), v >= rate settles K = 0 with one comparison and no exponential.
//! v is made from a 32-bit word: tails below 2^-33 are never drawn, which shifts no mean by more than about 1e-8.

use crate::rng::Rng;

/// Rates from here up are drawn by rejection: the search from zero would take as many steps as the rate.
const LARGE: f64 = 24.0;

/// The middle of the `word`-th of 2^32 equal parts of (0, 1).
pub fn open_unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

/// A Poisson count of mean `rate` (finite, >= 0). Small rates use `v` in (0, 1) alone; large ones draw from `more`.
pub fn poisson(rate: f64, v: f64, more: impl FnOnce() -> Rng) -> u32 {
    if v >= rate {
        return 0;
    }
    if rate >= LARGE {
        return poisson_by_rejection(rate, more());
    }
    search(v, rate, -rate, |k| rate / k)
}

/// The smallest k with P(K > k) <= v, given ln P(0) and the ratios P(k) / P(k - 1), which are below 1 beyond the mean.
fn search(v: f64, mean: f64, log_zero: f64, ratio: impl Fn(f64) -> f64) -> u32 {
    let mut term = log_zero.exp();
    // expm1, because 1 - P(0) has no digits left if the mean is tiny.
    let mut tail = -log_zero.exp_m1();
    let mut k = 0u32;
    while v < tail {
        k += 1;
        term *= ratio(f64::from(k));
        let left = tail - term;
        // Accumulated rounding errors may keep the tail above v for ever: stop once further terms no longer change it.
        if left == tail && f64::from(k) > mean {
            break;
        }
        tail = left;
    }
    k
}

/// Transformed rejection with squeeze (PTRS; Hörmann 1993, Insurance: Mathematics and Economics 12), exact for rates >= 10.
fn poisson_by_rejection(rate: f64, rng: Rng) -> u32 {
    let b = 0.931 + 2.53 * rate.sqrt();
    let a = -0.059 + 0.02483 * b;
    let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
    let squeeze = 0.9277 - 3.6224 / (b - 2.0);
    let log_rate = rate.ln();
    for trial in 0.. {
        let u = rng.uniform64(2 * trial) - 0.5;
        let v = rng.uniform64(2 * trial + 1);
        let edge = 0.5 - u.abs();
        let k = ((2.0 * a / edge + b) * u + rate + 0.43).floor();
        if edge >= 0.07 && v <= squeeze {
            return k as u32;
        }
        if k < 0.0 || (edge < 0.013 && v > edge) {
            continue;
        }
        let height = (v * inverse_alpha / (a / (edge * edge) + b)).ln();
        if height <= k * log_rate - rate - ln_factorial(k) {
            return k as u32;
        }
    }
    unreachable!("each trial is accepted with probability above 0.7")
}

/// ln k! for a whole k >= 0: the product below 10, Stirling's series (error below 1e-10) from 10 up.
fn ln_factorial(k: f64) -> f64 {
    if k < 10.0 {
        return (2..=k as u32).map(f64::from).product::<f64>().ln();
    }
    let square = 1.0 / (k * k);
    let series = (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / k;
    (k + 0.5) * k.ln() - k + 0.5 * std::f64::consts::TAU.ln() + series
}

/// A negative binomial count of mean `rate` and variance rate + dispersion * rate^2, from `v` in (0, 1).
/// The search takes as many steps as the count: meant for counts up to a few thousand. `dispersion` > 0.
pub fn negative_binomial(rate: f64, dispersion: f64, v: f64) -> u32 {
    if v >= rate {
        return 0;
    }
    let size = 1.0 / dispersion;
    let odds = dispersion * rate;
    let ratio = odds / (1.0 + odds);
    search(v, rate, -size * odds.ln_1p(), |k| ratio * (k - 1.0 + size) / k)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of 200,000 draws.
    fn moments(draw: impl Fn(u64) -> u32) -> (f64, f64) {
        let n = 200_000;
        let draws: Vec<f64> = (0..n).map(|i| f64::from(draw(i))).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
    }

    #[test]
    fn poisson_counts_have_the_mean_and_the_variance_of_their_rate() {
        // 0.01 and 3 by search, 24 at the seam, 400 by rejection.
        for (i, rate) in [0.01, 0.7, 3.0, 23.9, 24.0, 400.0].into_iter().enumerate() {
            let rng = Rng::new(11).at(i as u64);
            let (mean, variance) =
                moments(|i| poisson(rate, open_unit(rng.block(i / 4)[(i % 4) as usize]), || rng.at(i)));
            let (sd_mean, sd_variance) = ((rate / 2e5).sqrt(), ((rate + 2.0 * rate * rate) / 2e5).sqrt());
            assert!((mean - rate).abs() < 4.5 * sd_mean, "rate {rate}: mean {mean}");
            assert!((variance - rate).abs() < 4.5 * sd_variance, "rate {rate}: variance {variance}");
        }
    }

    #[test]
    fn the_search_ends_where_rounding_has_left_more_than_was_drawn() {
        // The smallest value that `Rng::uniform64` returns.
        let least = 0.5f64.powi(53);
        for rate in (1..240).map(|tenth| f64::from(tenth) / 10.0) {
            let k = poisson(rate, least, || unreachable!("a rate below 24 is searched"));
            assert!((1..200).contains(&k), "rate {rate}: {k}");
            let k = negative_binomial(rate, 0.4, least);
            assert!((1..2000).contains(&k), "rate {rate}: {k}");
        }
    }

    #[test]
    fn rejection_follows_the_poisson_probabilities() {
        let (rate, n) = (30.0f64, 400_000u64);
        let rng = Rng::new(5);
        let mut seen = [0u32; 80];
        (0..n).for_each(|i| seen[poisson_by_rejection(rate, rng.at(i)).min(79) as usize] += 1);
        let mut chi2 = 0.0;
        let bins = 12..=52;
        for k in bins.clone() {
            let expected = n as f64 * (f64::from(k) * rate.ln() - rate - ln_factorial(f64::from(k))).exp();
            chi2 += (f64::from(seen[k as usize]) - expected).powi(2) / expected;
        }
        // 41 bins: mean 41, standard deviation 9.
        assert!(chi2 < 41.0 + 4.5 * 9.06, "chi-squared {chi2} over {bins:?}");
    }

    #[test]
    fn negative_binomial_counts_are_overdispersed_as_asked() {
        for (i, (rate, dispersion)) in [(0.05, 0.4), (2.0, 0.4), (150.0, 0.2)].into_iter().enumerate() {
            let rng = Rng::new(3).at(i as u64);
            let (mean, variance) = moments(|i| negative_binomial(rate, dispersion, rng.uniform64(i)));
            let expected = rate + dispersion * rate * rate;
            assert!((mean - rate).abs() < 4.5 * (expected / 2e5).sqrt(), "rate {rate}: mean {mean}");
            assert!(
                (variance / expected - 1.0).abs() < 0.05,
                "rate {rate}: variance {variance}, not {expected}"
            );
        }
    }
}
