//! Sampler and loader: which cells make up a step, and how they arrive.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use scale_engine::config::{DataConfig, SetOrder};
use scale_engine::data::controls::{context_controls, control_pool};
use scale_engine::data::loader::{Batch, Carry, Counts, Loader, Rows};
use scale_engine::data::sampler::{Sampler, SetOfCells};
use scale_engine::data::shard::{Data, Scale};
use scale_engine::rng::Rng;

use crate::small_data::{World, header};

fn all_groups(data: &Data) -> Vec<u32> {
    (0..data.groups().len() as u32).collect()
}

fn sampling(sets: usize, cells: usize) -> DataConfig {
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
fn uneven() -> World {
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

#[test]
fn a_set_holds_cells_of_its_context_only() {
    let (_dir, data) = uneven().open();
    let sampler = Sampler::new(&data, &all_groups(&data), sampling(6, 8), 3).expect("a sampler");
    for set in sets_of(&sampler, 100) {
        let [cell_type, perturbation, batch] = set.conditions;
        assert!(set.perturbed.iter().all(|&cell| group_of(&data, cell) == (cell_type, perturbation, batch)));
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
    let sampler = Sampler::new(&data, &all_groups(&data), sampling(6, 8), 3).expect("a sampler");
    for set in sets_of(&sampler, 100) {
        let size = data.groups()[set.group as usize].cells;
        assert!((size < 8) || distinct(&set.perturbed) == 8, "{size} cells");
        let pool = control_pool(&data, set.group).expect("controls").cells();
        assert!((pool < 8) || distinct(&set.controls) == 8, "{pool} controls");
        if set.conditions[1] == 0 && size >= 16 {
            let both: Vec<u64> = set.controls.iter().chain(&set.perturbed).copied().collect();
            assert_eq!(distinct(&both), 16, "the two draws of controls are disjoint");
        }
    }
}

#[test]
fn groups_without_controls_are_reported_and_not_drawn() {
    let (_dir, data) = uneven().open();
    let sampler = Sampler::new(&data, &all_groups(&data), sampling(6, 8), 3).expect("a sampler");
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
    assert!(message.starts_with("--split: none of 1 groups can be used: 1 have no controls"), "{message}");
    // Messages name fields as the user writes them.
    let message = Sampler::new(&data, &only, sampling(1 << 20, 1 << 20), 0).expect_err("refused").to_string();
    assert!(message.starts_with("data.sets: ") && message.contains("can have more than"), "{message}");
}

#[test]
fn control_examples_can_be_left_out() {
    let (_dir, data) = uneven().open();
    let drawn = |control_examples| {
        let settings = DataConfig { control_examples, ..sampling(6, 4) };
        let sampler = Sampler::new(&data, &all_groups(&data), settings, 3).expect("a sampler");
        sets_of(&sampler, 50).iter().filter(|set| set.conditions[1] == 0).count()
    };
    assert_eq!(drawn(false), 0);
    assert!(drawn(true) > 50);
}

#[test]
fn groups_are_drawn_by_their_weights() {
    let (_dir, data) = uneven().open();
    for alpha in [0.0, 0.5, 1.0] {
        let settings = DataConfig { sets: 100, cells: 1, alpha, ..DataConfig::default() };
        let sampler = Sampler::new(&data, &all_groups(&data), settings, 11).expect("a sampler");
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
    let sampler = |seed| Sampler::new(&data, &all_groups(&data), sampling(6, 8), seed).expect("a sampler");
    let (once, again) = (sampler(3), sampler(3));
    let late = again.step(40);
    assert_eq!((once.step(7), late), (again.step(7), once.step(40)));
    assert_ne!(once.step(7), once.step(8));
    assert_ne!(once.step(7), sampler(4).step(7));
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

fn loader(data: &Arc<Data>, first: u64, ahead: usize) -> Loader {
    let sampler = Sampler::new(data, &all_groups(data), sampling(3, 5), 9).expect("a sampler");
    Loader::start(data.clone(), sampler, first, ahead, Carry::Rows).expect("the sampler's data")
}

fn batches(data: &Arc<Data>, first: u64, ahead: usize, count: usize) -> Vec<Batch> {
    let mut loader = loader(data, first, ahead);
    (0..count).map(|_| loader.next()).collect()
}

#[test]
fn batches_come_in_order_whatever_the_threads() {
    let (_dir, data) = uneven().open();
    let data = Arc::new(data);
    let alone = batches(&data, 0, 1, 40);
    assert!(alone.iter().map(|batch| batch.step).eq(0..40));
    assert_eq!(alone, batches(&data, 0, 8, 40));
}

#[test]
fn a_resumed_loader_goes_on_where_the_other_stopped() {
    let (_dir, data) = uneven().open();
    let data = Arc::new(data);
    assert_eq!(batches(&data, 0, 3, 30)[17..], batches(&data, 17, 3, 13));
}

#[test]
fn a_loader_that_may_go_ahead_without_end_does_not_wait_for_ever() {
    let (_dir, data) = uneven().open();
    assert_eq!(batches(&Arc::new(data), 1, usize::MAX, 2)[0].step, 1);
}

#[test]
fn a_batch_of_numbers_has_no_rows_of_an_earlier_step() {
    let (_dir, data) = uneven().open();
    let sampler = Sampler::new(&data, &all_groups(&data), sampling(3, 5), 9).expect("a sampler");
    let mut batch = Batch::of(&data, 0, &sampler.step(0));
    batch.first = 2;
    batch.refill(&data, 1, &sampler.step(1), Carry::Numbers);
    assert!(batch.rows.is_empty() && batch.numbers.len() == 2 * 3 * 5 && batch.first == 0);
}

#[test]
fn used_memory_changes_no_batch() {
    let (_dir, data) = uneven().open();
    let data = Arc::new(data);
    let fresh = batches(&data, 0, 2, 20);
    let mut loader = loader(&data, 0, 2);
    for batch in &fresh {
        let next = loader.next();
        assert_eq!(&next, batch);
        loader.give_back(next);
    }
}

#[test]
fn a_batch_holds_controls_first_and_says_what_they_are() {
    let (_dir, data) = uneven().open();
    let sampler = Sampler::new(&data, &all_groups(&data), sampling(3, 5), 9).expect("a sampler");
    let sets = sampler.step(4);
    let batch = Batch::of(&data, 4, &sets);
    assert_eq!((batch.step, batch.sets, batch.cells, batch.genes, batch.rows.len()), (4, 3, 5, 25, 30));
    assert!(batch.groups.iter().eq(sets.iter().map(|set| &set.group)));
    assert!(batch.conditions.iter().eq(sets.iter().map(|set| &set.conditions)));
    let expected: Vec<u64> = sets
        .iter()
        .flat_map(|set| set.controls.clone())
        .chain(sets.iter().flat_map(|set| set.perturbed.clone()))
        .collect();
    assert_eq!(batch.rows, Rows::of(&data, &expected));
}

fn assert_dense_is_fill(world: &World) {
    let (_dir, data) = world.open();
    let genes = data.genes();
    let cells: Vec<u64> = (0..data.cells()).rev().chain(0..5).collect();
    let rows = Rows::of(&data, &cells);
    let mut dense = vec![f32::NAN; cells.len() * genes];
    rows.dense(&mut dense);
    let mut one = vec![f32::NAN; genes];
    for (cell, row) in cells.iter().zip(dense.chunks_exact(genes)) {
        data.fill(*cell, &mut one);
        assert!(row.iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits()), "cell {cell}");
    }
}

#[test]
fn dense_batches_are_the_bits_of_single_cells() {
    let small = World::random(6, 150, header(67, 2, 3, 2), 0.3);
    assert_dense_is_fill(&small);
    let mut medium = small.clone();
    // One large count widens its own shard, controls or perturbed, and none of the others.
    medium.cells.iter_mut().for_each(|cell| cell.values.iter_mut().for_each(|v| *v *= 40.0));
    assert_dense_is_fill(&medium);
    let mut large = medium.clone();
    let perturbed = large.cells.iter_mut().find(|cell| cell.label.perturbation != 0).expect("one");
    perturbed.values[0] = 70000.0;
    assert_dense_is_fill(&large);
    for scale in [Scale::Log1p, Scale::Log1p10] {
        let mut log = small.clone();
        log.header.scale = scale;
        log.header.target = None;
        log.cells.iter_mut().for_each(|cell| {
            cell.values.iter_mut().for_each(|v| *v = v.ln_1p());
            cell.library = f32::NAN;
        });
        assert_dense_is_fill(&log);
    }
}

#[test]
fn a_batch_is_as_narrow_as_its_directory() {
    let mut world = World::random(6, 60, header(20, 2, 3, 2), 0.5);
    let narrow = |world: &World| matches!(Rows::empty(&world.open().1).values, Counts::U16(_));
    assert!(narrow(&world));
    world.cells[0].values[0] = 65536.0;
    assert!(!narrow(&world));
}

#[test]
fn a_worker_that_panics_is_heard() {
    // Counts of one directory are narrow, those of the other are not.
    let (_dir, narrow) = uneven().open();
    let mut world = uneven();
    world.cells.iter_mut().for_each(|cell| cell.values.iter_mut().for_each(|v| *v += 70_000.0));
    let (_other, wide) = world.open();
    let wide = Arc::new(wide);
    let sampler = Sampler::new(&wide, &all_groups(&wide), sampling(3, 5), 9).expect("a sampler");
    let foreign = Batch::of(&narrow, 0, &sampler.step(0));
    // Both workers fail; the second one before the first one's panic is noticed, or after.
    for _ in 0..40 {
        let mut loader = loader(&wide, 0, 2);
        (0..4).for_each(|_| loader.give_back(foreign.clone()));
        let mut heard = || {
            // What was made before the batches were given back is whole.
            let panic = (0..4).find_map(|_| catch_unwind(AssertUnwindSafe(|| loader.next())).err());
            let panic = panic.expect("a panic");
            panic
                .downcast_ref::<String>()
                .cloned()
                .or(panic.downcast_ref::<&str>().map(|s| s.to_string()))
                .expect("a message")
        };
        let first = heard();
        assert!(first.contains("directory of narrow counts"), "{first}");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = heard();
        assert!(second.contains("asked again"), "{second}");
    }
}

#[test]
fn a_sampler_of_other_data_is_refused() {
    let (_dir, data) = uneven().open();
    let (_other, larger) = World::of_groups(header(25, 3, 2, 2), &[(0, 0, 0, 50), (0, 1, 0, 9000)]).open();
    let sampler = |of: &Data| Sampler::new(of, &all_groups(of), sampling(3, 5), 9).expect("a sampler");
    let [own, other] = [sampler(&data), sampler(&larger)];
    let data = Arc::new(data);
    let told = Loader::start(data.clone(), other, 0, 2, Carry::Rows).err().expect("refused").to_string();
    assert!(told.contains("is not the data directory that the sampler draws from"), "{told}");
    let again = Arc::new(Data::open(data.dir()).expect("opened"));
    assert!(Loader::start(again, own.clone(), 0, 2, Carry::Rows).is_ok(), "the same, opened again");
    for (rank, ranks) in [(2, 2), (0, 0)] {
        assert!(own.clone().share(rank, ranks).is_err());
    }
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
    let settings = DataConfig { order: SetOrder::Epoch, ..sampling(6, 8) };
    let sampler = Sampler::new(&data, &all_groups(&data), settings, 3).expect("a sampler");
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
        for set in &sets {
            let ids = set.conditions;
            assert!(set.perturbed.iter().all(|&cell| group_of(&data, cell) == (ids[0], ids[1], ids[2])));
            let size = data.groups()[set.group as usize].cells;
            assert!(size < 8 || distinct(&set.perturbed) == 8);
            let both: Vec<u64> = set.controls.iter().chain(&set.perturbed).copied().collect();
            assert!(ids[1] != 0 || size < 16 || distinct(&both) == 16);
        }
        pairings.insert(format!("{sets:?}"));
    }
    assert_eq!(pairings.len(), 3, "epochs differ");
}

#[test]
fn ranks_share_an_epoch_equally_and_without_overlap() {
    let (_dir, data) = uneven().open();
    let settings = DataConfig { order: SetOrder::Epoch, ..sampling(6, 8) };
    let alone = Sampler::new(&data, &all_groups(&data), settings, 3).expect("a sampler");
    let ranks: Vec<Sampler> = (0..3).map(|rank| alone.clone().share(rank, 3).expect("a share")).collect();
    for k in [0, 1, 7, 1_000_000] {
        let shared: Vec<Vec<SetOfCells>> = ranks.iter().map(|rank| rank.step(k)).collect();
        assert!(shared.iter().all(|sets| sets.len() == 2));
        assert_eq!(shared.concat(), alone.step(k));
        assert_eq!(alone.step(k), alone.step(k));
    }
}
