//! Places buffers of known lifetimes in one block.

use std::cmp::Reverse;

use super::driver::ALIGN;

/// A buffer's life; time is counted in buffers requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its length.
    pub bytes: usize,
    /// How many had been requested when it was freed; none if it outlived the step.
    pub died: Option<usize>,
}

/// The place of each buffer.
#[derive(Debug, Default)]
pub struct Layout {
    /// Lives of all buffers that a step requests, in order.
    pub lives: Vec<Life>,
    /// Bytes from the start of the block; none for what outlives the step.
    pub offsets: Vec<Option<usize>>,
    /// Bytes of the block.
    pub bytes: usize,
}

impl Layout {
    /// Places the largest first, each at the lowest offset that is free while it lives.
    pub fn of(lives: Vec<Life>) -> Layout {
        let room: Vec<usize> = lives.iter().map(|life| life.bytes.next_multiple_of(ALIGN)).collect();
        let mut order: Vec<(usize, usize)> =
            lives.iter().enumerate().filter_map(|(i, life)| Some((i, life.died?))).collect();
        order.sort_by_key(|&(i, _)| (Reverse(room[i]), i));
        let (mut offsets, mut bytes) = (vec![None; lives.len()], 0);
        // (offset, number, death), sorted by offset.
        let mut placed: Vec<(usize, usize, usize)> = Vec::new();
        for (i, died) in order {
            let mut at = 0;
            for &(other_at, other, other_died) in &placed {
                let together = i < other_died && other < died;
                if together && other_at < at + room[i] {
                    at = at.max(other_at + room[other]);
                }
            }
            placed.insert(placed.partition_point(|&(other_at, ..)| other_at <= at), (at, i, died));
            offsets[i] = Some(at);
            bytes = bytes.max(at + room[i]);
        }
        Layout { lives, offsets, bytes }
    }
}
