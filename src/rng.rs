//! Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011).
//!
//! A number is a pure function of (seed, stream, counter): any thread, any rank and any device can make any of them in any
//! order. Nothing random in this program keeps a state that a resume could lose.

/// Numbers of the streams of a seed, [`Rng::at`] of its root, for what may be given one seed: training, predictions, baselines and
/// splits have streams of their own. A simulated world has its own seed, and what evaluation draws is the same whatever the seed.
pub mod stream {
    /// Which cells make up the sets of a step.
    pub const SETS: u64 = 0;
    /// Times, noise and masks of the flow in training.
    pub const FLOW: u64 = 1;
    /// Control cells, start noise and counts of a prediction.
    pub const PREDICT: u64 = 2;
    /// First weights of a model.
    pub const WEIGHTS: u64 = 3;
    /// Control cells and counts of a baseline.
    pub const BASELINE: u64 = 4;
    /// Which perturbations of held-out contexts are trained on.
    pub const SPLIT: u64 = 5;
}

/// A stream of random numbers, addressed by a 64-bit counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl Rng {
    /// The root stream of a seed.
    pub fn new(seed: u64) -> Self {
        Rng { key: [seed as u32, (seed >> 32) as u32], stream: 0 }
    }

    /// Seed and address of the stream, as kernels take them.
    pub fn words(self) -> (u64, u64) {
        (u64::from(self.key[1]) << 32 | u64::from(self.key[0]), self.stream)
    }

    /// An independent stream, by number: the step, the element kind, the request.
    pub fn at(self, index: u64) -> Self {
        // The child's address is drawn from the parent, so that at(1).at(2) and at(2).at(1) differ.
        let [a, b, ..] = self.block(index ^ 0x5CA1_E000_0000_0000);
        Rng { key: self.key, stream: (u64::from(a) << 32) | u64::from(b) }
    }

    /// Four random words at a counter.
    pub fn block(self, counter: u64) -> [u32; 4] {
        let mut x = [counter as u32, (counter >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        let mut key = self.key;
        for _ in 0..10 {
            let first = u64::from(x[0]) * u64::from(MULTIPLIERS[0]);
            let second = u64::from(x[2]) * u64::from(MULTIPLIERS[1]);
            x = [
                (second >> 32) as u32 ^ x[1] ^ key[0],
                second as u32,
                (first >> 32) as u32 ^ x[3] ^ key[1],
                first as u32,
            ];
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        x
    }

    /// Element `i` of the stream, uniform in [0, 1), 24 bits.
    pub fn uniform(self, i: u64) -> f32 {
        (self.block(i / 4)[(i % 4) as usize] >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Element `i` of the stream, uniform in (0, 1), 52 bits.
    pub fn uniform64(self, i: u64) -> f64 {
        let [a, b, ..] = self.block(i);
        let bits = ((u64::from(a) << 32) | u64::from(b)) >> 12;
        (bits as f64 + 0.5) * (1.0 / 4_503_599_627_370_496.0)
    }

    /// Element `i` of the stream, standard normal.
    pub fn normal(self, i: u64) -> f32 {
        let words = self.block(i / 4);
        let pair = (i % 4) as usize / 2;
        let (radius, angle) = polar(words[2 * pair], words[2 * pair + 1]);
        if i.is_multiple_of(2) { radius * angle.cos() } else { radius * angle.sin() }
    }

    /// Elements `4 i` to `4 i + 3` of [`Rng::normal`], for the work of one block.
    pub fn normals(self, i: u64) -> [f32; 4] {
        let [a, b, c, d] = self.block(i);
        let ((first, angle), (second, other)) = (polar(a, b), polar(c, d));
        [first * angle.cos(), first * angle.sin(), second * other.cos(), second * other.sin()]
    }

    /// Element `i` of the stream, a whole number below `n` (bias under 2^-32 for n below 2^32).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(self, i: u64, n: u64) -> u64 {
        assert!(n > 0, "rng: a draw below zero");
        let [a, b, ..] = self.block(i);
        let bits = (u64::from(a) << 32) | u64::from(b);
        ((u128::from(bits) * u128::from(n)) >> 64) as u64
    }

    /// `count` different numbers below `n`, in random order (Floyd's method, then a shuffle).
    ///
    /// # Panics
    /// If `count` is above `n`.
    pub fn sample(self, n: u64, count: usize) -> Vec<u64> {
        assert!(count as u64 <= n, "rng: {count} different numbers below {n}");
        let mut seen = std::collections::HashSet::with_capacity(count);
        let mut picked = Vec::with_capacity(count);
        for (i, top) in (n - count as u64..n).enumerate() {
            let draw = self.below(i as u64, top + 1);
            let value = if seen.insert(draw) { draw } else { top };
            seen.insert(value);
            picked.push(value);
        }
        self.at(1).shuffle(&mut picked);
        picked
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
    }

    /// A random order of `0..n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn order(self, n: u64) -> Order {
        assert!(n > 0, "rng: an order of nothing");
        let bits = (64 - (n - 1).leading_zeros()).max(2);
        let widths = [bits / 2, bits - bits / 2];
        let mut keys = [0; 8];
        for (pair, i) in keys.chunks_exact_mut(2).zip(0..) {
            let [a, b, c, d] = self.block(i);
            pair.copy_from_slice(&[u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)]);
        }
        Order { n, widths, keys }
    }
}

/// Radius and angle of two independent normals (Box-Muller).
fn polar(u: u32, v: u32) -> (f32, f32) {
    // 1 - u keeps the logarithm's argument above zero.
    let u = 1.0 - (u >> 8) as f32 * (1.0 / 16_777_216.0);
    let v = (v >> 8) as f32 * (1.0 / 16_777_216.0);
    ((-2.0 * u.ln()).sqrt(), std::f32::consts::TAU * v)
}

/// A random order of `0..n` that needs no memory: each place is computed on its own.
///
/// A Feistel network over the smallest power-of-two range that holds `0..n`, repeated until it lands below n (Black & Rogaway
/// 2002): for n > 2 fewer than two passes on average. Its round function is the finaliser of SplitMix64.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    n: u64,
    /// Bits of the two halves.
    widths: [u32; 2],
    keys: [u64; 8],
}

impl Order {
    /// The number at place `i`, which must be below n.
    ///
    /// # Panics
    /// If it is not.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "rng: place {i} of an order of {}", self.n);
        let mask = self.widths.map(|width| (1u64 << width) - 1);
        let mut x = i;
        loop {
            let mut halves = [x >> self.widths[1], x & mask[1]];
            for (round, key) in self.keys.iter().enumerate() {
                let (to, from) = (round % 2, 1 - round % 2);
                halves[to] ^= mix(halves[from] ^ key) & mask[to];
            }
            x = halves[0] << self.widths[1] | halves[1];
            if x < self.n {
                return x;
            }
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_each_number_once_and_favours_none() {
        for n in (1..70).chain([255, 256, 257, 5000]) {
            let order = Rng::new(3).at(n).order(n);
            let mut found: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
            assert!(n < 20 || !found.is_sorted(), "{n}");
            found.sort_unstable();
            assert_eq!(found, (0..n).collect::<Vec<_>>());
        }
        // Where each number stands, over many orders: within five standard deviations of chance.
        let (n, orders) = (11u64, 22_000);
        let mut seen = [[0u32; 11]; 11];
        for seed in 0..orders {
            let order = Rng::new(seed).order(n);
            (0..n).for_each(|i| seen[i as usize][order.at(i) as usize] += 1);
        }
        let mean = orders as f64 / n as f64;
        let far = seen.iter().flatten().map(|&count| (f64::from(count) - mean).abs()).fold(0.0, f64::max);
        assert!(far < 5.0 * mean.sqrt(), "{far} of {mean}");
    }

    #[test]
    fn philox_matches_the_published_vectors() {
        // Known-answer tests of the Random123 distribution, philox4x32 10.
        let zero = Rng { key: [0, 0], stream: 0 };
        assert_eq!(zero.block(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Rng { key: [u32::MAX; 2], stream: u64::MAX };
        assert_eq!(ones.block(u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn four_normals_are_those_of_their_block() {
        let rng = Rng::new(5).at(1);
        let four: Vec<f32> = (0..100).flat_map(|i| rng.normals(i)).collect();
        assert_eq!(four, (0..400).map(|i| rng.normal(i)).collect::<Vec<_>>());
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let rng = Rng::new(7).at(3);
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|i| f64::from(rng.normal(i))).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }

    #[test]
    fn a_sample_has_no_repeats_and_reaches_every_number() {
        let mut counts = [0u32; 10];
        for seed in 0..2000 {
            let mut picked = Rng::new(seed).sample(10, 4);
            picked.iter().for_each(|&i| counts[i as usize] += 1);
            picked.sort_unstable();
            picked.dedup();
            assert_eq!(picked.len(), 4);
        }
        assert!(counts.iter().all(|&c| (700..900).contains(&c)), "{counts:?}");
    }

    #[test]
    fn a_sample_of_all_may_begin_with_any() {
        let mut first = [0u32; 5];
        (0..1000).for_each(|seed| first[Rng::new(seed).sample(5, 5)[0] as usize] += 1);
        assert!(first.iter().all(|&count| (140..260).contains(&count)), "{first:?}");
    }
}
