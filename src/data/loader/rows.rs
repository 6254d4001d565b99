//! Rows of many cells packed together, as a device takes them: starts, gene ids, values, and each cell's normalisation.

use rayon::prelude::*;

use crate::data::shard::{Data, Normalise, Row, Scale, Values};

/// Rows per task of `dense`.
const TASK: usize = 64;

/// The stored values, of one type per data directory.
#[derive(Clone, PartialEq)]
pub enum Counts {
    /// Counts below 65536.
    U16(Vec<u16>),
    /// Larger counts somewhere in the directory, or log values.
    F32(Vec<f32>),
}

brief!(Counts, |counts| stored: match counts { Counts::U16(v) => v.len(), Counts::F32(v) => v.len() });

/// Sparse rows.
#[derive(Clone, PartialEq)]
pub struct Rows {
    /// Where each row begins in `genes` and `values`, `[rows + 1]`.
    pub starts: Vec<u32>,
    /// Gene ids, ascending inside a row.
    pub genes: Vec<u16>,
    /// One value for each of them.
    pub values: Counts,
    /// What a row's values are divided by before the logarithm, `[rows]`: library / target for counts, 1 for log values.
    pub scale: Vec<f32>,
    /// What the values are.
    pub kind: Scale,
    /// The network sees log1p values divided by this.
    pub factor: f32,
    /// Genes, G: the width of a dense row.
    pub width: usize,
}

brief!(Rows, |rows| rows: rows.scale.len(), stored: rows.genes.len(), kind: rows.kind);

impl Rows {
    /// No rows, of the type that a directory needs.
    pub fn empty(data: &Data) -> Rows {
        let values = if data.narrow() { Counts::U16(Vec::new()) } else { Counts::F32(Vec::new()) };
        let (kind, factor) = (data.manifest().scale, data.manifest().factor);
        Rows {
            starts: vec![0],
            genes: Vec::new(),
            values,
            scale: Vec::new(),
            kind,
            factor,
            width: data.genes(),
        }
    }

    /// The rows of some cells, by number.
    ///
    /// # Panics
    /// If one of them does not exist, or they hold more than 2^32 - 1 values.
    pub fn of(data: &Data, cells: &[u64]) -> Rows {
        let mut rows = Rows::empty(data);
        rows.refill(data, cells);
        rows
    }

    /// Replaces the rows by others of the same data, reusing the memory.
    ///
    /// # Panics
    /// If they hold more than 2^32 - 1 values.
    pub fn refill(&mut self, data: &Data, cells: &[u64]) {
        let mut order: Vec<(u64, u32)> = cells.iter().copied().zip(0..).collect();
        // In file order: what is not in memory is fetched in one sweep, and neighbours share pages. The order does not
        // affect where a row goes in the result.
        order.sort_unstable();
        let _sweep = data.sweep(order.iter().map(|&(cell, _)| cell));
        let rows: Vec<Row> = order.iter().map(|&(cell, _)| data.row(cell)).collect();
        self.scale.resize(cells.len(), 0.0);
        self.starts.resize(cells.len() + 1, 0);
        for (row, &(_, place)) in rows.iter().zip(&order) {
            self.scale[place as usize] = data.row_scale(row.library);
            self.starts[place as usize + 1] = row.genes.len() as u32;
        }
        let mut stored = 0u64;
        for start in &mut self.starts[1..] {
            stored += u64::from(*start);
            *start = u32::try_from(stored).expect("a batch holds less than 2^32 values");
        }
        // Resized, never cleared: every number is written below.
        self.genes.resize(stored as usize, 0);
        match &mut self.values {
            Counts::U16(values) => values.resize(stored as usize, 0),
            Counts::F32(values) => values.resize(stored as usize, 0.0),
        }
        for (row, &(_, place)) in rows.iter().zip(&order) {
            let span = self.starts[place as usize] as usize..self.starts[place as usize + 1] as usize;
            self.genes[span.clone()].copy_from_slice(row.genes);
            match (&mut self.values, row.values) {
                (Counts::U16(out), Values::U8(v)) => put(&mut out[span], v, u16::from),
                (Counts::U16(out), Values::U16(v)) => out[span].copy_from_slice(v),
                (Counts::F32(out), Values::U8(v)) => put(&mut out[span], v, f32::from),
                (Counts::F32(out), Values::U16(v)) => put(&mut out[span], v, f32::from),
                (Counts::F32(out), Values::F32(v)) => out[span].copy_from_slice(v),
                (Counts::U16(_), Values::F32(_)) => {
                    panic!("rows: an f32 shard in a directory of narrow counts")
                }
            }
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.scale.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.scale.is_empty()
    }

    /// The cells as the network sees them: out `[rows, G]`, bit for bit as from `Data::fill`, using all cores.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn dense(&self, out: &mut [f32]) {
        let (rows, width, len) = (self.len(), self.width, out.len());
        assert_eq!(len, rows * width, "dense: {rows} rows of {width} genes into {len} numbers");
        out.par_chunks_mut(TASK * width)
            .enumerate()
            .for_each(|(task, out)| self.dense_rows(task * TASK, out));
    }

    /// As many rows from `first` on as fit in `out`, on this thread.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn dense_rows(&self, first: usize, out: &mut [f32]) {
        let genes = self.width;
        let normalise = Normalise::new(self.kind, self.factor);
        for (row, out) in (first..).zip(out.chunks_exact_mut(genes)) {
            let range = self.starts[row] as usize..self.starts[row + 1] as usize;
            let values = match &self.values {
                Counts::U16(values) => Values::U16(&values[range.clone()]),
                Counts::F32(values) => Values::F32(&values[range.clone()]),
            };
            normalise.fill(out, &self.genes[range], values, self.scale[row]);
        }
    }
}

fn put<T: Copy, U>(out: &mut [U], values: &[T], wide: impl Fn(T) -> U) {
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = wide(value));
}
