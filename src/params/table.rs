//! The table of a model's weights: names, shapes, first values and places in the flat buffers. It holds no numbers.

use std::ops::Range;

use rayon::prelude::*;

use super::share::{self, Pieces, Share};
use crate::gpu::PACK;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Number of a parameter in its [`Table`], and what tells it from those of other tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    index: usize,
    mark: u32,
}

impl Param {
    /// Its row in [`Table::entries`].
    pub fn index(self) -> usize {
        self.index
    }

    /// The same, once it is known to be of the table of these marks: with its name and shape in its place there.
    pub(super) fn among(self, marks: &[u32]) -> usize {
        let is_here = marks.get(self.index) == Some(&self.mark);
        assert!(is_here, "params: {self:?} is a parameter of another table");
        self.index
    }
}

/// What the table says about one parameter.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the checkpoint, e.g. `flow.blocks.3.w_in`.
    pub name: String,
    /// Axes' lengths.
    pub shape: Vec<usize>,
    /// First number in the flat buffer.
    pub offset: usize,
    /// True for matrices: weight decay applies.
    pub decay: bool,
    /// First values.
    pub init: Init,
}

impl Entry {
    /// Where the parameter's numbers are in the flat buffers.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.shape.iter().product::<usize>()
    }
}

/// First values.
#[derive(Clone, Debug)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f32),
    /// One value for all.
    Constant(f32),
    /// These values.
    Values(Vec<f32>),
    /// A matrix made of pieces on top of each other, each of `len` rows.
    Above(Vec<DrawnPart>),
    /// A matrix made of pieces side by side, each of `len` columns.
    Beside(Vec<DrawnPart>),
}

/// A normal matrix that is part of another and is drawn under its own name.
#[derive(Clone, Debug)]
pub struct DrawnPart {
    /// The name that keys its draws.
    pub name: String,
    /// Rows or columns.
    pub len: usize,
    /// Standard deviation.
    pub std: f32,
}

impl Init {
    /// Whether there are as many first values as a parameter of this shape has.
    fn fits(&self, shape: &[usize]) -> bool {
        let (count, width) = (shape.iter().product::<usize>(), shape.last().copied().unwrap_or(1));
        let of = |pieces: &[DrawnPart]| pieces.iter().map(|piece| piece.len).sum::<usize>();
        match self {
            Init::Normal(_) | Init::Constant(_) => true,
            Init::Values(values) => values.len() == count,
            Init::Above(pieces) => of(pieces) * width == count,
            Init::Beside(pieces) => of(pieces) == width,
        }
    }

    /// Writes the first values of the parameter `name`, whose last axis has length `width`.
    fn fill(&self, name: &str, width: usize, numbers: &mut [f32], rng: Rng) {
        match self {
            Init::Normal(std) => normal(name, *std, numbers, rng),
            Init::Constant(value) => numbers.fill(*value),
            Init::Values(values) => numbers.copy_from_slice(values),
            Init::Above(pieces) => {
                let mut rest = numbers;
                for DrawnPart { name, len, std } in pieces {
                    let (own, behind) = rest.split_at_mut(len * width);
                    normal(name, *std, own, rng);
                    rest = behind;
                }
            }
            Init::Beside(pieces) => {
                let mut at = 0;
                for DrawnPart { name, len, std } in pieces {
                    let mut own = vec![0.0; numbers.len() / width * len];
                    normal(name, *std, &mut own, rng);
                    let rows = numbers.chunks_exact_mut(width).zip(own.chunks_exact(*len));
                    rows.for_each(|(row, own)| row[at..at + len].copy_from_slice(own));
                    at += len;
                }
            }
        }
    }
}

/// Draws are keyed by the name: adding a parameter changes no other weight.
fn normal(name: &str, std: f32, numbers: &mut [f32], rng: Rng) {
    let stream = rng.at(u64::from(crc32fast::hash(name.as_bytes())));
    numbers.par_chunks_mut(4).with_min_len(1024).enumerate().for_each(|(i, four)| {
        four.iter_mut().zip(stream.normals(i as u64)).for_each(|(x, drawn)| *x = std * drawn);
    });
}

/// All parameters, in flat order.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// CRC-32 of each one's name, shape and place.
    marks: Vec<u32>,
    /// The buffers' length is a multiple of this many packs; 0 counts as 1.
    packs: usize,
}

impl Table {
    /// Adds a parameter.
    ///
    /// # Panics
    /// If the table has one of that name, the shape has no axes, or the first values are of another size.
    pub fn add(&mut self, name: &str, shape: &[usize], init: Init, decay: bool) -> Param {
        assert!(self.find(name).is_none(), "params: {name} twice");
        assert!(!shape.is_empty(), "params: {name} has no axes; one number has the shape [1]");
        assert!(init.fits(shape), "params: the first values of {name} are not of its shape, {shape:?}");
        let (offset, mut mark) = (self.len(), crc32fast::Hasher::new());
        mark.update(name.as_bytes());
        shape.iter().chain([&offset]).for_each(|number| mark.update(&number.to_le_bytes()));
        self.marks.push(mark.finalize());
        self.entries.push(Entry { name: name.to_string(), shape: shape.to_vec(), offset, decay, init });
        self.param(self.entries.len() - 1)
    }

    /// Its rows.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<Param> {
        self.entries.iter().position(|e| e.name == name).map(|index| self.param(index))
    }

    /// The parameter of this row.
    pub(super) fn param(&self, index: usize) -> Param {
        Param { index, mark: self.marks[index] }
    }

    /// What tells its parameters from those of other tables.
    pub(super) fn marks(&self) -> &[u32] {
        &self.marks
    }

    /// Count of weights.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.range().len()).sum()
    }

    /// Length of the flat buffers, L: the weights and the zeros between parameters and behind the last.
    pub fn len(&self) -> usize {
        let grain = self.packs.max(1) * PACK;
        self.entries.last().map_or(0, |entry| entry.range().end.next_multiple_of(grain))
    }

    /// True before anything was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A flat buffer's windows, one per row of the table, without the zeros between them.
    pub(super) fn windows<'a>(&self, flat: &'a mut [f32]) -> Vec<&'a mut [f32]> {
        let (mut rest, mut at) = (flat, 0);
        let window = |entry: &Entry| {
            let range = entry.range();
            let (_, behind) = std::mem::take(&mut rest).split_at_mut(range.start - at);
            let (window, behind) = behind.split_at_mut(range.len());
            (rest, at) = (behind, range.end);
            window
        };
        self.entries.iter().map(window).collect()
    }

    /// First weights, `[L]`, on the host.
    ///
    /// # Panics
    /// If an `init` does not have the size of its shape.
    pub fn draw(&self, rng: Rng) -> Tensor {
        let mut flat = vec![0.0; self.len()];
        let slots = self.entries.par_iter().zip(self.windows(&mut flat));
        slots.for_each(|(Entry { name, shape, init, .. }, slot)| {
            init.fill(name, shape.last().copied().unwrap_or(1), slot, rng);
        });
        Tensor::new(&[flat.len()], flat)
    }

    /// This rank's share of the optimizer among `ranks`: the flat buffers get some extra zeros behind the last parameter, so that
    /// shares are equal.
    pub fn share(&mut self, rank: usize, ranks: usize) -> Share {
        if ranks == 1 {
            return Share::whole(self.len());
        }
        self.packs = ranks;
        Share::new(share::cut(&self.entries, self.len(), ranks), rank, ranks)
    }

    /// The pieces in which gradients are sent to the other ranks: those of the share, or whole parameters if nothing is shared.
    pub(crate) fn pieces(&self, share: &Share) -> Pieces {
        match share.is_whole() {
            true => Pieces::new(&self.entries, share::cut(&self.entries, self.len(), 1)),
            false => Pieces::new(&self.entries, share.pieces().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::params::Params;
    use crate::tape::Tape;

    fn told<T>(work: impl FnOnce() -> T) -> String {
        let stopped = catch_unwind(AssertUnwindSafe(|| drop(work()))).expect_err("refused");
        stopped.downcast_ref::<String>().expect("words").clone()
    }

    #[test]
    fn a_parameter_that_cannot_be_drawn_is_refused_when_it_is_added() {
        let piece = |len| DrawnPart { name: "w".to_string(), len, std: 1.0 };
        let add = |shape: &[usize], init| Table::default().add("w", shape, init, true);
        assert!(told(|| add(&[], Init::Constant(0.0))).contains("w has no axes"));
        for init in [
            Init::Values(vec![0.0; 5]),
            Init::Above(vec![piece(2), piece(1)]),
            Init::Beside(vec![piece(2), piece(2)]),
        ] {
            assert!(
                told(|| add(&[2, 3], init)).contains("the first values of w are not of its shape, [2, 3]")
            );
        }
        add(&[2, 3], Init::Above(vec![piece(1), piece(1)]));
        add(&[2, 3], Init::Beside(vec![piece(2), piece(1)]));
        add(&[2, 3], Init::Values(vec![0.0; 6]));
    }

    #[test]
    fn a_parameter_is_one_of_its_own_table_or_of_one_made_alike() {
        let table = |names: [&str; 2]| {
            let mut table = Table::default();
            let added = names.map(|name| table.add(name, &[4], Init::Constant(1.0), false));
            (table, added)
        };
        let ((own, [_, weight]), (_, [_, alike]), (_, [_, other])) =
            (table(["a", "b"]), table(["a", "b"]), table(["a", "c"]));
        let drawn = own.draw(Rng::new(1));
        let params = Params::new(own, drawn);
        let vars = params.bind(&mut Tape::new());
        assert_eq!((params.tensor(alike).data(), vars[weight]), (&[1.0; 4][..], vars[alike]));
        let beyond = Param { index: 2, ..weight };
        for other in [other, beyond] {
            assert!(told(|| params.tensor(other)).contains("a parameter of another table"));
            assert!(told(|| vars[other]).contains("a parameter of another table"));
        }
    }
}
