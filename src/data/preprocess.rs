//! From h5ad files or 10x output to a data directory: check, normalise, choose genes, write shards.
//!
//! Two passes over the row blocks of the sources (one if the genes are given; one more each for filters, for a median target
//! and for seurat_v3): the first checks every value and accumulates the sums that the choice of genes needs, the second sorts
//! what is kept by group, part by part; then the parts are merged. Blocks that fit within 384 MiB are read and
//! unpacked in the first pass only. Memory: those blocks, each freed as the last pass uses it; up to 256 MiB of
//! rows, which accumulate meanwhile; up to 100 MB of row blocks per thread, some 500 MB where a dense matrix has tall
//! chunks, an eighth of the machine's memory for CSC. Only the labels grow with the number of cells: about 50 bytes per cell
//! while they are read and 20 after, and 4 more for a median; a table of labels takes 150 more per row while it is joined.
//! Shards keep counts as they are; normalisation is redone when a cell is read.
//!
//! ```no_run
//! use scale_engine::data::preprocess::{Genes, Settings, preprocess};
//! use scale_engine::progress::Progress;
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! scale_engine::memory::keep(); // each block of rows needs as much as the last one gave back
//! let settings = Settings {
//!     inputs: vec!["screen.h5ad".into()],
//!     out: "DATA".into(),
//!     perturbation: "gene".into(),
//!     control: "non-targeting".into(),
//!     cell_type: Some("cell_line".into()),
//!     genes: Genes::Top(5000),
//!     ..Settings::default()
//! };
//! let summary = preprocess(&settings, &Progress::new(|event, _| println!("{event:?}")))?;
//! println!("{} cells in {} groups, {:?}", summary.contents.cells, summary.contents.groups, summary.contents.notes);
//! # Ok(())
//! # }
//! ```

mod align;
mod block;
mod contents;
mod doubts;
mod filter;
mod genes;
pub mod hvg;
mod input;
mod loess;
mod memo;
mod moments;
mod plan;
mod ranking;
mod scale;
mod seurat_v3;
mod sizes;
mod store;
mod target;
mod work;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::aside;
use crate::data::scale::Found;
use crate::data::shard::Scale;
use crate::data::simulate::CONTROL;
use crate::error::{Error, Result};
use crate::progress::Progress;
use hvg::Flavor;
use input::Inputs;
use work::{Halt, Passed, Work};

pub use crate::data::labels::Joined;
pub use align::SharedGenes;
pub use contents::Contents;
pub use filter::{Filtered, Filters, Knockdown, KnockedDown};
pub use plan::{Plan, plan};
pub use ranking::{Ranking, rank_genes};
pub use work::{PartName, Parts};

/// The batch of every cell if no batch column is named.
pub const ONE_BATCH: &str = "all";

/// What `preprocess` is asked to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// h5ad files or 10x output, all with the same genes in any order.
    pub inputs: Vec<PathBuf>,
    /// Table of labels, one row per cell, as parquet or text (columns separated by commas, in a .tsv or .txt by tabs; packed with gzip
    /// or not; blanks behind a label belong to it); its columns take precedence over those of obs.
    pub labels: Option<PathBuf>,
    /// Column of var by which the genes of several files are aligned, instead of by name.
    pub gene_id: Option<String>,
    /// Whether a gene that a file lacks is filled with zeros there, instead of being an error.
    pub fill_missing: bool,
    /// Data directory to make.
    pub out: PathBuf,
    /// obs column of perturbations.
    pub perturbation: String,
    /// Its label of unperturbed cells.
    pub control: String,
    /// Other labels of unperturbed cells, which become that one.
    pub other_controls: Vec<String>,
    /// obs column of cell types; without one all cells of a file are one type, named by the file.
    pub cell_type: Option<String>,
    /// obs column of batches, if there are any.
    pub batch: Option<String>,
    /// Which cells and genes are left out beforehand.
    pub filters: Filters,
    /// Which genes to keep.
    pub genes: Genes,
    /// How genes are ranked.
    pub flavor: Flavor,
    /// obs column within whose batches genes are ranked before the ranks are merged.
    pub hvg_batch: Option<String>,
    /// Whether log values are divided by ten before genes are ranked, as the paper's text says (SCALE v1, section 4.1),
    /// rather than after, as the code that it follows does. Changes the chosen genes only for `seurat`.
    pub rescale_before_hvg: bool,
    /// obs column of a cell's total counts, for sources that hold only some of the measured genes; without
    /// it the total is the sum over the genes.
    pub size: Option<String>,
    /// Total to which counts are scaled, 10,000 by default; for log values the total they were scaled to.
    pub target: Option<Target>,
    /// Matrix to read: `X`, `raw`, `layers/NAME` or `obsm/NAME`.
    pub source: String,
    /// What the values are; detected if not given.
    pub scale: Option<Scale>,
}

/// The command's defaults; files and columns, which have none, are empty here.
impl Default for Settings {
    fn default() -> Settings {
        Settings {
            inputs: Vec::new(),
            labels: None,
            gene_id: None,
            fill_missing: false,
            out: PathBuf::new(),
            perturbation: String::new(),
            control: String::new(),
            other_controls: Vec::new(),
            cell_type: None,
            batch: None,
            filters: Filters::default(),
            genes: Genes::Top(Genes::TOP),
            flavor: Flavor::Seurat,
            hvg_batch: None,
            rescale_before_hvg: false,
            size: None,
            target: None,
            source: "X".to_string(),
            scale: None,
        }
    }
}

impl Settings {
    /// The columns of labels: cell type, perturbation and, if there are any, batch.
    fn label_columns(&self) -> Vec<&str> {
        [self.cell_type_column(), &self.perturbation].into_iter().chain(self.batch.as_deref()).collect()
    }

    /// The column of cell types; without one, a free name for outputs to store them under.
    fn cell_type_column(&self) -> &str {
        let free = |name: &&str| *name != self.perturbation && Some(*name) != self.batch.as_deref();
        let other = || ["cell_type", "cell_line", "line"].into_iter().find(free);
        self.cell_type.as_deref().or_else(other).expect("two other columns take two of three names at most")
    }

    /// Whether this column of labels is that of cell types, and they are named by the files.
    fn names_types_by_file(&self, column: &str) -> bool {
        self.cell_type.is_none() && column == self.cell_type_column()
    }

    /// For a file of simulated cells, with its columns and its control; `out` is the data directory to make.
    pub fn of_simulated(cells: &Path, out: &Path) -> Settings {
        Settings {
            inputs: vec![cells.to_path_buf()],
            out: out.to_path_buf(),
            perturbation: "perturbation".to_string(),
            control: CONTROL.to_string(),
            cell_type: Some("cell_type".to_string()),
            batch: Some("batch".to_string()),
            ..Settings::default()
        }
    }
}

/// Which genes to keep.
#[derive(Clone, Debug)]
pub enum Genes {
    /// This many of the most variable genes, in source order.
    Top(usize),
    /// The genes of a data directory, of a file with one name per line, in its order, or of a table whose column `highly_variable`
    /// marks them.
    Listed(PathBuf),
}

impl Genes {
    /// How many of the most variable are kept by default.
    pub const TOP: usize = 2000;
}

/// Total to which the counts of a cell are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This number.
    Sum(f64),
    /// The median total of all cells, empty ones included (what scanpy 1.11 does with CSR).
    Median,
    /// The median total of the cells with counts.
    MedianNonzero,
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The data directory.
    pub out: PathBuf,
    /// What was kept of the sources.
    #[serde(flatten)]
    pub contents: Contents,
    /// Total to which cells are scaled, if known.
    pub target: Option<f64>,
    /// What the filters left out, if there are any.
    pub filtered: Option<Filtered>,
    /// Size of the shards in bytes.
    pub bytes: u64,
}

/// Makes a data directory; nothing is left on failure. A run that is stopped or killed leaves the parts that are done, and the next
/// run continues after them. `progress` is told of the cells read, once a pass. Each block of rows reuses the memory of the one
/// before: call [`memory::keep`](crate::memory::keep) first, so that the allocator does not return it to the system.
///
/// # Errors
/// [`Error::Stopped`], which names the folder of the parts, if it is asked to stop before the last cell is read. Files that cannot be
/// read or disagree, missing columns or control cells, values that are neither counts nor logs, and settings that cannot be honoured.
pub fn preprocess(settings: &Settings, progress: &Progress) -> Result<Summary> {
    let summary = preprocess_parts(settings, &Parts::default(), progress)?;
    Ok(summary.unwrap_or_else(|| unreachable!("no part was asked for by itself")))
}

/// The same in parts of a given size, in a given work folder, or only one of the parts; then there is no summary.
///
/// # Errors
/// As [`preprocess`], a folder with parts of another command, and parts whose earlier passes are incomplete.
pub fn preprocess_parts(settings: &Settings, parts: &Parts, progress: &Progress) -> Result<Option<Summary>> {
    aside::free(&settings.out)?;
    let passes = |scale| plan::passes(settings, scale);
    worked(settings, &settings.label_columns(), parts, progress, passes, |inputs, found, work| {
        aside::free(&settings.out)?; // another process may have created it meanwhile
        make(settings, inputs, found, work)
    })
}

/// Opens the sources, and makes something of them in passes; `None` if only one part of it was to be made.
fn worked<T>(
    settings: &Settings,
    columns: &[&str],
    parts: &Parts,
    progress: &Progress,
    passes: impl FnOnce(Scale) -> Vec<&'static str>,
    make: impl FnOnce(Inputs, Found, &Work) -> Passed<T>,
) -> Result<Option<T>> {
    check(settings)?;
    let mut inputs = input::open(settings, columns)?;
    // A run of a single part reads its rows only once.
    inputs.memo.set_keeping(parts.only.is_none());
    let found = scale::find(&mut inputs, settings.scale)?;
    target::told(&found, settings.target)?;
    let all = passes(found.scale).len() as u64 * inputs.rows();
    let what = if columns.is_empty() { "genes" } else { "preprocess" };
    let work = Work::open(settings, parts, progress.begin(what, 0, all, "cells"))?;
    match make(inputs, found, &work) {
        Ok(made) => {
            work.end(false);
            Ok(Some(made))
        }
        Err(Halt::Made) => Ok(None),
        Err(Halt::Failed(error @ Error::Stopped(_))) => {
            let dir = work.dir().display();
            let way = format!("; {dir} holds the finished parts; do the same again to continue");
            Err(error.followed_by(&way))
        }
        Err(Halt::Failed(error)) => {
            work.end(true);
            Err(error)
        }
    }
}

/// The passes up to the choice of genes: what was left out, the total to which cells are scaled, the genes.
fn choose(
    settings: &Settings,
    inputs: &mut Inputs,
    found: &Found,
    work: &Work,
) -> Passed<(Option<Filtered>, Option<f64>, genes::Chosen)> {
    let mut names = Vec::new();
    if let Genes::Listed(list) = &settings.genes {
        names = genes::names(list)?;
        // Better to know now: the passes may take hours, and they may leave out some of the genes.
        genes::listed(inputs, list, &names)?;
    }
    let filtered = filter::apply(settings, inputs, found, work)?;
    let target = target::find(settings, inputs, found, work)?;
    let chosen = match &settings.genes {
        Genes::Listed(list) => genes::listed(inputs, list, &names)?,
        Genes::Top(count) => {
            genes::most_variable(settings, inputs, found, target.unwrap_or(1.0), *count, work)?
        }
    };
    Ok((filtered, target, chosen))
}

/// Runs the passes and makes the directory from their results.
fn make(settings: &Settings, mut inputs: Inputs, found: Found, work: &Work) -> Passed<Summary> {
    let (filtered, target, mut chosen) = choose(settings, &mut inputs, &found, work)?;
    // An earlier pass has held every cell against the common total, if there is one.
    let looked_at = filtered.is_some() || matches!(settings.genes, Genes::Top(_));
    let found = Found { total: found.total.filter(|_| !looked_at), ..found };
    let mut store = store::rows(settings, &inputs, &found, target, &chosen.kept, work)?;
    chosen.notes.append(&mut store.notes);
    work.all_done(&plan::passes(settings, found.scale))?;
    let bytes = aside::folder(&settings.out, |dir| {
        genes::write_table(&dir.join("var.csv"), &inputs.genes, &chosen)?;
        store.merge(dir)
    })?;
    let genes::Chosen { kept, mut notes, .. } = chosen;
    notes.extend(filled(&inputs, &found));
    let contents = Contents::of(inputs, found, &settings.control, kept.len(), notes);
    Ok(Summary { out: settings.out.clone(), contents, target, filtered, bytes })
}

fn check(settings: &Settings) -> Result<()> {
    let share = |share: f64| share > 0.0 && share.is_finite();
    let (knockdown, v3) = (settings.filters.knockdown.as_ref(), settings.flavor == Flavor::SeuratV3);
    if knockdown.is_some_and(|limits| !(share(limits.residual) && share(limits.cell_residual))) {
        return Err(Error::setting(
            "filters.knockdown",
            "give numbers above 0: shares of what control cells express",
        ));
    }
    if settings.rescale_before_hvg && v3 {
        let what =
            "seurat_v3 ranks raw counts, which are never rescaled; omit this, or give another `flavor`";
        return Err(Error::setting("rescale_before_hvg", what));
    }
    let columns = [
        ("perturbation", Some(&settings.perturbation)),
        ("cell_type", settings.cell_type.as_ref()),
        ("batch", settings.batch.as_ref()),
    ];
    // HDF5 takes a / for a group's end, and what is predicted would be written under that name.
    let unfit =
        |(_, column): &&(_, Option<&String>)| column.is_some_and(|column| column.contains(['/', '\0']));
    if let Some((field, Some(column))) = columns.iter().find(unfit) {
        let what =
            format!("{column:?} contains / or NUL, and such columns of an h5ad are not read: rename it");
        return Err(Error::setting(*field, what));
    }
    if matches!(settings.genes, Genes::Top(0)) {
        return Err(Error::setting("Genes::Top", "is 0, which leaves nothing to learn from"));
    }
    target::check(settings.target)
}

/// Explains what zeros mean for genes that a file lacks.
fn filled(inputs: &Inputs, found: &Found) -> Option<String> {
    let partial = inputs.shared.as_ref().filter(|shared| shared.partial > 0)?.partial;
    let totals = match found.scale {
        Scale::Counts => "the cell totals of those files cover only the genes they have",
        _ => "the logs of those files were taken without them",
    };
    Some(format!(
        "{partial} genes are set to zero in the files that lack them: unmeasured looks like unexpressed, and \
         {totals}"
    ))
}
