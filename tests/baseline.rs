//! Baselines on data small enough to be worked out by hand.

use std::path::Path;

use scale_engine::baseline::{Answer, Baselines, Kind, Settings, baseline};
use scale_engine::config::Observe;
use scale_engine::data::bulk;
use scale_engine::data::controls::{Usable, control_pool};
use scale_engine::data::h5ad::H5ad;
use scale_engine::data::population::{Population, Unit, measured, other_controls, push_groups};
use scale_engine::data::shard::{Columns, Data, Limits, Manifest, Scale, write_cells};
use scale_engine::rng::Rng;

/// Cell type, perturbation, batch (vocabularies below), values.
type Cell<'a> = (&'a str, &'a str, &'a str, Vec<f32>);

/// A data directory of these cells, with log1p values or counts.
fn data(dir: &Path, scale: Scale, cells: &[Cell]) -> Data {
    let vocabulary = |label: &dyn Fn(&Cell) -> String| {
        let mut names: Vec<String> = cells.iter().map(label).collect();
        names.sort();
        names.dedup();
        names
    };
    let cell_types = vocabulary(&|cell| cell.0.to_string());
    let perturbations = vocabulary(&|cell| cell.1.to_string());
    let batches = vocabulary(&|cell| cell.2.to_string());
    let place = |names: &[String], name: &str| names.iter().position(|n| n == name).expect("listed") as u32;
    let labels: Vec<[u32; 3]> = cells
        .iter()
        .map(|cell| [place(&cell_types, cell.0), place(&perturbations, cell.1), place(&batches, cell.2)])
        .collect();
    let header = Manifest {
        version: Manifest::VERSION,
        dataset: "hand".into(),
        scale,
        target: (scale == Scale::Counts).then_some(1000.0),
        factor: 10.0,
        control: "control".into(),
        source_genes: None,
        columns: Columns {
            perturbation: "drug".into(),
            cell_type: "line".into(),
            batch: Some("plate".into()),
            size: None,
        },
        as_read: Default::default(),
        sources: Vec::new(),
        shards: Vec::new(),
        cell_types,
        perturbations,
        batches,
        unmeasured: Vec::new(),
        genes: (0..cells[0].3.len()).map(|g| format!("g{g}")).collect(),
    };
    let path = dir.join("data");
    write_cells(&path, header, &labels, Limits::default(), |rows| {
        cells.iter().try_for_each(|(_, _, _, x)| {
            let genes: Vec<u16> = (0..x.len() as u16).filter(|&g| x[g as usize] != 0.0).collect();
            let values: Vec<f32> = x.iter().copied().filter(|x| *x != 0.0).collect();
            let library = if scale == Scale::Counts { x.iter().sum() } else { f32::NAN };
            rows.push("", &genes, &values, library)
        })
    })
    .expect("written");
    Data::open(&path).expect("readable")
}

/// Groups whose (cell type, perturbation) is in the list.
fn groups(data: &Data, wanted: &[(&str, &str)]) -> Vec<u32> {
    let manifest = data.manifest();
    (0..data.groups().len() as u32)
        .filter(|&i| {
            let group = &data.groups()[i as usize];
            let pair = (
                manifest.cell_types[group.cell_type as usize].as_str(),
                manifest.perturbations[group.perturbation as usize].as_str(),
            );
            wanted.contains(&pair)
        })
        .collect()
}

fn row(population: &Population, i: usize) -> Vec<f32> {
    population.cells().outer_view(i).expect("a row a cell").to_dense().to_vec()
}

fn close(found: &[f32], wanted: &[f32]) {
    let far = found.iter().zip(wanted).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(found.len() == wanted.len() && far < 1e-5, "{found:?} is not {wanted:?}");
}

fn settings(kind: Kind) -> Settings {
    Settings { kind, observe: Observe::None, with_controls: false, seed: 0 }
}

/// Effects: p on A (7/4, 1, -1/4) over two batches, q on A (0, 0, 2), p on B (1, 0, -1).
fn small() -> Vec<Cell<'static>> {
    vec![
        ("A", "control", "1", vec![1.0, 0.0, 2.0]),
        ("A", "control", "2", vec![2.0, 0.0, 2.0]),
        ("A", "p", "1", vec![2.0, 1.0, 1.0]),
        ("A", "p", "2", vec![4.0, 1.0, 2.0]),
        ("A", "p", "2", vec![4.0, 0.0, 2.0]),
        ("A", "p", "2", vec![4.0, 2.0, 2.0]),
        ("A", "q", "1", vec![1.0, 0.0, 4.0]),
        ("B", "control", "1", vec![1.0, 1.0, 1.0]),
        ("B", "p", "1", vec![2.0, 1.0, 0.0]),
        ("B", "q", "1", vec![9.0, 9.0, 9.0]),
        ("C", "control", "1", vec![0.0, 2.0, 0.5]),
        ("C", "p", "1", vec![9.0, 9.0, 9.0]),
        ("C", "p", "1", vec![9.0, 9.0, 9.0]),
        ("C", "r", "3", vec![9.0, 9.0, 9.0]),
    ]
}

/// The small data with B's q and all of C held out.
fn answer(kind: Kind, asked: &[(&str, &str)]) -> Answer {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = data(dir.path(), Scale::Log1p, &small());
    let train = groups(&data, &[("A", "control"), ("A", "p"), ("A", "q"), ("B", "control"), ("B", "p")]);
    baseline(&data, &train, &groups(&data, asked), &settings(kind)).expect("answered")
}

#[test]
fn the_mean_baseline_adds_the_mean_effect_of_the_cell_types_and_cuts_at_zero() {
    let p = answer(Kind::Mean, &[("C", "p")]);
    assert!(p.fallbacks.is_empty() && p.population.len() == 2, "{:?}", p.fallbacks);
    // C's control (0, 2, 1/2) plus (11/8, 1/2, -5/8).
    for i in 0..2 {
        close(&row(&p.population, i), &[1.375, 2.5, 0.0]);
    }
    // A perturbation never seen: the mean of the three pairs, (11/12, 1/3, 1/4); batch 3 has no controls, so C's others are used.
    let r = answer(Kind::Mean, &[("C", "r")]);
    close(&row(&r.population, 0), &[11.0 / 12.0, 2.0 + 1.0 / 3.0, 0.75]);
    assert!(
        r.fallbacks.len() == 1 && r.fallbacks[0].starts_with("\"r\" is not in training"),
        "{:?}",
        r.fallbacks
    );
}

#[test]
fn the_mean_baseline_gives_no_gene_more_than_a_cell_has() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let counts = [
        ("A", "control", "1", vec![990.0, 10.0]),
        ("A", "p", "1", vec![995.0, 5.0]),
        ("B", "control", "1", vec![10.0, 990.0]),
        ("B", "p", "1", vec![900.0, 100.0]),
    ];
    let data = data(dir.path(), Scale::Counts, &counts);
    let train = groups(&data, &[("A", "control"), ("B", "control"), ("B", "p")]);
    let made = baseline(&data, &train, &groups(&data, &[("A", "p")]), &settings(Kind::Mean));
    // Of gene 0 ln 991 + ln 901 - ln 11 would be 11.3, but 1,000 counts are 6.9.
    close(&row(&made.expect("answered").population, 0), &[1001f32.ln(), (11.0f32 * 101.0 / 991.0).ln()]);
}

#[test]
fn profile_baselines_copy_the_mean_of_perturbed_training_cells() {
    let of_type = answer(Kind::MeanPerCellType, &[("B", "q"), ("C", "p")]);
    close(&row(&of_type.population, 0), &[2.0, 1.0, 0.0]);
    let overall = [17.0 / 6.0, 5.0 / 6.0, 11.0 / 6.0];
    close(&row(&of_type.population, 1), &overall);
    assert!(of_type.population.len() == 3 && of_type.fallbacks.len() == 1, "{:?}", of_type.fallbacks);
    let of_batch = answer(Kind::MeanPerBatch, &[("B", "q"), ("C", "r")]);
    close(&row(&of_batch.population, 0), &[5.0 / 3.0, 2.0 / 3.0, 5.0 / 3.0]);
    close(&row(&of_batch.population, 1), &overall);
    assert!(of_batch.fallbacks.len() == 1 && of_batch.fallbacks[0].contains("batch \"3\""));
    let of_all = answer(Kind::MeanOverall, &[("B", "q"), ("C", "p")]);
    close(&row(&of_all.population, 2), &overall);
    assert!(of_all.fallbacks.is_empty());
}

#[test]
fn kinds_that_share_what_they_learn_predict_what_each_alone_does() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = data(dir.path(), Scale::Log1p, &small());
    let train = groups(&data, &[("A", "p"), ("A", "q"), ("B", "p")]);
    let asked = groups(&data, &[("B", "q"), ("C", "p"), ("C", "r")]);
    let trained = Baselines::on(&data, &train).expect("perturbed cells");
    for settings in Kind::ALL.into_iter().chain(Kind::ALL).map(settings) {
        let shared = trained.predict(&asked, &settings).expect("answered");
        let alone = baseline(&data, &train, &asked, &settings).expect("answered");
        assert_eq!(shared.population.cells(), alone.population.cells(), "{}", settings.kind.name());
        assert_eq!(shared.fallbacks, alone.fallbacks);
    }
}

#[test]
fn the_linear_baseline_of_two_pairs_is_the_closed_form() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cells: Vec<Cell> = vec![
        ("A", "control", "1", vec![1.0, 1.0, 1.0]),
        ("A", "p", "1", vec![3.0, 1.0, 1.0]),
        ("A", "q", "1", vec![1.0, 2.0, 1.0]),
        ("B", "control", "1", vec![5.0, 5.0, 5.0]),
        ("B", "p", "1", vec![0.0, 0.0, 1.0]),
    ];
    let data = data(dir.path(), Scale::Log1p, &cells);
    let train = groups(&data, &[("A", "control"), ("A", "p"), ("A", "q")]);
    let asked = groups(&data, &[("B", "p")]);
    let found = baseline(&data, &train, &asked, &settings(Kind::Linear)).expect("answered");
    // Effects (2, 0, 0) and (0, 1, 0): b = (1, 1/2, 0), d = (2, -1, 0), one component of size s with s^2 = |d|^2 / 2 = 5/2,
    // perturbation factors +1 and -1: the effect of p is b + d s^2 / ((s^2 + 0.1) (2 + 0.1)).
    let share = 2.5 / (2.6 * 2.1);
    close(&row(&found.population, 0), &[6.0 + 2.0 * share, 5.5 - share, 5.0]);
}

#[test]
fn the_linear_baseline_learns_what_a_cell_type_adds_under_every_perturbation() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let genes = 40;
    let draw = |stream: u64| -> Vec<f32> { (0..genes).map(|g| Rng::new(8).at(stream).normal(g)).collect() };
    let types = ["A", "B", "C", "D", "E", "F"];
    let perturbations = ["p", "q", "r", "s", "t"];
    let mut cells = Vec::new();
    for (c, cell_type) in types.into_iter().enumerate() {
        let (rest, own) = (draw(c as u64), draw(100 + c as u64));
        let control: Vec<f32> = rest.iter().map(|x| 10.0 + x).collect();
        cells.push((cell_type, "control", "1", control.clone()));
        for (p, name) in perturbations.into_iter().enumerate() {
            let effect = draw(200 + p as u64);
            let x = (0..genes as usize).map(|g| control[g] + effect[g] + own[g]).collect();
            cells.push((cell_type, name, "1", x));
        }
    }
    let data = data(dir.path(), Scale::Log1p, &cells);
    let asked = groups(&data, &[("C", "r")]);
    let train: Vec<u32> = (0..data.groups().len() as u32).filter(|i| !asked.contains(i)).collect();
    let truth = row(&measured(&data, &asked, false).expect("cells"), 0);
    let error = |kind| -> f32 {
        let found = baseline(&data, &train, &asked, &settings(kind)).expect("answered");
        row(&found.population, 0).iter().zip(&truth).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
    };
    let (linear, mean) = (error(Kind::Linear), error(Kind::Mean));
    assert!(linear < 0.2 * mean, "linear is off by {linear}, mean by {mean}");
}

#[test]
fn predicted_cells_are_as_many_as_measured_and_use_each_control_evenly() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cells: Vec<Cell> = (0..4).map(|i| ("A", "control", "1", vec![1.0 + i as f32, 1.0])).collect();
    cells.extend((0..10).map(|_| ("A", "p", "1", vec![1.0, 1.0])));
    cells.push(("B", "control", "1", vec![1.0, 1.0]));
    cells.push(("B", "p", "1", vec![1.0, 2.0]));
    let data = data(dir.path(), Scale::Log1p, &cells);
    let train = groups(&data, &[("B", "control"), ("B", "p"), ("A", "control")]);
    let with = Settings { with_controls: true, ..settings(Kind::Mean) };
    let found = baseline(&data, &train, &groups(&data, &[("A", "p")]), &with).expect("answered").population;
    assert_eq!(found.len(), 14);
    let mut used = [0; 4];
    (0..10).for_each(|i| used[row(&found, i)[0] as usize - 1] += 1);
    assert!(used.iter().all(|n| (2..=3).contains(n)), "controls used {used:?} times");
    for i in 10..14 {
        assert_eq!((found.labels(i)[1], row(&found, i)[1]), ("control", 1.0));
    }
    let again = baseline(&data, &train, &groups(&data, &[("A", "p")]), &with).expect("answered").population;
    assert_eq!(found.cells(), again.cells());
}

/// 200 control cells and as many of p in each of A and B, of 50 genes; p doubles the last ten genes.
fn counted(dir: &Path) -> Data {
    let mut cells = Vec::new();
    for (t, cell_type) in ["A", "B"].into_iter().enumerate() {
        for (p, perturbation) in ["control", "p"].into_iter().enumerate() {
            for i in 0..200u64 {
                let rng = Rng::new(1).at(t as u64).at(p as u64).at(i);
                let x = (0..50u64)
                    .map(|g| {
                        let mean = 0.1 * g as f64 * if p == 1 && g >= 40 { 2.0 } else { 1.0 };
                        scale_engine::data::draws::poisson(mean, rng.uniform64(g), || rng.at(g)) as f32
                    })
                    .collect();
                cells.push((cell_type, perturbation, "1", x));
            }
        }
    }
    data(dir, Scale::Counts, &cells)
}

#[test]
fn counts_drawn_around_a_baseline_keep_its_means_and_add_zeros() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = counted(dir.path());
    let train = groups(&data, &[("A", "control"), ("A", "p"), ("B", "control")]);
    let asked = groups(&data, &[("B", "p")]);
    let answer = |observe| {
        let settings = Settings { observe, ..settings(Kind::MeanOverall) };
        baseline(&data, &train, &asked, &settings).expect("answered").population
    };
    let (plain, drawn) = (answer(Observe::None), answer(Observe::Poisson));
    let mean = |population: &Population, g: usize| {
        (0..200).map(|i| f64::from(row(population, i)[g])).sum::<f64>() / 200.0
    };
    for g in [5, 20, 45] {
        let (a, b) = (mean(&plain, g), mean(&drawn, g));
        assert!((a - b).abs() < 0.2 * a + 0.05, "gene {g}: {a} became {b}");
    }
    assert!(plain.cells().nnz() > 200 * 48 && drawn.cells().nnz() < 200 * 45);
    let log = Settings { observe: Observe::Poisson, ..settings(Kind::Mean) };
    let other = tempfile::tempdir().expect("a temporary folder");
    let logged = self::data(other.path(), Scale::Log1p, &small());
    let refused = baseline(&logged, &[4], &[4], &log).expect_err("no target").to_string();
    assert!(refused.starts_with("observe:"), "{refused}");
}

#[test]
fn measured_cells_are_the_data_on_each_scale_and_survive_the_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = counted(dir.path());
    let asked = groups(&data, &[("B", "p"), ("B", "control")]);
    let found = measured(&data, &asked, true).expect("cells");
    assert_eq!(found.len(), 400);
    let group = &data.groups()[groups(&data, &[("B", "p")])[0] as usize];
    let mut x = vec![0.0; 50];
    data.fill(group.first + 7, &mut x);
    let scaled: Vec<f32> = x.iter().map(|x| 10.0 * x).collect();
    close(&row(&found, 7), &scaled);
    let path = dir.path().join("measured.h5ad");
    found.clone().write(&path).expect("written");
    let file = H5ad::open(&path).expect("readable");
    assert!(file.is_logged() && file.shape() == (400, 50));
    let labels = file.obs().labels(&path, "drug").expect("a column");
    assert_eq!((labels.get(0), labels.get(399)), (Some("p"), Some("control")));
    assert_eq!(file.rows(7..8).expect("a row").data(), found.cells().outer_view(7).expect("a row").data());
    let mut counts = Population::like(data.manifest());
    counts.unit = Unit::Counts;
    counts.extend_measured(&data, ["p", "B", "1"], group.first..group.first + 1).expect("counts");
    assert!(row(&counts, 0).iter().all(|k| k.fract() == 0.0));
}

#[test]
fn what_cannot_be_had_is_refused_by_the_setting_that_asks_for_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let logged = data(dir.path(), Scale::Log1p, &small());
    let mut counts = Population::like(logged.manifest());
    counts.unit = Unit::Counts;
    let refused = counts.extend_measured(&logged, logged.names(0), 0..1).expect_err("logs").to_string();
    assert!(refused.starts_with("unit: "), "{refused}");
    let mut turned = Population::like(logged.manifest());
    turned.genes.reverse();
    let refused = turned.extend_measured(&logged, logged.names(0), 0..1).expect_err("genes").to_string();
    assert!(refused.starts_with("data: has other genes"), "{refused}");
    let (unperturbed, asked) = (groups(&logged, &[("A", "control")]), groups(&logged, &[("B", "q")]));
    let answered = baseline(&logged, &unperturbed, &asked, &settings(Kind::Mean));
    let refused = answered.expect_err("nothing to learn from").to_string();
    assert!(refused.starts_with("train: "), "{refused}");
}

#[test]
fn a_group_that_the_data_does_not_have_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = data(dir.path(), Scale::Log1p, &small());
    let (all, with) = ((0..data.groups().len() as u32).collect::<Vec<_>>(), settings(Kind::Mean));
    let resting = bulk::Resting::of(&data);
    let none = [all[0], 9999];
    let mut population = Population::new(data.manifest().genes.clone(), data.manifest().columns.clone());
    let refusals = [
        baseline(&data, &all, &none, &with).err(),
        baseline(&data, &none, &all, &with).err(),
        measured(&data, &none, true).err(),
        bulk::Sums::of(&data, &none).err(),
        bulk::pairs(&data, &none, &resting).err(),
        Usable::of(&data, &none).err(),
        other_controls(&data, &none, &data).err(),
        push_groups(&mut population, &data, none).err(),
    ];
    for refusal in refusals {
        let what = refusal.expect("there is no such group").to_string();
        assert!(what.contains("there is no group 9999: the data has 11"), "{what}");
    }
    assert!(control_pool(&data, 9999).is_none());
}
