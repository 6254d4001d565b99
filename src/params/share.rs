//! The flat buffers cut into pieces, and which part of each piece belongs to one rank.
//!
//! Gradients are sent to the other ranks piece by piece, each when the backward pass has finished everything in it. If ranks share
//! the optimizer, each keeps an equal part of every piece, not one stretch of the whole: every piece then brings each rank the same
//! amount, and its sum can begin long before the last gradient is there.
//!
//!   all    |------- piece 0 -------|------- piece 1 -------| ..      a multiple of ranks x PACK numbers each
//!          |rank 0 |rank 1 |rank 2 |rank 0 |rank 1 |rank 2 | ..

use std::iter::once;
use std::ops::Range;

use super::Entry;
use crate::gpu::{PACK, part_of};

/// Numbers at which a piece is full, 16 MiB of bf16: long enough for a network's full rate, short enough that little is left to
/// send when the last gradient is there.
const PIECE: usize = 8 << 20;
/// In a smaller model a piece is full at 1 / PIECES of the length.
const PIECES: usize = 8;

/// Cuts `len` numbers into stretches, each a multiple of `packs` packs, that begin at an entry or less than one such multiple
/// before it.
pub(super) fn cut(entries: &[Entry], len: usize, packs: usize) -> Vec<Range<usize>> {
    cut_at(entries, len, (len / PIECES).min(PIECE), packs * PACK)
}

fn cut_at(entries: &[Entry], len: usize, least: usize, grain: usize) -> Vec<Range<usize>> {
    let mut cuts = vec![0];
    for entry in entries {
        let at = entry.offset / grain * grain;
        if at - cuts[cuts.len() - 1] >= least.max(grain) {
            cuts.push(at);
        }
    }
    cuts.push(len);
    cuts.windows(2).map(|ends| ends[0]..ends[1]).collect()
}

/// The part of the flat buffers that a rank keeps for itself.
#[derive(Clone, Debug)]
pub struct Share {
    pieces: Vec<Range<usize>>,
    rank: usize,
    ranks: usize,
}

impl Share {
    /// Everything, kept by a single rank.
    pub fn whole(len: usize) -> Share {
        Share { pieces: once(0..len).collect(), rank: 0, ranks: 1 }
    }

    pub(super) fn new(pieces: Vec<Range<usize>>, rank: usize, ranks: usize) -> Share {
        assert!(pieces.iter().all(|piece| piece.len().is_multiple_of(ranks)), "shares of {pieces:?}");
        Share { pieces, rank, ranks }
    }

    /// The same rank's share of `len` other numbers, in one piece.
    ///
    /// # Panics
    /// If they cannot be shared evenly.
    pub fn of(&self, len: usize) -> Share {
        Share::new(once(0..len).collect(), self.rank, self.ranks)
    }

    /// True if this rank keeps everything.
    pub fn is_whole(&self) -> bool {
        self.ranks == 1
    }

    /// The number of this share, and how many there are.
    pub fn place(&self) -> (usize, usize) {
        (self.rank, self.ranks)
    }

    /// The pieces, one after the other.
    pub fn pieces(&self) -> &[Range<usize>] {
        &self.pieces
    }

    /// This rank's part of a piece.
    ///
    /// # Panics
    /// If it cannot be shared evenly.
    pub fn part(&self, piece: &Range<usize>) -> Range<usize> {
        let own = part_of(piece.len(), self.rank, self.ranks);
        piece.start + own.start..piece.start + own.end
    }

    /// This rank's part of every piece.
    pub fn parts(&self) -> Vec<Range<usize>> {
        self.pieces.iter().map(|piece| self.part(piece)).collect()
    }
}

/// The pieces of the flat gradients, and what is unfinished in each.
#[derive(Debug)]
pub struct Pieces {
    ranges: Vec<Range<usize>>,
    /// The pieces that each entry reaches into.
    of: Vec<Range<usize>>,
    /// Number of unfinished entries in each piece.
    left: Vec<usize>,
}

impl Pieces {
    pub(super) fn new(entries: &[Entry], ranges: Vec<Range<usize>>) -> Pieces {
        let mut left = vec![0; ranges.len()];
        let holds = |number: usize| ranges.partition_point(|range| range.end <= number);
        let pieces = |range: Range<usize>| holds(range.start)..holds(range.end - 1) + 1;
        let of: Vec<Range<usize>> = entries.iter().map(|entry| pieces(entry.range())).collect();
        of.iter().cloned().flatten().for_each(|piece| left[piece] += 1);
        Pieces { ranges, of, left }
    }

    /// Marks an entry as finished; returns the pieces that this completes.
    pub fn finish(&mut self, entry: usize) -> Vec<Range<usize>> {
        let mut whole = Vec::new();
        for piece in self.of[entry].clone() {
            self.left[piece] -= 1;
            if self.left[piece] == 0 {
                whole.push(self.ranges[piece].clone());
            }
        }
        whole
    }

    /// The unfinished pieces.
    pub fn unfinished(&self) -> impl Iterator<Item = Range<usize>> {
        self.ranges.iter().zip(&self.left).filter(|&(_, &left)| left > 0).map(|(range, _)| range.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Table};
    use crate::rng::Rng;

    /// Parameters of awkward lengths: they begin at 0, 8, 48, 56, 64, 168 and 176, and the buffers end at 184.
    fn table() -> Table {
        let mut table = Table::default();
        for (i, len) in [1, 40, 3, 8, 100, 7, 7].into_iter().enumerate() {
            table.add(&format!("w{i}"), &[len], Init::Constant(1.0), false);
        }
        table
    }

    #[test]
    fn pieces_are_all_of_the_gradients_and_each_comes_once() {
        let table = table();
        let entries = table.entries();
        for (ranks, len) in [(1, 184), (2, 192), (3, 192)] {
            for least in [1, 20, 60, 10_000] {
                let all = cut_at(entries, len, least, ranks * PACK);
                assert_eq!((all[0].start, all.last().expect("one").end), (0, len));
                assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len() >= least));
                assert!(all.iter().all(|piece| piece.len().is_multiple_of(ranks * PACK)), "{all:?}");
                let mut pieces = Pieces::new(entries, all.clone());
                assert!(pieces.unfinished().eq(all.iter().cloned()));
                // Finished from last to first, an entry completes the pieces that begin in it, or that begin in the zeros before it
                // and reach it.
                let mut told = Vec::new();
                for i in (0..entries.len()).rev() {
                    for piece in pieces.finish(i) {
                        let before = i.checked_sub(1).map_or(0, |before| entries[before].range().end);
                        let range = entries[i].range();
                        let reaches = (before..range.end).contains(&piece.start) && piece.end > range.start;
                        assert!(reaches, "{ranks} ranks, {least}: {piece:?} with entry {i}");
                        told.push(piece);
                    }
                }
                told.sort_by_key(|piece| piece.start);
                assert!(told == all && pieces.unfinished().next().is_none(), "{ranks}, {least}: {told:?}");
            }
        }
    }

    #[test]
    fn shares_are_equal_and_all_of_the_buffer() {
        for ranks in [2, 3, 7] {
            let mut table = table();
            let before = table.draw(Rng::new(0)).into_vec();
            let shares: Vec<Share> = (0..ranks).map(|rank| table.share(rank, ranks)).collect();
            let after = table.draw(Rng::new(0)).into_vec();
            assert!(after.starts_with(&before) && after[before.len()..].iter().all(|&w| w == 0.0));
            let mut owners = vec![0; table.len()];
            for share in &shares {
                let parts = share.parts();
                assert_eq!(parts.iter().map(Range::len).sum::<usize>(), table.len() / ranks);
                assert!(parts.iter().all(|part| part.start.is_multiple_of(PACK)));
                parts.into_iter().flatten().for_each(|i| owners[i] += 1);
            }
            assert!(owners.iter().all(|&owners| owners == 1), "{ranks} ranks");
        }
    }
}
