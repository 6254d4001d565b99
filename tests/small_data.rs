//! Data directories made up for tests and benches.

use std::path::{Path, PathBuf};

use scale_engine::data::shard::{Columns, Data, Limits, Manifest, Scale, Source, write_cells};
use scale_engine::rng::Rng;
use tempfile::TempDir;

/// A cell to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub name: String,
    /// Cell type, perturbation, batch.
    pub label: [u32; 3],
    pub genes: Vec<u16>,
    pub values: Vec<f32>,
    pub library: f32,
}

/// A world of cells, before it is written.
#[derive(Clone)]
pub struct World {
    pub header: Manifest,
    pub cells: Vec<Cell>,
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i:03}")).collect()
}

/// Vocabularies `type000..`, `batch000..`, `p001..` with the control label `ctrl` at id 0; counts, target 1e4, factor 10.
pub fn header(genes: usize, cell_types: usize, perturbations: usize, batches: usize) -> Manifest {
    let mut labels = vec!["ctrl".to_string()];
    labels.extend((1..=perturbations).map(|i| format!("p{i:03}")));
    Manifest {
        version: Manifest::VERSION,
        dataset: "small".into(),
        scale: Scale::Counts,
        target: Some(1e4),
        factor: 10.0,
        control: "ctrl".into(),
        source_genes: None,
        columns: Columns {
            perturbation: "gene".into(),
            cell_type: "cell_type".into(),
            batch: Some("batch".into()),
            size: None,
        },
        sources: vec![Source { path: "small.h5ad".into(), crc: 7, cells: 0 }],
        shards: Vec::new(),
        cell_types: names("type", cell_types),
        perturbations: labels,
        batches: names("batch", batches),
        unmeasured: Vec::new(),
        as_read: Default::default(),
        genes: names("gene", genes),
    }
}

/// Random small counts at a density; the library is a little more than their sum. Names are of many lengths, and some are empty.
pub fn cell(rng: Rng, label: [u32; 3], genes: usize, density: f32) -> Cell {
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for gene in 0..genes as u64 {
        if rng.uniform(gene) < density {
            ids.push(gene as u16);
            // Roughly geometric: most counts are one or two, a few are tens.
            values.push(1.0 + (-2.5 * (1.0 - rng.at(1).uniform(gene)).ln()).floor());
        }
    }
    let library = values.iter().sum::<f32>() + 100.0;
    let number = rng.at(2).below(0, 20_000);
    let name = if number < 1_000 { String::new() } else { format!("β{number}") };
    Cell { name, label, genes: ids, values, library }
}

impl World {
    /// Cells of random labels: about a fifth are controls.
    pub fn random(seed: u64, cells: usize, header: Manifest, density: f32) -> World {
        let rng = Rng::new(seed);
        let sizes =
            [header.cell_types.len(), header.perturbations.len(), header.batches.len()].map(|n| n as u64);
        let make = |i: u64| {
            let draws = rng.at(i);
            let perturbation = if draws.uniform(0) < 0.2 { 0 } else { draws.below(1, sizes[1]) };
            let label =
                [draws.below(2, sizes[0]), perturbation, draws.below(3, sizes[2])].map(|id| id as u32);
            cell(draws.at(9), label, header.genes.len(), density)
        };
        World { cells: (0..cells as u64).map(make).collect(), header }
    }

    /// Cells of given groups (cell type, perturbation, batch, cells), one group after another.
    pub fn of_groups(header: Manifest, groups: &[(u32, u32, u32, usize)]) -> World {
        let labels = groups.iter().flat_map(|&(c, p, b, n)| std::iter::repeat_n([c, p, b], n));
        let genes = header.genes.len();
        let make = |(i, label)| cell(Rng::new(5).at(i as u64), label, genes, 0.3);
        World { cells: labels.enumerate().map(make).collect(), header }
    }

    pub fn write(&self, dir: &Path, limits: Limits) -> scale_engine::error::Result<Manifest> {
        let labels: Vec<[u32; 3]> = self.cells.iter().map(|cell| cell.label).collect();
        write_cells(dir, self.header.clone(), &labels, limits, |rows| {
            self.cells
                .iter()
                .try_for_each(|cell| rows.push(&cell.name, &cell.genes, &cell.values, cell.library))
        })
    }

    /// Writes it to a new folder and opens that.
    pub fn open(&self) -> (TempDir, Data) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        self.write(dir.path(), Limits::default()).expect("written");
        let data = Data::open(dir.path()).expect("opened");
        (dir, data)
    }

    /// Where each cell of the directory comes from: controls first, then by label, in source order inside a group.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cells.len()).collect();
        order.sort_by_key(|&i| {
            let label = self.cells[i].label;
            (label[1] != 0, label)
        });
        order
    }
}

/// The files of a folder, sorted, with their bytes.
pub fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries.collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.file_name().expect("a name").into(), std::fs::read(&path).expect("bytes")))
        .collect()
}
