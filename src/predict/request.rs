//! A user's request: populations over control cells of an .h5ad whose genes need not be in the model's order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::controls::{ControlLabels, Labelled, gene_keys};
use super::unseen::hint;
use super::{Ask, ControlFile, Job, Logs, Pool, Report, Runs, WrittenAs, held_cells};
use crate::data::h5ad::CellNames;
use crate::data::population::{LABELS, nonzero};
use crate::data::scale::{Found, Told, Unclear};
use crate::data::shard::{Manifest, Scale};
use crate::data::table::Table;
use crate::error::{Error, Result, some_of};
use crate::memory;
use crate::predictor::{ControlCells, Reading, Request, only_name};

/// What to do if the control cells do not say what their values are.
const SAY: &str = "say what they are with `scale = counts`, log1p or log1p10";
/// What to do if they can be neither.
const OTHER: &str = "; choose their counts or log1p values with `source`, such as raw or layers/NAME";
/// What to do if they lack many of the genes over which the run's totals were taken.
const TOTALS: &str =
    "give all genes, a column of total counts with `size`, or log1p values scaled by all genes";

/// A population that the request file asks for.
struct Row {
    /// Its line in the file.
    line: u64,
    perturbation: String,
    cell_type: String,
    batch: Option<String>,
    cells: usize,
}

/// Reads the request and gathers the control cells it needs; `keep`: their log1p values too, to be written.
pub fn job(
    runs: &Runs,
    controls: &ControlFile,
    request: &Path,
    keep: bool,
    report: &mut Report,
) -> Result<Job> {
    let manifest = runs.data();
    let rows = read(manifest, request)?;
    let cells = rows.iter().fold(0u64, |all, row| all.saturating_add(row.cells as u64));
    let what = "names and labels of the cells it asks for";
    memory::check_file(request, what, cells.saturating_mul(LABELS))?;
    let labelled = Labelled::open(manifest, controls, &mut report.notes)?;
    let labels = ControlLabels::read(manifest, &labelled)?;
    labels.tell(manifest, &labelled, report);
    let mut job = Job::default();
    let mut pools = PoolIndex::default();
    for row in rows {
        let batch = row.batch.as_deref().unwrap_or(&manifest.batches[0]);
        let wrong = |what: String| Error::format(request, format!("line {}: {what}", row.line));
        let conditions = manifest.ids(&row.cell_type, &row.perturbation, batch);
        let conditions =
            conditions.map_err(|what| wrong(what + hint(runs, &row.cell_type, &row.perturbation)))?;
        if let Some(what) = doubt(runs, &row.perturbation, keep).map_err(wrong)? {
            report.notes.push(format!("{}: line {}: {what}", request.display(), row.line));
        }
        let Some(pool) = pools.place(&labels, &row.cell_type, batch) else {
            let (control, cell_type, asked) = (&manifest.control, &row.cell_type, request.display());
            let what = format!(
                "has no control cells ({control:?}) of cell type {cell_type:?}, which {asked} asks for"
            );
            return Err(Error::format(&controls.path, what));
        };
        job.asks.push(Ask { request: Request { conditions, cells: row.cells }, pool });
    }
    let (keys, members): (Vec<_>, Vec<_>) = pools.all.into_iter().unzip();
    labels.tell_of_batches(&keys, &members, controls, report);
    let held = members.iter().map(|cells| cells.len() as u64).sum();
    let (what, bytes) = held_cells(held, manifest);
    memory::check_file(&controls.path, &what, bytes)?;
    let file = &labelled.file;
    let names = CellNames::of(file)?;
    report.notes.extend(names.note(file));
    let names = names.get(file, 0..file.shape().0)?;
    let mut cells = Wanted::of(&members, manifest, keep);
    cells.gather(manifest, &labelled, controls, report)?;
    (job.logs, job.untold, job.counts) = (cells.logs, cells.untold, cells.counts);
    for (((cell_type, batch), members), controls) in keys.into_iter().zip(&members).zip(cells.pools) {
        let cells = members.iter().map(|&cell| cell as u64).collect();
        let measured_in = |&cell: &usize| labels.batch(cell).unwrap_or(&batch).to_string();
        let batches = members.iter().map(measured_in).collect();
        let names = members.iter().map(|&cell| names[cell].clone()).collect();
        let labels = Some(WrittenAs { cell_type, cells, batches });
        job.pools.push(Pool { names, controls, labels });
    }
    Ok(job)
}

/// What to know of a perturbation that is asked for, if anything; the error says why it is not predicted.
fn doubt(runs: &Runs, name: &str, keep: bool) -> std::result::Result<Option<String>, String> {
    if let Some(run) = runs.untrained_on(name) {
        let run =
            if runs.iter().count() == 1 { "the run".to_string() } else { run.path.display().to_string() };
        return Err(format!("{run} {}", only_name(name)));
    }
    let what = format!("{name:?} is the control label");
    match name == runs.data().control {
        false => Ok(None),
        true if keep => {
            let what = format!("{what}: its predicted cells would be mixed with the measured controls");
            Err(format!("{what}; drop this line or `with_controls`"))
        }
        true => Ok(Some(format!("{what}: evaluation would take the predicted cells for measured controls"))),
    }
}

/// The pools that a request needs.
#[derive(Default)]
struct PoolIndex {
    /// By cell type and batch.
    of_name: BTreeMap<(String, String), usize>,
    /// For each, the cell type and batch that first needed it, and the control cells.
    all: Vec<((String, String), Vec<usize>)>,
}

impl PoolIndex {
    /// The pool of a cell type and batch: batches without controls of their own share those of the cell type. `None` without any.
    fn place(&mut self, labels: &ControlLabels, cell_type: &str, batch: &str) -> Option<usize> {
        let key = (cell_type.to_string(), batch.to_string());
        if let Some(&place) = self.of_name.get(&key) {
            return Some(place);
        }
        let cells = labels.pool(&key);
        if cells.is_empty() {
            return None;
        }
        let place = self.all.iter().position(|(_, known)| *known == cells).unwrap_or(self.all.len());
        if place == self.all.len() {
            self.all.push((key.clone(), cells));
        }
        self.of_name.insert(key, place);
        Some(place)
    }
}

/// The columns of a request, of which the batch may be missing.
const COLUMNS: [&str; 4] = ["perturbation", "cell_type", "batch", "cells"];

/// The place of each of [`COLUMNS`]; refuses a header that is not that of a request.
fn places(path: &Path, header: &[String]) -> Result<[Option<usize>; 4]> {
    let places = COLUMNS.map(|column| header.iter().position(|name| name == column));
    let is_known = |name: &String| COLUMNS.contains(&name.as_str());
    if header.iter().all(is_known) && [0, 1, 3].into_iter().all(|column| places[column].is_some()) {
        return Ok(places);
    }
    let (found, asked) = (some_of(header), COLUMNS.join(","));
    let what = format!("the columns are {found}; a request has {asked}, of which batch may be missing");
    Err(Error::format(path, what))
}

/// The number of populations that a request for a model of such data lists, for tests.
///
/// # Errors
/// Those of the file itself: whether its names are known is found when they are predicted.
pub fn count_requested(data: &Manifest, request: &Path) -> Result<usize> {
    read(data, request).map(|rows| rows.len())
}

fn read(manifest: &Manifest, path: &Path) -> Result<Vec<Row>> {
    let mut table = Table::open(path)?;
    let places = places(path, table.header())?;
    let mut rows = Vec::new();
    while let Some(row) = table.next()? {
        let [perturbation, cell_type, batch, cells] = places;
        // With its blanks if the model knows it so, else without.
        let name = |place: Option<usize>, is_known: &dyn Fn(&str) -> bool| {
            let Some(place) = place else { return String::new() };
            let exact = Some(row.exact(place)).filter(|exact| is_known(exact));
            exact.unwrap_or(row.at(place)).to_string()
        };
        let perturbation = name(perturbation, &|name| manifest.knows(name));
        let cell_type = name(cell_type, &|name| manifest.cell_types.iter().any(|known| known == name));
        let batch = name(batch, &|name| manifest.batches.iter().any(|known| known == name));
        let cells = cells.map_or("", |place| row.at(place)).parse().map_err(|_| {
            let asked = COLUMNS.join(",");
            row.wrong(format!("cells is not a whole number of 1 or more; columns are {asked}"))
        })?;
        let batch = Some(batch).filter(|batch| !batch.is_empty());
        rows.push(Row { line: row.line(), perturbation, cell_type, batch, cells });
    }
    if rows.is_empty() {
        return Err(Error::format(
            path,
            "asks for nothing; give one line per population: perturbation,cell_type,batch,cells",
        ));
    }
    let mut seen = HashSet::new();
    for row in &rows {
        let wrong = |what: &str| Err(Error::format(path, format!("line {}: {what}", row.line)));
        if row.cells == 0 {
            return wrong("cells is 0");
        }
        if row.batch.is_none() && manifest.batches.len() > 1 {
            let some = manifest.batches.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            return wrong(&format!("the model knows several batches ({some}); name one"));
        }
        let batch = row.batch.as_ref().unwrap_or(&manifest.batches[0]);
        if !seen.insert((&row.perturbation, &row.cell_type, batch)) {
            return wrong(
                "repeats a population of an earlier line, which would give the same cells; ask for more \
                 cells on one line instead",
            );
        }
    }
    Ok(rows)
}

/// The control cells to read.
struct Wanted {
    /// For each cell, the pools that want it and its row there.
    places: HashMap<usize, Vec<(usize, usize)>>,
    pools: Vec<ControlCells>,
    keep: bool,
    /// Filled if `keep` is true.
    logs: Logs,
    /// As in [`Job`].
    untold: bool,
    /// As in [`Job`].
    counts: bool,
}

impl Wanted {
    /// Each pool's cells in the order of `members`, still empty.
    fn of(members: &[Vec<usize>], manifest: &Manifest, keep: bool) -> Wanted {
        let blank = |cells: &Vec<usize>| ControlCells::blank(cells.len(), manifest);
        let pools = members.iter().map(blank).collect();
        let mut places: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
        for (pool, cells) in members.iter().enumerate() {
            for (row, &cell) in cells.iter().enumerate() {
                places.entry(cell).or_default().push((pool, row));
            }
        }
        Wanted { places, pools, keep, logs: Logs::new(), untold: false, counts: false }
    }

    /// Reads the file once, block by block.
    fn gather(
        &mut self,
        manifest: &Manifest,
        labelled: &Labelled,
        controls: &ControlFile,
        report: &mut Report,
    ) -> Result<()> {
        let file = &labelled.file;
        let wrong = |what: String| Error::format(file.path(), what);
        let first = file.blocks().next().transpose()?;
        let first = first.ok_or_else(|| wrong("contains no cells".into()))?.1;
        let found = Found::of(&first, &Told::of(file, controls.scale));
        let found = found.map_err(|unclear| match unclear {
            Unclear::Impossible(_) => unclear.of_file(file.path(), SAY).followed_by(OTHER),
            _ => unclear.of_file(file.path(), SAY),
        })?;
        report.notes.push(format!("{}: {}", file.path().display(), found.why));
        self.counts = found.scale == Scale::Counts;
        self.untold = !self.counts && found.target.is_none();
        let keys = gene_keys(manifest, file)?;
        let reading = Reading::new(manifest, keys.model, &keys.file, &found).map_err(wrong)?;
        (report.ignored_genes, report.missing_genes) = (reading.ignored(), reading.missing.clone());
        let sizes = match totals(manifest, labelled, controls.size.as_deref(), found.scale)? {
            None => {
                let note = reading.part_of_genes(file.shape().1);
                let note = note.map_err(|what| wrong(format!("{what}; {TOTALS}")))?;
                report.notes.extend(note.map(|what| format!("{}: {what}", file.path().display())));
                None
            }
            told => told,
        };
        for block in file.blocks() {
            let (range, cells) = block?;
            for (stored, cell) in cells.outer_iterator().zip(range) {
                let told = sizes.as_ref().map(|sizes| sizes[cell]);
                self.take(cell, |out| reading.cell(stored.indices(), stored.data(), told, out), manifest)
                    .map_err(|what| wrong(format!("cell {:?}: {what}", file.cell_name(cell))))?;
            }
        }
        Ok(())
    }

    /// Lets `read` write a cell wherever it is wanted.
    fn take(
        &mut self,
        cell: usize,
        read: impl Fn(&mut [f32]) -> std::result::Result<f32, String>,
        manifest: &Manifest,
    ) -> std::result::Result<(), String> {
        for &(pool, row) in self.places.get(&cell).into_iter().flatten() {
            let pool = &mut self.pools[pool];
            pool.library[row] = read(pool.place(row))?;
            if self.keep {
                self.logs.entry(cell as u64).or_insert_with(|| nonzero(pool.place(row)));
            }
            pool.divide(row, manifest.factor);
        }
        Ok(())
    }
}

/// Total counts of each cell from the column that gives them, if there is one.
fn totals(
    manifest: &Manifest,
    labelled: &Labelled,
    size: Option<&str>,
    scale: Scale,
) -> Result<Option<Vec<f32>>> {
    let own = manifest.columns.size.as_deref().filter(|_| scale == Scale::Counts);
    let Some(column) = size.or(own) else { return Ok(None) };
    let untold = |error: Error| match size {
        Some(_) => error,
        None => error.followed_by(
            "; the run's totals are from that column: name another with `size`, or give log1p values",
        ),
    };
    labelled.numbers(column).map(Some).map_err(untold)
}
