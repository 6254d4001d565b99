//! Data directories: what is written is what is read.

use std::path::Path;

use scale_engine::data::shard::{Data, Limits, Scale, Values};

use crate::small_data::{Cell, World, files, header};

fn tiny_limits() -> Limits {
    Limits { memory: 4_000, shard: 6_000 }
}

fn assert_holds(data: &Data, world: &World) {
    let order = world.order();
    assert_eq!(data.cells(), order.len() as u64);
    assert_eq!(data.stored(), world.cells.iter().map(|cell| cell.genes.len() as u64).sum::<u64>());
    for (group_number, group) in data.groups().iter().enumerate() {
        for number in group.range() {
            let cell = &world.cells[order[number as usize]];
            assert_eq!(group.ids(), cell.label, "group {group_number}");
        }
    }
    for (number, &source) in order.iter().enumerate() {
        let (row, cell) = (data.row(number as u64), &world.cells[source]);
        let values: Vec<f32> = (0..row.values.len()).map(|i| row.values.get(i)).collect();
        assert_eq!(
            (data.name(number as u64), row.genes, &values, row.library),
            (cell.name.as_str(), &cell.genes[..], &cell.values, cell.library),
            "cell {number}"
        );
    }
}

#[test]
fn cells_come_back_grouped_and_whole() {
    let world = World::random(1, 300, header(40, 3, 5, 2), 0.3);
    let (_dir, data) = world.open();
    assert_holds(&data, &world);
    assert_eq!((data.control_id(), data.genes()), (0, 40));
}

#[test]
fn spilled_runs_and_many_shards_hold_the_same_cells() {
    let world = World::random(2, 700, header(40, 3, 5, 2), 0.3);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let manifest = world.write(dir.path(), tiny_limits()).expect("written");
    let controls = manifest.shards.iter().filter(|shard| shard.file.starts_with("controls-")).count();
    assert!(controls >= 2 && manifest.shards.len() - controls >= 2, "{:?}", manifest.shards);
    assert_holds(&Data::open(dir.path()).expect("opened"), &world);
    let expected = manifest.shards.len() + 1;
    assert_eq!(files(dir.path()).len(), expected, "only the shards and the manifest are left");
}

#[test]
fn the_same_cells_give_the_same_bytes_whatever_the_memory() {
    let world = World::random(3, 500, header(30, 2, 4, 2), 0.4);
    let written = |memory| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        world.write(dir.path(), Limits { memory, shard: 6_000 }).expect("written");
        files(dir.path())
    };
    let once = written(1 << 20);
    assert!(once.len() > 3);
    assert_eq!(once, written(1 << 20));
    assert_eq!(once, written(1_000));
    assert_eq!(once, written(usize::MAX));
}

fn one_row(scale: Scale, values: &[f32]) -> World {
    let mut header = header(8, 1, 1, 1);
    header.scale = scale;
    let genes: Vec<u16> = (0..values.len() as u16).collect();
    let cell = |p, values: &[f32]| Cell {
        name: String::new(),
        label: [0, p, 0],
        genes: genes.clone(),
        values: values.to_vec(),
        library: values.iter().sum::<f32>(),
    };
    World { cells: vec![cell(0, values), cell(1, &vec![1.0; values.len()])], header }
}

#[test]
fn counts_are_stored_as_narrow_as_the_shard_allows() {
    let kind = |values: &[f32], scale| {
        let (_dir, data) = one_row(scale, values).open();
        // The other shard holds only ones: it has a width of its own.
        let small = matches!(data.row(1).values, Values::U8(_)) || scale != Scale::Counts;
        assert!(small && data.row(0).values.get(0) == values[0]);
        match data.row(0).values {
            Values::U8(_) => "u8",
            Values::U16(_) => "u16",
            Values::F32(_) => "f32",
        }
    };
    assert_eq!(kind(&[255.0, 1.0], Scale::Counts), "u8");
    assert_eq!(kind(&[256.0, 1.0], Scale::Counts), "u16");
    assert_eq!(kind(&[65535.0], Scale::Counts), "u16");
    assert_eq!(kind(&[65536.0], Scale::Counts), "f32");
    assert_eq!(kind(&[1.5, 2.0], Scale::Log1p), "f32");
    assert_eq!(kind(&[0.15], Scale::Log1p10), "f32");
}

#[test]
fn stored_zeros_are_dropped() {
    let (_dir, data) = one_row(Scale::Counts, &[3.0, 0.0, 2.0]).open();
    assert_eq!((data.row(0).genes, data.row(0).values), (&[0u16, 2][..], Values::U8(&[3, 2])));
}

#[test]
fn dense_values_follow_the_formula() {
    for values in [[3.0f32, 1.0, 3.0], [300.0, 299.0, 1.0], [70000.0, 2.0, 1.0]] {
        let (_dir, data) = one_row(Scale::Counts, &values).open();
        let mut out = vec![9.0; 8];
        data.fill(0, &mut out);
        let library: f64 = values.iter().map(|&v| f64::from(v)).sum();
        for (x, count) in out.iter().zip(values.iter().chain(&[0.0; 5])) {
            let expected = (f64::from(*count) / (library / 1e4)).ln_1p() / 10.0;
            assert!((f64::from(*x) - expected).abs() <= 1e-6 * expected, "{x} against {expected}");
        }
    }
    for (scale, factor) in [(Scale::Log1p, 0.1), (Scale::Log1p10, 1.0)] {
        let (_dir, data) = one_row(scale, &[0.5, 0.25]).open();
        let mut out = vec![9.0; 8];
        data.fill(0, &mut out);
        assert!(
            (out[0] - 0.5 * factor).abs() < 1e-7 && (out[1] - 0.25 * factor).abs() < 1e-7 && out[2] == 0.0
        );
    }
}

#[test]
fn moments_are_those_of_the_dense_cells() {
    let world = World::random(4, 200, header(20, 2, 3, 2), 0.4);
    let (_dir, data) = world.open();
    let groups: Vec<u32> = (0..data.groups().len() as u32).filter(|g| g % 3 != 1).collect();
    let moments = data.moments(&groups);
    let cells: Vec<u64> = groups.iter().flat_map(|&g| data.groups()[g as usize].range()).collect();
    assert_eq!(moments.cells, cells.len() as u64);
    let mut x = vec![0.0; 20];
    let mut columns = vec![Vec::new(); 20];
    for &cell in &cells {
        data.fill(cell, &mut x);
        columns.iter_mut().zip(&x).for_each(|(column, &x)| column.push(f64::from(x)));
    }
    for (gene, column) in columns.iter().enumerate() {
        let mean = column.iter().sum::<f64>() / column.len() as f64;
        let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / column.len() as f64;
        assert!((f64::from(moments.mean[gene]) - mean).abs() < 1e-7, "mean of gene {gene}");
        assert!((f64::from(moments.std[gene]) - variance.sqrt()).abs() < 1e-6, "std of gene {gene}");
    }
}

#[test]
fn cells_without_counts_are_zero() {
    let mut world = one_row(Scale::Counts, &[1.0]);
    world.cells[0] =
        Cell { name: String::new(), label: [0, 0, 0], genes: vec![], values: vec![], library: 0.0 };
    let (_dir, data) = world.open();
    let mut out = vec![9.0; 8];
    data.fill(0, &mut out);
    assert_eq!(out, [0.0; 8]);
}

fn write_error(world: &World) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    world.write(dir.path(), Limits::default()).expect_err("refused").to_string()
}

#[test]
fn the_writer_refuses_what_a_shard_cannot_hold() {
    type Change<'a> = &'a dyn Fn(&mut World);
    let good = World::random(5, 20, header(30, 2, 3, 1), 0.5);
    let with = |change: Change| {
        let mut world = good.clone();
        change(&mut world);
        write_error(&world)
    };
    let cases: &[(&str, Change)] = &[
        ("cell 3 of the source: value NaN", &|w| w.cells[3].values[0] = f32::NAN),
        ("value -1", &|w| w.cells[3].values[0] = -1.0),
        ("count 1.5 is not a whole number", &|w| w.cells[3].values[0] = 1.5),
        ("ids must ascend", &|w| w.cells[3].genes[1] = w.cells[3].genes[0]),
        ("gene 30 is out of range: there are 30", &|w| *w.cells[3].genes.last_mut().expect("not empty") = 30),
        ("library size 0 is too small for stored counts", &|w| w.cells[3].library = 0.0),
        ("library size inf", &|w| w.cells[3].library = f32::INFINITY),
        ("has cell type 2, but the vocabulary has only 2", &|w| w.cells[3].label[0] = 2),
        ("there are no cells", &|w| w.cells.clear()),
        ("genes: \"gene001\" appears twice", &|w| w.header.genes[0] = "gene001".into()),
        ("did you mean \"ctrl\"", &|w| w.header.control = "ctl".into()),
        ("cell_types: \"type001\" is followed by \"type000\"", &|w| w.header.cell_types.reverse()),
        ("target is missing", &|w| w.header.target = None),
        ("factor is 0", &|w| w.header.factor = 0.0),
    ];
    for (expected, change) in cases {
        let message = with(*change);
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
    }
}

#[test]
fn a_folder_that_is_not_a_data_directory_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let message = Data::open(dir.path()).expect_err("refused").to_string();
    assert!(message.contains("has no manifest.json"), "{message}");
    let file = dir.path().join("split.toml");
    std::fs::write(&file, "").expect("written");
    let gone = Path::new("nowhere/at/all");
    for (path, lack) in [(gone, "there is no such folder"), (&file, "it is a file"), (&file.join("x"), "")] {
        let message = Data::open(path).expect_err("refused").to_string();
        let wanted = match lack {
            "" => format!("{}: is a file, but a folder is needed", file.display()),
            lack => format!("{}: is not a data directory: {lack} (`preprocess` makes one)", path.display()),
        };
        assert_eq!(message, wanted);
    }
}

#[test]
fn a_data_directory_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("new").join("data");
    let world = one_row(Scale::Counts, &[1.0]);
    let mut bad = world.clone();
    bad.cells[0].values[0] = f32::NAN;
    let message = bad.write(&path, Limits::default()).expect_err("refused").to_string();
    assert!(
        message.starts_with(&format!("{}: cell 0 of the source: value NaN", path.display())),
        "{message}"
    );
    let left = || std::fs::read_dir(path.parent().expect("a folder")).expect("readable").count();
    assert_eq!(left(), 0);
    world.write(&path, Limits::default()).expect("written");
    assert_eq!((left(), Data::open(&path).expect("opened").cells()), (1, 2));
    // It holds a data directory now.
    let message = world.write(&path, Limits::default()).expect_err("refused").to_string();
    assert!(message.starts_with(&format!("{}: exists and is not empty", path.display())), "{message}");
    assert_eq!(Data::open(&path).expect("still whole").cells(), 2);
}
