//! Places a step's buffers in one block; no two that live at the same time overlap.
//!
//! Steps of one shape request the same buffers in the same order. Before the first of them a step is rehearsed: its buffers'
//! lifetimes are then known, and they are laid out in one block, where two share bytes only if one is freed before the other is
//! requested. A buffer that outlives its step has memory of its own. A step that departs from the layout is still correct: a
//! request that is not in the layout, or whose place there overlaps a live buffer, is served from free room in the block, if it
//! fits there, and the next step is rehearsed again. Other work of a step's size may use the block while no step does.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::driver::ALIGN;
use super::layout::{Layout, Life};

/// What steps request, and the block that serves them.
#[derive(Default)]
pub struct Arena {
    shape: Vec<usize>,
    phase: Phase,
    /// Requests of the step being rehearsed; `own` has the numbers of the live ones, by address.
    lives: Vec<Life>,
    own: HashMap<u64, usize>,
    /// The layout for steps of that shape, once one was rehearsed.
    layout: Option<Layout>,
    /// A step has followed the layout.
    followed: bool,
    /// Requests made now are not the step's own.
    aside: bool,
    block: Option<Block>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Between,
    Rehearsing,
    /// How many requests there were, and whether all followed the layout.
    Serving(usize, bool),
    /// Other work.
    Loose,
}

struct Block {
    address: u64,
    bytes: usize,
    /// End of each live buffer, by its start.
    live: BTreeMap<usize, usize>,
    /// Memory for buffers that will outlive the step, in order of request: bytes, address.
    ready: VecDeque<(usize, u64)>,
}

impl Block {
    fn put(&mut self, at: usize, bytes: usize) -> u64 {
        self.live.insert(at, at + bytes);
        self.address + at as u64
    }

    /// Takes the lowest place with that much room.
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

/// How a step begins: buffers that outlive it are allocated beforehand, in these sizes.
pub struct Turn {
    pub sizes: Vec<usize>,
    /// An earlier step followed the layout.
    pub followed: bool,
}

/// Other work left a live buffer in the block, which therefore stays where it is.
pub struct InUse;

impl Arena {
    /// Whether steps of this shape are laid out.
    pub fn knows(&mut self, shape: &[usize]) -> bool {
        if self.shape != shape {
            (self.shape, self.layout) = (shape.to_vec(), None);
        }
        self.layout.is_some()
    }

    /// Begins the rehearsal of a step, which is not executed.
    pub fn begin_rehearsal(&mut self) {
        self.phase = Phase::Rehearsing;
        self.lives.clear();
        self.own.clear();
    }

    /// Ends the rehearsal, while what outlives the step is still live. Returns the bytes that the block needs.
    pub fn end_rehearsal(&mut self) -> usize {
        self.phase = Phase::Between;
        self.followed = false;
        let layout = Layout::of(std::mem::take(&mut self.lives));
        self.layout.insert(layout).bytes
    }

    /// Begins a step of the shape that is laid out; without a layout it is treated as other work.
    pub fn begin(&mut self) -> Turn {
        let Some(layout) = &self.layout else {
            self.phase = Phase::Loose;
            return Turn { sizes: Vec::new(), followed: false };
        };
        self.phase = Phase::Serving(0, true);
        let outlive = layout.lives.iter().filter(|life| life.died.is_none());
        Turn { sizes: outlive.map(|life| life.bytes).collect(), followed: self.followed }
    }

    /// Begins other work: its requests take any free room in the block.
    pub fn begin_loose(&mut self) {
        self.phase = Phase::Loose;
    }

    /// Sets whether requests from here on are not the step's own; returns the previous setting.
    pub fn set_aside(&mut self, aside: bool) -> bool {
        std::mem::replace(&mut self.aside, aside)
    }

    /// Takes memory that was allocated beforehand.
    pub fn made_ready(&mut self, bytes: usize, address: u64) {
        if let Some(block) = &mut self.block {
            block.ready.push_back((bytes, address));
        }
    }

    /// Serves a request: its address, or none if it must be allocated elsewhere.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        match self.phase {
            Phase::Between | Phase::Rehearsing => None,
            Phase::Serving(number, as_laid_out) if !self.aside => {
                let found = self.serve(number, bytes);
                self.phase = Phase::Serving(number + 1, as_laid_out && found.is_some());
                found.or_else(|| self.block.as_mut()?.fit(bytes))
            }
            Phase::Serving(..) | Phase::Loose => self.block.as_mut()?.fit(bytes),
        }
    }

    fn serve(&mut self, number: usize, bytes: usize) -> Option<u64> {
        let (layout, block) = (self.layout.as_ref()?, self.block.as_mut()?);
        if layout.lives.get(number)?.bytes != bytes {
            return None;
        }
        let Some(at) = layout.offsets[number] else {
            // Once a request has departed from the layout, the address at the front of the queue may have been prepared for another
            // buffer.
            let next = block.ready.front().is_some_and(|&(made, _)| made == bytes);
            return if next { block.ready.pop_front().map(|(_, address)| address) } else { None };
        };
        // Free if no live buffer begins before this one's end and ends after its start.
        let free = block.live.range(..at + bytes).next_back().is_none_or(|(_, &end)| end <= at);
        free.then(|| block.put(at, bytes))
    }

    /// Notes a buffer that was allocated elsewhere.
    pub fn made(&mut self, bytes: usize, address: u64) {
        if self.phase == Phase::Rehearsing {
            self.own.insert(address, self.lives.len());
            self.lives.push(Life { bytes, died: None });
        }
    }

    /// Takes a buffer back. True if it was in the block: then there is nothing to free.
    pub fn give(&mut self, address: u64) -> bool {
        if self.phase == Phase::Rehearsing
            && let Some(number) = self.own.remove(&address)
        {
            self.lives[number].died = Some(self.lives.len());
        }
        let Some(block) = &mut self.block else { return false };
        let at = address.wrapping_sub(block.address) as usize;
        at < block.bytes && block.live.remove(&at).is_some()
    }

    /// Ends a step, other work or an abandoned rehearsal. Returns what was allocated beforehand but not requested.
    pub fn end(&mut self) -> VecDeque<(usize, u64)> {
        self.aside = false;
        match std::mem::take(&mut self.phase) {
            Phase::Serving(_, true) => self.followed = true,
            // It departed from the layout: the next step is rehearsed.
            Phase::Serving(_, false) => self.layout = None,
            Phase::Rehearsing | Phase::Loose | Phase::Between => {}
        }
        self.block.as_mut().map(|block| std::mem::take(&mut block.ready)).unwrap_or_default()
    }

    /// Drops a layout that steps will no longer follow; not during a step, which drops it itself when it departs from it.
    pub fn forget(&mut self) {
        if !matches!(self.phase, Phase::Serving(..)) {
            self.layout = None;
        }
    }

    /// Hands out the block, if there is one, to be freed. If it is in use, steps run without a layout.
    pub fn give_block(&mut self) -> Result<Option<u64>, InUse> {
        if self.block.as_ref().is_some_and(|block| !block.live.is_empty()) {
            self.layout = None;
            return Err(InUse);
        }
        Ok(self.block.take().map(|block| block.address))
    }

    /// Whether there is a layout that a step has followed and from which none has departed since.
    pub fn followed(&self) -> bool {
        self.layout.is_some() && self.followed
    }

    /// Bytes of the block.
    pub fn block(&self) -> Option<usize> {
        self.block.as_ref().map(|block| block.bytes)
    }

    /// Takes over a block allocated for the layout.
    pub fn take_block(&mut self, address: u64) {
        let bytes = self.layout.as_ref().map_or(0, |layout| layout.bytes);
        self.block = Some(Block { address, bytes, live: BTreeMap::new(), ready: VecDeque::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A step's requests: the size of each, and the numbers of the buffers freed before the next.
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

    /// Plays a step, rehearsing it first if needed; addresses from `heap` on are outside any block. Returns how many requests the
    /// arena served, and the addresses still live at the end.
    fn play(arena: &mut Arena, story: &[(usize, Vec<usize>)], heap: &mut u64) -> (usize, Vec<u64>) {
        if !arena.knows(&[1]) {
            arena.begin_rehearsal();
            let (served, _) = act(arena, story, heap);
            assert_eq!(served, 0, "a step that is rehearsed has no block");
            arena.end_rehearsal();
            if arena.give_block().is_ok() {
                arena.take_block(1 << 40);
            }
        }
        arena.begin().sizes.into_iter().for_each(|bytes| arena.made_ready(bytes, elsewhere(heap, bytes)));
        let done = act(arena, story, heap);
        assert!(arena.end().is_empty() || arena.layout.is_none(), "what outlives a step was asked for");
        done
    }

    fn elsewhere(heap: &mut u64, bytes: usize) -> u64 {
        let at = *heap;
        *heap += bytes.next_multiple_of(ALIGN) as u64;
        at
    }

    fn act(arena: &mut Arena, story: &[(usize, Vec<usize>)], heap: &mut u64) -> (usize, Vec<u64>) {
        let (mut live, mut served): (BTreeMap<usize, (u64, usize)>, usize) = Default::default();
        for (i, (bytes, dropped)) in story.iter().enumerate() {
            let found = arena.take(*bytes);
            served += usize::from(found.is_some());
            let at = found.unwrap_or_else(|| {
                let at = elsewhere(heap, *bytes);
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
        (served, live.into_values().map(|(at, _)| at).collect())
    }

    #[test]
    fn two_that_live_together_never_share_bytes() {
        for seed in 0..20 {
            let (mut arena, mut heap, story) = (Arena::default(), 0, story(seed, 300));
            for step in 0..3 {
                let (served, left) = play(&mut arena, &story, &mut heap);
                left.into_iter()
                    .for_each(|at| assert!(!arena.give(at), "what outlives a step is not the block's"));
                assert_eq!(served, story.len(), "step {step}");
                assert!(arena.followed());
            }
            // The block is hardly larger than the most that is live at once.
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
    fn a_step_that_goes_another_way_is_served_what_is_free_and_the_next_is_rehearsed() {
        let (mut arena, mut heap) = (Arena::default(), 0);
        let (first, other) = (story(1, 200), story(2, 230));
        let mut step = |arena: &mut Arena, story: &[(usize, Vec<usize>)]| {
            let (served, left) = play(arena, story, &mut heap);
            left.into_iter().for_each(|at| _ = arena.give(at));
            served
        };
        assert_eq!(step(&mut arena, &first), first.len());
        let served = step(&mut arena, &other);
        assert!(served > other.len() / 2 && served < other.len(), "{served} of {}", other.len());
        assert!(arena.layout.is_none());
        assert_eq!(step(&mut arena, &other), other.len());
    }

    #[test]
    fn what_is_not_the_steps_own_changes_no_place() {
        let (mut arena, mut heap, story) = (Arena::default(), 0, story(4, 200));
        play(&mut arena, &story, &mut heap).1.into_iter().for_each(|at| _ = arena.give(at));
        let sizes = arena.begin().sizes;
        sizes.into_iter().for_each(|bytes| arena.made_ready(bytes, 1 << 50));
        let mut live = BTreeMap::new();
        for (i, (bytes, dropped)) in story.iter().enumerate() {
            arena.set_aside(true);
            if let Some(at) = arena.take(1000) {
                assert!(arena.give(at));
            }
            arena.set_aside(false);
            live.insert(i, arena.take(*bytes).expect("as laid out"));
            dropped.iter().for_each(|number| _ = arena.give(live[number]));
        }
        assert_eq!(arena.phase, Phase::Serving(story.len(), true));
    }

    #[test]
    fn other_work_finds_room_between_steps() {
        let (mut arena, mut heap, story) = (Arena::default(), 0, story(3, 200));
        play(&mut arena, &story, &mut heap).1.into_iter().for_each(|at| _ = arena.give(at));
        arena.begin_loose();
        let (a, b) = (arena.take(700).expect("room"), arena.take(300).expect("room"));
        assert!(a + 700 <= b && a % ALIGN as u64 == 0 && b % ALIGN as u64 == 0);
        assert!(arena.take(1 << 30).is_none() && arena.give(a));
        assert_eq!(arena.take(512), Some(a), "the lowest place");
        arena.end();
        assert!(arena.take(1).is_none(), "nobody asked for the block");
        // A buffer that other work leaves behind keeps the block in place: steps of another shape run without a layout.
        assert!(!arena.knows(&[2]));
        arena.begin_rehearsal();
        arena.end_rehearsal();
        assert!(arena.give_block().is_err() && arena.begin().sizes.is_empty());
        assert_eq!(arena.phase, Phase::Loose);
    }
}
