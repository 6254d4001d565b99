//! From a stored value to the number the network sees (SCALE v1, section 4.1).
//!
//!   counts    x = ln(1 + value / (library / target)) / factor
//!   log1p     x = value / factor
//!   log1p10   x = value * 10 / factor
//!
//! One function serves single rows and whole batches, so that both give the same bits. The logarithm is our own code, not a
//! library's: it takes eight values at a time and gives the same bits on every machine.

use super::{Scale, Values};

/// Values transformed together, on the stack.
const BLOCK: usize = 32;
/// Counts below this, which are nearly all, are looked up in a table computed per row.
const TABLE: usize = 32;

/// The transform of a data directory.
#[derive(Clone, Copy)]
pub(crate) struct Normalise {
    kind: Scale,
    factor: f32,
}

impl Normalise {
    pub(crate) fn new(kind: Scale, factor: f32) -> Self {
        Normalise { kind, factor }
    }

    /// Writes a cell, `scale` = library / target (not used for log values): out `[G]`, zero where nothing is stored.
    pub(crate) fn fill(self, out: &mut [f32], genes: &[u16], values: Values, scale: f32) {
        out.fill(0.0);
        let (per_count, per_log) = (1.0 / scale, 1.0 / self.factor);
        let count = |c: f32| ln_1p(c * per_count) * per_log;
        match (self.kind, values) {
            (Scale::Counts, Values::U8(v)) => whole(out, genes, v, count),
            (Scale::Counts, Values::U16(v)) => whole(out, genes, v, count),
            (Scale::Counts, Values::F32(v)) => blocks(out, genes, v, |v, x| each(v, x, count)),
            (Scale::Log1p, Values::F32(v)) => blocks(out, genes, v, |v, x| each(v, x, |v| v / self.factor)),
            (Scale::Log1p10, Values::F32(v)) => {
                blocks(out, genes, v, |v, x| each(v, x, |v| v * (10.0 / self.factor)));
            }
            (kind, _) => panic!("normalise: {kind:?} values are f32, these are whole numbers"),
        }
    }
}

/// A row of narrow counts: by table lookup for blocks whose counts are all small, else computed one by one.
fn whole<T: Copy + Default + Into<u16>>(
    out: &mut [f32],
    genes: &[u16],
    values: &[T],
    x: impl Fn(f32) -> f32 + Copy,
) {
    let mut table = [0.0; TABLE];
    table.iter_mut().zip(0u16..).for_each(|(entry, count)| *entry = x(f32::from(count)));
    blocks(out, genes, values, |counts, block| {
        let all = counts.iter().fold(0u16, |all, &count| all | count.into());
        if usize::from(all) < TABLE {
            block
                .iter_mut()
                .zip(counts)
                .for_each(|(x, &count)| *x = table[usize::from(count.into()) % TABLE]);
        } else {
            each(counts, block, |count| x(f32::from(count.into())));
        }
    });
}

/// A loop that the compiler can vectorise.
fn each<T: Copy>(values: &[T; BLOCK], block: &mut [f32; BLOCK], x: impl Fn(T) -> f32) {
    block.iter_mut().zip(values).for_each(|(x_i, &value)| *x_i = x(value));
}

/// `out[genes[i]] = x_i`, where `transform` computes the x of a block of values.
fn blocks<T: Copy + Default>(
    out: &mut [f32],
    genes: &[u16],
    values: &[T],
    transform: impl Fn(&[T; BLOCK], &mut [f32; BLOCK]),
) {
    let mut x = [0.0; BLOCK];
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (block_genes, rest_genes) = genes.as_chunks::<BLOCK>();
    for (genes, values) in block_genes.iter().zip(blocks) {
        transform(values, &mut x);
        put(out, genes, &x);
    }
    let mut padded = [T::default(); BLOCK];
    padded[..rest.len()].copy_from_slice(rest);
    transform(&padded, &mut x);
    put(out, rest_genes, &x);
}

fn put(out: &mut [f32], genes: &[u16], x: &[f32]) {
    for (&gene, &x) in genes.iter().zip(x) {
        out[usize::from(gene)] = x;
    }
}

/// ln(1 + x) for x >= 0, to 2e-7 relative. Branch-free.
///
/// 1 + x = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); ln(1 + f) = 2 atanh(s), s = f / (2 + f), by its series up to s^9.
/// What rounding lost from 1 + x is added back to f, so that small x keep their digits.
#[inline(always)]
fn ln_1p(x: f32) -> f32 {
    const HALF_ROOT: u32 = 0x3F35_04F3;
    let u = 1.0 + x;
    let lost = x - (u - 1.0);
    // The exponent of u / sqrt(1/2): subtracting the bits of sqrt(1/2) moves the seam of the binades there.
    let k = (u.to_bits().wrapping_sub(HALF_ROOT) as i32) >> 23;
    let down = f32::from_bits(((127 - k) << 23) as u32);
    let f = (u * down - 1.0) + lost * down;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = (1.0f32 / 9.0).mul_add(z, 1.0 / 7.0).mul_add(z, 1.0 / 5.0).mul_add(z, 1.0 / 3.0) * z;
    let twice = 2.0 * s;
    (k as f32).mul_add(std::f32::consts::LN_2, series.mul_add(twice, twice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_over_its_whole_range() {
        assert_eq!(ln_1p(0.0), 0.0);
        let mut x = 1e-12f32;
        while x < 1e12 {
            let expected = f64::from(x).ln_1p();
            let error = (f64::from(ln_1p(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "ln(1 + {x}) is off by {error:.1e}");
            x *= 1.0003;
        }
        assert!((1..=u16::MAX).is_sorted_by_key(|count| ln_1p(f32::from(count) * 0.37).to_bits()));
    }
}
