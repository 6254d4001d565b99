//! An open data directory: manifest, groups and rows.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::disk::{FromDisk, Sweep};
use super::file::Shard;
use super::format::Kind;
use super::normalise::Normalise;
use super::{Group, Manifest, Row, Scale};
use crate::data::normalise::divisor;
use crate::error::{Error, Result};

/// Cells per task of `moments`; affects the result's bits, since partial sums are rounded.
const MOMENT_CELLS: u64 = 2048;
/// Tasks whose sums are held at the same time.
const MOMENT_TASKS: usize = 64;

/// An open data directory. Cells are numbered across all shards, in the order of the groups.
pub struct Data {
    dir: PathBuf,
    manifest: Manifest,
    /// The control label's place in the manifest.
    control: u32,
    /// CRC-32 of the manifest.
    crc: u32,
    shards: Vec<Shard>,
    /// First cell of each shard, then the number of cells.
    firsts: Vec<u64>,
    groups: Vec<Group>,
    from_disk: FromDisk,
}

/// Per-gene mean and (population) standard deviation of x, the numbers that the network sees; `into()` makes them the
/// `Statistics` of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Cells averaged.
    pub cells: u64,
    /// `[G]`.
    pub mean: Vec<f32>,
    /// `[G]`.
    pub std: Vec<f32>,
}

brief!(Data, |data| dir: data.dir, cells: data.cells(), groups: data.groups.len());

impl Data {
    /// Whether there is a data directory at this path.
    pub fn is_at(path: &Path) -> bool {
        path.join(super::manifest::FILE).exists()
    }

    /// Opens a directory and checks everything in it, using all cores: every byte against its checksum, then
    /// every row against the format's rules.
    ///
    /// # Errors
    /// A file that cannot be read, or in which something cannot be true; the error names both.
    pub fn open(dir: &Path) -> Result<Data> {
        let manifest = Manifest::read(dir)?;
        for entry in &manifest.shards {
            if Path::new(&entry.file).file_name().is_none_or(|name| name != entry.file.as_str()) {
                let what = format!("shard {:?} is not a plain file name", entry.file);
                return Err(Error::format(dir.join(super::manifest::FILE), what));
            }
        }
        let open = |entry| Shard::open(dir, entry, &manifest);
        // Collected in order, so that with several damaged shards the same one is always named.
        let opened: Vec<Result<Shard>> = manifest.shards.par_iter().map(open).collect();
        let shards = opened.into_iter().collect::<Result<Vec<Shard>>>()?;
        let control = manifest.control_position();
        let (groups, firsts) = number_cells(dir, &manifest, control, &shards)?;
        let crc = crc32fast::hash(manifest.to_json().as_bytes());
        let (dir, from_disk) = (dir.to_path_buf(), FromDisk::unknown());
        Ok(Data { dir, manifest, control, crc, shards, firsts, groups, from_disk })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Genes, vocabularies, scale.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// CRC-32 of the manifest, which vouches for every byte: it tells these data from others.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    /// All groups, controls first; each of the two sorted by cell type, perturbation, batch.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Number of cells.
    pub fn cells(&self) -> u64 {
        self.firsts[self.firsts.len() - 1]
    }

    /// Number of values stored for all cells.
    pub fn stored(&self) -> u64 {
        self.shards.iter().map(Shard::stored).sum()
    }

    /// Number of genes, G.
    pub fn genes(&self) -> usize {
        self.manifest.genes.len()
    }

    /// Position of the control label in the perturbations.
    pub fn control_id(&self) -> u32 {
        self.control
    }

    /// Cell type, perturbation and batch of a group, by name.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn names(&self, group: u32) -> [&str; 3] {
        self.manifest.names_of(self.groups[group as usize].ids())
    }

    /// `cell type / perturbation / batch` of a group, for messages.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn describe(&self, group: u32) -> String {
        self.names(group).join(" / ")
    }

    /// A cell's stored genes and values, as slices of the map.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn row(&self, cell: u64) -> Row<'_> {
        let (shard, row) = self.place(cell);
        self.shards[shard].row(row)
    }

    /// A cell's name in its source; empty where it had none.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn name(&self, cell: u64) -> &str {
        let (shard, row) = self.place(cell);
        self.shards[shard].name(row)
    }

    /// Hold this while the current thread copies the rows of some cells, in ascending order: if rows come from
    /// disk, all of them are requested first.
    pub(crate) fn sweep(&self, cells: impl Iterator<Item = u64>) -> Sweep<'_> {
        self.from_disk.sweep(|| {
            let spans = self.spans(cells);
            // Starts first: they say where the rows are.
            spans.iter().for_each(|(shard, rows)| self.shards[*shard].ask_places(rows.clone()));
            spans.iter().for_each(|(shard, rows)| self.shards[*shard].ask_rows(rows.clone()));
        })
    }

    /// Releases the shards' pages from this process's memory.
    pub(crate) fn let_go(&self) {
        self.shards.iter().for_each(Shard::let_go);
    }

    /// The shards' row ranges for some cells, in ascending order, including the gaps between nearby rows.
    fn spans(&self, cells: impl Iterator<Item = u64>) -> Vec<(usize, Range<usize>)> {
        let mut spans: Vec<(usize, Range<usize>)> = Vec::new();
        for cell in cells {
            let (shard, row) = self.place(cell);
            match spans.last_mut() {
                Some((last, rows)) if *last == shard && row <= rows.end + self.shards[shard].near() => {
                    rows.end = row + 1
                }
                _ => spans.push((shard, row..row + 1)),
            }
        }
        spans
    }

    /// True if every stored value is a count below 65536.
    pub(crate) fn narrow(&self) -> bool {
        self.shards.iter().all(|shard| shard.kind() != Kind::F32)
    }

    /// What a cell's values are divided by before the logarithm: for counts the [`divisor`] of `library`, 1 for log values.
    pub fn row_scale(&self, library: f32) -> f32 {
        match (self.manifest.scale, self.manifest.target) {
            (Scale::Counts, Some(target)) => divisor(library, target),
            _ => 1.0,
        }
    }

    /// A cell as the network sees it: out `[G]`, log1p(count / (library / target)) / factor, zero where nothing is stored.
    ///
    /// Not for scores: times the factor it differs in the last bits from what commands write and evaluate reads, which breaks ties
    /// between cells. [`measured`](crate::data::population::measured) gives those numbers, for one row
    /// [`log1p`](crate::data::population::log1p).
    ///
    /// # Panics
    /// If there is no such cell, or `out` has another size.
    pub fn fill(&self, cell: u64, out: &mut [f32]) {
        assert_eq!(out.len(), self.genes(), "fill: {} numbers for {} genes", out.len(), self.genes());
        self.fill_with(Normalise::new(self.manifest.scale, self.manifest.factor), cell, out);
    }

    fn fill_with(&self, normalise: Normalise, cell: u64, out: &mut [f32]) {
        let row = self.row(cell);
        normalise.fill(out, row.genes, row.values, self.row_scale(row.library));
    }

    /// Mean and standard deviation of every gene over the cells of some groups, summed in f64.
    ///
    /// The same bits whatever the number of threads. No groups: zeros.
    ///
    /// # Panics
    /// If one of the groups does not exist.
    pub fn moments(&self, groups: &[u32]) -> Moments {
        let genes = self.genes();
        let tasks: Vec<_> =
            groups.iter().flat_map(|&g| self.groups[g as usize].pieces(MOMENT_CELLS)).collect();
        let mut totals = vec![[0.0f64; 2]; genes];
        for some in tasks.chunks(MOMENT_TASKS) {
            let parts: Vec<_> = some.par_iter().map(|cells| self.sums(cells.clone())).collect();
            for part in parts {
                totals.iter_mut().zip(part).for_each(|(total, sums)| {
                    total[0] += sums[0];
                    total[1] += sums[1];
                });
            }
        }
        let cells: u64 = tasks.iter().map(|cells| cells.end - cells.start).sum();
        let n = cells.max(1) as f64;
        let mean = totals.iter().map(|sums| (sums[0] / n) as f32).collect();
        // Rounding can leave the variance of a constant gene slightly below zero.
        let std = totals.iter().map(|[s, ss]| (ss / n - (s / n).powi(2)).max(0.0).sqrt() as f32).collect();
        Moments { cells, mean, std }
    }

    /// Sum and sum of squares of every gene.
    fn sums(&self, cells: Range<u64>) -> Vec<[f64; 2]> {
        let _sweep = self.sweep(cells.clone());
        let mut x = vec![0.0; self.genes()];
        let mut sums = vec![[0.0f64; 2]; self.genes()];
        let normalise = Normalise::new(self.manifest.scale, self.manifest.factor);
        for cell in cells {
            self.fill_with(normalise, cell, &mut x);
            for &gene in self.row(cell).genes {
                let value = f64::from(x[usize::from(gene)]);
                let sum = &mut sums[usize::from(gene)];
                sum[0] += value;
                sum[1] += value * value;
            }
        }
        sums
    }

    fn place(&self, cell: u64) -> (usize, usize) {
        let shard = self.firsts.partition_point(|&first| first <= cell) - 1;
        assert!(shard < self.shards.len(), "cell {cell} of {}", self.cells());
        (shard, (cell - self.firsts[shard]) as usize)
    }
}

/// Groups with their first cells, and the first cell of each shard.
fn number_cells(
    dir: &Path,
    manifest: &Manifest,
    control: u32,
    shards: &[Shard],
) -> Result<(Vec<Group>, Vec<u64>)> {
    let (mut groups, mut firsts) = (Vec::<Group>::new(), vec![0u64]);
    let order = |g: &Group| (g.perturbation != control, g.cell_type, g.perturbation, g.batch);
    let mut first = 0;
    for (shard, entry) in shards.iter().zip(&manifest.shards) {
        for (i, &[cell_type, perturbation, batch, cells]) in shard.groups().iter().enumerate() {
            let group = Group { cell_type, perturbation, batch, first, cells };
            if groups.last().is_some_and(|last| order(last) >= order(&group)) {
                let what = format!(
                    "group {i} repeats or belongs before the group ahead of it; groups must be sorted and \
                     unique"
                );
                return Err(Error::format(dir.join(&entry.file), what));
            }
            groups.push(group);
            first += u64::from(cells);
        }
        debug_assert_eq!(
            first,
            firsts[firsts.len() - 1] + shard.rows(),
            "check_groups lets groups tile the rows"
        );
        firsts.push(first);
    }
    if groups.is_empty() {
        return Err(Error::format(
            dir.join(super::manifest::FILE),
            "shards: there are none, but a data directory must have cells",
        ));
    }
    Ok((groups, firsts))
}
