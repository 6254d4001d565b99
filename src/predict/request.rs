//! A user's request: populations over control cells of an .h5ad whose genes need not stand in the model's order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::{Ask, Context, Job, Report, controls_fit};
use crate::data::h5ad::{Cells, H5ad, Labels};
use crate::data::preprocess::normalise::{factor, log_value, total};
use crate::data::preprocess::scale::of_file;
use crate::data::preprocess::sizes::refusal;
use crate::data::shard::{Manifest, Scale};
use crate::error::{Error, Result, unknown};
use crate::memory;
use crate::predictor::{ControlCells, Request};

/// A line of the request file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    perturbation: String,
    cell_type: String,
    batch: Option<String>,
    cells: usize,
}

/// A model that is blind to more of its genes than this share guesses.
const MISSING_SHARE: f64 = 0.2;

/// Reads the request and gathers the control cells it needs.
pub fn job(
    manifest: &Manifest,
    (controls, size): (&Path, Option<&str>),
    request: &Path,
    report: &mut Report,
) -> Result<Job> {
    let rows = read(manifest, request)?;
    // A number that is not zero takes eight bytes; of counts one in thirty may be.
    let cells = rows.iter().fold(0u64, |all, row| all.saturating_add(row.cells as u64));
    let bytes = cells.saturating_mul(manifest.genes.len() as u64) / 4;
    memory::fits(&request.display().to_string(), "the cells it asks for", bytes)?;
    let file = H5ad::open(controls)?;
    let labels = ControlLabels::read(manifest, &file)?;
    labels.tell(manifest, &file, report);
    let mut job = Job { contexts: Vec::new(), asks: Vec::new() };
    // By name, and by the cells: batches without controls of their own share those of the cell type.
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut pools: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut keys = Vec::new();
    for (i, row) in rows.into_iter().enumerate() {
        let batch_name = row.batch.unwrap_or_else(|| manifest.batches[0].clone());
        let conditions = ids(manifest, &row.cell_type, &row.perturbation, &batch_name)
            .map_err(|what| Error::format(request, format!("line {}: {what}", i + 2)))?;
        let key = (row.cell_type.clone(), batch_name.clone());
        let context = match places.get(&key) {
            Some(&context) => context,
            None => {
                let cells = labels.pool(&key);
                if cells.is_empty() {
                    let what = format!(
                        "holds no control cells ({:?}) of cell type {:?}, which {} asks for",
                        manifest.control,
                        key.0,
                        request.display()
                    );
                    return Err(Error::format(controls, what));
                }
                let next = pools.len();
                let place = *pools.entry(cells).or_insert(next);
                if place == next {
                    keys.push(key.clone());
                }
                places.insert(key, place);
                place
            }
        };
        let request = Request { conditions, cells: row.cells };
        let (perturbation, cell_type) = (row.perturbation, row.cell_type);
        job.asks.push(Ask { perturbation, cell_type, batch: batch_name, request, context });
    }
    let mut members = vec![Vec::new(); pools.len()];
    pools.into_iter().for_each(|(cells, place)| members[place] = cells);
    let held = members.iter().map(|cells| cells.len() as u64).sum();
    controls_fit(&controls.display().to_string(), held, manifest)?;
    let read = gather(manifest, &file, size, &members, report)?;
    for (((cell_type, batch), members), controls) in keys.into_iter().zip(&members).zip(read) {
        let cells = members.iter().map(|&cell| cell as u64).collect();
        let measured_in = |&cell: &usize| labels.batch(cell).unwrap_or(&batch).to_string();
        let batches = members.iter().map(measured_in).collect();
        let names = members.iter().map(|&cell| file.cell_name(cell)).collect();
        job.contexts.push(Context { cell_type, cells, names, batches, controls });
    }
    Ok(job)
}

/// Ids of a population's names in the model's vocabularies; of an unknown one the nearest are told.
pub fn ids(
    manifest: &Manifest,
    cell_type: &str,
    perturbation: &str,
    batch: &str,
) -> std::result::Result<[u32; 3], String> {
    let id = |kind: &str, name: &str, names: &[String]| match names.iter().position(|n| n == name) {
        Some(id) => Ok(id as u32),
        None => Err(unknown(kind, name, names)),
    };
    Ok([
        id("cell type", cell_type, &manifest.cell_types)?,
        id("perturbation", perturbation, &manifest.perturbations)?,
        id("batch", batch, &manifest.batches)?,
    ])
}

fn read(manifest: &Manifest, path: &Path) -> Result<Vec<Row>> {
    let bad = |e: csv::Error| {
        let what = match e.kind() {
            csv::ErrorKind::Deserialize { pos: Some(pos), err } if err.field().is_some() => {
                format!("line {}: cells is no whole number from 1 up", pos.line())
            }
            _ => e.to_string(),
        };
        Error::format(path, format!("{what}; columns are perturbation,cell_type,batch,cells"))
    };
    let mut reader = csv::Reader::from_path(path).map_err(bad)?;
    let rows: Vec<Row> = reader.deserialize().collect::<std::result::Result<_, _>>().map_err(bad)?;
    if rows.is_empty() {
        return Err(Error::format(
            path,
            "asks for nothing; one line a population: perturbation,cell_type,batch,cells",
        ));
    }
    let mut seen = HashSet::new();
    for (i, row) in rows.iter().enumerate() {
        if row.cells == 0 {
            return Err(Error::format(path, format!("line {}: cells is 0", i + 2)));
        }
        if row.batch.is_none() && manifest.batches.len() > 1 {
            let some = manifest.batches.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            return Err(Error::format(
                path,
                format!("line {}: the model knows several batches ({some}); name one", i + 2),
            ));
        }
        let batch = row.batch.as_ref().unwrap_or(&manifest.batches[0]);
        if !seen.insert((&row.perturbation, &row.cell_type, batch)) {
            let what =
                "asks for a population a second time, and would get the same cells; ask for more cells once";
            return Err(Error::format(path, format!("line {}: {what}", i + 2)));
        }
    }
    Ok(rows)
}

/// Labels of the cells of a file of controls.
struct ControlLabels {
    cell_type: Labels,
    batch: Option<Labels>,
    /// Which cells are controls: all where the file does not tell.
    control: Vec<bool>,
    all_controls: bool,
}

impl ControlLabels {
    fn read(manifest: &Manifest, file: &H5ad) -> Result<ControlLabels> {
        let columns = &manifest.columns;
        let labels = |column: &str| file.obs().labels(file.path(), column);
        let optional = |column: &str| file.obs().column(column).is_some().then(|| labels(column)).transpose();
        let cell_type = labels(&columns.cell_type)?;
        let batch = columns.batch.as_deref().map(optional).transpose()?.flatten();
        let perturbation = optional(&columns.perturbation)?;
        let is_control =
            |i| perturbation.as_ref().is_none_or(|l| l.get(i) == Some(manifest.control.as_str()));
        let control = (0..cell_type.len()).map(is_control).collect();
        Ok(ControlLabels { cell_type, batch, control, all_controls: perturbation.is_none() })
    }

    /// Says what the file does not tell.
    fn tell(&self, manifest: &Manifest, file: &H5ad, report: &mut Report) {
        let columns = &manifest.columns;
        let lacks = |column: &str| format!("{}: obs has no column {column:?}", file.path().display());
        if self.all_controls {
            report
                .notes
                .push(format!("{}; all its cells are taken as controls", lacks(&columns.perturbation)));
        }
        if let Some(column) = columns.batch.as_deref().filter(|_| self.batch.is_none()) {
            report.notes.push(format!("{}; controls are taken from all of a cell type", lacks(column)));
        }
    }

    /// The batch of a cell, where the file tells.
    fn batch(&self, cell: usize) -> Option<&str> {
        self.batch.as_ref().and_then(|labels| labels.get(cell))
    }

    /// Control cells of (cell type, batch), else of the cell type in any batch.
    fn pool(&self, (c, b): &(String, String)) -> Vec<usize> {
        let of_type = |&i: &usize| self.control[i] && self.cell_type.get(i) == Some(c.as_str());
        let of_type: Vec<usize> = (0..self.cell_type.len()).filter(of_type).collect();
        if self.batch.is_none() {
            return of_type;
        }
        let of_batch: Vec<usize> =
            of_type.iter().copied().filter(|&i| self.batch(i) == Some(b.as_str())).collect();
        if of_batch.is_empty() { of_type } else { of_batch }
    }
}

/// Where each gene of the file stands in the model, `None` where the model does not know it.
fn align(manifest: &Manifest, file: &H5ad, report: &mut Report) -> Result<Vec<Option<u32>>> {
    let place: HashMap<&str, u32> = manifest.genes.iter().map(String::as_str).zip(0..).collect();
    let mut seen = vec![false; manifest.genes.len()];
    let mut columns = Vec::with_capacity(file.shape().1);
    for name in &file.var().index {
        let column = place.get(name.as_str()).copied();
        if let Some(g) = column
            && std::mem::replace(&mut seen[g as usize], true)
        {
            return Err(Error::format(
                file.path(),
                format!("gene {name:?} stands twice in var; make names unique"),
            ));
        }
        columns.push(column);
    }
    report.ignored_genes = columns.iter().filter(|c| c.is_none()).count();
    report.missing_genes =
        manifest.genes.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(gene, _)| gene.clone()).collect();
    if report.missing_genes.len() as f64 > MISSING_SHARE * manifest.genes.len() as f64 {
        let (missing, all) = (report.missing_genes.len(), manifest.genes.len());
        let what = format!(
            "lacks {missing} of the model's {all} genes, e.g. {:?}; var names must be of the kind the run was trained on, e.g. {:?}",
            report.missing_genes[0], manifest.genes[0]
        );
        return Err(Error::format(file.path(), what));
    }
    Ok(columns)
}

/// Reads the file once, block by block, and keeps the wanted cells, each context's in the order of `members`.
fn gather(
    manifest: &Manifest,
    file: &H5ad,
    size: Option<&str>,
    members: &[Vec<usize>],
    report: &mut Report,
) -> Result<Vec<ControlCells>> {
    let genes = manifest.genes.len();
    let columns = align(manifest, file, report)?;
    let first = file.blocks().next().transpose()?;
    let first = first.ok_or_else(|| Error::format(file.path(), "holds no cells"))?.1;
    let found = of_file(file, &first)?;
    report.notes.push(format!("{}: {}", file.path().display(), found.why));
    if let Some(what) = manifest.other_total(found.scale, found.target) {
        return Err(Error::format(file.path(), what));
    }
    let target = manifest.target.unwrap_or(f64::NAN) as f32;
    let sizes = totals(manifest, file, size, found.scale, report)?;
    let mut contexts: Vec<ControlCells> = members
        .iter()
        .map(|cells| ControlCells {
            rows: vec![0.0; cells.len() * genes],
            library: vec![f32::NAN; cells.len()],
        })
        .collect();
    let mut wanted: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
    for (context, cells) in members.iter().enumerate() {
        for (row, &cell) in cells.iter().enumerate() {
            wanted.entry(cell).or_default().push((context, row));
        }
    }
    for block in file.blocks() {
        let (range, cells) = block?;
        if let Some(bad) = cells.data().iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::format(
                file.path(),
                format!("X holds {bad}; counts or log1p values are finite and not negative"),
            ));
        }
        for (i, cell) in range.enumerate() {
            for &(context, row) in wanted.get(&cell).into_iter().flatten() {
                let ControlCells { rows, library } = &mut contexts[context];
                let out = &mut rows[row * genes..][..genes];
                let told = sizes.as_ref().map(|sizes| sizes[cell]);
                let stored = cells.outer_view(i).expect("a row of the block");
                if let Some(what) = told.and_then(|told| refusal(told, stored.data(), found.scale)) {
                    let what = format!("cell {:?}: the column of totals has {what}", file.cell_name(cell));
                    return Err(Error::format(file.path(), what));
                }
                library[row] = fill(manifest, (found.scale, target, told), &cells, i, &columns, out);
            }
        }
    }
    Ok(contexts)
}

/// Total counts of each cell by the column that tells them, where there is one. Counts of a part of the genes over whose sum the run's
/// cells were scaled would be scaled to too much: of less than half of them that is refused.
fn totals(
    manifest: &Manifest,
    file: &H5ad,
    size: Option<&str>,
    scale: Scale,
    report: &mut Report,
) -> Result<Option<Vec<f32>>> {
    let own = manifest.columns.size.as_deref().filter(|_| scale == Scale::Counts);
    if let Some(column) = size.or(own) {
        let untold = |error| match (error, size) {
            (Error::Format { path, what }, None) => {
                let way =
                    "the run's totals are of that column: name another with --size-col, or give log1p values";
                Error::Format { path, what: format!("{what}; {way}") }
            }
            (error, _) => error,
        };
        return file.obs().numbers(file.path(), column).map(Some).map_err(untold);
    }
    let (here, there) = (file.shape().1, manifest.source_genes.unwrap_or(0));
    if scale != Scale::Counts || here >= there {
        return Ok(None);
    }
    let what = format!("its cells' totals are over {here} genes, those of the run were over {there}");
    if 2 * here < there {
        let way =
            "give all genes, a column of total counts with --size-col, or log1p values scaled by all genes";
        return Err(Error::format(file.path(), format!("{what}; {way}")));
    }
    report.notes.push(format!("{}: {what}", file.path().display()));
    Ok(None)
}

/// Row `i` on the network's scale, genes in the model's order; returns the library size (NaN where log values hide it).
fn fill(
    manifest: &Manifest,
    (scale, target, told): (Scale, f32, Option<f32>),
    cells: &Cells,
    i: usize,
    columns: &[Option<u32>],
    out: &mut [f32],
) -> f32 {
    let row = cells.outer_view(i).expect("a row of the block");
    let library = told.unwrap_or_else(|| total(row.data()));
    let size = factor(library, target);
    let mut smallest = f32::INFINITY;
    for (&gene, &value) in row.indices().iter().zip(row.data()) {
        let log = log_value(value, scale, size);
        if log > 0.0 {
            smallest = smallest.min(log);
        }
        if let Some(g) = columns[gene as usize] {
            out[g as usize] = log / manifest.factor;
        }
    }
    match scale {
        Scale::Counts => library,
        _ if told.is_some() => library,
        // The smallest value of a cell is one count: target / library.
        _ if smallest.is_finite() => target / smallest.exp_m1(),
        _ => f32::NAN,
    }
}
