//! Correlations and medians, in f64.

/// Pearson's r of two equally long slices. NaN if either is constant or shorter than 2.
///
/// # Panics
/// If one is longer than the other.
pub fn pearson<T: Copy + Into<f64> + PartialEq>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len(), "pearson: {} numbers against {}", a.len(), b.len());
    // Decided by the values, not by the variance: the mean of equal numbers need not be exactly that number.
    let constant = |x: &[T]| x.iter().all(|v| *v == x[0]);
    if constant(a) || constant(b) {
        return f64::NAN;
    }
    let mean = |x: &[T]| x.iter().map(|&v| v.into()).sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut saa, mut sbb, mut sab) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (x.into() - ma, y.into() - mb);
        saa += x * x;
        sbb += y * y;
        sab += x * y;
    }
    // Roots taken separately: the product of two small sums may underflow.
    (sab / saa.sqrt() / sbb.sqrt()).clamp(-1.0, 1.0)
}

/// Spearman's rho: Pearson's r of average ranks. NaN if either is constant or shorter than 2; NaN values rank as largest.
///
/// # Panics
/// If one is longer than the other.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&average_ranks(a), &average_ranks(b))
}

/// Ranks from 1; equal values share the mean of their places.
fn average_ranks(values: &[f64]) -> Vec<f64> {
    let key = |i: usize| if values[i].is_nan() { f64::INFINITY } else { values[i] + 0.0 };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| key(i).total_cmp(&key(j)).then(values[i].is_nan().cmp(&values[j].is_nan())));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&i, &j| values[i] == values[j] || (values[i].is_nan() && values[j].is_nan()))
    {
        let rank = before as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        before += tied.len();
    }
    ranks
}

/// Median; of an even number the mean of the two in the middle. `None` of nothing. Leaves the numbers in another order; NaN count
/// as largest. Rounded to f32, that of f32 is what sums in f32 would give: f64 is wide enough for rounding twice not to matter.
pub fn median<T: Copy + Into<f64>>(numbers: &mut [T]) -> Option<f64> {
    if numbers.is_empty() {
        return None;
    }
    let by_size = |a: &T, b: &T| f64::total_cmp(&(*a).into(), &(*b).into());
    let (half, odd) = (numbers.len() / 2, numbers.len() % 2 == 1);
    let (below, &mut upper, _) = numbers.select_nth_unstable_by(half, by_size);
    let lower = below.iter().copied().max_by(by_size).unwrap_or(upper);
    Some(if odd { upper.into() } else { (lower.into() + upper.into()) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::{median, pearson};

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 0.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&mut [16_777_218.0f32, 16_777_220.0]).map(|m| m as f32), Some(16_777_220.0));
        assert_eq!(median::<f64>(&mut []), None);
    }

    #[test]
    fn a_line_correlates_fully_and_a_constant_not_at_all() {
        assert!((pearson(&[1.0, 2.0, 3.0], &[5.0, 3.0, 1.0]) + 1.0).abs() < 1e-15);
        assert!(pearson(&[1.0, 1.0, 1.0], &[5.0, 3.0, 1.0]).is_nan());
        // Their mean is not 0.1.
        assert!(pearson(&[0.1; 3], &[5.0, 3.0, 2.0]).is_nan());
        assert!((pearson(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]) - 0.8).abs() < 1e-12);
    }
}
