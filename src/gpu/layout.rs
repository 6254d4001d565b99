//! Where buffers of known lives lie in one block.

use std::cmp::Reverse;

/// As the pool aligns: what a product's algorithm was chosen for stays true.
pub const ALIGN: usize = 256;

/// A buffer's life; time is counted in buffers asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its length.
    pub bytes: usize,
    /// How many had been asked for when it was given back; none if the step ended before.
    pub died: Option<usize>,
}

/// Where buffers lie.
#[derive(Debug, Default)]
pub struct Plan {
    /// Of all that a step asks for, in its order.
    pub lives: Vec<Life>,
    /// From the block's first byte; none for what outlives the step.
    pub offsets: Vec<Option<usize>>,
    /// Of the block.
    pub bytes: usize,
}

impl Plan {
    /// The largest first, each at the lowest place that is free while it lives.
    pub fn of(lives: Vec<Life>) -> Plan {
        let room: Vec<usize> = lives.iter().map(|life| life.bytes.next_multiple_of(ALIGN)).collect();
        let mut order: Vec<(usize, usize)> =
            lives.iter().enumerate().filter_map(|(i, life)| Some((i, life.died?))).collect();
        order.sort_by_key(|&(i, _)| (Reverse(room[i]), i));
        let (mut offsets, mut bytes) = (vec![None; lives.len()], 0);
        // Offset, number and death, by offset.
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
        Plan { lives, offsets, bytes }
    }
}
