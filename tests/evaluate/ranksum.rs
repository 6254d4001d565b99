//! Rank sums and their p-values, compared with the textbook and with other programs.

use scale_engine::evaluate::de::{Table, benjamini_hochberg};
use scale_engine::evaluate::null::{Counted, upper_tail};
use scale_engine::evaluate::pseudobulk::Pseudobulk;
use scale_engine::evaluate::ranksum::{counted, rank_sum};
use scale_engine::evaluate::side::{Groups, Rows, Side};
use scale_engine::evaluate::{Rules, evaluate};
use scale_engine::rng::Rng;

use super::{settings, simulated, sparse, values};

fn table(side: &Side) -> (Table, Groups) {
    let groups = Groups::of(side, "ctrl").expect("a control");
    let table = Table::of(Rows::of(&side.x, &groups), &side.genes, "ctrl", &Rules::default().definitions());
    (table, groups)
}

/// U by comparing every pair, ties by counting, p by the textbook; for small samples without ties, p from all orders.
pub fn plain_test(x: &[f32], y: &[f32]) -> (f64, f64) {
    let pairs = x.iter().flat_map(|a| y.iter().map(move |b| (a, b)));
    let u: f64 = pairs.map(|(a, b)| f64::from(a > b) + 0.5 * f64::from(a == b)).sum();
    let (n1, n2) = (x.len() as f64, y.len() as f64);
    let larger = u.max(n1 * n2 - u);
    let mut pooled: Vec<f32> = x.iter().chain(y).copied().collect();
    pooled.sort_by(f32::total_cmp);
    let ties: f64 = pooled.chunk_by(|a, b| a == b).map(|t| (t.len() as f64).powi(3) - t.len() as f64).sum();
    if ties == 0.0 && x.len().min(y.len()) <= 8 {
        return (u, (2.0 * share_of_orders_above(x.len(), y.len(), larger)).min(1.0));
    }
    let n = n1 + n2;
    let variance = n1 * n2 / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)));
    let z = (larger - n1 * n2 / 2.0 - 0.5) / variance.sqrt();
    (u, if variance > 0.0 { libm::erfc(z / 2.0f64.sqrt()).min(1.0) } else { 1.0 })
}

/// Share of the orders of n1 + n2 different values in which U is at least `u`, by recursion over the largest value.
fn share_of_orders_above(n1: usize, n2: usize, u: f64) -> f64 {
    fn orders(
        n1: usize,
        n2: usize,
        counts: &mut std::collections::HashMap<(usize, usize), Vec<f64>>,
    ) -> Vec<f64> {
        if n1 == 0 || n2 == 0 {
            return vec![1.0];
        }
        if let Some(known) = counts.get(&(n1, n2)) {
            return known.clone();
        }
        let mut all = vec![0.0; n1 * n2 + 1];
        // The largest value is an x, above all n2 of the others; or a y.
        orders(n1 - 1, n2, counts).iter().enumerate().for_each(|(u, c)| all[u + n2] += c);
        orders(n1, n2 - 1, counts).iter().enumerate().for_each(|(u, c)| all[u] += c);
        counts.insert((n1, n2), all.clone());
        all
    }
    let all = orders(n1, n2, &mut Default::default());
    all[u as usize..].iter().sum::<f64>() / all.iter().sum::<f64>()
}

#[test]
fn two_samples_of_any_numbers_are_tested_as_the_textbook_does() {
    let rng = Rng::new(3);
    for (case, (n1, n2)) in (0u64..).zip([(1, 1), (4, 3), (7, 8), (9, 30), (40, 25)]) {
        // Many ties, fewer, none; below zero and above.
        for (apart, levels) in (0u64..).zip([3.0, 11.0, 1e6]) {
            let draw = |i: u64| (rng.at(case).at(apart).uniform(i) * levels).floor() - (levels / 2.0).floor();
            let values: Vec<f32> = (0..n1 + n2).map(|i| draw(i as u64)).collect();
            let (group, control) = values.split_at(n1);
            let (u, p) = plain_test(group, control);
            let test = rank_sum(group, control).expect("numbers");
            assert!(test.u == u && (test.p - p).abs() < 1e-9, "{n1} {n2} {levels}: {test:?}, not {u} {p}");
        }
    }
    let same = [rank_sum(&[0.0, f32::INFINITY], &[-0.0, 1.0]), rank_sum(&[2.0, 9.0], &[2.0, 3.0])];
    assert_eq!(same[0].as_ref().expect("numbers"), same[1].as_ref().expect("numbers"));
    assert!(rank_sum(&[], &[1.0]).is_err() && rank_sum(&[f32::NAN], &[1.0]).is_err());
}

#[test]
fn rank_sums_agree_with_comparing_every_pair() {
    let shapes: [&[usize]; 4] = [&[60, 1, 5, 8, 9, 33], &[8, 40, 3], &[1, 1, 2], &[700, 300, 4]];
    for (seed, cells) in (0..).zip(shapes) {
        for (zeros, levels) in [(0.0, 0), (0.05, 0), (0.7, 0), (0.5, 4), (0.0, 1), (1.0, 1)] {
            let side = simulated(cells, 7, zeros, levels, seed);
            let (table, groups) = table(&side);
            for (t, target) in table.targets.iter().enumerate() {
                let p = groups.perturbations.binary_search(target).expect("a perturbation");
                for gene in 0..7 {
                    let x = values(&side, groups.group(p + 1), gene);
                    let (u, p) = plain_test(&x, &values(&side, groups.group(0), gene));
                    let row = t * 7 + gene;
                    assert_eq!(table.statistic[row], u, "U of {target}, gene {gene}");
                    let found = table.p_value[row];
                    assert!((found - p).abs() <= 1e-12 * p, "p of {target}, gene {gene}: {found}, not {p}");
                }
            }
        }
    }
}

#[test]
fn stored_zeros_are_zeros_and_storage_does_not_matter() {
    let dense = simulated(&[50, 9, 20, 300], 40, 0.6, 0, 5);
    let (expected, groups) = table(&dense);
    let bulk = Pseudobulk::of(Rows::of(&dense.x, &groups));
    for keep in [false, true] {
        let other = sparse(&dense, keep);
        assert_eq!(table(&other).0, expected);
        assert_eq!(Pseudobulk::of(Rows::of(&other.x, &groups)).perturbed, bulk.perturbed);
    }
}

#[test]
fn tables_are_written_target_by_target_with_every_digit() {
    // More targets than two threads make text of at once.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
    let mut side = simulated(&[[9].as_slice(), &[3; 29]].concat(), 4, 0.5, 0, 3);
    side.genes[1] = "G,1".to_string();
    side.x.values_mut().chunks_mut(4).for_each(|cell| cell[2] = 0.0);
    let table = table(&side).0;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("de.csv");
    threads.install(|| table.write(&path)).expect("written");
    let text = std::fs::read_to_string(&path).expect("read");
    let mut lines = text.lines().skip(1);
    for (row, fold) in table.fold_change.iter().enumerate() {
        let (t, g) = (row / 4, row % 4);
        let percent = table.percent_change(row);
        let percent = if percent.is_nan() { String::new() } else { format!("{:?}", f64::from(percent)) };
        let expected = format!(
            "{},ctrl,{},{:?},{:?},{percent},{fold:?},{:?},{:?},{:?}",
            table.targets[t],
            ["G0", "\"G,1\"", "G2", "G3"][g],
            table.target_mean[row],
            table.reference_mean[g],
            table.p_value[row],
            table.statistic[row],
            table.fdr[row]
        );
        assert_eq!(lines.next(), Some(expected.as_str()));
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn counted_p_values_are_those_of_scipy() {
    // scipy.stats.mannwhitneyu(method="exact"), 1.16.3: n1, n2, larger U, p.
    let expected = [
        (1, 1, 1.0, 1.0),
        (1, 1, 1.0, 1.0),
        (1, 9, 6.0, 0.8),
        (1, 9, 9.0, 0.2),
        (3, 4, 6.0, 1.0),
        (3, 4, 10.0, 0.22857142857142856),
        (5, 100, 314.0, 0.35002912055911484),
        (5, 100, 420.0, 0.00754499923291731),
        (8, 8, 33.0, 0.959129759129759),
        (8, 8, 44.0, 0.23449883449883446),
        (8, 700, 3634.0, 0.14978369066122255),
        (8, 700, 5470.0, 1.8915952909372399e-10),
        (400, 6, 1216.0, 0.9577622947752603),
        (400, 6, 1331.0, 0.6551822122400041),
        (7, 30, 109.0, 0.8944584570770531),
        (7, 30, 184.0, 0.0011692518808268334),
    ];
    for (n1, n2, u, p) in expected {
        let found = Counted::new(n1, n2).expect("small enough").p(u);
        assert!((found - p).abs() <= 1e-9 * p, "n {n1} {n2} U {u}: {found}, not {p}");
    }
}

#[test]
fn groups_of_one_size_share_a_counted_distribution() {
    let sizes = |cells: &[usize]| -> Vec<usize> {
        let groups = Groups::of(&simulated(cells, 1, 0.0, 0, 1), "ctrl").expect("a control");
        counted(&groups).into_keys().collect()
    };
    assert_eq!(sizes(&[40, 5, 8, 5, 9, 5, 30]), [5, 8]);
    assert_eq!(sizes(&[3, 20, 5, 20]), [5, 20], "few control cells");
}

#[test]
fn tails_keep_their_digits_down_to_1e_300() {
    // mpmath, 50 digits: P(Z > z).
    let expected = [
        (-3.7, 0.9998922002665226),
        (-0.5, 0.6914624612740131),
        (0.0, 0.5),
        (1e-09, 0.49999999960105773),
        (0.3, 0.3820885778110474),
        (0.8, 0.21185539858339666),
        (1.2, 0.11506967022170828),
        (1.7, 0.04456546275854304),
        (2.5, 0.006209665325776135),
        (5.1, 1.6982674071476014e-07),
        (8.3, 5.205569744890254e-17),
        (14.25, 2.24140623269364e-46),
        (20.0, 2.7536241186062337e-89),
        (27.7, 3.4910784528195237e-169),
        (33.1, 1.4859285199642455e-240),
        (37.05, 8.979362945296521e-301),
    ];
    for (z, p) in expected {
        let found = upper_tail(z);
        // z / sqrt 2 is rounded; the tail multiplies that error by z^2. scipy's argument is rounded the same way.
        let error = (found / p - 1.0f64).abs();
        assert!(error < f64::EPSILON * (4.0 + z * z), "z {z}: {found:e}, not {p:e}");
    }
}

#[test]
fn false_discovery_rates_rise_with_p_and_are_shared_by_ties() {
    assert_eq!(benjamini_hochberg(&[0.01, 0.04, 0.03, 0.02, 1.0]), [0.05, 0.05, 0.05, 0.05, 1.0]);
    assert_eq!(benjamini_hochberg(&[0.5]), [0.5]);
    assert_eq!(benjamini_hochberg(&[0.2, 0.2, 0.9]), [0.30000000000000004, 0.30000000000000004, 0.9]);
    assert!(benjamini_hochberg(&[]).is_empty());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let real = simulated(&[900, 50, 7, 3000, 120], 130, 0.5, 0, 1);
    let pred = sparse(&simulated(&[900, 50, 7, 3000, 120], 130, 0.4, 0, 2), false);
    let at = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let report = pool.install(|| evaluate(&real, &pred, &settings())).expect("a report");
        let bits = |v: &Option<f64>| v.map(f64::to_bits);
        let columns: Vec<Vec<Option<u64>>> =
            report.columns.iter().map(|c| c.values.iter().map(bits).collect()).collect();
        (columns, report.tables)
    };
    let one = at(1);
    for threads in [2, 5] {
        assert_eq!(at(threads), one, "{threads} threads");
    }
}
