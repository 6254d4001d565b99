//! The correction q_s(m) for one library-size bin: f_s inverted on a grid of means.

/// Spacing of the grid of means.
pub const STEP: f64 = 1.0 / 32.0;
/// From this rate up f_s is computed by its series: the next term is of order rate^-3.
const SERIES_FROM: f64 = 400.0;

/// q_s at the means 0, STEP, 2 STEP, ...
pub type Table = Vec<f64>;

/// The table for `scale` = target / library over means of 0 to `top`, plus one point so that `top` has a right neighbour.
pub fn make(scale: f64, top: f64) -> Table {
    let mut last = scale / scale.ln_1p();
    let mut table = vec![last];
    for i in 1..=(top / STEP) as usize + 1 {
        let naive = (i as f64 * STEP).exp_m1() / scale;
        last = rate_of(i as f64 * STEP, scale, naive * last) / naive;
        table.push(last);
    }
    table
}

/// The rate whose expected log1p(scale * count) is `mean` > 0, by Newton's method from `guess`.
pub fn rate_of(mean: f64, scale: f64, guess: f64) -> f64 {
    let mut rate = guess;
    for _ in 0..50 {
        let (value, slope) = expected(rate, scale);
        // f is concave: from the left Newton never oversteps; from the right it may fall below zero, hence the floor.
        let next = (rate + (mean - value) / slope).max(0.1 * rate);
        let done = (next / rate - 1.0).abs() < 1e-11;
        rate = next;
        if done {
            break;
        }
    }
    rate
}

/// f_s(rate) and its derivative, E[log1p(s (K + 1)) - log1p(s K)].
fn expected(rate: f64, scale: f64) -> (f64, f64) {
    if rate >= SERIES_FROM {
        return series(rate, scale);
    }
    // From the most probable count outwards, so that nothing underflows; probabilities are relative to the mode's.
    let mode = rate.floor();
    let (mut mass, mut value, mut slope) = (0.0, 0.0, 0.0);
    let mut add = |weight: f64, k: f64| {
        let log = (scale * k).ln_1p();
        mass += weight;
        value += weight * log;
        slope += weight * ((scale * (k + 1.0)).ln_1p() - log);
    };
    let (mut weight, mut k) = (1.0, mode);
    while weight > 1e-17 {
        add(weight, k);
        k += 1.0;
        weight *= rate / k;
    }
    (weight, k) = (1.0, mode);
    while weight > 1e-17 && k > 0.0 {
        weight *= k / rate;
        k -= 1.0;
        add(weight, k);
    }
    (value / mass, slope / mass)
}

/// Taylor series of log1p(s k) around k = rate with the Poisson's central moments r, r, r + 3 r^2.
fn series(rate: f64, scale: f64) -> (f64, f64) {
    let a = scale / (1.0 + scale * rate);
    let (a2, a3, a4) = (a * a, a * a * a, a * a * a * a);
    let value =
        (scale * rate).ln_1p() - a2 * rate / 2.0 + a3 * rate / 3.0 - a4 * (rate + 3.0 * rate * rate) / 4.0;
    // Newton only needs the slope's leading terms.
    (value, a - a2 / 2.0 + a3 * rate)
}
