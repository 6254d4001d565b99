//! All input files together: one list of genes, one vocabulary per label column, and the cells that can be used.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use super::Settings;
use super::align::{Aligned, SharedGenes, align};
use super::block::{Block, Input, Part};
use super::doubts::doubts;
use super::memo::Memo;
use super::sizes;
use crate::data::h5ad::{H5ad, Labels, recoded};
use crate::data::labels::{self, Joined, Table};
use crate::error::{Error, Result, some_of, unknown_control};
use crate::folder::title_of;
use crate::progress;

// Places of the columns in `Inputs::labels` and `Inputs::vocabularies`. Batches come last: there may be no column of them.
pub(super) const CELL_TYPE: usize = 0;
pub(super) const PERTURBATION: usize = 1;

/// All input files.
pub(super) struct Inputs {
    pub files: Vec<Input>,
    /// Genes in the order of the first file, then those that only others have.
    pub genes: Vec<String>,
    /// Their ids, if they are aligned by a column of ids.
    pub gene_ids: Option<Vec<String>>,
    /// Cell type, perturbation and batch of each used cell, in file order.
    pub labels: Vec<[u32; 3]>,
    /// Cell types, perturbations and batches that occur, sorted.
    pub vocabularies: [Vec<String>; 3],
    /// Number of batches for the choice of genes.
    pub hvg_batches: usize,
    /// Cells left out for lack of a label, and how many lack that of each column.
    pub dropped: u64,
    pub missing: Vec<(String, u64)>,
    /// How cells were matched to rows of the table of labels.
    pub joined: Option<Joined>,
    /// What the genes of several files have in common.
    pub shared: Option<SharedGenes>,
    /// Row blocks that an earlier pass has read.
    pub memo: Memo,
    /// Messages for the user.
    pub notes: Vec<String>,
}

/// Opens the files and reads these columns of labels, in the order of [`Inputs::labels`]. Without any, every cell counts.
pub(super) fn open(settings: &Settings, columns: &[&str]) -> Result<Inputs> {
    let table = settings.labels.as_deref().map(Table::open).transpose()?;
    let wanted = wanted(settings, columns);
    let mut files = files(settings, &wanted, table.as_ref())?;
    let (given, joined) = table.map(|table| table.join(&wanted, &files)).transpose()?.unzip();
    let Aligned { genes, ids, places, shared, mut notes } =
        align(&files, settings.gene_id.as_deref(), settings.fill_missing)?;
    notes.extend(files.iter().flat_map(|file| file.notes()).cloned());
    notes.extend(files.iter().filter_map(nameless));
    let read = |column: &str| labels::labels(column, &files, given.as_ref());
    let mut labels = Vec::with_capacity(columns.len());
    for column in columns {
        labels.push(if settings.names_types_by_file(column) { by_file(&files)? } else { read(column)? });
    }
    let known = labels.get_mut(PERTURBATION).map(|column| one_control(settings, column));
    let mut hvg_batches = vec![Vec::new(); files.len()];
    let mut hvg_names = Vec::new();
    if let Some(column) = &settings.hvg_batch {
        let labels = read(column)?;
        hvg_names = occurring(labels.iter().map(|labels| (labels, None)));
        hvg_batches = labels.iter().map(|labels| recode(labels, &hvg_names)).collect();
    }
    let mut sizes = sizes::read(settings.size.as_deref(), &files, given.as_ref())?;
    // All columns have been read: no pass needs them, and each has an entry per cell.
    files.iter_mut().for_each(H5ad::forget_columns);
    let used = labelled(&labels, &files);
    let mut inputs = Inputs {
        files: Vec::new(),
        genes,
        gene_ids: ids,
        labels: Vec::new(),
        vocabularies: vocabularies(&labels, &used),
        hvg_batches: hvg_names.len().max(1),
        dropped: 0,
        missing: missing(columns, &labels),
        joined,
        shared,
        memo: Memo::default(),
        notes,
    };
    for (f, (((file, places), used), hvg_batch)) in
        files.into_iter().zip(places).zip(used).zip(hvg_batches).enumerate()
    {
        let sizes = sizes[f].take();
        inputs.add(
            Input { file, places, left_out: None, cells: 0, used, sizes, hvg_batch },
            labels.iter().map(|column| &column[f]),
        );
    }
    check_cells(settings, &inputs)?;
    if let Some(known) = known {
        check_control(settings, &inputs, &known)?;
    }
    inputs.notes.extend(doubtful(columns, &inputs.vocabularies, &settings.control));
    if columns.iter().any(|column| settings.names_types_by_file(column)) {
        let types = some_of(&inputs.vocabularies[CELL_TYPE]);
        inputs.notes.push(format!("all cells of a file are one cell type, named after the file: {types}"));
    }
    Ok(inputs)
}

/// The label of a cell type for each file: its name without the ending. Refuses two files of one name in different folders.
fn by_file(files: &[H5ad]) -> Result<Vec<Labels>> {
    let mut seen: HashMap<String, PathBuf> = HashMap::new();
    let of = |file: &H5ad| {
        let name = title_of(file.path());
        if let Some(other) = seen.insert(name.clone(), file.path().to_path_buf()) {
            let what = format!(
                "has the name of {}, so their cells would be one cell type, {name:?}; give `cell_type`, or rename a file",
                other.display()
            );
            return Err(Error::format(file.path(), what));
        }
        Ok(Labels { codes: vec![0; file.shape().0], names: vec![name] })
    };
    files.iter().map(of).collect()
}

/// The columns in which some cells lack a label, and how many.
fn missing(columns: &[&str], labels: &[Vec<Labels>]) -> Vec<(String, u64)> {
    let cells = |of: &[Labels]| of.iter().flat_map(|l| &l.codes).filter(|&&code| code < 0).count() as u64;
    let told = columns.iter().zip(labels).map(|(column, labels)| (column.to_string(), cells(labels)));
    told.filter(|(_, cells)| *cells > 0).collect()
}

/// Which cells of each file have all their labels.
fn labelled(labels: &[Vec<Labels>], files: &[H5ad]) -> Vec<Vec<bool>> {
    let has_all = |f: usize, i: usize| labels.iter().all(|column| column[f].codes[i] >= 0);
    files.iter().enumerate().map(|(f, file)| (0..file.shape().0).map(|i| has_all(f, i)).collect()).collect()
}

/// Cell types, perturbations and batches of the used cells, sorted; without a column, all cells have one label.
fn vocabularies(labels: &[Vec<Labels>], used: &[Vec<bool>]) -> [Vec<String>; 3] {
    std::array::from_fn(|i| match labels.get(i) {
        Some(column) => occurring(column.iter().zip(used.iter().map(Some))),
        None => vec![super::ONE_BATCH.to_string()],
    })
}

/// A note if a file's cell names cannot be read.
fn nameless(file: &H5ad) -> Option<String> {
    let error = file.cell_names(0..file.shape().0.min(1)).err()?;
    Some(format!("{error}: its cells are named by their row, from \"cell1\" on"))
}

/// Warnings about what may be unintended in the label columns.
fn doubtful(columns: &[&str], vocabularies: &[Vec<String>], control: &str) -> Vec<String> {
    let of_column = |(column, names): (&&str, &Vec<String>)| doubts(column, names, control);
    let mut told: Vec<String> = columns.iter().zip(vocabularies).flat_map(of_column).collect();
    let again = (1..columns.len()).find(|&i| columns[..i].contains(&columns[i]));
    told.extend(
        again.map(|i| format!("column {:?} is used for two kinds of label: is it both?", columns[i])),
    );
    told
}

/// All columns that are read: those of labels, unless files name the cell types, of batches to rank within, and of totals.
fn wanted<'a>(settings: &'a Settings, columns: &[&'a str]) -> Vec<&'a str> {
    let labels = columns.iter().copied().filter(|column| !settings.names_types_by_file(column));
    labels.chain(settings.hvg_batch.as_deref()).chain(settings.size.as_deref()).collect()
}

/// The files, with those of the wanted columns that the table of labels does not have.
fn files(settings: &Settings, wanted: &[&str], table: Option<&Table>) -> Result<Vec<H5ad>> {
    let absent = |column: &&str| table.is_none_or(|table| !table.has(column));
    let wanted: Vec<&str> = wanted.iter().copied().filter(absent).collect();
    let open = |path: &PathBuf| {
        H5ad::open_columns(path, &wanted, &settings.source).map_err(|error| match (error, table) {
            // The column is in neither.
            (Error::Setting { field, what }, Some(table)) => {
                Error::Setting { field, what: format!("{what}; {}", table.told()) }
            }
            (error, _) => error,
        })
    };
    let mut seen = HashSet::new();
    let again = |path: &&PathBuf| path.canonicalize().is_ok_and(|place| !seen.insert(place));
    if let Some(path) = settings.inputs.iter().find(again) {
        return Err(Error::format(path, "is given twice; its cells would count twice"));
    }
    let files: Vec<H5ad> = settings.inputs.iter().map(open).collect::<Result<_>>()?;
    if files.is_empty() {
        Err(Error::setting("inputs", "there are none; name at least one file"))
    } else {
        Ok(files)
    }
}

/// There must be cells that are used.
fn check_cells(settings: &Settings, inputs: &Inputs) -> Result<()> {
    if !inputs.labels.is_empty() {
        return Ok(());
    }
    let lacking: Vec<String> =
        inputs.missing.iter().map(|(column, cells)| format!("{column}: {cells}")).collect();
    let what = match lacking.is_empty() {
        true => "contains no cells".to_string(),
        false => format!("no cell has all its labels; cells without one: {}", lacking.join(", ")),
    };
    Err(Error::format(&settings.inputs[0], what))
}

/// The labels that occur, of which those of unperturbed cells then become the control label.
fn one_control(settings: &Settings, column: &mut [Labels]) -> Vec<String> {
    let known = occurring(column.iter().map(|labels| (labels, None)));
    for labels in column.iter_mut() {
        let others = labels.names.iter_mut().filter(|name| settings.other_controls.contains(name));
        others.for_each(|name| name.clone_from(&settings.control));
        *labels = std::mem::take(labels).with_names_once();
    }
    known
}

/// The labels of unperturbed cells must be among those that occur, and some used cell must carry one of them.
fn check_control(settings: &Settings, inputs: &Inputs, known: &[String]) -> Result<()> {
    let Settings { control, other_controls, perturbation, .. } = settings;
    let wrong = |what| Err(Error::setting("control", what));
    if let Some(label) = [control].into_iter().chain(other_controls).find(|label| !known.contains(label)) {
        let what = unknown_control("label", label, known);
        return wrong(format!("{what} (column {perturbation:?})"));
    }
    if inputs.vocabularies[PERTURBATION].contains(control) {
        return Ok(());
    }
    wrong(format!("no {control:?} cell has all its labels: there is nothing to compare perturbed cells with"))
}

/// Sorted labels that occur; among the used cells only, if those are given.
fn occurring<'a>(columns: impl Iterator<Item = (&'a Labels, Option<&'a Vec<bool>>)>) -> Vec<String> {
    let mut names = BTreeSet::new();
    for (labels, used) in columns {
        let mut seen = vec![false; labels.names.len()];
        for (i, &code) in labels.codes.iter().enumerate() {
            if code >= 0 && used.is_none_or(|used| used[i]) {
                seen[code as usize] = true;
            }
        }
        names.extend(labels.names.iter().zip(seen).filter(|(_, seen)| *seen).map(|(name, _)| name.clone()));
    }
    names.into_iter().collect()
}

/// Codes of labels in a sorted vocabulary, -1 for labels that it lacks.
fn recode(labels: &Labels, names: &[String]) -> Vec<i32> {
    let code: Vec<i32> =
        labels.names.iter().map(|name| names.binary_search(name).map_or(-1, |place| place as i32)).collect();
    recoded(&labels.codes, &code)
}

impl Inputs {
    /// Adds the next file, with its cells' labels for each column.
    fn add<'a>(&mut self, mut input: Input, labels: impl Iterator<Item = &'a Labels>) {
        let codes: Vec<Vec<i32>> =
            labels.zip(&self.vocabularies).map(|(column, names)| recode(column, names)).collect();
        let before = self.labels.len();
        for i in (0..input.used.len()).filter(|&i| input.used[i]) {
            // A column that was not asked for has no list of codes, and its one label has code 0.
            self.labels.push([0, 1, 2].map(|column| codes.get(column).map_or(0, |codes| codes[i] as u32)));
        }
        input.cells = (self.labels.len() - before) as u64;
        self.dropped += input.used.len() as u64 - input.cells;
        self.files.push(input);
    }

    /// Index of the control among the perturbations; `None` only if labels were not asked for.
    pub fn control(&self, label: &str) -> Option<u32> {
        let place = self.vocabularies[PERTURBATION].iter().position(|name| name == label);
        place.map(|place| place as u32)
    }

    /// Keeps some of the used cells, in their order, and leaves out some of the common genes; labels that no longer
    /// occur are removed from the vocabularies.
    pub fn retain(&mut self, keep: &[bool], left_out: &[bool]) {
        let mut kept = keep.iter();
        for input in &mut self.files {
            for used in input.used.iter_mut().filter(|used| **used) {
                *used = *kept.next().expect("one for each used cell");
            }
            input.cells = input.used.iter().filter(|&&used| used).count() as u64;
        }
        let mut kept = keep.iter();
        self.labels.retain(|_| *kept.next().expect("one for each used cell"));
        for (column, names) in self.vocabularies.iter_mut().enumerate() {
            let code = renumber(names.len(), self.labels.iter().map(|label| label[column] as usize));
            self.labels
                .iter_mut()
                .for_each(|label| label[column] = code[label[column] as usize].unwrap_or(0));
            let mut codes = code.iter();
            names.retain(|_| codes.next().is_some_and(Option::is_some));
        }
        self.retain_hvg_batches();
        if left_out.contains(&true) {
            self.retain_genes(left_out);
        }
    }

    /// Removes batches without used cells, which rank no genes.
    fn retain_hvg_batches(&mut self) {
        let used = |input: &Input| -> Vec<usize> {
            let codes = input.hvg_batch.iter().zip(&input.used).filter(|(_, used)| **used);
            codes.filter_map(|(&code, _)| usize::try_from(code).ok()).collect()
        };
        let code = renumber(self.hvg_batches, self.files.iter().flat_map(used));
        for batch in self.files.iter_mut().flat_map(|input| &mut input.hvg_batch) {
            *batch =
                usize::try_from(*batch).ok().and_then(|batch| code[batch]).map_or(-1, |code| code as i32);
        }
        self.hvg_batches = code.iter().flatten().count().max(1);
    }

    fn retain_genes(&mut self, left_out: &[bool]) {
        let code = renumber(left_out.len(), (0..left_out.len()).filter(|&gene| !left_out[gene]));
        for input in &mut self.files {
            let places: Vec<usize> = (0..input.file.shape().1 as u32).map(|gene| input.place(gene)).collect();
            input.left_out = Some(places.iter().map(|&place| left_out[place]).collect());
            input.places = Some(places.iter().map(|&place| code[place].unwrap_or(u32::MAX)).collect());
        }
        let mut gone = left_out.iter();
        self.genes.retain(|_| gone.next() == Some(&false));
    }

    /// Number of rows of all files, used or not.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|input| input.used.len() as u64).sum()
    }

    /// The row blocks of a part: `prepare` sees them in parallel, `work` one by one and in order.
    pub fn walk<T: Send>(
        &self,
        part: &Part,
        progress: &progress::Work,
        prepare: impl Fn(&Block) -> Result<T> + Sync,
        mut work: impl FnMut(Block, T) -> Result<()> + Send,
    ) -> Result<()> {
        let input = &self.files[part.input];
        let made = |rows: Range<usize>| {
            let place = (part.input, rows.start);
            let cells = match self.memo.block(place, input.file.shape().1) {
                Some(cells) if cells.rows() == rows.len() => cells,
                _ => {
                    let cells = input.file.rows(rows.clone())?;
                    self.memo.keep(place, &cells);
                    cells
                }
            };
            let block = Block { input, rows, cells: input.without(cells) };
            let prepared = prepare(&block)?;
            Ok((block, prepared))
        };
        input.file.blocks_ahead(part.rows.clone(), made, |(block, prepared): (Block, T)| {
            let count = block.rows.len() as u64;
            work(block, prepared)?;
            progress.add(count);
            progress.go_on()
        })
    }
}

/// New numbers for those of `0..count` that occur, in ascending order; `None` for the others.
fn renumber(count: usize, occurring: impl Iterator<Item = usize>) -> Vec<Option<u32>> {
    let mut seen = vec![false; count];
    occurring.for_each(|number| seen[number] = true);
    let mut next = 0;
    let number = |seen: bool| {
        next += u32::from(seen);
        seen.then(|| next - 1)
    };
    seen.into_iter().map(number).collect()
}
