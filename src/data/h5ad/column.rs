//! Columns of `obs` and `var`, and labels of cells.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::number::spelled;
use crate::error::{Error, Result, nearest};

/// `obs` or `var`: an index and named columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Names of the rows: cell barcodes or genes.
    pub index: Vec<String>,
    /// Columns in file order.
    pub columns: Vec<(String, Column)>,
}

/// One column of a frame.
#[derive(Clone, Debug)]
pub enum Column {
    /// Repeated labels; also what nullable columns with missing entries become.
    Categorical(Labels),
    /// Free text.
    Text(Vec<String>),
    /// Whole numbers.
    Integer(Vec<i64>),
    /// Decimal numbers; NaN is missing.
    Float(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
    /// No entries, but why they could not be read: only whoever needs them is refused.
    Unread(String),
}

/// Labels of cells: `codes[i]` indexes `names`; -1 is a missing label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// One code per cell, -1 or below `names.len()`.
    pub codes: Vec<i32>,
    /// The different labels, each once.
    pub names: Vec<String>,
}

impl Labels {
    /// Labels from a list; names are sorted.
    pub fn of<S: AsRef<str>>(items: &[S]) -> Labels {
        let mut names: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names.dedup();
        let place: HashMap<&str, i32> = names.iter().enumerate().map(|(i, &name)| (name, i as i32)).collect();
        let codes = items.iter().map(|item| place[item.as_ref()]).collect();
        Labels { codes, names: names.into_iter().map(String::from).collect() }
    }

    /// The same labels with their names sorted.
    pub(crate) fn sorted(self) -> Labels {
        let Labels { codes, names } = self;
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by(|&a, &b| names[a].cmp(&names[b]));
        let mut place = vec![0; names.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new as i32);
        let codes = recoded(&codes, &place);
        Labels { codes, names: order.into_iter().map(|old| names[old].clone()).collect() }
    }

    /// The same labels with every name once, for files that name a category twice.
    pub(crate) fn with_names_once(self) -> Labels {
        let mut seen = HashSet::with_capacity(self.names.len());
        if self.names.iter().all(|name| seen.insert(name)) {
            return self;
        }
        let mut once = Growing::default();
        once.append(&self);
        once.finish()
    }

    /// The same labels, with empty and blank ones treated as missing, as in a table of text.
    pub(crate) fn without_empty(mut self) -> Labels {
        let empty: Vec<bool> = self.names.iter().map(|name| name.trim().is_empty()).collect();
        if empty.contains(&true) {
            let codes = self.codes.iter_mut();
            codes.filter(|code| **code >= 0 && empty[**code as usize]).for_each(|code| *code = -1);
        }
        self
    }

    /// The labels as numbers, NaN for missing ones.
    ///
    /// # Errors
    /// A label that is not a number.
    pub fn numbers(&self, path: &Path, column: &str) -> Result<Vec<f32>> {
        let number = |name: &String| {
            let what =
                || Error::format(path, format!("column {column:?} contains {name:?}, which is not a number"));
            name.trim().parse::<f32>().map_err(|_| what())
        };
        let names: Vec<f32> = self.names.iter().map(number).collect::<Result<_>>()?;
        Ok(self
            .codes
            .iter()
            .map(|&code| usize::try_from(code).map_or(f32::NAN, |code| names[code]))
            .collect())
    }

    /// Label of cell `i`, `None` if it is missing.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn get(&self, i: usize) -> Option<&str> {
        usize::try_from(self.codes[i]).ok().map(|code| self.names[code].as_str())
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there are no cells.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
}

/// The codes that others stand for: `to[code]`, or -1 where that is missing.
pub(crate) fn recoded(codes: &[i32], to: &[i32]) -> Vec<i32> {
    codes.iter().map(|&code| usize::try_from(code).map_or(-1, |code| to[code])).collect()
}

/// Labels that grow cell by cell; each distinct label is stored once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growing {
    labels: Labels,
    code_of: HashMap<String, i32>,
}

impl Growing {
    /// Adds the next cell's label, of which an empty one is missing.
    pub(crate) fn push(&mut self, label: &str) {
        let code = if label.is_empty() { -1 } else { self.code(label) };
        self.labels.codes.push(code);
    }

    /// Adds the labels of the next cells.
    pub(crate) fn append(&mut self, next: &Labels) {
        let codes: Vec<i32> = next.names.iter().map(|name| self.code(name)).collect();
        self.labels.codes.extend(recoded(&next.codes, &codes));
    }

    fn code(&mut self, name: &str) -> i32 {
        if let Some(&code) = self.code_of.get(name) {
            return code;
        }
        let code = self.labels.names.len() as i32;
        self.labels.names.push(name.to_string());
        self.code_of.insert(name.to_string(), code);
        code
    }

    /// The labels so far, missing ones as empty text.
    pub(crate) fn get(&self, i: usize) -> &str {
        self.labels.get(i).unwrap_or_default()
    }

    /// All labels so far.
    pub(crate) fn finish(self) -> Labels {
        self.labels
    }
}

impl Column {
    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Column::Categorical(labels) => labels.len(),
            Column::Text(items) => items.len(),
            Column::Integer(items) => items.len(),
            Column::Float(items) => items.len(),
            Column::Boolean(items) => items.len(),
            Column::Unread(_) => 0,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some entries, in the given order.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn rows(&self, rows: &[usize]) -> Column {
        fn pick<T: Clone>(items: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| items[row].clone()).collect()
        }
        match self {
            Column::Categorical(labels) => {
                Column::Categorical(Labels { codes: pick(&labels.codes, rows), names: labels.names.clone() })
            }
            Column::Text(items) => Column::Text(pick(items, rows)),
            Column::Integer(items) => Column::Integer(pick(items, rows)),
            Column::Float(items) => Column::Float(pick(items, rows)),
            Column::Boolean(items) => Column::Boolean(pick(items, rows)),
            Column::Unread(why) => Column::Unread(why.clone()),
        }
    }

    /// As text, with entries as Python's `str` writes them.
    pub(super) fn texts(self) -> Vec<String> {
        match self {
            Column::Text(items) => items,
            Column::Integer(items) => items.iter().map(i64::to_string).collect(),
            Column::Float(items) => items.iter().map(spelled).collect(),
            Column::Boolean(items) => items.iter().map(|&item| truth(item).to_string()).collect(),
            Column::Categorical(labels) => {
                (0..labels.len()).map(|i| labels.get(i).unwrap_or_default().to_string()).collect()
            }
            Column::Unread(_) => Vec::new(),
        }
    }

    /// The column's kind in one word, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Column::Categorical(_) => "categorical",
            Column::Text(_) => "text",
            Column::Integer(_) => "integer",
            Column::Float(_) => "float",
            Column::Boolean(_) => "boolean",
            Column::Unread(_) => "unread",
        }
    }
}

impl Frame {
    /// Some rows, in the given order.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn rows(&self, rows: &[usize]) -> Frame {
        let pick = |(name, column): &(String, Column)| (name.clone(), column.rows(rows));
        let index = rows.iter().map(|&row| self.index[row].clone()).collect();
        Frame { index, columns: self.columns.iter().map(pick).collect() }
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(found, _)| found == name).map(|(_, column)| column)
    }

    /// A column as numbers: whole, decimal, or labels that can be read as such.
    ///
    /// # Errors
    /// No such column, one that could not be read, or labels that are not numbers.
    pub fn numbers(&self, path: &Path, column: &str) -> Result<Vec<f32>> {
        match self.column(column) {
            Some(Column::Integer(items)) => Ok(items.iter().map(|&item| item as f32).collect()),
            Some(Column::Float(items)) => Ok(items.iter().map(|&item| item as f32).collect()),
            _ => self.labels(path, column)?.numbers(path, column),
        }
    }

    /// A column as labels: categorical, text, integer (`"3"`), boolean (`"True"`), or decimal if all its numbers are whole
    /// (`"3.0"`), as pandas makes integers some of which are missing. Errors name `path`.
    ///
    /// # Errors
    /// No such column (the message lists those that exist), one that could not be read (it says why), or decimal numbers
    /// that are not whole.
    pub fn labels(&self, path: &Path, column: &str) -> Result<Labels> {
        match self.column(column) {
            Some(Column::Categorical(labels)) => Ok(labels.clone()),
            Some(Column::Text(items)) => Ok(Labels::of(items)),
            Some(Column::Integer(items)) => {
                Ok(Labels::of(&items.iter().map(i64::to_string).collect::<Vec<_>>()))
            }
            Some(Column::Boolean(items)) => {
                let words: Vec<&str> = items.iter().map(|&item| truth(item)).collect();
                Ok(Labels::of(&words))
            }
            Some(Column::Float(items)) if items.iter().all(|item| item.is_nan() || item.fract() == 0.0) => {
                let word = |item: &f64| if item.is_nan() { String::new() } else { spelled(item) };
                Ok(Labels::of(&items.iter().map(word).collect::<Vec<_>>()).without_empty())
            }
            Some(Column::Float(_)) => Err(Error::format(
                path,
                format!(
                    "column {column:?} contains decimal numbers, not labels; store it as text or categories"
                ),
            )),
            Some(Column::Unread(why)) => Err(Error::format(path, why)),
            None => {
                let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
                Err(missing_column(path, column, &names))
            }
        }
    }
}

/// What stands for a column that cannot be read, which is no reason to refuse a file when other columns are needed.
pub(super) fn unread(error: &Error, path: &Path) -> Column {
    let told = error.to_string();
    // The path is named again when the column is asked for.
    let why = told.strip_prefix(&format!("{}: ", path.display()));
    Column::Unread(why.unwrap_or(&told).to_string())
}

/// Refuses columns that a frame lacks.
pub(super) fn all_there(path: &Path, wanted: Option<&[&str]>, there: &[String]) -> Result<()> {
    match wanted.unwrap_or_default().iter().find(|&&column| !there.iter().any(|name| name == column)) {
        Some(missing) => Err(missing_column(path, missing, there)),
        None => Ok(()),
    }
}

/// Codes of rows and the names they stand for; -1 is a missing label.
pub(super) fn categorical(codes: Vec<i64>, names: Vec<String>, path: &Path, what: &str) -> Result<Column> {
    if let Some(row) = codes.iter().position(|&code| code < -1 || code >= names.len() as i64) {
        let what =
            format!("{what}: code {} of row {row} is outside its {} categories", codes[row], names.len());
        return Err(Error::format(path, what));
    }
    let codes = codes.into_iter().map(|code| code as i32).collect();
    Ok(Column::Categorical(Labels { codes, names }.with_names_once()))
}

/// Appends `-1`, `-2`, ... to names that occurred before, as anndata's `var_names_make_unique` does; returns how many it changed.
pub(crate) fn make_unique(names: &mut [String]) -> usize {
    if names.iter().collect::<HashSet<_>>().len() == names.len() {
        return 0;
    }
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut seen = HashSet::new();
    let mut counts: HashMap<String, u32> = HashMap::new();
    let mut renamed = 0;
    for name in names {
        if seen.insert(name.clone()) {
            continue;
        }
        let count = counts.entry(name.clone()).or_default();
        let other = loop {
            *count += 1;
            let other = format!("{name}-{count}");
            if taken.insert(other.clone()) {
                break other;
            }
        };
        *name = other;
        renamed += 1;
    }
    renamed
}

/// The error for a missing column: a fault of the setting, not of the file.
pub(super) fn missing_column(path: &Path, column: &str, names: &[String]) -> Error {
    let near = nearest(column, names);
    let hint = near.first().map_or(String::new(), |name| format!("; did you mean {name:?}?"));
    let there = if names.is_empty() { " none".to_string() } else { format!(": {}", names.join(", ")) };
    let what = format!("not in {}{hint} (the file has{there})", path.display());
    Error::setting(format!("column {column:?}"), what)
}

/// As Python writes it.
pub(super) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::{Labels, make_unique};

    #[test]
    fn an_empty_label_is_a_missing_one() {
        let labels = Labels::of(&["b", "", "a", " "]).without_empty();
        assert_eq!((0..4).map(|i| labels.get(i)).collect::<Vec<_>>(), [Some("b"), None, Some("a"), None]);
    }

    #[test]
    fn a_name_that_is_made_unique_takes_none_that_is_there() {
        let mut names = ["A", "B", "A", "A-1", "A", "B"].map(String::from).to_vec();
        assert_eq!(make_unique(&mut names), 3);
        assert_eq!(names, ["A", "B", "A-2", "A-1", "A-3", "B-1"]);
    }
}
