//! Loops that the compiler turns into vector instructions, and the functions that they need.
//!
//! Sums keep 32 accumulators (four registers of eight lanes), since a single one would wait for each addition. The functions have
//! no branches and no calls, because the C library's `expf` cannot be vectorised. Their polynomials are Chebyshev fits of our own;
//! a NaN argument gives NaN.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

const WIDE: usize = 32;

/// Sum of `a[i] * b[i]`.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: {} and {} numbers", a.len(), b.len());
    let (a_wide, a_rest) = a.as_chunks::<WIDE>();
    let (b_wide, b_rest) = b.as_chunks::<WIDE>();
    let mut lanes = [0.0f32; WIDE];
    for (x, y) in a_wide.iter().zip(b_wide) {
        for l in 0..WIDE {
            lanes[l] = x[l].mul_add(y[l], lanes[l]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = x.mul_add(*y, *lane);
    }
    fold(lanes)
}

/// Sum of `(a[i] - b[i])^2`.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "squared_distance: {} and {} numbers", a.len(), b.len());
    let (a_wide, a_rest) = a.as_chunks::<WIDE>();
    let (b_wide, b_rest) = b.as_chunks::<WIDE>();
    let mut lanes = [0.0f32; WIDE];
    for (x, y) in a_wide.iter().zip(b_wide) {
        for l in 0..WIDE {
            let d = x[l] - y[l];
            lanes[l] = d.mul_add(d, lanes[l]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = (x - y).mul_add(x - y, *lane);
    }
    fold(lanes)
}

/// Sum of `x`. Eight lanes only: what it sums is often as short as a cell's row of scores.
#[inline]
pub fn sum(x: &[f32]) -> f32 {
    let (eights, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for x in eights {
        for l in 0..8 {
            lanes[l] += x[l];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold_eight(lanes)
}

#[inline(always)]
fn fold(lanes: [f32; WIDE]) -> f32 {
    let mut eight = [0.0f32; 8];
    for l in 0..8 {
        eight[l] = (lanes[l] + lanes[l + 8]) + (lanes[l + 16] + lanes[l + 24]);
    }
    fold_eight(eight)
}

#[inline(always)]
fn fold_eight(x: [f32; 8]) -> f32 {
    ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]))
}

/// The largest number; minus infinity for none. A NaN may be skipped.
#[inline]
pub fn max(x: &[f32]) -> f32 {
    let (eights, rest) = x.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for x in eights {
        for l in 0..8 {
            lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let four: [f32; 4] = std::array::from_fn(|l| larger(lanes[l], lanes[l + 4]));
    larger(larger(four[0], four[2]), larger(four[1], four[3]))
}

/// `y += c * x`.
#[inline]
pub fn add_scaled(y: &mut [f32], c: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = c.mul_add(*x, *y);
    }
}

/// e^x within 2 units in the last place. Below -86.9 the result is 0, so that no denormal slows what follows.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to a whole number and leaves that number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 = HIGH + LOW; HIGH has so few bits that its product with a small whole number is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 89.0);
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LOW, n.mul_add(-HIGH, x));
    let p = 0.001_392_625_1f32
        .mul_add(r, 0.008_363_233)
        .mul_add(r, 0.041_666_556)
        .mul_add(r, 0.166_665_77)
        .mul_add(r, 0.5);
    let e = (p * r).mul_add(r, r) + 1.0;
    // 2^n in two factors: 2^128 alone does not fit.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(126);
    e * f32::from_bits(exponent << 23) * 2.0
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// ln(1 + e^x).
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let u = exp(-x.abs());
    // ln(1 + u) = 2 atanh(u / (2 + u)), whose series needs four terms, as the argument is at most 1/3.
    let s = u / (2.0 + u);
    let z = s * s;
    let p = 0.134_257_5f32.mul_add(z, 0.141_183_1).mul_add(z, 0.200_037_8).mul_add(z, 0.333_333_2);
    let log = 2.0 * (p * z).mul_add(s, s);
    (if x < 0.0 { 0.0 } else { x }) + log
}

/// 1 - erf(x), relative error under 1e-6 down to underflow.
#[inline(always)]
pub fn erfc(x: f32) -> f32 {
    const P: [f32; 10] = [
        0.282_058_42,
        0.283_001_6,
        0.237_211_6,
        0.233_335_38,
        -0.124_030_56,
        0.474_895_58,
        -0.741_037_2,
        0.486_789_9,
        -0.149_686_44,
        0.017_461_748,
    ];
    let z = x.abs();
    let t = 2.0 / (2.0 + z);
    let mut p = P[9];
    for c in P[..9].iter().rev() {
        p = p.mul_add(t, *c);
    }
    // z^2 is rounded; the part that was cut off is put back as a factor.
    let square = z * z;
    let cut = z.mul_add(z, -square);
    let tail = exp(-square) * (1.0 - cut) * (t * p);
    if x < 0.0 { 2.0 - tail } else { tail }
}

/// Phi(x): the share of a standard normal below x.
#[inline(always)]
pub fn normal_below(x: f32) -> f32 {
    0.5 * erfc(-FRAC_1_SQRT_2 * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error in units in the last place of the true value.
    fn ulps(f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let steps = 1_000_003;
        (0..steps).fold(0.0f64, |worst, i| {
            let x = from + (to - from) * (i as f32 / (steps - 1) as f32);
            let t = truth(f64::from(x));
            let unit = f64::from((t as f32).next_up()) - f64::from(t as f32);
            worst.max((f64::from(f(x)) - t).abs() / unit)
        })
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let worst = ulps(exp, f64::exp, -86.5, 88.7);
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(
            (exp(0.0), exp(-200.0), exp(f32::NEG_INFINITY), exp(100.0)),
            (1.0, 0.0, 0.0, f32::INFINITY)
        );
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn softplus_keeps_small_answers() {
        let worst = ulps(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -80.0, 80.0);
        assert!(worst <= 4.0, "{worst} ulp");
        assert!(softplus(f32::NAN).is_nan());
    }

    #[test]
    fn erfc_matches_published_values() {
        // Abramowitz & Stegun 1964, table 7.1, and the continued fraction beyond it.
        let table = [
            (0.0, 1.0),
            (0.1, 0.887_537_083_981_715),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (1.5, 0.033_894_853_524_689_27),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
            (8.0, 1.122_429_717_298_292_7e-29),
        ];
        for (x, truth) in table {
            // The argument itself is rounded to f32.
            let slack = 1e-6 + 2.0 * f64::from(x) * f64::from(x) * 6e-8;
            let error = f64::from(erfc(x)) / truth - 1.0;
            assert!(error.abs() < slack, "erfc({x}): relative error {error}");
            assert!((f64::from(erfc(-x)) - (2.0 - truth)).abs() < 3e-7, "erfc(-{x})");
        }
    }

    #[test]
    fn sums_take_every_length() {
        for n in [0usize, 1, 7, 8, 31, 32, 33, 97, 257] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let total = (n * n.saturating_sub(1) / 2) as f32;
            assert_eq!((sum(&x), dot(&x, &vec![1.0; n])), (total, total));
            assert_eq!(max(&x), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
