//! The clauses of a split file, each checked against the data.

use std::collections::HashSet;

use toml::{Table, Value};

use super::{Part, paths};
use crate::data::shard::{Data, Group, Manifest};
use crate::error::{some_of, unknown};

type Checked<T> = std::result::Result<T, String>;

/// Where the cells of a cell type go.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Nowhere.
    Dropped,
    /// To train, by `[training]`.
    Train,
    /// All to one part, by `[zeroshot]`.
    Whole { part: Part, clause: String },
    /// Listed perturbations to val and test, by `[fewshot]`.
    Listed { val: HashSet<u32>, test: HashSet<u32>, clause: String },
}

impl Place {
    /// Where a perturbation's cells go.
    pub(super) fn perturbed(&self, perturbation: u32) -> Option<Part> {
        match self {
            Place::Dropped => None,
            Place::Train => Some(Part::Train),
            Place::Whole { part, .. } => Some(*part),
            Place::Listed { val, .. } if val.contains(&perturbation) => Some(Part::Val),
            Place::Listed { test, .. } if test.contains(&perturbation) => Some(Part::Test),
            Place::Listed { .. } => Some(Part::Train),
        }
    }

    /// Where the controls go.
    pub(super) fn controls(&self) -> Vec<Part> {
        match self {
            Place::Dropped => vec![],
            Place::Train | Place::Whole { part: Part::Train, .. } => vec![Part::Train],
            Place::Whole { part, .. } => vec![Part::Train, *part],
            Place::Listed { val, test, .. } => {
                let held = [(Part::Val, val), (Part::Test, test)];
                let used = held.into_iter().filter(|(_, listed)| !listed.is_empty()).map(|(part, _)| part);
                std::iter::once(Part::Train).chain(used).collect()
            }
        }
    }

    pub(super) fn dropped(&self) -> bool {
        matches!(self, Place::Dropped)
    }

    /// The clause that keeps cells of this cell type out of training.
    pub(super) fn held_out_by(&self) -> Option<&str> {
        match self {
            Place::Dropped | Place::Train | Place::Whole { part: Part::Train, .. } => None,
            Place::Whole { clause, .. } | Place::Listed { clause, .. } => Some(clause),
        }
    }
}

/// A parsed split file.
pub(super) struct Clauses {
    /// By cell type id.
    pub(super) places: Vec<Place>,
    pub(super) warnings: Vec<String>,
    /// What cell-load would make of it.
    pub(super) notes: Vec<String>,
}

impl Clauses {
    pub(super) fn parse(text: &str, data: &Data) -> Checked<Clauses> {
        let file: Table = text.parse().map_err(|e: toml::de::Error| format!("is not TOML: {e}"))?;
        let tables = ["datasets", "training", "zeroshot", "fewshot"];
        if let Some(name) = file.keys().find(|name| !tables.contains(&name.as_str())) {
            return Err(unknown("table", name, &tables));
        }
        let [datasets, training, zeroshot, fewshot] = tables.map(|name| table(&file, name));
        let datasets = datasets?;
        // The directory is one data set: if the file names just one too, that is the one, whatever its name.
        let dataset = match datasets.len() {
            1 => datasets.keys().next().cloned().unwrap_or_default(),
            _ => data.manifest().dataset.clone(),
        };
        let mut reader = Reader {
            data,
            datasets,
            dataset,
            clauses: Clauses {
                places: vec![Place::Dropped; data.manifest().cell_types.len()],
                warnings: Vec::new(),
                notes: Vec::new(),
            },
        };
        reader.datasets()?;
        reader.training(&training?)?;
        reader.zeroshot(&zeroshot?)?;
        reader.fewshot(&fewshot?)?;
        if reader.clauses.places.iter().all(Place::dropped) {
            return Err(
                "puts no cells into any part; add [training], [zeroshot] or [fewshot.\"data set.cell type\"]"
                    .into(),
            );
        }
        Ok(reader.clauses)
    }
}

fn table(file: &Table, name: &str) -> Checked<Table> {
    match file.get(name) {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table.clone()),
        Some(other) => Err(format!("{name} is {}; it must be a table: [{name}]", form(other))),
    }
}

/// The type of a value, with its article.
fn form(value: &Value) -> String {
    match value.type_str() {
        name @ ("integer" | "array") => format!("an {name}"),
        name => format!("a {name}"),
    }
}

struct Reader<'a> {
    data: &'a Data,
    datasets: Table,
    /// The file's name for the directory.
    dataset: String,
    clauses: Clauses,
}

impl Reader<'_> {
    fn manifest(&self) -> &Manifest {
        self.data.manifest()
    }

    fn warn(&mut self, what: String) {
        self.clauses.warnings.push(what);
    }

    fn datasets(&mut self) -> Checked<()> {
        for (name, path) in self.datasets.clone() {
            let Some(path) = path.as_str() else {
                return Err(format!("[datasets] {name} is {}; it must be a path in quotes", form(&path)));
            };
            if name == self.dataset {
                let sources: Vec<String> = self.manifest().sources.iter().map(|s| s.path.clone()).collect();
                let said = paths::doubts(&format!("[datasets] {name}"), path, &sources)?;
                self.clauses.notes.extend(said);
            } else {
                self.warn(format!(
                    "[datasets] {name:?} is not in this directory, which contains {:?}",
                    self.dataset
                ));
            }
        }
        Ok(())
    }

    /// Checks a data set named by a clause: it must have a path, as cell-load requires, and be this directory's.
    fn dataset(&self, clause: &str, name: &str) -> Checked<()> {
        let dataset = &self.dataset;
        if name != dataset {
            return Err(format!("{clause}: {}", unknown("data set", name, [dataset])));
        }
        if !self.datasets.contains_key(name) {
            return Err(format!(
                "{clause}: [datasets] has no path for {name:?}; cell-load needs a line {name} = \"path\""
            ));
        }
        Ok(())
    }

    /// Splits `data set.cell type` at the first dot.
    fn cell_type(&mut self, clause: &str, key: &str) -> Checked<usize> {
        let dataset = &self.dataset;
        // The directory's own name is tried first: a name with a dot could never be matched by cutting at the first dot.
        let own = key.strip_prefix(dataset.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let (dataset, cell_type) = match own {
            Some(cell_type) => (dataset.as_str(), cell_type),
            None => key.split_once('.').ok_or_else(|| {
                format!(
                    "{clause}: {key:?} does not name a data set and a cell type; write \"{dataset}.{key}\""
                )
            })?,
        };
        self.dataset(clause, dataset)?;
        let names = &self.manifest().cell_types;
        let found = names.iter().position(|name| name == cell_type);
        let found = found.ok_or_else(|| format!("{clause}: {}", unknown("cell type", cell_type, names)))?;
        if dataset.contains('.') {
            let what = format!(
                "{clause}: cell-load would cut {key:?} at the first dot; give the data set a name without \
                 dots"
            );
            self.warn(what);
        }
        Ok(found)
    }

    fn training(&mut self, training: &Table) -> Checked<()> {
        for (name, value) in training {
            let clause = format!("[training] {name}");
            self.dataset(&clause, name)?;
            if value.as_str() != Some("train") {
                return Err(format!(
                    "{clause} = {value}: the only value is \"train\"; otherwise, leave the line out"
                ));
            }
            self.clauses.places.fill(Place::Train);
        }
        Ok(())
    }

    fn zeroshot(&mut self, zeroshot: &Table) -> Checked<()> {
        for (key, value) in zeroshot {
            let clause = format!("[zeroshot] {key:?}");
            if value.is_table() {
                return Err(format!(
                    "[zeroshot] {key}: put quotes around the whole name, as in \"{key}.cell type\" = \"test\""
                ));
            }
            let cell_type = self.cell_type(&clause, key)?;
            let part = value.as_str().and_then(|name| name.parse::<Part>().ok());
            let part = part.ok_or_else(|| {
                format!("{clause} = {value}: the value must be \"train\", \"val\" or \"test\"")
            })?;
            if part != Part::Train && !self.has(cell_type, None) {
                return Err(format!("{clause}: the cell type has no perturbed cells to hold out"));
            }
            self.clauses.places[cell_type] = Place::Whole { part, clause };
        }
        Ok(())
    }

    fn fewshot(&mut self, fewshot: &Table) -> Checked<()> {
        for (key, value) in fewshot {
            let clause = format!("[fewshot.{key:?}]");
            let Some(lists) = value.as_table() else {
                return Err(format!("{clause} is {}; it must be a table with val and test", form(value)));
            };
            if !key.contains('.') && lists.values().any(Value::is_table) {
                return Err(format!(
                    "[fewshot.{key}]: put quotes around the whole name, as in [fewshot.\"{key}.cell type\"]"
                ));
            }
            let cell_type = self.cell_type(&clause, key)?;
            if let Place::Whole { clause: other, .. } = &self.clauses.places[cell_type] {
                return Err(format!(
                    "{clause}: {other} already places the whole cell type; keep one of the two"
                ));
            }
            let names = ["val", "test"];
            if let Some(name) = lists.keys().find(|name| !names.contains(&name.as_str())) {
                return Err(format!(
                    "{clause}: {} (perturbations that are not listed go to train)",
                    unknown("list", name, &names)
                ));
            }
            let val = self.listed(&clause, "val", lists, cell_type)?;
            let test = self.listed(&clause, "test", lists, cell_type)?;
            if let Some(&both) = val.intersection(&test).min() {
                let name = &self.manifest().perturbations[both as usize];
                return Err(format!(
                    "{clause}: {name:?} is in both val and test; a cell can be in only one of them"
                ));
            }
            if val.is_empty() && test.is_empty() {
                return Err(format!(
                    "{clause}: lists no perturbations; remove it, or list some in val or test"
                ));
            }
            self.clauses.places[cell_type] = Place::Listed { val, test, clause };
        }
        Ok(())
    }

    /// The perturbations of one list, each of which must occur in the cell type.
    fn listed(&mut self, clause: &str, list: &str, lists: &Table, cell_type: usize) -> Checked<HashSet<u32>> {
        let clause = format!("{clause} {list}");
        let empty = Vec::new();
        let names = match lists.get(list) {
            None => &empty,
            Some(value) => value.as_array().ok_or_else(|| format!("{clause} must be a list: [\"...\"]"))?,
        };
        let mut ids = HashSet::new();
        let mut absent = Vec::new();
        for name in names {
            let name =
                name.as_str().ok_or_else(|| format!("{clause}: {name} is not a perturbation in quotes"))?;
            let Manifest { perturbations, control, .. } = self.manifest();
            if name == control {
                return Err(format!(
                    "{clause}: {name:?} is the control label; controls go to every part automatically"
                ));
            }
            let id = perturbations.binary_search_by(|p| p.as_str().cmp(name));
            let id =
                id.map_err(|_| format!("{clause}: {}", unknown("perturbation", name, perturbations)))? as u32;
            if !self.has(cell_type, Some(id)) {
                absent.push(name);
            }
            if !ids.insert(id) {
                self.warn(format!("{clause}: {name:?} is listed twice"));
            }
        }
        match absent.is_empty() {
            true => Ok(ids),
            false => Err(format!("{clause}: no cells in this cell type for {}", some_of(&absent))),
        }
    }

    /// Whether a cell type has cells of a perturbation, or of any.
    fn has(&self, cell_type: usize, perturbation: Option<u32>) -> bool {
        let control = self.data.control_id();
        // Controls come first; the others are sorted by cell type, then perturbation.
        let place = |g: &Group| {
            (g.perturbation != control, g.cell_type as usize, perturbation.map(|_| g.perturbation))
        };
        self.data.groups().binary_search_by_key(&(true, cell_type, perturbation), place).is_ok()
    }
}
