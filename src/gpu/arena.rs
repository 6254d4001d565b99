//! A step's buffers in one block, each where the step before had it.
//!
//! Steps of one shape ask for the same buffers in the same order. Once two in a row have, the lives of the buffers are known and are
//! laid out in one block: two share bytes only if one is given back before the other is asked for. What outlives its step has
//! memory of its own. A step that turns out otherwise is not wrong, only slower: what is not asked for as planned, or would lie over
//! a live buffer, is not served from the block. Other work of a step's size may use the block while no step does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// As the pool aligns: what a product's algorithm was chosen for stays true.
const ALIGN: usize = 256;

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

/// What steps ask for, and the block that they are served from.
#[derive(Default)]
pub struct Arena {
    shape: Vec<usize>,
    phase: Phase,
    /// What the step that is learnt from asks for, what the one before it did, and numbers of what is live, by address.
    lives: Vec<Life>,
    before: Vec<Life>,
    own: HashMap<u64, usize>,
    /// Of steps of that shape, once it is known.
    plan: Option<Plan>,
    block: Option<Block>,
    /// There was no room for a block.
    crowded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Between,
    Learning,
    /// How many were asked for, and whether all were as planned.
    Serving(usize, bool),
    /// Other work.
    Loose,
}

struct Block {
    address: u64,
    bytes: usize,
    /// Ends of what is live in it, by where they begin.
    live: BTreeMap<usize, usize>,
    /// Memory for what is to outlive the step, in its order, with its sizes.
    ready: VecDeque<(usize, u64)>,
}

impl Block {
    fn put(&mut self, at: usize, bytes: usize) -> u64 {
        self.live.insert(at, at + bytes);
        self.address + at as u64
    }

    /// The lowest place with so much room.
    fn fit(&mut self, bytes: usize) -> Option<u64> {
        let mut at = 0;
        for (&begin, &end) in &self.live {
            if begin >= at + bytes {
                break;
            }
            at = end.next_multiple_of(ALIGN);
        }
        (at + bytes <= self.bytes).then(|| self.put(at, bytes))
    }
}

/// How a step begins.
pub enum Turn {
    /// As it comes.
    Learn,
    /// With what outlives it made beforehand, in these sizes.
    Serve(Vec<usize>),
}

impl Arena {
    /// Begins a step.
    pub fn begin(&mut self, shape: &[usize]) -> Turn {
        if self.shape != shape {
            (self.shape, self.plan, self.crowded) = (shape.to_vec(), None, false);
            self.before.clear();
        }
        let Some(plan) = &self.plan else {
            self.phase = Phase::Learning;
            self.lives.clear();
            self.own.clear();
            return Turn::Learn;
        };
        self.phase = Phase::Serving(0, true);
        Turn::Serve(plan.lives.iter().filter(|life| life.died.is_none()).map(|life| life.bytes).collect())
    }

    /// Begins work that is no such step: it finds room in the block as it comes.
    pub fn begin_loose(&mut self) {
        self.phase = Phase::Loose;
    }

    /// Takes what was made beforehand.
    pub fn made_ready(&mut self, made: VecDeque<(usize, u64)>) {
        self.block.as_mut().expect("a step is served").ready = made;
    }

    /// Something is asked for: its address, if it is served from here.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        match self.phase {
            Phase::Between | Phase::Learning => None,
            Phase::Loose => self.block.as_mut()?.fit(bytes),
            Phase::Serving(number, as_planned) => {
                let found = self.serve(number, bytes);
                self.phase = Phase::Serving(number + 1, as_planned && found.is_some());
                found
            }
        }
    }

    fn serve(&mut self, number: usize, bytes: usize) -> Option<u64> {
        let (plan, block) = (self.plan.as_ref()?, self.block.as_mut()?);
        if plan.lives.get(number)?.bytes != bytes {
            return None;
        }
        let Some(at) = plan.offsets[number] else {
            return block.ready.pop_front().map(|(_, address)| address);
        };
        // Nothing live begins before this one's end and ends behind its begin.
        let free = block.live.range(..at + bytes).next_back().is_none_or(|(_, &end)| end <= at);
        free.then(|| block.put(at, bytes))
    }

    /// Something was made elsewhere.
    pub fn made(&mut self, bytes: usize, address: u64) {
        if self.phase == Phase::Learning {
            self.own.insert(address, self.lives.len());
            self.lives.push(Life { bytes, died: None });
        }
    }

    /// Something is given back. True if it lay in the block: then there is nothing to free.
    pub fn give(&mut self, address: u64) -> bool {
        if self.phase == Phase::Learning
            && let Some(number) = self.own.remove(&address)
        {
            self.lives[number].died = Some(self.lives.len());
        }
        let Some(block) = &mut self.block else { return false };
        let at = address.wrapping_sub(block.address) as usize;
        at < block.bytes && block.live.remove(&at).is_some()
    }

    /// Ends a step: what was made beforehand and not asked for; how large a block would serve the next steps, if that is known now.
    pub fn end(&mut self) -> (VecDeque<(usize, u64)>, Option<usize>) {
        let left = self.block.as_mut().map(|block| std::mem::take(&mut block.ready)).unwrap_or_default();
        match std::mem::take(&mut self.phase) {
            Phase::Learning if self.lives == self.before && !self.crowded => {
                let plan = Plan::of(self.lives.clone());
                let bytes = plan.bytes;
                self.plan = Some(plan);
                return (left, Some(bytes));
            }
            Phase::Learning => std::mem::swap(&mut self.before, &mut self.lives),
            // It went another way: learnt anew.
            Phase::Serving(_, false) => (self.plan, self.before) = (None, Vec::new()),
            Phase::Serving(_, true) | Phase::Loose | Phase::Between => {}
        }
        (left, None)
    }

    /// Hands out the block to be freed; nothing of it may be live. Else the steps go on without a plan.
    pub fn give_block(&mut self) -> Option<Option<u64>> {
        if self.block.as_ref().is_some_and(|block| !block.live.is_empty()) {
            self.plan = None;
            return None;
        }
        Some(self.block.take().map(|block| block.address))
    }

    /// How large the block is.
    pub fn block(&self) -> Option<usize> {
        self.block.as_ref().map(|block| block.bytes)
    }

    /// Takes a block for the plan; none if there was no room.
    pub fn take_block(&mut self, address: Option<u64>) {
        self.block = address.map(|address| Block {
            address,
            bytes: self.plan.as_ref().map_or(0, |plan| plan.bytes),
            live: BTreeMap::new(),
            ready: VecDeque::new(),
        });
        self.crowded = address.is_none();
        if self.crowded {
            self.plan = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// What a step asks for and gives back: sizes, and numbers of what is given back before the next.
    fn story(seed: u64, count: usize) -> Vec<(usize, Vec<usize>)> {
        let rng = Rng::new(seed);
        let mut live: Vec<usize> = Vec::new();
        let one = |i: usize| {
            let at = rng.at(i as u64);
            live.push(i);
            let drops = (at.uniform(0) * 3.0) as u64;
            let dropped = (0..drops.min(live.len() as u64 - 1))
                .map(|k| live.remove((at.uniform(2 + k) * live.len() as f32) as usize))
                .collect();
            (1 + (4000.0 * at.uniform(1).powi(3)) as usize, dropped)
        };
        (0..count).map(one).collect()
    }

    /// Plays a step; addresses from `heap` on are no block's. What is left at its end is handed back.
    fn play(arena: &mut Arena, story: &[(usize, Vec<usize>)], heap: &mut u64) -> (usize, Vec<u64>) {
        let mut elsewhere = |bytes: usize| {
            let at = *heap;
            *heap += bytes.next_multiple_of(ALIGN) as u64;
            at
        };
        if let Turn::Serve(sizes) = arena.begin(&[1]) {
            let made = sizes.into_iter().map(|bytes| (bytes, elsewhere(bytes))).collect();
            arena.made_ready(made);
        }
        let (mut live, mut served): (BTreeMap<usize, (u64, usize)>, usize) = Default::default();
        for (i, (bytes, dropped)) in story.iter().enumerate() {
            let found = arena.take(*bytes);
            served += usize::from(found.is_some());
            let at = found.unwrap_or_else(|| {
                let at = elsewhere(*bytes);
                arena.made(*bytes, at);
                at
            });
            for (other, size) in live.values() {
                assert!(
                    at + *bytes as u64 <= *other || other + *size as u64 <= at,
                    "buffer {i} lies over another"
                );
            }
            live.insert(i, (at, *bytes));
            for number in dropped {
                arena.give(live.remove(number).expect("live").0);
            }
        }
        if let (_, Some(_)) = arena.end() {
            assert!(arena.give_block().is_some());
            arena.take_block(Some(1 << 40));
        }
        (served, live.into_values().map(|(at, _)| at).collect())
    }

    #[test]
    fn two_that_live_together_never_share_bytes() {
        for seed in 0..20 {
            let (mut arena, mut heap, story) = (Arena::default(), 0, story(seed, 300));
            for step in 0..5 {
                let (served, left) = play(&mut arena, &story, &mut heap);
                left.into_iter()
                    .for_each(|at| assert!(!arena.give(at), "what outlives a step is not the block's"));
                assert_eq!(served, if step < 2 { 0 } else { story.len() }, "step {step}");
            }
            // The block is hardly larger than what lives at a time.
            let (mut now, mut most, mut sizes) = (0, 0, BTreeMap::new());
            for (i, (bytes, dropped)) in story.iter().enumerate() {
                let dies = story.iter().any(|(_, dropped)| dropped.contains(&i));
                let room = if dies { bytes.next_multiple_of(ALIGN) } else { 0 };
                sizes.insert(i, room);
                now += room;
                most = most.max(now);
                dropped.iter().for_each(|number| now -= sizes[number]);
            }
            let block = arena.block().expect("made");
            assert!((most..=most + most / 4).contains(&block), "{block} bytes for {most}");
        }
    }

    #[test]
    fn a_step_that_goes_another_way_is_served_what_is_free_and_learnt() {
        let (mut arena, mut heap) = (Arena::default(), 0);
        let (first, other) = (story(1, 200), story(2, 230));
        for _ in 0..3 {
            play(&mut arena, &first, &mut heap).1.into_iter().for_each(|at| _ = arena.give(at));
        }
        let counts: Vec<usize> = (0..4)
            .map(|_| {
                let (served, left) = play(&mut arena, &other, &mut heap);
                left.into_iter().for_each(|at| _ = arena.give(at));
                served
            })
            .collect();
        assert!(counts[0] < other.len() && counts[1..3] == [0, 0] && counts[3] == other.len(), "{counts:?}");
    }

    #[test]
    fn other_work_finds_room_between_steps() {
        let (mut arena, mut heap, story) = (Arena::default(), 0, story(3, 200));
        for _ in 0..3 {
            play(&mut arena, &story, &mut heap).1.into_iter().for_each(|at| _ = arena.give(at));
        }
        arena.begin_loose();
        let (a, b) = (arena.take(700).expect("room"), arena.take(300).expect("room"));
        assert!(a + 700 <= b && a % ALIGN as u64 == 0 && b % ALIGN as u64 == 0);
        assert!(arena.take(1 << 30).is_none() && arena.give(a));
        assert_eq!(arena.take(512), Some(a), "the lowest place");
        arena.end();
        assert!(arena.take(1).is_none(), "nobody asked for the block");
    }
}
