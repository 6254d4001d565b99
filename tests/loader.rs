//! Loader: how the cells of a step arrive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use scale_engine::data::loader::{Batch, Carry, Counts, Loader, Rows};
use scale_engine::data::shard::{Data, Scale};

use crate::sampler::{sampler, sampling, uneven};
use crate::small_data::{World, header};

fn loader(data: &Arc<Data>, first: u64, ahead: usize) -> Loader {
    let sampler = sampler(data, sampling(3, 5), 9);
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
    let (send, taken) = mpsc::channel();
    // Not joined: where the loader waits for ever, so would the test.
    std::thread::spawn(move || send.send(batches(&Arc::new(data), 1, usize::MAX, 2)));
    let batches = taken.recv_timeout(Duration::from_secs(60)).expect("batches, in time");
    assert_eq!(batches[0].step, 1);
}

#[test]
fn a_batch_of_numbers_has_no_rows_of_an_earlier_step() {
    let (_dir, data) = uneven().open();
    let sampler = sampler(&data, sampling(3, 5), 9);
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
    let sampler = sampler(&data, sampling(3, 5), 9);
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
    let perturbed = large.cells.iter_mut().find(|cell| cell.label[1] != 0).expect("one");
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
    let sampler = sampler(&wide, sampling(3, 5), 9);
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
    let [own, other] = [&data, &larger].map(|data| sampler(data, sampling(3, 5), 9));
    let data = Arc::new(data);
    let told = Loader::start(data.clone(), other, 0, 2, Carry::Rows).expect_err("refused").to_string();
    assert!(told.contains("is not the data directory that the sampler draws from"), "{told}");
    let again = Arc::new(Data::open(data.dir()).expect("opened"));
    assert!(Loader::start(again, own.clone(), 0, 2, Carry::Rows).is_ok(), "the same, opened again");
    for (rank, ranks) in [(2, 2), (0, 0)] {
        assert!(own.clone().share(rank, ranks).is_err());
    }
}
