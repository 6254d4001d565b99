//! The definition of attention within a set, in plain loops over f64.

/// Sizes of one call: N rows in a set, H heads of width K.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// N.
    pub rows: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub width: usize,
}

impl Sizes {
    /// Position of number `c` of part 0, 1 or 2 (q, k, v) of a head in a packed row.
    fn at(&self, part: usize, head: usize, c: usize) -> usize {
        (part * self.heads + head) * self.width + c
    }
}

/// The rows of set `b` as keys: its own and, last, the seed's k | v after a q of zeros.
fn keys(qkv: &[f64], seed: Option<&[f64]>, z: Sizes, b: usize) -> Vec<Vec<f64>> {
    let out = z.heads * z.width;
    let own = qkv[b * z.rows * 3 * out..(b + 1) * z.rows * 3 * out].chunks(3 * out).map(<[f64]>::to_vec);
    own.chain(seed.map(|s| [&vec![0.0; out], &s[b * 2 * out..(b + 1) * 2 * out]].concat())).collect()
}

fn probabilities(q: &[f64], keys: &[Vec<f64>], z: Sizes, head: usize) -> Vec<f64> {
    let score = |k: &Vec<f64>| {
        (0..z.width).map(|c| q[z.at(0, head, c)] * k[z.at(1, head, c)]).sum::<f64>() / (z.width as f64).sqrt()
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    scores.iter().map(|s| (s - top).exp() / total).collect()
}

/// y `[B, N, HK]`.
pub fn forward(qkv: &[f64], seed: Option<&[f64]>, z: Sizes) -> Vec<f64> {
    let mut y = Vec::new();
    for b in 0..qkv.len() / (3 * z.rows * z.heads * z.width) {
        let keys = keys(qkv, seed, z, b);
        for q in &keys[..z.rows] {
            for head in 0..z.heads {
                let p = probabilities(q, &keys, z, head);
                for c in 0..z.width {
                    y.push(p.iter().zip(&keys).map(|(p, k)| p * k[z.at(2, head, c)]).sum());
                }
            }
        }
    }
    y
}

/// dqkv and dseed `[B, 2HK]` (empty without a seed).
pub fn backward(dy: &[f64], qkv: &[f64], seed: Option<&[f64]>, z: Sizes) -> (Vec<f64>, Vec<f64>) {
    let (out, packed) = (z.heads * z.width, 3 * z.heads * z.width);
    let (mut dqkv, mut dseed) = (Vec::new(), Vec::new());
    for b in 0..qkv.len() / (z.rows * packed) {
        let keys = keys(qkv, seed, z, b);
        let mut d = vec![vec![0.0; packed]; keys.len()];
        for i in 0..z.rows {
            let dy = &dy[(b * z.rows + i) * out..][..out];
            for head in 0..z.heads {
                let p = probabilities(&keys[i], &keys, z, head);
                let dp: Vec<f64> = keys
                    .iter()
                    .map(|k| (0..z.width).map(|c| dy[head * z.width + c] * k[z.at(2, head, c)]).sum())
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for (j, key) in keys.iter().enumerate() {
                    let ds = p[j] * (dp[j] - delta) / (z.width as f64).sqrt();
                    for c in 0..z.width {
                        d[i][z.at(0, head, c)] += ds * key[z.at(1, head, c)];
                        d[j][z.at(1, head, c)] += ds * keys[i][z.at(0, head, c)];
                        d[j][z.at(2, head, c)] += p[j] * dy[head * z.width + c];
                    }
                }
            }
        }
        dqkv.extend(d[..z.rows].concat());
        dseed.extend(d[z.rows..].iter().flat_map(|row| &row[out..]));
    }
    (dqkv, dseed)
}
