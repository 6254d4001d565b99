//! Predictions from cells in memory, and what is refused there.

use scale_engine::checkpoint::{Trained, vocabulary};
use scale_engine::config::{Config, Observe};
use scale_engine::data::h5ad::{Cells, H5ad};
use scale_engine::data::observe::Observer;
use scale_engine::data::scale::Told;
use scale_engine::data::shard::Scale;
use scale_engine::data::split::Part;
use scale_engine::error::Error;
use scale_engine::gpu::{Gpu, Real};
use scale_engine::model::{Model, Statistics};
use scale_engine::params::Params;
use scale_engine::predict::{self, Source};
use scale_engine::predictor::{ControlCells, Predictor, Request};
use scale_engine::progress::Progress;
use scale_engine::rng::Rng;
use scale_engine::tensor::Tensor;
use scale_engine::train;

use crate::predict::{ask_for, rows};
use crate::refused::told;
use crate::train::{names, program, small};

/// Some rows of X.
fn some(x: &Cells, cells: &[usize]) -> Cells {
    let mut made = Cells::empty(sprs::CompressedStorage::CSR, x.cols());
    for &cell in cells {
        made = made.append_outer_csvec(x.outer_view(cell).expect("a row"));
    }
    made
}

#[test]
fn from_memory_come_the_cells_that_the_program_writes() {
    let small = small();
    let (types, perturbations) = names();
    let trained = Trained::load(&small.run).expect("the run's best");
    let data = &trained.header.data;
    let (cell_type, perturbation, batch) = (&types[0], &perturbations[1], &data.batches[1]);
    let file = H5ad::open(&small.cells).expect("readable");
    let x = file.rows(0..file.shape().0).expect("X");
    let of = |column: &str, cell: usize, wanted: &str| {
        file.obs().labels(&small.cells, column).expect("a column").get(cell) == Some(wanted)
    };
    let is_control = |&cell: &usize| {
        of("perturbation", cell, &data.control)
            && of("cell_type", cell, cell_type)
            && of("batch", cell, batch)
    };
    let pool: Vec<usize> = (0..x.rows()).filter(is_control).collect();
    let controls = ControlCells::of_matrix(data, &file.var().index, &some(&x, &pool), None, Told::default())
        .expect("controls");

    let predictor = trained.predictor(5);
    let observer = trained.observer().expect("a total");
    let request = trained.request(cell_type, perturbation, batch, 33).expect("known names");
    let mut made = Vec::new();
    let mut from = Vec::new();
    let context = predictor.context(&controls).expect("controls");
    let answered = context.predict(request, observer.as_ref(), |row, control| {
        from.push(file.cell_name(pool[control]));
        let stored = row.iter().enumerate().filter(|(_, x)| **x != 0.0);
        made.push(stored.map(|(gene, &x)| (gene, x)).collect::<Vec<_>>());
        Ok(())
    });
    answered.expect("an answer");
    let line = format!("{perturbation},{cell_type},{batch},33\n");
    let (written, told, _) = ask_for(&small.cells, &line, "predicted_from").expect("an answer");
    assert!(made == rows(&written, 0..33));
    assert_eq!(from, told);
}

#[test]
fn cells_from_memory_that_a_model_cannot_read_are_refused() {
    let small = small();
    let trained = Trained::load(&small.run).expect("the run's best");
    let data = &trained.header.data;
    let file = H5ad::open(&small.cells).expect("readable");
    let (x, genes) = (file.rows(0..40).expect("X"), &file.var().index);
    let refused = |x: &Cells, genes: &[String], totals: Option<&[f32]>| {
        ControlCells::of_matrix(data, genes, x, totals, Told::default()).expect_err("a refusal").to_string()
    };
    let mut broken = x.clone();
    broken.data_mut()[3] = f32::NAN;
    let mut twice = genes.clone();
    twice[1] = twice[0].clone();
    let others: Vec<String> = genes.iter().map(|gene| format!("not-{gene}")).collect();
    for (told, expected) in [
        (refused(&x.to_csc(), genes, None), "stored as CSC"),
        (refused(&x, &genes[1..], None), "one name per column"),
        (refused(&x, genes, Some(&[1.0])), "1 totals"),
        (refused(&x, genes, Some(&[0.5; 40])), "has a given total of 0.5, less than the"),
        (refused(&broken, genes, None), "contains NaN"),
        (refused(&x, &others, None), "of the model's"),
        (refused(&x, &twice, None), "appears twice in var"),
    ] {
        assert!(told.contains(expected), "{told:?} should say {expected:?}");
        assert!(!told.contains("--"), "an option of the program: {told}");
    }

    let mut of_panel = data.clone();
    of_panel.columns.size = Some("ncounts".into());
    let told = ControlCells::of_matrix(&of_panel, genes, &x, None, Told::default())
        .expect_err("totals are wanted")
        .to_string();
    assert!(told.contains("the run's totals come from column \"ncounts\""), "{told}");

    let predictor = trained.predictor(5);
    let mut other = data.clone();
    other.genes.swap(3, 4);
    let of_other =
        ControlCells::of_matrix(&other, genes, &x, None, Told::default()).expect("controls of another run");
    let told = predictor.context(&of_other).expect_err("a refusal").to_string();
    assert!(told.contains("genes differ from those in the run"), "{told}");
    let none =
        ControlCells::of_matrix(data, genes, &some(&x, &[]), Some(&[]), Told::default()).expect("no cells");
    assert!(predictor.context(&none).is_err());
    // NaN weights must not become zeros.
    let weights = trained.params.len();
    let broken = trained.params.over(Tensor::new(&[weights], vec![f32::NAN; weights]));
    let broken = Predictor { params: &broken, ..predictor };
    let controls = ControlCells::of_matrix(data, genes, &x, None, Told::default()).expect("controls");
    let request = Request { conditions: [0, 1, 0], cells: 3 };
    let answered = broken.context(&controls).expect("controls").predict(request, None, |row, _| {
        assert!(row.iter().all(|x| x.is_nan()), "a number of no numbers");
        Ok(())
    });
    answered.expect("an answer");
}

#[test]
fn any_number_of_cells_may_be_asked_for_but_no_unknown_ids() {
    let small = small();
    let trained = Trained::load(&small.run).expect("the run's best");
    let data = &trained.header.data;
    let file = H5ad::open(&small.cells).expect("readable");
    let x = file.rows(0..40).expect("X");
    let controls =
        ControlCells::of_matrix(data, &file.var().index, &x, None, Told::default()).expect("controls");
    let predictor = trained.predictor(5);
    let context = predictor.context(&controls).expect("controls");
    for conditions in [[9999, 1, 0], [0, 9999, 0], [0, 1, 9999]] {
        let told =
            context.predict(Request { conditions, cells: 1 }, None, |_, _| Ok(())).expect_err("refused");
        assert!(told.to_string().contains("9999: the run had"), "{told}");
    }
    // A mean of none would look like no effect.
    let none = context.predict(Request { conditions: [0, 1, 0], cells: 0 }, None, |_, _| Ok(()));
    assert!(none.expect_err("no cells").to_string().contains("asks for 0 cells"));
    let names = data.names_of([0, 1, 0]);
    assert!(trained.request(names[0], names[1], names[2], 0).is_err());
    // The first cells of a population without end are those of a small one.
    let conditions = [0, 1, 0];
    let mut few = Vec::new();
    let answered = context.predict(Request { conditions, cells: 70 }, None, |row, control| {
        few.push((row.to_vec(), control));
        Ok(())
    });
    answered.expect("an answer");
    let mut place = 0;
    let endless = context.predict(Request { conditions, cells: usize::MAX }, None, |row, control| {
        let Some(told) = few.get(place) else { return Err(Error::Stopped("enough".into())) };
        let off = told.0.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(told.1 == control && off < 1e-3, "cell {place}: {off}");
        place += 1;
        Ok(())
    });
    let why = endless.expect_err("it was stopped").to_string();
    assert_eq!((place, why.as_str()), (70, "enough"));
}

#[test]
fn genes_that_are_not_there_are_told() {
    let trained = Trained::load(&small().run).expect("the run's best");
    let data = &trained.header.data;
    let file = H5ad::open(&small().cells).expect("readable");
    let (x, mut genes) = (file.rows(0..40).expect("X"), file.var().index.clone());
    let totals = vec![1e6; 40];
    let taken = |genes: &[String]| {
        ControlCells::of_matrix(data, genes, &x, Some(&totals), Told::default()).expect("controls")
    };
    let all = taken(&genes);
    assert!(all.missing().is_empty() && all.ignored() == 0);
    let lost: Vec<String> =
        [7, 30].map(|gene| std::mem::replace(&mut genes[gene], format!("other-{gene}"))).into();
    let most = taken(&genes);
    assert!(lost.iter().all(|gene| most.missing().contains(gene)));
    assert_eq!((most.missing().len(), most.ignored()), (2, 2));
}

#[test]
fn a_device_that_only_counts_predicts_and_trains_nothing() {
    let small = small();
    let gpu = Gpu::dry(Real::F32);
    let words = "counts what would be done, and computes nothing";
    let trained = Trained::load(&small.run).expect("the run's best").to_gpu(&gpu);
    let file = H5ad::open(&small.cells).expect("readable");
    let x = file.rows(0..4).expect("X");
    let controls =
        ControlCells::of_matrix(&trained.header.data, &file.var().index, &x, None, Told::default())
            .expect("cells");
    let told = trained.predictor(0).context(&controls).expect_err("a refusal").to_string();
    assert!(told.contains(words), "{told}");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [pred, run] = ["pred.h5ad", "run"].map(|name| dir.path().join(name));
    let source = Source::Data {
        data: small.data.clone(),
        split: small.split.clone(),
        part: Part::Test,
        real_out: None,
        real_controls: None,
    };
    let settings =
        predict::Settings { gpu: Some(gpu.clone()), ..predict::Settings::new(&small.run, source, &pred) };
    let told = predict::predict(&settings, &Progress::silent()).expect_err("a refusal").to_string();
    assert!(told.contains(words) && !pred.exists(), "{told}");
    let begin =
        train::Begin::drawn(Config::load(Some("tiny"), None, &crate::train::set()).expect("a config"));
    let settings = train::Settings {
        place: train::Place::Here(vec![Some(gpu)]),
        ..train::Settings::new(&small.data, &small.split, &run, begin)
    };
    let told = train::train(&settings, &Progress::silent()).expect_err("a refusal").to_string();
    assert!(told.contains(words), "{told}");
}

/// Logs of the kept genes alone, which no total tells apart from anything else.
#[test]
fn logs_of_some_genes_are_taken_if_they_are_said_to_be_logs() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trained = Trained::load(&small.run).expect("the run's best");
    let data = &trained.header.data;
    let logs = dir.path().join("logs.h5ad");
    let mut export = program();
    export.arg("export").arg(&small.data).arg("--out").arg(&logs);
    let (code, said) = told(&mut export);
    assert_eq!(code, Some(0), "{said}");
    let file = H5ad::open(&logs).expect("readable");
    let genes = &file.var().index;
    // Without the last genes, so that no cell has the total of the run.
    let kept = genes.len() - 5;
    let x = file.rows(0..40).expect("X");
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in x.outer_iterator() {
        let stored = row.iter().filter(|(gene, _)| *gene < kept);
        stored.for_each(|(gene, &value)| {
            columns.push(gene as u32);
            values.push(value);
        });
        starts.push(columns.len());
    }
    let x = Cells::new((40, kept), starts, columns, values);
    let taken = |told: Told| ControlCells::of_matrix(data, &genes[..kept], &x, None, told);
    let unsaid = taken(Told::default()).expect_err("nothing is said").to_string();
    assert!(unsaid.contains("`Told::scale`") && !unsaid.contains("--"), "{unsaid}");
    let of_file = Told::of(&file, None);
    assert!(of_file.logged && of_file.target == Some(1e4), "{of_file:?}");
    for said in [of_file, Told { scale: Some(Scale::Log1p), ..Told::default() }] {
        let controls = taken(said).expect("logs");
        assert_eq!(controls.len(), 40);
    }
    let other = taken(Told { target: Some(5e3), ..of_file }).expect_err("another total").to_string();
    assert!(other.contains("5000") && other.contains("10000"), "{other}");
    let binary = taken(Told { base: Some(2.0), ..of_file }).expect_err("another base").to_string();
    assert!(binary.contains("0.693147") && binary.contains("`Told::base`"), "{binary}");
}

/// Cells predicted by a model whose weights were only drawn, all from the same control cell.
fn drawn(set: &[&str], seed: u64, cells: usize, observe: bool) -> Vec<Vec<f32>> {
    drawn_at(0.05, set, seed, cells, observe)
}

/// The same with another mean of all training cells, at which the decoder starts.
fn drawn_at(mean: f32, set: &[&str], seed: u64, cells: usize, observe: bool) -> Vec<Vec<f32>> {
    drawn_from(&[0], mean, set, seed, cells, observe)
}

/// The same from these cells of the file.
fn drawn_from(
    rows: &[usize],
    mean: f32,
    set: &[&str],
    seed: u64,
    cells: usize,
    observe: bool,
) -> Vec<Vec<f32>> {
    let trained = Trained::load(&small().run).expect("the run's best");
    let data = &trained.header.data;
    let words: Vec<String> =
        crate::train::set().into_iter().chain(set.iter().map(|s| s.to_string())).collect();
    let config = Config::load(Some("tiny"), None, &words).expect("a good config");
    let genes = data.genes.len();
    let statistics = Statistics { mean: vec![mean; genes], std: vec![0.1; genes] };
    let (model, table) = Model::new(&config, &vocabulary(data, None), statistics);
    let weights = table.draw(Rng::new(1));
    let params = Params::new(table, weights);
    let predictor = Predictor { model: &model, params: &params, effects: &trained.effects, data, seed };
    let file = H5ad::open(&small().cells).expect("readable");
    let x = some(&file.rows(0..2).expect("X"), rows);
    let controls =
        ControlCells::of_matrix(data, &file.var().index, &x, None, Told::default()).expect("controls");
    let observer = Observer::asked(Observe::Poisson, data.target).expect("a total").filter(|_| observe);
    let mut made = Vec::new();
    let request = Request { conditions: [0, 1, 0], cells };
    let answered =
        predictor.context(&controls).expect("controls").predict(request, observer.as_ref(), |row, _| {
            made.push(row.to_vec());
            Ok(())
        });
    answered.expect("an answer");
    made
}

#[test]
fn no_value_is_above_all_counts_of_a_cell_in_one_gene() {
    let most = 10_000f64.ln_1p() as f32;
    let made = drawn_at(3.0, &["predict.calibrate=false"], 0, 16, false);
    let greatest = made.iter().flatten().fold(0.0, |greatest: f32, x| greatest.max(*x));
    assert_eq!(greatest, most, "the decoder gives about 30");
}

#[test]
fn cells_have_noise_of_their_own_and_another_seed_has_other_noise() {
    // Two batches of 2 sets of 16 cells: by the counts that are drawn, and by where the flow starts.
    for (set, observe) in [(&["data.sets=2"][..], true), (&["data.sets=2", "flow.start=mixed"], false)] {
        let made = drawn(set, 0, 64, observe);
        let (first, second) = made.split_at(32);
        assert!(first.iter().zip(second).all(|(a, b)| a != b), "{set:?}");
        assert_eq!(made, drawn(set, 0, 64, observe));
        assert_ne!(made, drawn(set, 1, 64, observe), "{set:?}");
    }
}

#[test]
fn no_predicted_value_is_below_zero() {
    let made = drawn(&["decoder.activation=identity", "predict.calibrate=false"], 0, 4, false);
    assert!(made.iter().flatten().any(|&x| x == 0.0) && made.iter().flatten().all(|&x| x >= 0.0));
}

#[test]
fn a_decoder_is_measured_on_any_of_many_control_cells() {
    // The flow starts from noise alone, so predictions tell control cells apart by what the decoder makes of them.
    let mean = |rows: &[usize]| {
        let made = drawn_from(rows, 0.05, &["flow.start=gaussian"], 0, 16, false);
        let sum = |gene: usize| made.iter().map(|row| row[gene]).sum::<f32>() / made.len() as f32;
        (0..made[0].len()).map(sum).collect::<Vec<f32>>()
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let mut mixed = [[0; 4500].as_slice(), &[1; 1500]].concat();
    let first = mean(&mixed);
    mixed.reverse();
    let (off, most) = (apart(&first, &mean(&mixed)), apart(&mean(&[0]), &mean(&[1])));
    assert!(off < 0.1 * most, "{off} of {most}");
}
