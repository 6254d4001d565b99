//! The passes that sum what the choice of genes needs: a gene's values and their squares, for each batch.

use std::path::Path;

use super::Settings;
use super::block::{Block, Part};
use super::hvg::{Flavor, Moments};
use super::input::Inputs;
use super::scale;
use super::seurat_v3::Expected;
use super::store::FACTOR;
use super::work::{Findings, Passed, Saved, Work};
use crate::data::normalise::{divisor, exp_m1, log_value};
use crate::data::scale::Found;
use crate::data::shard::{Scale, low_bits};
use crate::error::{Error, Result};

/// Counts below this are transformed only once per cell.
const KNOWN: usize = 32;

/// One pass: checks every value and accumulates what the flavour needs, one set of moments per
/// batch and one for the cells without a batch.
pub(super) fn find(
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: f64,
    work: &Work,
) -> Passed<Vec<Moments>> {
    let (genes, batches) = (inputs.genes.len(), inputs.hvg_batches);
    let mut all = vec![Moments::new(genes); batches + 1];
    let find = |part: &Part, _: &Path| {
        let mut sums: Vec<Option<Sums>> = (0..=batches).map(|_| None).collect();
        let prepare = |block: &Block| {
            scale::check(block, found)?;
            Ok(transformed(settings, block, found.scale, target))
        };
        inputs.walk(part, &work.progress, prepare, |block, numbers| {
            let starts = block.cells.indptr();
            for (row, genes, _) in block.used() {
                let batch = &mut sums[batch_of(&block, row, batches)];
                let sums = batch.get_or_insert_with(|| Sums::new(inputs.genes.len()));
                let span = starts.outer_inds_sz(row - block.rows.start);
                sums.add(genes, &numbers[span], block.input.places());
            }
            Ok(())
        })?;
        Ok(PartMoments::of(sums.into_iter().map(|sums| sums.map(Sums::moments)).collect()))
    };
    work.pass("moments", inputs, find, |_, _, found| found.join(&mut all, work.dir()))?;
    Ok(all)
}

/// The values that a flavour ranks, for every stored value of a block.
fn transformed(settings: &Settings, block: &Block, scale: Scale, target: f64) -> Vec<f32> {
    let flavor = settings.flavor;
    let stored = block.cells.data();
    if flavor == Flavor::SeuratV3 {
        return stored.to_vec();
    }
    let mut numbers = Vec::with_capacity(stored.len());
    for (row, cell) in block.rows.clone().zip(block.cells.outer_iterator()) {
        let stored = cell.data();
        let divisor = if scale == Scale::Counts { divisor(block.total(row, stored), target) } else { 1.0 };
        let transform = |value: f32| {
            let log = match (settings.rescale_before_hvg, scale) {
                (false, _) => log_value(value, scale, divisor),
                (true, Scale::Log1p10) => value,
                (true, _) => log_value(value, scale, divisor) / FACTOR,
            };
            // Not the normalised count itself: scanpy takes expm1 of the f32 logarithm, and so do we.
            if flavor == Flavor::Seurat { exp_m1(log) } else { log }
        };
        if scale != Scale::Counts {
            numbers.extend(stored.iter().map(|&value| transform(value)));
            continue;
        }
        // A cell holds few distinct counts, and `check` has made sure that they are whole.
        let mut known = [f32::NAN; KNOWN];
        numbers.extend(stored.iter().map(|&value| {
            if value >= KNOWN as f32 {
                return transform(value);
            }
            let known = &mut known[low_bits(value) as usize % KNOWN];
            if known.is_nan() {
                *known = transform(value);
            }
            *known
        }));
    }
    numbers
}

/// One more pass over counts: sums of the counts clipped to their gene's limit in the batch, one set per batch.
pub(super) fn clipped(inputs: &Inputs, expected: &[Expected], work: &Work) -> Passed<Vec<Moments>> {
    let mut all = vec![Moments::new(inputs.genes.len()); expected.len()];
    let find = |part: &Part, _: &Path| {
        let mut moments: Vec<Option<Moments>> = vec![None; expected.len()];
        inputs.walk(
            part,
            &work.progress,
            |_| Ok(()),
            |block, ()| {
                for (row, genes, counts) in block.used() {
                    let batch = batch_of(&block, row, inputs.hvg_batches);
                    let Some(limits) = expected.get(batch).map(|expected| &expected.limits) else { continue };
                    let moments = moments[batch].get_or_insert_with(|| Moments::new(inputs.genes.len()));
                    for (&gene, &count) in genes.iter().zip(counts) {
                        let gene = block.place(gene);
                        let count = f64::from(count).min(limits[gene]);
                        moments.sum[gene] += count;
                        moments.squares[gene] += count * count;
                    }
                }
                Ok(())
            },
        )?;
        Ok(PartMoments::of(moments))
    };
    work.pass("clipped", inputs, find, |_, _, found| found.join(&mut all, work.dir()))?;
    Ok(all)
}

/// The batch in which a cell's genes are ranked. As in scanpy, a cell without this label is in
/// none: the index after the last batch.
fn batch_of(block: &Block, row: usize, batches: usize) -> usize {
    match block.input.hvg_batch.get(row) {
        None => 0,
        Some(&batch) => usize::try_from(batch).unwrap_or(batches),
    }
}

/// Moments of a part: one set per batch that has cells there, and one for the cells without a batch.
struct PartMoments(Vec<(usize, Moments)>);

impl Findings for PartMoments {
    fn save(&self, to: &mut Saved) {
        let all = || self.0.iter().map(|(_, moments)| moments);
        to.put("batches", &self.0.iter().map(|(batch, _)| *batch as u64).collect::<Vec<_>>());
        to.put("cells", &all().map(|moments| moments.cells).collect::<Vec<_>>());
        to.put("sums", &all().flat_map(|moments| moments.sum.clone()).collect::<Vec<_>>());
        to.put("squares", &all().flat_map(|moments| moments.squares.clone()).collect::<Vec<_>>());
        let expressed = all().flat_map(|moments| &moments.expressed);
        to.put("expressed", &expressed.map(|&any| u8::from(any)).collect::<Vec<_>>());
    }

    fn load(from: &Saved) -> Option<PartMoments> {
        let (batches, cells) = (from.take::<u64>("batches")?, from.take::<u64>("cells")?);
        let (sums, squares) = (from.take::<f64>("sums")?, from.take::<f64>("squares")?);
        let expressed = from.take::<u8>("expressed")?;
        let genes = sums.len() / batches.len().max(1);
        let whole = batches.len() * genes;
        if [sums.len(), squares.len(), expressed.len()] != [whole; 3] || cells.len() != batches.len() {
            return None;
        }
        let moments = |i: usize| Moments {
            cells: cells[i],
            sum: sums[i * genes..][..genes].to_vec(),
            squares: squares[i * genes..][..genes].to_vec(),
            expressed: expressed[i * genes..][..genes].iter().map(|&any| any != 0).collect(),
        };
        Some(PartMoments(
            batches.iter().enumerate().map(|(i, &batch)| (batch as usize, moments(i))).collect(),
        ))
    }
}

impl PartMoments {
    /// Keeps the moments of the batches that have cells.
    fn of(moments: Vec<Option<Moments>>) -> PartMoments {
        PartMoments(moments.into_iter().enumerate().filter_map(|(i, moments)| Some((i, moments?))).collect())
    }

    /// Adds these moments to those of the parts before.
    fn join(self, all: &mut [Moments], path: &Path) -> Result<()> {
        for (batch, moments) in self.0 {
            let known = all.get_mut(batch).filter(|known| known.sum.len() == moments.sum.len());
            known
                .ok_or_else(|| {
                    Error::format(path, "has parts made from other genes or batches; remove them")
                })?
                .join(&moments);
        }
        Ok(())
    }
}

/// Moments of non-negative values, being summed: both numbers that a value is added to share a cache line.
struct Sums {
    cells: u64,
    /// Sum and sum of squares of each gene.
    of: Vec<[f64; 2]>,
}

impl Sums {
    fn new(genes: usize) -> Sums {
        Sums { cells: 0, of: vec![[0.0; 2]; genes] }
    }

    /// Adds a cell; `places` are the positions of its file's genes in the common list.
    fn add(&mut self, genes: &[u32], values: &[f32], places: Option<&[u32]>) {
        self.cells += 1;
        let mut add = |gene: u32, value: f32| {
            let [sum, squares] = &mut self.of[gene as usize];
            *sum += f64::from(value);
            // Rounded to f32 before it is added, as scanpy does.
            *squares += f64::from(value * value);
        };
        match places {
            None => genes.iter().zip(values).for_each(|(&gene, &value)| add(gene, value)),
            Some(places) => {
                genes.iter().zip(values).for_each(|(&gene, &value)| add(places[gene as usize], value));
            }
        }
    }

    fn moments(self) -> Moments {
        Moments {
            cells: self.cells,
            sum: self.of.iter().map(|of| of[0]).collect(),
            squares: self.of.iter().map(|of| of[1]).collect(),
            expressed: self.of.iter().map(|of| of[0] > 0.0).collect(),
        }
    }
}
