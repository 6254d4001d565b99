//! Evaluation from file to file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Settings;
use super::board::{Board, Draft};
use super::lognorm::holds_counts;
use super::report;
use super::rules::Controls;
use super::side::{Matrix, Side, check_shape, some};
use super::totals::shown;
use crate::data::h5ad::{Cells, H5ad, Labels};
use crate::data::population::{EFFECTS, Population, UNIT, Unit};
use crate::data::scale::natural;
use crate::error::{At, Error, Result, some_of};
use crate::memory;

/// Where the cells are and what their columns are called.
#[derive(Clone, Debug)]
pub struct Files {
    /// h5ad of measured cells.
    pub real: PathBuf,
    /// h5ad of predicted cells.
    pub pred: PathBuf,
    /// `obs` column of the perturbations, in both.
    pub perturbation: String,
    /// `obs` column to split by, in both; each part is judged separately.
    pub cell_type: Option<String>,
}

/// Cells of a side, and their cell types if they are to be split.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The cells.
    pub side: Side,
    /// One per cell.
    pub types: Option<Labels>,
}

/// Reads both files and evaluates them, together with all of `beside`: one board, or one per cell type, in the order in which the
/// real file first names them. `beside` are (name, cells) pairs, with cell types if the files are split; each is asked for when the
/// one before it is scored and dropped.
///
/// # Errors
/// What [`Sample::read`] and [`Board::of`] refuse, cell types that are in only one of the files or lack control cells, and those of
/// `beside`.
pub fn evaluate_files(
    files: &Files,
    beside: impl IntoIterator<Item = Result<(String, Sample)>>,
    settings: &Settings,
) -> Result<Vec<Board>> {
    // Labels are read and compared first: a wrong column name must not cost the time of reading two matrices.
    let open = |path| Opened::open(path, &files.perturbation, files.cell_type.as_deref());
    let (real, pred) = (open(&files.real)?, open(&files.pred)?);
    if let (Some(of_real), Some(of_pred)) = (&real.types, &pred.types) {
        check_types(of_real, &files.real, of_pred, &files.pred)?;
    }
    let (real, pred) = rayon::join(|| real.read(), || pred.read());
    compare(real?, pred?, beside, settings)
}

/// The same from memory.
///
/// # Errors
/// What [`Board::of`] refuses, cell types that are in only one of the samples or lack control cells, or are not one per cell, measured
/// cells that have cell types while others have none, and those of `beside`.
pub fn compare(
    real: Sample,
    pred: Sample,
    beside: impl IntoIterator<Item = Result<(String, Sample)>>,
    settings: &Settings,
) -> Result<Vec<Board>> {
    real.check_shape()?;
    real.check_controls(&settings.control)?;
    let split = Split::of(&real);
    pred.check(&split, settings)?;
    let parts = real.into_parts(&split);
    let mut drafts = Vec::new();
    for ((name, part), pred) in split.names.iter().zip(&parts).zip(pred.parts(&split)) {
        drafts.push(Draft::new(name.clone(), part, &pred, settings)?);
    }
    drop(pred);
    for sample in beside {
        let (name, sample) = sample?;
        sample.check(&split, settings)?;
        for (draft, part) in drafts.iter_mut().zip(sample.parts(&split)) {
            draft.add(&name, &part)?;
        }
    }
    drafts.into_iter().map(Draft::board).collect()
}

/// How the measured cells are split: all that is asked of them once they are.
struct Split {
    source: PathBuf,
    types: Option<Labels>,
    /// The cell types in the order of first appearance; `None` stands for all cells.
    names: Vec<Option<String>>,
}

impl Split {
    fn of(real: &Sample) -> Split {
        let names = match &real.types {
            Some(types) => in_order(types).into_iter().map(Some).collect(),
            None => vec![None],
        };
        Split { source: real.side.source.clone(), types: real.types.clone(), names }
    }
}

impl Sample {
    /// Cells from memory, with their cell types if they are to be split; `name` is what messages call them.
    ///
    /// # Errors
    /// Values of unit [`Unit::Scaled`].
    pub fn of(name: &str, population: Population, split: bool) -> Result<Sample> {
        scorable(population.unit.name(), Path::new(name))?;
        let [types, labels, _] = population.label_columns();
        let types = split.then_some(types);
        let (genes, total) = (population.genes.clone(), population.target);
        let x = Matrix::Sparse(population.into_cells());
        Ok(Sample { side: Side { source: PathBuf::from(name), x, labels, genes, total }, types })
    }

    /// The cells of an h5ad; `perturbation` and `cell_type` are columns of its obs.
    ///
    /// # Errors
    /// A file, X or column that is not there or cannot be read, more than memory holds, logarithms to another base than e, values of
    /// unit [`Unit::Scaled`], and mean effects.
    pub fn read(path: &Path, perturbation: &str, cell_type: Option<&str>) -> Result<Sample> {
        Opened::open(path, perturbation, cell_type)?.read()
    }

    /// Requires the cell types of the measured cells, if those are split, and control cells if it is compared with its own.
    fn check(&self, real: &Split, settings: &Settings) -> Result<()> {
        let Some(types) = &real.types else { return Ok(()) };
        let untold = || {
            let what = format!("has no cell types, but {} is split by cell type", real.source.display());
            Error::format(&self.side.source, what)
        };
        let own = self.types.as_ref().ok_or_else(untold)?;
        self.check_shape()?;
        check_types(types, &real.source, own, &self.side.source)?;
        match settings.rules.definitions().controls {
            Controls::Own => self.check_controls(&settings.control),
            Controls::Real => Ok(()),
        }
    }

    /// Requires cells that can be split, if they are to be: the splitting trusts their numbers.
    fn check_shape(&self) -> Result<()> {
        let Some(types) = &self.types else { return Ok(()) };
        check_shape(&self.side)?;
        let (cells, told, names) = (self.side.labels.codes.len(), types.codes.len(), types.names.len());
        if told != cells {
            return Err(self
                .side
                .error(format!("{cells} cells, but {told} cell types; each cell needs one")));
        }
        match types.codes.iter().find(|&&code| usize::try_from(code).is_ok_and(|code| code >= names)) {
            Some(code) => Err(self.side.error(format!("a cell type is number {code} of {names} names"))),
            None => Ok(()),
        }
    }

    /// Names the cell types that lack control cells where others have some. If none has any, the label is wrong, which is told
    /// when the first is scored.
    fn check_controls(&self, control: &str) -> Result<()> {
        let (Some(types), labels) = (&self.types, &self.side.labels) else { return Ok(()) };
        let code = labels.names.iter().position(|name| name == control).map(|code| code as i32);
        let controls = types.codes.iter().zip(&labels.codes).filter(|(_, label)| Some(**label) == code);
        // A cell without a type has no name: that is refused after this.
        let names = controls.filter_map(|(&own, _)| types.names.get(usize::try_from(own).ok()?));
        let with: HashSet<&str> = names.map(String::as_str).collect();
        let names = in_order(types);
        let without: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !with.contains(name)).collect();
        if with.is_empty() || without.is_empty() {
            return Ok(());
        }
        let (types, have, them) = match without.len() {
            1 => ("cell type", "has", "it"),
            _ => ("cell types", "have", "them"),
        };
        let what = format!(
            "{types} {} {have} no {control:?} cells; leave {them} out of both files",
            some_of(&without)
        );
        Err(Error::format(&self.side.source, what))
    }

    /// The cells of each type, or all of them.
    fn parts(&self, split: &Split) -> impl Iterator<Item = Cow<'_, Side>> {
        let types = self.types.as_ref().filter(|_| split.types.is_some());
        let cells = types.map_or(vec![Vec::new()], |types| cells_of(types, &split.names));
        split.names.iter().zip(cells).map(|(name, cells)| {
            let Some(name) = name else { return Cow::Borrowed(&self.side) };
            let mut part = self.side.subset(&cells);
            part.source = PathBuf::from(format!("{} ({name})", self.side.source.display()));
            Cow::Owned(part)
        })
    }

    /// The same without a copy of all of them, or with the copies alone.
    fn into_parts(self, split: &Split) -> Vec<Side> {
        match split.types {
            Some(_) => self.parts(split).map(Cow::into_owned).collect(),
            None => vec![self.side],
        }
    }
}

/// A file whose labels are read, but not its numbers.
struct Opened {
    file: H5ad,
    labels: Labels,
    types: Option<Labels>,
}

impl Opened {
    /// With the columns that are compared. An atlas has dozens more, and names for its cells, which nobody asks for.
    fn open(path: &Path, perturbation: &str, cell_type: Option<&str>) -> Result<Opened> {
        let columns: Vec<&str> = std::iter::once(perturbation).chain(cell_type).collect();
        let file = H5ad::open_columns(path, &columns, "X")?;
        if file.storage() == "none" {
            let what = "has no X, and so no expression to score: put a matrix there, as `adata.X = adata.layers[NAME]` does";
            return Err(Error::format(path, what));
        }
        check_unit(&file)?;
        let labels = file.labels(perturbation)?;
        let types = cell_type.map(|column| file.labels(column)).transpose()?;
        Ok(Opened { file, labels, types })
    }

    fn read(self) -> Result<Sample> {
        Ok(Sample { side: read(self.file, self.labels)?, types: self.types })
    }
}

/// Refuses a file whose maker recorded a unit that cannot be scored.
pub(crate) fn check_unit(file: &H5ad) -> Result<()> {
    scorable(&file.told(UNIT).unwrap_or_default(), file.path())
}

/// Refuses log1p values divided by the data's factor, which measures would take for log1p values of other cells, and mean effects.
fn scorable(unit: &str, source: &Path) -> Result<()> {
    let what = match unit {
        EFFECTS => {
            "holds mean effects, not cells: give the file that `predict` wrote to `out`, or to `real_out`"
        }
        _ if unit == Unit::Scaled.name() => {
            "holds what the network sees, log1p values divided by the data's factor; measures are of log1p values or counts: \
             write these with `unit = log1p`"
        }
        _ => return Ok(()),
    };
    Err(Error::format(source, what))
}

/// Path and SHA-256 of both files, the latter as `sha256sum` prints it.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprints(files: &Files) -> Result<Value> {
    let of = |path: &Path| -> Result<Value> {
        let mut file = std::fs::File::open(path).at(path)?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).at(path)?;
        Ok(json!({ "path": path, "sha256": format!("{:x}", hash.finalize()) }))
    };
    let (real, pred) = rayon::join(|| of(&files.real), || of(&files.pred));
    Ok(json!({ "real": real?, "pred": pred? }))
}

/// A file's X as it is stored: dense stays dense, for the sake of memory and of the median of its totals.
///
/// # Errors
/// X cannot be read or is more than memory holds; logarithms to another base than e, if the file states one and the cells' totals
/// do not prove otherwise.
fn read(file: H5ad, labels: Labels) -> Result<Side> {
    let (cells, genes) = file.shape();
    let x = if file.storage().starts_with("dense") {
        let bytes = (cells as u64).saturating_mul(genes as u64).saturating_mul(4);
        memory::check_file(file.path(), "the numbers of its dense X", bytes)?;
        let mut values = vec![0.0; cells * genes];
        for block in file.blocks() {
            let (range, rows) = block?;
            for (cell, row) in range.zip(rows.outer_iterator()) {
                row.iter().for_each(|(gene, &value)| values[cell * genes + gene] = value);
            }
        }
        Matrix::Dense { genes, values }
    } else {
        let most = file.stored().unwrap_or(0);
        memory::check_file(file.path(), "the values of its X", most.saturating_mul(8))?;
        // Growing would copy.
        let (mut columns, mut values) =
            (Vec::with_capacity(most as usize), Vec::with_capacity(most as usize));
        let mut starts = vec![0];
        for block in file.blocks() {
            let (_, rows) = block?;
            starts.extend(rows.outer_iterator().scan(values.len(), |end, row| {
                *end += row.nnz();
                Some(*end)
            }));
            columns.extend_from_slice(rows.indices());
            values.extend_from_slice(rows.data());
        }
        Matrix::Sparse(Cells::new((cells, genes), starts, columns, values))
    };
    let (source, genes, total) = (file.path().to_path_buf(), file.var().index.clone(), file.log_target());
    if file.log_base().is_some() {
        let proven = holds_counts(&x) || shown(&x).is_some();
        natural(file.log_base(), proven).map_err(|unclear| unclear.of_file(file.path(), ""))?;
    }
    Ok(Side { source, x, labels, genes, total })
}

fn check_types(real: &Labels, real_path: &Path, pred: &Labels, pred_path: &Path) -> Result<()> {
    let [a, b] = [in_order(real), in_order(pred)];
    let only =
        |a: &[String], b: &[String]| some(a.iter().filter(|name| !b.contains(name)).map(String::as_str));
    for (names, path) in [(only(&b, &a), pred_path), (only(&a, &b), real_path)] {
        if let Some(names) = names {
            return Err(Error::format(
                path,
                format!("cell types only here: {names}; both sides need the same cell types"),
            ));
        }
    }
    let mut files = BTreeMap::new();
    for name in &a {
        if let Some(other) = files.insert(report::prefix(name), name) {
            let what =
                format!("cell types {other:?} and {name:?} would share one results file; rename one of them");
            return Err(Error::format(real_path, what));
        }
    }
    for (labels, path) in [(real, real_path), (pred, pred_path)] {
        if let Some(cell) = labels.codes.iter().position(|&code| code < 0) {
            return Err(Error::format(path, format!("cell {cell} has no cell type")));
        }
    }
    Ok(())
}

/// Labels in the order of first appearance.
fn in_order(labels: &Labels) -> Vec<String> {
    let mut seen = vec![false; labels.names.len()];
    let mut names = Vec::new();
    for &code in labels.codes.iter().filter(|&&code| code >= 0) {
        if !std::mem::replace(&mut seen[code as usize], true) {
            names.push(labels.names[code as usize].clone());
        }
    }
    names
}

/// The cells that have each of the labels `names`.
fn cells_of(labels: &Labels, names: &[Option<String>]) -> Vec<Vec<u32>> {
    let places: HashMap<&str, usize> = names.iter().flatten().map(String::as_str).zip(0..).collect();
    let of_code: Vec<Option<usize>> =
        labels.names.iter().map(|name| places.get(name.as_str()).copied()).collect();
    let mut cells = vec![Vec::new(); names.len()];
    for (cell, &code) in (0..).zip(&labels.codes) {
        if let Some(place) = usize::try_from(code).ok().and_then(|code| of_code[code]) {
            cells[place].push(cell);
        }
    }
    cells
}
