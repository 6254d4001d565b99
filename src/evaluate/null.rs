//! The null distribution of the Mann-Whitney U: normal for large samples, counted for small ones without ties.

/// Samples up to this size are counted, if no two values are equal; the rule of scipy's `method="auto"`.
pub const SMALL: usize = 8;

/// Two-sided p of `u` (the larger of the two U) by the normal approximation, corrected for ties and continuity.
/// `ties` is the sum of t^3 - t over groups of equal values.
pub fn normal(u: f64, n1: usize, n2: usize, ties: u128) -> f64 {
    let (a, b) = (n1 as f64, n2 as f64);
    let n = a + b;
    let variance = a * b / 12.0 * ((n + 1.0) - ties as f64 / (n * (n - 1.0)));
    if variance <= 0.0 {
        return 1.0; // all values equal
    }
    let z = (u - a * b / 2.0 - 0.5) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// P(Z > z) of a standard normal; relative error about 1e-15 until it underflows beyond z = 38.
pub fn upper_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
}

/// P(U >= u) for every u from n1 n2 / 2 up, counted.
pub struct Counted {
    product: usize,
    /// `lower[v]` = P(U <= v) for v <= n1 n2 / 2.
    lower: Vec<f64>,
}

brief!(Counted, |counted| product: counted.product);

impl Counted {
    /// The distribution for samples of `n1` and `n2` values, the smaller at most [`SMALL`]. `None` if the counts would exceed 128
    /// bits: above some 200,000 cells the normal approximation is as good as exact.
    pub fn new(n1: usize, n2: usize) -> Option<Counted> {
        let (m, n) = (n1.min(n2), n1.max(n2));
        let orders: f64 = (1..=m).map(|k| (n + k) as f64 / k as f64).product();
        if m > SMALL || orders > 1e37 {
            return None;
        }
        let half = m * n / 2;
        let mut counts = vec![0u128; half + 1];
        counts[0] = 1;
        // The counts are the Gaussian binomial coefficient prod_k (1 - q^(n+k)) / (1 - q^k). Wrapping keeps each step exact
        // modulo 2^128, and so the result, which is smaller.
        for k in 1..=m {
            for i in (n + k..=half).rev() {
                counts[i] = counts[i].wrapping_sub(counts[i - n - k]);
            }
            for i in k..=half {
                counts[i] = counts[i].wrapping_add(counts[i - k]);
            }
        }
        let mut sum = 0u128;
        let mut below = |count: u128| {
            sum += count;
            sum as f64 / orders
        };
        let lower = counts.into_iter().map(&mut below).collect();
        Some(Counted { product: m * n, lower })
    }

    /// Two-sided p of `u`, a whole number, the larger of the two U.
    ///
    /// # Panics
    /// If it is not the larger, or there is no such U.
    pub fn p(&self, u: f64) -> f64 {
        (2.0 * self.lower[self.product - u as usize]).min(1.0)
    }
}
