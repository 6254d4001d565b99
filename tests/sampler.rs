//! Sampler: which cells make up a step.

use std::collections::{BTreeSet, HashMap, HashSet};

use scale_engine::config::{DataConfig, SetOrder};
use scale_engine::data::controls::{context_controls, control_pool};
use scale_engine::data::sampler::{Sampler, SetOfCells};
use scale_engine::data::shard::Data;
use scale_engine::rng::Rng;

use crate::small_data::{World, header};

fn all_groups(data: &Data) -> Vec<u32> {
    (0..data.groups().len() as u32).collect()
}

pub fn sampler(data: &Data, settings: DataConfig, seed: u64) -> Sampler {
    Sampler::new(data, &all_groups(data), settings, seed).expect("a sampler")
}

pub fn sampling(sets: usize, cells: usize) -> DataConfig {
    DataConfig { sets, cells, ..DataConfig::default() }
}

fn group_of(data: &Data, cell: u64) -> (u32, u32, u32) {
    let group = data.groups().iter().find(|group| group.range().contains(&cell)).expect("a group");
    (group.cell_type, group.perturbation, group.batch)
}

fn distinct(cells: &[u64]) -> usize {
    cells.iter().collect::<HashSet<_>>().len()
}

/// type000 has controls in batch000 only, type001 in both batches, type002 nowhere.
pub fn uneven() -> World {
    let groups = [
        (0, 0, 0, 30),
        (1, 0, 0, 5),
        (1, 0, 1, 12),
        (0, 1, 0, 20),
        (0, 1, 1, 7),
        (1, 2, 0, 40),
        (1, 2, 1, 3),
        (2, 1, 0, 9),
    ];
    World::of_groups(header(25, 3, 2, 2), &groups)
}

fn sets_of(sampler: &Sampler, steps: u64) -> Vec<SetOfCells> {
    (0..steps).flat_map(|k| sampler.step(k)).collect()
}

/// The perturbed cells are of the set's group; where there are enough, no cell comes twice, and the two draws of a set of controls
/// are disjoint.
fn assert_sound(data: &Data, set: &SetOfCells) {
    let [cell_type, perturbation, batch] = set.conditions;
    assert!(set.perturbed.iter().all(|&cell| group_of(data, cell) == (cell_type, perturbation, batch)));
    let (size, n) = (data.groups()[set.group as usize].cells as usize, set.perturbed.len());
    assert!(size < n || distinct(&set.perturbed) == n, "{size} cells");
    let both = [&set.controls[..], &set.perturbed].concat();
    assert!(perturbation != 0 || size < 2 * n || distinct(&both) == 2 * n, "{size} controls");
}

#[test]
fn a_set_holds_cells_of_its_context_only() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, sampling(6, 8), 3);
    for set in sets_of(&sampler, 100) {
        assert_sound(&data, &set);
        let [cell_type, _, batch] = set.conditions;
        for &cell in &set.controls {
            let (c, p, b) = group_of(&data, cell);
            // Type 0 has no controls in batch 1: those of batch 0 are used.
            let expected = if cell_type == 0 { 0 } else { batch };
            assert_eq!((c, p, b), (cell_type, 0, expected));
        }
        assert_eq!((set.controls.len(), set.perturbed.len()), (8, 8));
    }
}

#[test]
fn cells_repeat_only_where_a_group_is_too_small() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, sampling(6, 8), 3);
    for set in sets_of(&sampler, 100) {
        assert_sound(&data, &set);
        let pool = control_pool(&data, set.group).expect("controls").cells();
        assert!((pool < 8) || distinct(&set.controls) == 8, "{pool} controls");
    }
}

#[test]
fn groups_without_controls_are_reported_and_not_drawn() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, sampling(6, 8), 3);
    let lost: Vec<(u32, u32)> = sampler
        .unmatched()
        .iter()
        .map(|&g| &data.groups()[g as usize])
        .map(|g| (g.cell_type, g.perturbation))
        .collect();
    assert_eq!(lost, [(2, 1)]);
    assert!(sets_of(&sampler, 100).iter().all(|set| set.conditions[0] != 2));
    let only: Vec<u32> = sampler.unmatched().to_vec();
    let message = Sampler::new(&data, &only, sampling(1, 1), 0).expect_err("refused").to_string();
    assert!(message.starts_with("groups: none of 1 groups can be used: 1 have no controls"), "{message}");
    // Messages name fields as the user writes them.
    let message = Sampler::new(&data, &only, sampling(1 << 20, 1 << 20), 0).expect_err("refused").to_string();
    assert!(message.starts_with("data.sets: ") && message.contains("can have more than"), "{message}");
}

#[test]
fn control_examples_can_be_left_out() {
    let (_dir, data) = uneven().open();
    let drawn = |control_examples| {
        let sampler = sampler(&data, DataConfig { control_examples, ..sampling(6, 4) }, 3);
        sets_of(&sampler, 50).iter().filter(|set| set.conditions[1] == 0).count()
    };
    assert_eq!(drawn(false), 0);
    assert!(drawn(true) > 50);
}

#[test]
fn groups_are_drawn_by_their_weights() {
    let (_dir, data) = uneven().open();
    for alpha in [0.0, 0.5, 1.0] {
        let sampler = sampler(&data, DataConfig { alpha, ..sampling(100, 1) }, 11);
        let mut counts = HashMap::new();
        sets_of(&sampler, 400).iter().for_each(|set| *counts.entry(set.group).or_insert(0u32) += 1);
        let weight = |g: u32| f64::from(data.groups()[g as usize].cells).powf(alpha);
        let total: f64 = sampler.groups().map(weight).sum();
        for group in sampler.groups() {
            let (share, seen) = (weight(group) / total, f64::from(counts[&group]) / 40_000.0);
            let error = (share * (1.0 - share) / 40_000.0).sqrt();
            assert!((share - seen).abs() < 4.5 * error, "alpha {alpha}, group {group}: {seen} for {share}");
        }
    }
}

#[test]
fn a_step_depends_on_seed_and_number_alone() {
    let (_dir, data) = uneven().open();
    let of = |seed| sampler(&data, sampling(6, 8), seed);
    let (once, again) = (of(3), of(3));
    let late = again.step(40);
    assert_eq!((once.step(7), late), (again.step(7), once.step(40)));
    assert_ne!(once.step(7), once.step(8));
    assert_ne!(once.step(7), of(4).step(7));
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let (_dir, data) = uneven().open();
    let refusal =
        |settings| Sampler::new(&data, &all_groups(&data), settings, 0).expect_err("refused").to_string();
    assert!(refusal(sampling(0, 8)).starts_with("data.sets: is 0"));
    assert!(refusal(sampling(8, 0)).starts_with("data.cells: is 0"));
    assert!(refusal(DataConfig { alpha: f64::NAN, ..sampling(1, 1) }).starts_with("data.alpha: is NaN"));
    assert!(refusal(DataConfig { alpha: 1.5, ..sampling(1, 1) }).starts_with("data.alpha: is 1.5"));
    assert!(refusal(sampling(1 << 20, 1 << 20)).contains("more than 4294967295 values"));
}

#[test]
fn controls_come_from_the_batch_then_from_the_cell_type() {
    let (_dir, data) = uneven().open();
    let own = context_controls(&data, 1, 1).expect("controls");
    assert_eq!((own.cells(), own.groups.len()), (12, 1));
    let other = context_controls(&data, 0, 1).expect("controls");
    assert_eq!(other.cells(), 30);
    assert!(context_controls(&data, 2, 0).is_none());
    let cells: Vec<u64> = (0..own.cells()).map(|i| own.cell(i)).collect();
    assert_eq!(cells, own.iter().collect::<Vec<u64>>());
}

#[test]
fn every_control_cell_comes_once_before_any_comes_again() {
    let (_dir, data) = uneven().open();
    let pool = context_controls(&data, 1, 1).expect("controls");
    let drawn = |count: usize| -> Vec<u64> { pool.rounds(Rng::new(4)).take(count).collect() };
    let all = drawn(60);
    for round in all.chunks(12) {
        let mut cells = round.to_vec();
        cells.sort_unstable();
        assert_eq!(cells, pool.iter().collect::<Vec<u64>>());
    }
    assert!(all[..12] != all[12..24] && !all[..12].is_sorted(), "in random order, another one each time");
    (0..60).for_each(|count| assert_eq!(drawn(count), all[..count], "whatever the number"));
}

/// Sets of an epoch, and how often each cell is among their perturbed ones.
fn epoch_of(sampler: &Sampler, epoch: u64) -> (Vec<SetOfCells>, HashMap<u64, usize>) {
    let (all, sets) = (sampler.epoch().expect("epochs"), sampler.settings().sets as u64);
    let steps = epoch * all / sets..((epoch + 1) * all).div_ceil(sets);
    let first = steps.start * sets;
    let drawn = steps.flat_map(|k| sampler.step(k));
    let tiles: Vec<SetOfCells> = drawn.skip((epoch * all - first) as usize).take(all as usize).collect();
    let mut seen = HashMap::new();
    tiles.iter().flat_map(|set| &set.perturbed).for_each(|&cell| *seen.entry(cell).or_default() += 1);
    (tiles, seen)
}

#[test]
fn an_epoch_holds_every_cell_once_and_tops_up_tails_with_their_own_group() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, DataConfig { order: SetOrder::Epoch, ..sampling(6, 8) }, 3);
    let used: Vec<_> = data.groups().iter().filter(|group| group.cell_type != 2).collect();
    let tiles = |cells: u32| u64::from(cells.div_ceil(8));
    assert_eq!(sampler.epoch(), Some(used.iter().map(|group| tiles(group.cells)).sum()));
    let mut pairings = HashSet::new();
    for epoch in 0..3 {
        let (sets, seen) = epoch_of(&sampler, epoch);
        for group in &used {
            let times: Vec<usize> = group.range().map(|cell| seen.get(&cell).copied().unwrap_or(0)).collect();
            let most = (tiles(group.cells) * 8).div_ceil(u64::from(group.cells)) as usize;
            assert!(times.iter().all(|&count| (1..=most).contains(&count)), "{group:?}: {times:?}");
            assert_eq!(times.iter().sum::<usize>(), 8 * tiles(group.cells) as usize);
        }
        sets.iter().for_each(|set| assert_sound(&data, set));
        pairings.insert(format!("{sets:?}"));
    }
    assert_eq!(pairings.len(), 3, "epochs differ");
}

#[test]
fn ranks_share_an_epoch_equally_and_without_overlap() {
    let (_dir, data) = uneven().open();
    let alone = sampler(&data, DataConfig { order: SetOrder::Epoch, ..sampling(6, 8) }, 3);
    let ranks: Vec<Sampler> = (0..3).map(|rank| alone.clone().share(rank, 3).expect("a share")).collect();
    for k in [0, 1, 7, 1_000_000] {
        let shared: Vec<Vec<SetOfCells>> = ranks.iter().map(|rank| rank.step(k)).collect();
        assert!(shared.iter().all(|sets| sets.len() == 2));
        assert_eq!(shared.concat(), alone.step(k));
        assert_eq!(alone.step(k), alone.step(k));
    }
}

#[test]
fn each_epoch_puts_the_groups_in_another_order_and_their_cells_into_other_sets() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, DataConfig { order: SetOrder::Epoch, ..sampling(6, 8) }, 3);
    let large =
        (0..data.groups().len() as u32).find(|&g| data.groups()[g as usize].cells == 40).expect("40 cells");
    let of = |epoch| {
        let (sets, _) = epoch_of(&sampler, epoch);
        let order: Vec<u32> = sets.iter().map(|set| set.group).collect();
        let cells = |set: &SetOfCells| set.perturbed.iter().copied().collect::<BTreeSet<u64>>();
        let parts: BTreeSet<_> = sets.iter().filter(|set| set.group == large).map(cells).collect();
        (order, parts)
    };
    let ([first, second], [some, others]) = ([of(0).0, of(1).0], [of(0).1, of(1).1]);
    assert_eq!((some.len(), others.len()), (5, 5));
    assert!(first != second && some != others, "{first:?} {some:?}");
}

#[test]
fn controls_that_are_just_enough_for_two_draws_are_drawn_once() {
    let (_dir, data) = World::of_groups(header(25, 1, 1, 1), &[(0, 0, 0, 16), (0, 1, 0, 9)]).open();
    let sampler = sampler(&data, sampling(6, 8), 3);
    let sets = sets_of(&sampler, 30);
    assert!(sets.iter().any(|set| set.conditions[1] == 0));
    sets.iter().for_each(|set| assert_sound(&data, set));
}

#[test]
fn control_cells_are_drawn_apart_from_the_perturbed_ones() {
    let (_dir, data) = World::of_groups(header(25, 1, 1, 1), &[(0, 0, 0, 20), (0, 1, 0, 20)]).open();
    let sampler = sampler(&data, DataConfig { control_examples: false, ..sampling(4, 8) }, 3);
    for set in sets_of(&sampler, 10) {
        let places = |cells: &[u64]| cells.iter().map(|cell| cell % 20).collect::<Vec<_>>();
        assert_ne!(places(&set.controls), places(&set.perturbed));
    }
}
