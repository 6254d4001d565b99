//! From a stored value to the number the network sees (model.md, section 1).
//!
//!   counts    x = ln(1 + value / (library / target)) / factor
//!   log1p     x = value / factor
//!   log1p10   x = value * 10 / factor
//!
//! One function serves single rows and whole batches, so that both give the same bits.

use super::{Scale, Values};

/// Counts below this are looked up: a row holds few different ones.
const TABLE: usize = 256;

/// The transform, with a table of the logarithms of the row at hand.
pub(crate) struct Normalise {
    kind: Scale,
    factor: f32,
    table: [f32; TABLE],
}

impl Normalise {
    pub(crate) fn new(kind: Scale, factor: f32) -> Self {
        Normalise { kind, factor, table: [UNSET; TABLE] }
    }

    /// Writes a cell, `scale` = library / target (not used for log values): out [G], zero where nothing is stored.
    pub(crate) fn fill(&mut self, out: &mut [f32], genes: &[u16], values: Values, scale: f32) {
        out.fill(0.0);
        if self.kind == Scale::Counts {
            self.table = [UNSET; TABLE];
        }
        match (self.kind, values) {
            (Scale::Counts, Values::U8(v)) => {
                scatter(out, genes, v, |c| self.looked_up(usize::from(c), scale));
            }
            (Scale::Counts, Values::U16(v)) => scatter(out, genes, v, |c| match usize::from(c) {
                small if small < TABLE => self.looked_up(small, scale),
                large => self.count(large as f32, scale),
            }),
            (Scale::Counts, Values::F32(v)) => scatter(out, genes, v, |c| self.count(c, scale)),
            (Scale::Log1p, Values::F32(v)) => scatter(out, genes, v, |x| x / self.factor),
            (Scale::Log1p10, Values::F32(v)) => scatter(out, genes, v, |x| x * (10.0 / self.factor)),
            (kind, _) => panic!("normalise: {kind:?} values are f32, these are whole numbers"),
        }
    }

    fn looked_up(&mut self, count: usize, scale: f32) -> f32 {
        let known = self.table[count];
        if known >= 0.0 {
            return known;
        }
        let x = self.count(count as f32, scale);
        self.table[count] = x;
        x
    }

    fn count(&self, count: f32, scale: f32) -> f32 {
        (count / scale).ln_1p() / self.factor
    }
}

/// No transformed count is negative.
const UNSET: f32 = -1.0;

fn scatter<T: Copy>(out: &mut [f32], genes: &[u16], values: &[T], mut x: impl FnMut(T) -> f32) {
    for (&gene, &value) in genes.iter().zip(values) {
        out[usize::from(gene)] = x(value);
    }
}
