//! The rule sets: each measure again, in plain loops written from the table in `evaluate::rules`.

use scale_engine::evaluate::rules::PSEUDOCOUNT;
use scale_engine::evaluate::side::{Groups, Side};
use scale_engine::evaluate::{Report, Rules, Settings, evaluate, spearman};

use super::ranksum::plain_test;
use super::refused::refused;
use super::{settings, simulated, sparse, values};

const GENES: usize = 60;

fn by(rules: Rules) -> Settings {
    Settings { rules, ..settings() }
}

/// Measured cells with effects from strong to none, and a prediction that has some of each effect, with control cells of its own.
/// Perturbation P002 is named after its target, gene G7.
fn pair() -> [Side; 2] {
    let sizes = [90, 40, 30, 25, 35, 1];
    let effect = |p: usize, gene: usize| match (p, gene) {
        (1, 0..20) => 1.5 - 0.07 * gene as f32,
        (2, 5..12) => 0.9,
        (3, 30..50) => -0.5,
        (4, 0..3) => 0.4,
        _ => 0.0,
    };
    let build = |seed: u64, share: f32| {
        let mut side = simulated(&sizes, GENES, 0.3, 0, seed);
        for (cell, row) in side.x.values_mut().chunks_mut(GENES).enumerate() {
            let label = &side.labels.names[side.labels.codes[cell] as usize];
            let p = label.strip_prefix('P').map_or(0, |p| p.parse().expect("a number"));
            row.iter_mut().enumerate().for_each(|(gene, x)| *x = (*x + share * effect(p, gene)).max(0.0));
        }
        side.labels.names.iter_mut().filter(|name| *name == "P002").for_each(|name| *name = "G7".into());
        side
    };
    [build(1, 1.0), build(2, 0.8)]
}

/// One perturbation's table, by the textbook.
struct Plain {
    fold: Vec<f64>,
    fdr: Vec<f64>,
    significant: Vec<usize>,
    /// Mean log1p values.
    mean: Vec<f64>,
    change: Vec<f64>,
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

/// `name`'s cells of `side` against the control cells of `control`; `logs`: fold changes of mean logs.
fn plain(side: &Side, name: &str, control: &Side, logs: bool) -> Plain {
    let (groups, resting) = (Groups::perturbed(side, "ctrl").unwrap(), Groups::of(control, "ctrl").unwrap());
    let g = 1 + groups.perturbations.iter().position(|p| p == name).unwrap();
    let columns: Vec<[Vec<f32>; 2]> = (0..GENES)
        .map(|gene| [values(side, groups.group(g), gene), values(control, resting.group(0), gene)])
        .collect();
    let p: Vec<f64> = columns.iter().map(|[x, y]| plain_test(x, y).1).collect();
    let adjusted = |i: usize| {
        let bound = |&q: &f64| q * GENES as f64 / p.iter().filter(|&&other| other <= q).count() as f64;
        p.iter().filter(|&&q| q >= p[i]).map(bound).fold(1.0, f64::min)
    };
    let fdr: Vec<f64> = (0..GENES).map(adjusted).collect();
    let level = |x: &[f32]| if logs { mean(x) } else { mean(x).exp_m1() } + PSEUDOCOUNT;
    let fold: Vec<f64> = columns.iter().map(|[x, y]| level(x) / level(y)).collect();
    let mut significant: Vec<usize> = (0..GENES).filter(|&gene| fdr[gene] < 0.05).collect();
    significant.sort_by(|&a, &b| fold[b].log2().abs().total_cmp(&fold[a].log2().abs()));
    Plain {
        fold,
        fdr,
        significant,
        mean: columns.iter().map(|[x, _]| mean(x)).collect(),
        change: columns.iter().map(|[x, y]| mean(x) - mean(y)).collect(),
    }
}

fn both_first(a: &Plain, b: &Plain, k: usize) -> Option<f64> {
    let first = |x: &Plain| x.significant.iter().take(k).copied().collect::<Vec<_>>();
    let (a, b) = (first(a), first(b));
    (k > 0).then(|| a.iter().filter(|gene| b.contains(gene)).count() as f64 / k as f64)
}

/// Chance that a significant gene is surer than one that is not, by comparing every pair.
fn roc(real: &Plain, pred: &Plain) -> Option<f64> {
    let (yes, no): (Vec<usize>, Vec<usize>) = (0..GENES).partition(|gene| real.significant.contains(gene));
    let pair = |a: usize, b: usize| match pred.fdr[a].total_cmp(&pred.fdr[b]) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    };
    let wins: f64 = yes.iter().flat_map(|&a| no.iter().map(move |&b| pair(a, b))).sum();
    (!yes.is_empty() && !no.is_empty()).then(|| wins / (yes.len() * no.len()) as f64)
}

/// How many other changes are nearer than the right one, and how many as near, by the sum of absolute differences.
fn rank(reals: &[Plain], p: usize, query: &Plain, leave: Option<usize>) -> [f64; 2] {
    let distance = |real: &Plain| -> f64 {
        let genes = (0..GENES).filter(|&gene| Some(gene) != leave);
        // In f32, as the changes are kept: otherwise equal changes would not be equally far.
        genes.map(|g| (f64::from(real.change[g] as f32) - f64::from(query.change[g] as f32)).abs()).sum()
    };
    let own = distance(&reals[p]);
    let others = || reals.iter().enumerate().filter(|(q, _)| *q != p).map(|(_, real)| distance(real));
    [others().filter(|d| *d < own).count() as f64, others().filter(|d| *d == own).count() as f64]
}

fn check(report: &Report, name: &str, p: usize, expected: Option<f64>, absolute: f64) {
    let found = report.column(name).unwrap_or_else(|| panic!("column {name}")).values[p];
    let same = match (found, expected) {
        (Some(a), Some(b)) => (a - b).abs() <= absolute,
        (a, b) => a.is_none() && b.is_none(),
    };
    assert!(same, "{name} of {}: {found:?}, not {expected:?}", report.perturbations[p]);
}

#[test]
fn fixed_and_paper_are_what_their_table_says() {
    let [real, pred] = pair();
    for rules in [Rules::Fixed, Rules::Paper] {
        let paper = rules == Rules::Paper;
        let report = evaluate(&real, &sparse(&pred, false), &by(rules)).expect("a report");
        let of = |side: &Side| -> Vec<Plain> {
            report.perturbations.iter().map(|name| plain(side, name, &real, paper)).collect()
        };
        let (reals, preds) = (of(&real), of(&pred));
        assert!(
            reals[0].significant.len() > 5 && reals[4].significant.is_empty(),
            "an easy and an empty case"
        );
        for (p, (r, q)) in reals.iter().zip(&preds).enumerate() {
            let (n, m) = (r.significant.len(), q.significant.len());
            check(&report, "overlap_at_N", p, both_first(r, q, n), 1e-12);
            check(&report, "precision_at_N", p, both_first(r, q, m), 1e-12);
            check(&report, "roc_auc", p, roc(r, q), 1e-12);
            let asked: Vec<usize> =
                r.significant.iter().copied().filter(|gene| !paper || q.significant.contains(gene)).collect();
            let same = asked.iter().filter(|&&g| (r.fold[g] > 1.0) == (q.fold[g] > 1.0)).count();
            let share = (!asked.is_empty()).then(|| same as f64 / asked.len() as f64);
            check(&report, "de_direction_match", p, share, 1e-12);
            let folds = |x: &Plain| -> Vec<f64> { r.significant.iter().map(|&g| x.fold[g]).collect() };
            check(&report, "de_spearman_lfc_sig", p, (n > 1).then(|| spearman(&folds(r), &folds(q))), 1e-12);

            let gap = |power: i32| -> f64 {
                (0..GENES).map(|g| (q.change[g] - r.change[g]).abs().powi(power)).sum()
            };
            let share = if paper { 1.0 } else { GENES as f64 };
            check(&report, "mse", p, Some(gap(2) / share), 1e-5);
            check(&report, "mae", p, Some(gap(1) / share), 1e-5);
            check(&report, "mse_delta", p, Some(gap(2) / GENES as f64), 1e-5);

            let own = (report.perturbations[p] == "G7" && !paper).then_some(7);
            let [nearer, tied] = rank(&reals, p, q, own);
            let count = reals.len() as f64;
            let score =
                if paper { 1.0 - nearer / count } else { 1.0 - (nearer + tied / 2.0) / (count - 1.0) };
            check(&report, "discrimination_score_l1", p, Some(score), 1e-12);
            if paper {
                let middle = r.mean.iter().sum::<f64>() / GENES as f64;
                let total: f64 = r.mean.iter().map(|m| (m - middle).powi(2)).sum();
                check(&report, "r2", p, Some(1.0 - gap(2) / total), 1e-5);
            }
        }
        assert_eq!(report.column("r2").is_some(), paper);
    }
}

#[test]
fn only_cell_eval_asks_for_the_predictions_own_control_cells() {
    let [real, pred] = pair();
    let without: Vec<u32> = (0..pred.labels.len() as u32)
        .filter(|&cell| pred.labels.get(cell as usize) != Some("ctrl"))
        .collect();
    let without = pred.subset(&without);
    assert!(refused(&real, &without).contains("has no control cells (\"ctrl\")"));
    for rules in [Rules::Fixed, Rules::Paper] {
        let [with, without] =
            [&pred, &without].map(|pred| evaluate(&real, pred, &by(rules)).expect("a report").columns);
        for (a, b) in with.iter().zip(&without) {
            assert_eq!(a.values, b.values, "{}", a.name);
        }
    }
}

/// The measured perturbed cells themselves, without their controls, have half the depth of the controls.
#[test]
fn counts_that_are_compared_with_the_measured_controls_are_scaled_as_these_are() {
    let mut real = pair()[0].clone();
    let names = real.labels.clone();
    for (cell, row) in real.x.values_mut().chunks_mut(GENES).enumerate() {
        let depth = if names.get(cell) == Some("ctrl") { 8.0 } else { 4.0 };
        row.iter_mut().for_each(|x| *x = (*x * depth).round());
    }
    let perturbed: Vec<u32> =
        (0..names.len()).filter(|&i| names.get(i) != Some("ctrl")).map(|i| i as u32).collect();
    let pred = real.subset(&perturbed);
    for rules in [Rules::Fixed, Rules::Paper] {
        for pred in [pred.clone(), sparse(&pred, false)] {
            let report = evaluate(&real, &pred, &by(rules)).expect("a report");
            let [of_real, of_pred] = report.tables.as_ref().expect("tables");
            assert_eq!(of_real, of_pred, "{}", rules.name());
            assert!(report.column("mae").expect("a column").values.iter().all(|mae| *mae == Some(0.0)));
            assert!(report.notes().iter().any(|note| note.contains("median total of the measured cells")));
            assert_eq!(report.sides[0].total, report.sides[1].total);
        }
    }
    // cell-eval scales each file by itself.
    let half: Vec<u32> =
        (0..names.len() as u32).filter(|i| i % 2 == 0 || names.get(*i as usize) != Some("ctrl")).collect();
    let report = evaluate(&real, &real.subset(&half), &settings()).expect("a report");
    assert_ne!(report.sides[0].total, report.sides[1].total);
}

#[test]
fn what_is_undefined_is_left_out_and_counted_unless_cell_eval_has_a_number() {
    let side = simulated(&[40, 12, 12], 8, 0.3, 0, 3);
    let mut flat = side.clone();
    flat.x.values_mut().fill(0.75);
    let undefined =
        ["overlap_at_N", "precision_at_50", "roc_auc", "pr_auc", "pearson_delta", "de_spearman_sig"];
    let of = |rules: Rules| evaluate(&flat, &flat, &by(rules)).expect("a report");
    for name in undefined {
        let summary = of(Rules::Fixed).column(name).expect(name).summary();
        assert_eq!((summary.null, summary.nan, summary.mean), (2, 0, None), "{name}");
    }
    let quirks = of(Rules::CellEval066);
    let first = |name: &str| quirks.column(name).expect(name).values[0];
    assert_eq!((first("overlap_at_N"), first("de_spearman_sig")), (Some(0.0), Some(1.0)));
    assert!(["roc_auc", "pearson_delta"].iter().all(|name| first(name).is_some_and(f64::is_nan)));
    // All changes are alike: by name the first is best; if ties are shared, all are in the middle; strictly, none is nearer.
    let scores = |rules: Rules| of(rules).column("discrimination_score_l1").expect("a column").values.clone();
    assert_eq!(scores(Rules::CellEval066), [Some(1.0), Some(0.5)]);
    assert_eq!(scores(Rules::Fixed), [Some(0.5), Some(0.5)]);
    assert_eq!(scores(Rules::Paper), [Some(1.0), Some(1.0)]);
    // One perturbation: no correlation of energy distances.
    let one = simulated(&[40, 12], 8, 0.3, 0, 3);
    let column = |rules: Rules| {
        let report = evaluate(&one, &one, &by(rules)).expect("a report");
        report.column("pearson_edistance").map(|column| column.values.clone())
    };
    assert_eq!(column(Rules::CellEval066), None);
    assert_eq!(column(Rules::Fixed), Some(vec![None]));
}

/// With 3,000 cells per group and genes far off, their fdr is zero even in f64: cell-eval ranks them below less sure genes.
#[test]
fn the_surest_genes_rank_first_but_by_cell_eval() {
    let mut side = simulated(&[3000, 3000], 30, 0.2, 0, 8);
    for (cell, row) in side.x.values_mut().chunks_mut(30).enumerate() {
        if side.labels.codes[cell] == side.labels.names.iter().position(|name| name != "ctrl").unwrap() as i32
        {
            row[..10].iter_mut().for_each(|x| *x += 4.0);
            row[10..14].iter_mut().for_each(|x| *x += 0.35);
        }
    }
    let mut real = side.clone();
    // The genes that are less sure in the prediction are not changed in the measurement.
    for (cell, row) in real.x.values_mut().chunks_mut(30).enumerate() {
        if side.labels.codes[cell] != side.labels.names.iter().position(|name| name == "ctrl").unwrap() as i32
        {
            row[10..14].iter_mut().for_each(|x| *x -= 0.35);
        }
        row.iter_mut().for_each(|x| *x = x.max(0.0));
    }
    let area = |rules: Rules| {
        evaluate(&real, &side, &by(rules)).expect("a report").column("roc_auc").expect("a column").values[0]
            .expect("defined")
    };
    assert!(area(Rules::Fixed) > 0.999, "{}", area(Rules::Fixed));
    assert!(area(Rules::CellEval066) < 0.9, "{}", area(Rules::CellEval066));
}
