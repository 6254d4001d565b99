//! Control cells of one context, on the network's scale: from a data directory, or from a matrix with its genes in any order.

use std::collections::HashMap;

use rayon::prelude::*;

use super::means::Sum;
use crate::data::h5ad::Cells;
use crate::data::normalise::{divisor, library, log_value};
use crate::data::scale::{Found, Refusal, Told};
use crate::data::shard::{Data, Manifest, Meaning, Scale};
use crate::error::{Error, Result};

/// A model that lacks values for more than this share of its genes is guessing.
const MISSING_SHARE: f64 = 0.2;

/// Control cells of one context, for models that learned from data whose numbers mean the same: genes, factor, total.
#[derive(Clone)]
pub struct ControlCells {
    /// Dense rows `[cells, G]`, log1p divided by the data's factor.
    pub(crate) rows: Vec<f32>,
    /// Total counts of each cell over all genes of its source; NaN if unknown.
    pub(crate) library: Vec<f32>,
    /// G.
    genes: usize,
    /// What the numbers stand for.
    pub(super) meaning: Meaning,
    missing: Vec<String>,
    ignored: usize,
}

brief!(ControlCells, |controls| cells: controls.len(), genes: controls.genes);

impl ControlCells {
    /// Gathers cells of a data directory.
    ///
    /// # Panics
    /// If one of the cells does not exist.
    pub fn of(data: &Data, cells: &[u64]) -> ControlCells {
        let mut controls = ControlCells::blank(cells.len(), data.manifest());
        let rows = controls.rows.par_chunks_mut(controls.genes).zip(&mut controls.library);
        rows.zip(cells).for_each(|((row, library), &cell)| {
            data.fill(cell, row);
            *library = data.row(cell).library;
        });
        controls
    }

    /// Takes cells from memory: `x` `[cells, genes]` holds counts or natural log1p values, `genes` names its columns, `totals`
    /// holds each cell's counts over all measured genes, if their sum in `x` is not that. `told` is what is known about the values:
    /// [`Told::of`] for a file, the default for nothing. With the default, their scale is inferred from the values, as in
    /// `preprocess`; log values of only some genes cannot be recognised that way.
    ///
    /// # Errors
    /// Sizes that disagree; values that are neither counts nor log values; another total than the run's; too many of its genes
    /// missing (a few are zero, see [`ControlCells::missing`]); no totals, if the run's are not the sums over all genes, or `x` has fewer genes.
    pub fn of_matrix(
        manifest: &Manifest,
        genes: &[String],
        x: &Cells,
        totals: Option<&[f32]>,
        told: Told,
    ) -> Result<ControlCells> {
        let wrong = |what: String| Error::setting("controls", what);
        if !x.is_csr() || x.cols() != genes.len() || totals.is_some_and(|totals| totals.len() != x.rows()) {
            let (cells, columns) = x.shape();
            let told = totals.map_or(String::new(), |totals| format!(", {} totals", totals.len()));
            let what = format!(
                "expected a CSR matrix with one name per column and, if there are totals, one total per cell; found [{cells}, {columns}] with {} names",
                genes.len()
            );
            return Err(wrong(format!("{what}{told}{}", if x.is_csr() { "" } else { ", stored as CSC" })));
        }
        let found = Found::of(x, &told).map_err(|unclear| {
            let recorded = "and leave out `Told::base`, or just leave it out if it is wrong";
            wrong(unclear.with(recorded, "say what they are (`Told::scale`, or `Told::logged`)"))
        })?;
        let reading = Reading::new(manifest, &manifest.genes, genes, &found).map_err(wrong)?;
        if totals.is_none() && reading.found.scale == Scale::Counts {
            let of_column =
                manifest.columns.size.as_ref().map(|column| format!("come from column {column:?}"));
            let part = reading.part_of_genes(genes.len()).unwrap_or_else(Some);
            if let Some(what) = of_column.map(|of| format!("the run's totals {of}")).or(part) {
                return Err(Error::setting("totals", format!("{what}; give each cell's total counts")));
            }
        }
        let mut controls = ControlCells::blank(x.rows(), manifest);
        (controls.missing, controls.ignored) = (reading.missing.clone(), reading.ignored());
        for (cell, row) in x.outer_iterator().enumerate() {
            let told = totals.map(|totals| totals[cell]);
            let read = reading.cell(row.indices(), row.data(), told, controls.place(cell));
            controls.library[cell] = read.map_err(|what| wrong(format!("cell {cell}: {what}")))?;
            controls.divide(cell, manifest.factor);
        }
        Ok(controls)
    }

    /// `cells` empty cells, to be written, for models of data with this manifest.
    pub(crate) fn blank(cells: usize, manifest: &Manifest) -> ControlCells {
        let (genes, meaning) = (manifest.genes.len(), manifest.meaning());
        let (rows, library) = (vec![0.0; cells * genes], vec![f32::NAN; cells]);
        ControlCells { rows, library, genes, meaning, missing: Vec::new(), ignored: 0 }
    }

    /// One cell's numbers, `[G]`, to be written.
    pub(crate) fn place(&mut self, cell: usize) -> &mut [f32] {
        &mut self.rows[cell * self.genes..][..self.genes]
    }

    /// Brings one cell's log1p values to the network's scale.
    pub(crate) fn divide(&mut self, cell: usize, factor: f32) {
        self.place(cell).iter_mut().for_each(|x| *x /= factor);
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.library.len()
    }

    /// True if there are no cells.
    pub fn is_empty(&self) -> bool {
        self.library.is_empty()
    }

    /// Genes of the model that [`ControlCells::of_matrix`] found no column for: the model sees zeros.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Number of columns of that matrix whose genes the model does not know.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Mean over the cells, `[G]`: log1p divided by the data's factor; zeros if there are no cells.
    pub fn mean(&self) -> Vec<f64> {
        let mut sum = Sum::new(self.genes);
        sum.add((0..self.len()).map(|cell| self.row(cell)));
        sum.mean(1.0)
    }

    /// One cell's numbers, `[G]`.
    pub(super) fn row(&self, cell: usize) -> &[f32] {
        &self.rows[cell * self.genes..][..self.genes]
    }
}

/// How rows of a matrix become what the network sees: where its genes are in the model, and on what scale its values are.
pub(crate) struct Reading<'a> {
    manifest: &'a Manifest,
    /// What the values are.
    found: Found,
    /// Place of each column in the model, `None` if the model does not know the gene.
    places: Vec<Option<u32>>,
    /// Genes of the model that the matrix lacks: they are zero.
    pub missing: Vec<String>,
}

impl<'a> Reading<'a> {
    /// For columns with these names, or other keys, where `own` are those of the model's genes in their order. The error says why they
    /// cannot be the model's, or why the scale is another.
    pub fn new(
        manifest: &'a Manifest,
        own: &[String],
        genes: &[String],
        found: &Found,
    ) -> std::result::Result<Reading<'a>, String> {
        let place: HashMap<&str, u32> = own.iter().map(String::as_str).zip(0..).collect();
        let mut seen = vec![false; manifest.genes.len()];
        let mut places = Vec::with_capacity(genes.len());
        for name in genes {
            let column = place.get(name.as_str()).copied();
            if let Some(g) = column
                && std::mem::replace(&mut seen[g as usize], true)
            {
                return Err(format!("gene {name:?} appears twice in var; make the names unique"));
            }
            places.push(column);
        }
        let missing = manifest.genes.iter().zip(&seen).filter(|(_, seen)| !**seen);
        let missing: Vec<String> = missing.map(|(gene, _)| gene.clone()).collect();
        let all = manifest.genes.len();
        if missing.len() as f64 > MISSING_SHARE * all as f64 {
            return Err(format!(
                "lacks {} of the model's {all} genes, e.g. {:?}; var names must be of the kind the run was trained on, e.g. {:?}",
                missing.len(),
                missing[0],
                own[0]
            ));
        }
        // Genes and factor are brought to the run's here; the total must be the run's already.
        let own = manifest.meaning();
        match own.difference(&own.on(found.scale, found.target)) {
            Some(other) => Err(other.told("in the run", "here") + &other.way()),
            None => Ok(Reading { manifest, found: found.clone(), places, missing }),
        }
    }

    /// Number of genes that the model does not know.
    pub fn ignored(&self) -> usize {
        self.places.iter().filter(|place| place.is_none()).count()
    }

    /// A note if the counts cover fewer genes than the run's totals were summed over: scaled by their own sums, such cells come out
    /// too large. An error if they cover less than half as many.
    pub fn part_of_genes(&self, here: usize) -> std::result::Result<Option<String>, String> {
        let there = self.manifest.source_genes.unwrap_or(0);
        if self.found.scale != Scale::Counts || here >= there {
            return Ok(None);
        }
        let what = format!("its cells' totals are over {here} genes, but those of the run were over {there}");
        if 2 * here >= there {
            return Ok(Some(what));
        }
        Err(what)
    }

    /// Reads the log1p values of a cell into `out` `[G]`, zero before, in the model's order: not yet divided by the factor, as a
    /// division and a product would not give back the bits that evaluation compares. Returns its total counts, NaN if
    /// log values hide them; `told` is the total from a source that knows better than the sum.
    pub fn cell(
        &self,
        genes: &[u32],
        values: &[f32],
        told: Option<f32>,
        out: &mut [f32],
    ) -> std::result::Result<f32, String> {
        let scale = self.found.scale;
        if let Some(refusal) = self.found.refusal(values, told) {
            let way = match refusal {
                Refusal::Scale(_) => "; give control cells that are all on one scale",
                Refusal::Value { value, .. } if value.is_finite() && value > 0.0 => {
                    ", unlike other values; give counts alone, or say that they are logarithms"
                }
                Refusal::Value { .. } => "",
                Refusal::Total(_) => "; give other totals, or another column of them (`ControlFile::size`)",
            };
            return Err(format!("{refusal}{way}"));
        }
        let target = self.manifest.target;
        if let Some(target) = target
            && let Some(sum) = self.found.beyond(values, target)
        {
            return Err(format!(
                "has values that sum to {sum:.0} counts, more than the {target} to which the run's cells are scaled; give the \
                 counts, or scale to {target}"
            ));
        }
        let library = library(values, told, scale, target);
        let divisor = target.map_or(1.0, |target| divisor(library, target));
        for (&gene, &value) in genes.iter().zip(values) {
            if let Some(g) = self.places[gene as usize] {
                out[g as usize] = log_value(value, scale, divisor);
            }
        }
        Ok(library)
    }
}
