//! The simulated world keeps its own rules, and what it hides can be found again in its counts.

use scale_engine::data::h5ad::H5ad;
use scale_engine::data::simulate::{Settings, Simulated, simulate};

fn world(cells: usize, genes: usize, perturbations: usize, cell_types: usize) -> Simulated {
    let settings = Settings { cells, skip: 0, genes, perturbations, cell_types, batches: 2, seed: 3 };
    simulate(&settings).expect("settings in range")
}

/// Mean of count / library over the cells of a pair, `[G]`, and the number of these cells.
fn mean_share(world: &Simulated, cell_type: u32, perturbation: u32) -> (Vec<f64>, usize) {
    let (mut sums, mut cells) = (vec![0.0; world.truth.genes.len()], 0);
    for (i, cell) in world.cells.iter().enumerate() {
        if cell.cell_type == cell_type && cell.perturbation == perturbation {
            let row = world.counts.outer_view(i).expect("a row a cell");
            row.iter().for_each(|(g, k)| sums[g] += f64::from(*k) / f64::from(cell.library));
            cells += 1;
        }
    }
    sums.iter_mut().for_each(|x| *x /= cells as f64);
    (sums, cells)
}

/// Pairs of (expected, measured) log fold of the well-expressed genes of a pair.
fn folds(world: &Simulated, c: u32, p: u32) -> Vec<(f64, f64)> {
    let ((control, _), (perturbed, _)) = (mean_share(world, c, 0), mean_share(world, c, p));
    let responders = f64::from(world.truth.responders[p as usize]);
    let effect = world.truth.effect(c as usize, p as usize);
    let median = f64::from(world.truth.libraries[c as usize]);
    (0..control.len())
        .filter(|&g| control[g] * median > 1.0 && perturbed[g] > 0.0)
        .map(|g| {
            let expected = (1.0 - responders + responders * f64::from(effect[g]).exp()).ln();
            (expected, (perturbed[g] / control[g]).ln())
        })
        .collect()
}

fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let (mx, my) = pairs.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xy += (x - mx) * (y - my);
        xx += (x - mx).powi(2);
        yy += (y - my).powi(2);
    }
    xy / (xx * yy).sqrt()
}

#[test]
fn the_truth_of_strong_perturbations_is_found_in_the_counts_and_null_ones_show_nothing() {
    let world = world(12_000, 800, 6, 2);
    let strengths = &world.truth.strengths;
    let strongest = (1..7).max_by(|&a, &b| strengths[a].total_cmp(&strengths[b])).expect("six");
    let null = (1..7).find(|&p| strengths[p] == 0.0).expect("one in ten is null");
    for c in 0..2 {
        let found = folds(&world, c, strongest as u32);
        let r = correlation(&found);
        assert!(found.len() > 60 && r > 0.95, "type {c}: r {r} over {} genes", found.len());
        let nothing = folds(&world, c, null as u32);
        let rms = (nothing.iter().map(|(_, y)| y * y).sum::<f64>() / nothing.len() as f64).sqrt();
        assert!(rms < 0.12, "type {c}: null log folds of {rms}");
        assert!(nothing.iter().all(|(x, _)| *x == 0.0));
    }
}

#[test]
fn counts_are_overdispersed_and_mostly_zero() {
    let world = world(3_000, 2_000, 4, 1);
    let zeros = 1.0 - world.counts.nnz() as f64 / (3_000.0 * 2_000.0);
    assert!((0.70..0.85).contains(&zeros), "{zeros} zeros");
    // Pearson residuals of resting cells against their own library: Poisson counts would give a variance of 1.
    let (mean, cells) = mean_share(&world, 0, 0);
    let mut squares = vec![0.0; 2_000];
    for (i, cell) in world.cells.iter().enumerate().filter(|(_, cell)| cell.perturbation == 0) {
        let mut counts = vec![0.0; 2_000];
        let row = world.counts.outer_view(i).expect("a row a cell");
        row.iter().for_each(|(g, k)| counts[g] = f64::from(*k));
        for g in 0..2_000 {
            let expected = mean[g] * f64::from(cell.library);
            squares[g] += (counts[g] - expected).powi(2) / expected.max(1e-9) / cells as f64;
        }
    }
    let high: Vec<f64> = (0..2_000).filter(|&g| mean[g] * 3_000.0 > 5.0).map(|g| squares[g]).collect();
    let low: Vec<f64> =
        (0..2_000).filter(|&g| (0.02..0.1).contains(&(mean[g] * 3_000.0))).map(|g| squares[g]).collect();
    let average = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    assert!(average(&high) > 2.0, "high genes: {}", average(&high));
    assert!((0.9..1.2).contains(&average(&low)), "low genes: {}", average(&low));
}

#[test]
fn the_parts_of_the_effects_have_the_shares_the_rules_state() {
    let world = world(10, 300, 60, 60);
    let truth = &world.truth;
    let (genes, perturbations) = (300, 61);
    let programs = truth.programs.len() / genes;
    let (mut shared, mut scaled, mut own, mut n) = (0.0, 0.0, 0.0, 0.0);
    for c in 0..60 {
        for p in (1..perturbations).filter(|&p| truth.strengths[p] > 0.0) {
            for (g, effect) in truth.effect(c, p).iter().enumerate() {
                let mean = truth.libraries[c] * truth.base[c * genes + g].exp();
                let (mut common, mut all) = (0.0, 0.0);
                for k in 0..programs {
                    let part = truth.weights[p * programs + k] * truth.programs[k * genes + g];
                    common += part;
                    all += part * truth.gains[c * programs + k];
                }
                let sum = effect * (mean + 0.05) / mean / truth.strengths[p] * 1.6f32.sqrt();
                shared += f64::from(common * common);
                scaled += f64::from((all - common).powi(2));
                own += f64::from((sum - all).powi(2));
                n += 0.1;
            }
        }
    }
    for (name, found, stated) in [("shared", shared, 1.0), ("scaled", scaled, 0.36), ("own", own, 0.24)] {
        assert!((found / n - stated).abs() < 0.12 * stated + 0.02, "{name}: {} not {stated}", found / n);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, threads: usize, seed: u64| {
        let settings =
            Settings { cells: 700, skip: 0, genes: 97, perturbations: 5, cell_types: 3, batches: 2, seed };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let path = dir.path().join(name);
        pool.install(|| simulate(&settings).and_then(|world| world.write(&path))).expect("written");
        std::fs::read(path).expect("readable")
    };
    let one = write("one.h5ad", 1, 0);
    assert!(one == write("three.h5ad", 3, 0), "the number of threads changed the file");
    assert!(one != write("other.h5ad", 1, 1), "the seed changed nothing");
}

#[test]
fn cells_that_were_skipped_leave_the_others_as_they_are() {
    let settings =
        Settings { cells: 400, skip: 0, genes: 50, perturbations: 3, cell_types: 2, batches: 2, seed: 4 };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, settings: &Settings| {
        let path = dir.path().join(name);
        simulate(settings).and_then(|world| world.write(&path)).expect("written");
        H5ad::open(&path).expect("readable")
    };
    let all = write("all.h5ad", &settings);
    let rest = write("rest.h5ad", &Settings { cells: 150, skip: 250, ..settings });
    assert_eq!(rest.obs().index, all.obs().index[250..]);
    assert!(rest.rows(0..150).expect("X") == all.rows(250..400).expect("X"), "other cells");
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    let refused = simulate(&Settings { genes: 70_000, ..Settings::default() }).expect_err("refused");
    assert!(refused.to_string().starts_with("genes: is 70000"), "{refused}");
}
