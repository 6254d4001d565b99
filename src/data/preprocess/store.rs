//! The last pass, which sorts the kept genes of each cell by group, and the shards made from it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crc32fast::Hasher;

use super::Settings;
use super::block::{Block, Input, Part};
use super::input::Inputs;
use super::scale;
use super::work::{AGAIN, Findings, Passed, Saved, Work};
use crate::aside;
use crate::data::h5ad::{CellNames, Cells};
use crate::data::labels::numbered;
use crate::data::normalise;
use crate::data::scale::Found;
use crate::data::shard::{
    AsRead, Columns, Data, Limits, Manifest, Piles, Rows, RowsWriter, Sizes, Source, merge,
};
use crate::error::{At, Error, Result};
use crate::folder::name_of;
use crate::progress;

/// SCALE v1, section 4.1: the network sees log1p values divided by ten.
pub(super) const FACTOR: f32 = 10.0;
/// Extension of the rows that the last pass leaves beside what it finds.
const ROWS: &str = "rows";
/// Marks a gene that is not kept: an id that no gene can have.
const LEFT_OUT: u16 = u16::MAX;

/// The result of the last pass: the whole data directory, but in parts.
pub(super) struct Store {
    manifest: Manifest,
    piles: Piles,
    rows: Vec<Rows>,
    /// Messages for the user.
    pub notes: Vec<String>,
}

/// What the last pass finds in a part.
struct PartRows {
    /// The path is not saved: the folder may have moved.
    rows: Rows,
    print: Print,
}

impl Findings for PartRows {
    const BESIDE: Option<&str> = Some(ROWS);

    fn save(&self, to: &mut Saved) {
        let groups = &self.rows.groups;
        to.put("ends", &self.rows.ends);
        to.put("groups", &groups.iter().map(|group| group.0).collect::<Vec<_>>());
        to.put("nonzeros", &groups.iter().map(|group| group.1.nonzeros).collect::<Vec<_>>());
        to.put("names", &groups.iter().map(|group| group.1.names).collect::<Vec<_>>());
        to.put("largest", &groups.iter().map(|group| group.1.largest).collect::<Vec<_>>());
        to.put("crc", &self.print.0.map(|(crc, _)| crc));
        to.put("crc_bytes", &self.print.0.map(|(_, bytes)| bytes));
    }

    fn load(from: &Saved) -> Option<PartRows> {
        let (nonzeros, names) = (from.take::<u64>("nonzeros")?, from.take::<u64>("names")?);
        let sizes = nonzeros.into_iter().zip(names).zip(from.take::<f32>("largest")?);
        let sizes = sizes.map(|((nonzeros, names), largest)| Sizes { nonzeros, names, largest });
        let groups = from.take::<u32>("groups")?.into_iter().zip(sizes);
        let (crc, bytes) = (from.take::<u32>("crc")?, from.take::<u64>("crc_bytes")?);
        let print: Vec<(u32, u64)> = crc.into_iter().zip(bytes).collect();
        let rows = Rows { path: PathBuf::new(), ends: from.take("ends")?, groups: groups.collect() };
        Some(PartRows { rows, print: Print(print.try_into().ok()?) })
    }
}

/// The last pass: the kept genes of each part's cells, sorted by group.
pub(super) fn rows(
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: Option<f64>,
    kept: &[u32],
    work: &Work,
) -> Passed<Store> {
    let mut manifest = manifest(settings, inputs, found, target, kept);
    let piles = Piles::of(&manifest, inputs.labels.iter().copied())
        .map_err(|what| Error::format(&settings.out, what))?;
    let mut ids = vec![LEFT_OUT; inputs.genes.len()];
    kept.iter().enumerate().for_each(|(id, &gene)| ids[gene as usize] = id as u16);
    let names = inputs.files.iter().map(|_| OnceLock::new()).collect();
    let sorting = Sorting { inputs, found, target, ids, names, manifest: &manifest, piles: &piles };
    let mut prints: Vec<Print> = inputs.files.iter().map(|_| Print::default()).collect();
    let mut rows = Vec::new();
    inputs.memo.set_keeping(false);
    let find = |part: &Part, path: &Path| sorting.part(part, path, &work.progress);
    work.pass("rows", inputs, find, |part, path, mut found: PartRows| {
        found.rows.path = path.with_extension(ROWS);
        let length = found.rows.path.metadata().at(&found.rows.path)?.len();
        if length != found.rows.ends.last().copied().unwrap_or(0) {
            return Err(Error::format(&found.rows.path, format!("is cut off; {AGAIN}")));
        }
        prints[part.input].join(&found.print);
        rows.push(found.rows);
        Ok(())
    })?;
    let mut notes = Vec::new();
    for (i, input) in inputs.files.iter().enumerate() {
        notes.extend(sorting.names(i)?.note(&input.file));
    }
    let sources = inputs.files.iter().zip(prints).map(|(input, print)| {
        let path = name_of(input.file.path());
        Source { path, crc: print.of_source(input), cells: input.cells }
    });
    manifest.sources = sources.collect();
    notes.extend(twice(&manifest.sources));
    Ok(Store { manifest, piles, rows, notes })
}

/// Sorts the rows of a part.
struct Sorting<'a> {
    inputs: &'a Inputs,
    found: &'a Found,
    target: Option<f64>,
    /// Gene id for each position in the common list.
    ids: Vec<u16>,
    /// Of each file's cells, read by the first part that needs them.
    names: Vec<OnceLock<CellNames>>,
    manifest: &'a Manifest,
    piles: &'a Piles,
}

impl Sorting<'_> {
    /// The names of a file's cells.
    fn names(&self, input: usize) -> Result<&CellNames> {
        let names = &self.names[input];
        if names.get().is_none() {
            let _ = names.set(CellNames::of(&self.inputs.files[input].file)?);
        }
        Ok(names.get().expect("just set"))
    }

    /// Writes the rows of a part next to `path`.
    fn part(&self, part: &Part, path: &Path, progress: &progress::Work) -> Result<PartRows> {
        let input = &self.inputs.files[part.input];
        let genes = 0..input.file.shape().1 as u32;
        // A gene that is left out has no position in the common list.
        let ids: Vec<u16> =
            genes.map(|gene| self.ids.get(input.place(gene)).copied().unwrap_or(LEFT_OUT)).collect();
        let mut names = self.names(part.input)?.get(&input.file, part.rows.clone())?;
        if self.inputs.files.len() > 1 {
            names.iter_mut().for_each(|name| *name = numbered(name, part.input));
        }
        let mut print = Print::default();
        let prepare = |block: &Block| {
            scale::check(block, self.found)?;
            Ok((Packed::of(block, &ids, self.found, self.target), Print::of(&block.cells)))
        };
        let rows = aside::scratch(&path.with_extension(ROWS), |aside| {
            let mut writer = RowsWriter::new(aside, self.manifest, self.piles, part.cells.clone())?;
            self.inputs.walk(part, progress, prepare, |block, (packed, more)| {
                print.join(&more);
                let used = block.rows.filter(|&row| input.used[row]);
                packed.rows().zip(used).try_for_each(|((genes, values, library), row)| {
                    writer.push(&names[row - part.rows.start], genes, values, library)
                })
            })?;
            writer.finish()
        })?;
        Ok(PartRows { rows, print })
    }
}

impl Store {
    /// Writes the shards and the manifest into `dir`, and reads them back as every command will; returns the size of the shards.
    pub fn merge(self, dir: &Path) -> Result<u64> {
        let manifest = merge(dir, self.manifest, self.piles, &self.rows, Limits::default().shard)?;
        Data::open(dir)?;
        Ok(manifest.shards.iter().map(|shard| shard.bytes).sum())
    }
}

/// A warning if two sources hold the same cells.
fn twice(sources: &[Source]) -> Option<String> {
    let twin = |i: usize| sources[..i].iter().find(|other| other.crc == sources[i].crc);
    let (one, other) = (0..sources.len()).find_map(|i| Some((twin(i)?, &sources[i])))?;
    Some(format!("{} and {} contain the same counts: are their cells counted twice?", one.path, other.path))
}

/// Everything that is known before the values are read.
fn manifest(
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: Option<f64>,
    kept: &[u32],
) -> Manifest {
    let [cell_types, perturbations, batches] = inputs.vocabularies.clone();
    let stem = settings.inputs[0].file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Manifest {
        version: Manifest::VERSION,
        dataset: stem,
        scale: found.scale,
        target,
        factor: FACTOR,
        control: settings.control.clone(),
        columns: Columns {
            perturbation: settings.perturbation.clone(),
            cell_type: settings.cell_type_column().to_string(),
            batch: settings.batch.clone(),
            size: settings.size.clone(),
        },
        as_read: AsRead {
            source: (settings.source != "X").then(|| settings.source.clone()),
            other_controls: settings.other_controls.clone(),
            types_by_file: settings.cell_type.is_none(),
            gene_id: settings.gene_id.clone(),
            gene_ids: inputs
                .gene_ids
                .iter()
                .flat_map(|ids| kept.iter().map(|&gene| ids[gene as usize].clone()))
                .collect(),
        },
        sources: Vec::new(),
        shards: Vec::new(),
        cell_types,
        perturbations,
        batches,
        unmeasured: Vec::new(),
        genes: kept.iter().map(|&gene| inputs.genes[gene as usize].clone()).collect(),
        source_genes: Some(inputs.genes.len()),
    }
}

/// CRC-32 of a source's cells: of the row lengths, the genes and the values, each with its number of bytes. It is extended
/// block by block and does not depend on where blocks are cut, nor on whether the matrix is CSR, CSC or dense.
#[derive(Default)]
struct Print([(u32, u64); 3]);

impl Print {
    fn of(cells: &Cells) -> Print {
        let lengths: Vec<u32> = cells.outer_iterator().map(|cell| cell.nnz() as u32).collect();
        let of = |bytes: &[u8]| (crc32fast::hash(bytes), bytes.len() as u64);
        Print([
            of(bytemuck::cast_slice(&lengths)),
            of(bytemuck::cast_slice(cells.indices())),
            of(bytemuck::cast_slice(cells.data())),
        ])
    }

    /// Appends the CRC of the next cells.
    fn join(&mut self, next: &Print) {
        for ((crc, bytes), &(more, length)) in self.0.iter_mut().zip(&next.0) {
            let mut all = Hasher::new_with_initial_len(*crc, *bytes);
            all.combine(&Hasher::new_with_initial_len(more, length));
            (*crc, *bytes) = (all.finalize(), *bytes + length);
        }
    }

    /// The CRC including the names of the genes and which cells are used.
    fn of_source(&self, input: &Input) -> u32 {
        let mut all = Hasher::new();
        for name in &input.file.var().index {
            all.update(name.as_bytes());
            all.update(&[0]);
        }
        all.update(bytemuck::cast_slice(&input.used.iter().map(|&used| u8::from(used)).collect::<Vec<_>>()));
        self.0.iter().for_each(|(crc, _)| all.update(&crc.to_le_bytes()));
        all.finalize()
    }
}

/// The kept genes of a block's used cells, by ascending id.
#[derive(Default)]
struct Packed {
    ends: Vec<usize>,
    genes: Vec<u16>,
    values: Vec<f32>,
    library: Vec<f32>,
}

impl Packed {
    /// `ids`: the id of each gene of the file.
    fn of(block: &Block, ids: &[u16], found: &Found, target: Option<f64>) -> Packed {
        let mut packed = Packed::default();
        let (mut own_ids, mut own_values) = (Vec::new(), Vec::new());
        for (row, genes, values) in block.used() {
            // Every gene is written, and overwritten by the next one if it is not kept: which ones are kept is unpredictable,
            // and a branch would be mispredicted for most of those that are.
            own_ids.resize(genes.len(), 0);
            own_values.resize(genes.len(), 0.0);
            let mut kept = 0;
            for (&gene, &value) in genes.iter().zip(values) {
                let id = ids[gene as usize];
                (own_ids[kept], own_values[kept]) = (id, value);
                kept += usize::from(id != LEFT_OUT);
            }
            let (own_ids, own_values) = (&mut own_ids[..kept], &mut own_values[..kept]);
            // Genes of a list, or of a file in another order, are not ascending by themselves.
            if !own_ids.is_sorted() {
                let mut pairs: Vec<(u16, f32)> =
                    own_ids.iter().copied().zip(own_values.iter().copied()).collect();
                pairs.sort_unstable_by_key(|&(id, _)| id);
                for (i, (id, value)) in pairs.into_iter().enumerate() {
                    (own_ids[i], own_values[i]) = (id, value);
                }
            }
            packed.genes.extend_from_slice(own_ids);
            packed.values.extend_from_slice(own_values);
            let told = block.input.sizes.as_ref().map(|sizes| sizes[row]);
            packed.library.push(normalise::library(values, told, found.scale, target));
            packed.ends.push(packed.genes.len());
        }
        packed
    }

    /// Genes, values and library size of each cell.
    fn rows(&self) -> impl Iterator<Item = (&[u16], &[f32], f32)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .zip(&self.library)
            .map(|((start, &end), &library)| (&self.genes[start..end], &self.values[start..end], library))
    }
}
