//! Predictions from cells in memory, and what is refused there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use scale_engine::checkpoint::Trained;
use scale_engine::config::Observe;
use scale_engine::data::h5ad::{Cells, H5ad};
use scale_engine::data::observe::Observer;
use scale_engine::predictor::{ControlCells, Predictor, Request};
use scale_engine::tensor::Tensor;

use crate::predict::{ask_for, rows};
use crate::train::{names, small};

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
    let controls =
        ControlCells::of_matrix(data, &file.var().index, &some(&x, &pool), None).expect("controls");

    let predictor = trained.predictor(5);
    let observer = Observer::asked(Observe::Poisson, data.target).expect("a total");
    let request = Request::named(data, cell_type, perturbation, batch, 33).expect("known names");
    let mut made = Vec::new();
    let mut from = Vec::new();
    let context = predictor.context(&controls).expect("controls");
    let answered = context.predict(request, observer.as_ref(), |row, control| {
        from.push(file.cell_name(pool[control]));
        let stored = row.iter().enumerate().filter(|(_, x)| **x != 0.0);
        made.push(stored.map(|(gene, &x)| (gene, x)).collect::<Vec<_>>());
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
        ControlCells::of_matrix(data, genes, x, totals).expect_err("a refusal").to_string()
    };
    let mut broken = x.clone();
    broken.data_mut()[3] = f32::NAN;
    let others: Vec<String> = genes.iter().map(|gene| format!("not-{gene}")).collect();
    for (told, expected) in [
        (refused(&x.to_csc(), genes, None), "stored as CSC"),
        (refused(&x, &genes[1..], None), "one name per column"),
        (refused(&x, genes, Some(&[1.0])), "1 totals"),
        (refused(&x, genes, Some(&[0.5; 40])), "the column of totals has 0.5, less than the"),
        (refused(&broken, genes, None), "contains NaN"),
        (refused(&x, &others, None), "of the model's"),
    ] {
        assert!(told.contains(expected), "{told:?} should say {expected:?}");
    }

    let mut of_panel = data.clone();
    of_panel.columns.size = Some("ncounts".into());
    let told =
        ControlCells::of_matrix(&of_panel, genes, &x, None).expect_err("totals are wanted").to_string();
    assert!(told.contains("the run's totals come from column \"ncounts\""), "{told}");

    let predictor = trained.predictor(5);
    let mut other = data.clone();
    other.genes.swap(3, 4);
    let of_other = ControlCells::of_matrix(&other, genes, &x, None).expect("controls of another run");
    let told = predictor.context(&of_other).err().expect("a refusal").to_string();
    assert!(told.contains("another run's genes"), "{told}");
    let none = ControlCells::of_matrix(data, genes, &some(&x, &[]), Some(&[])).expect("no cells");
    assert!(predictor.context(&none).is_err());
    // NaN weights must not become zeros.
    let weights = trained.params.len();
    let broken = trained.params.over(Tensor::new(&[weights], vec![f32::NAN; weights]));
    let broken = Predictor { params: &broken, ..predictor };
    let controls = ControlCells::of_matrix(data, genes, &x, None).expect("controls");
    let request = Request { conditions: [0, 1, 0], cells: 3 };
    let answered = broken.context(&controls).expect("controls").predict(request, None, |row, _| {
        assert!(row.iter().all(|x| x.is_nan()), "a number of no numbers");
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
    let controls = ControlCells::of_matrix(data, &file.var().index, &x, None).expect("controls");
    let predictor = trained.predictor(5);
    let context = predictor.context(&controls).expect("controls");
    for conditions in [[9999, 1, 0], [0, 9999, 0], [0, 1, 9999]] {
        let told = context.predict(Request { conditions, cells: 1 }, None, |_, _| ()).expect_err("refused");
        assert!(told.to_string().contains("9999: the run had"), "{told}");
    }
    // The first cells of a population without end are those of a small one.
    let conditions = [0, 1, 0];
    let mut few = Vec::new();
    context
        .predict(Request { conditions, cells: 70 }, None, |row, control| few.push((row.to_vec(), control)))
        .expect("an answer");
    let mut place = 0;
    let endless = catch_unwind(AssertUnwindSafe(|| {
        context.predict(Request { conditions, cells: usize::MAX }, None, |row, control| {
            match few.get(place) {
                Some(told) => {
                    let off = told.0.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(told.1 == control && off < 1e-3, "cell {place}: {off}");
                }
                None => panic!("enough"),
            }
            place += 1;
        })
    }));
    let why = endless.expect_err("it was stopped");
    assert_eq!((place, why.downcast_ref::<&str>()), (70, Some(&"enough")));
}
