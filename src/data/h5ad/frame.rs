//! `obs` and `var`: groups with one child per column (anndata dataframe 0.2.0, and 0.1.0 of anndata
//! 0.7), or the tables of [`super::compound`].

use std::ops::Range;
use std::path::Path;

use hdf5_pure::{File, Group};

use super::array::Array;
use super::column::truth;
use super::hdf5::{Named, array, attributes, encoding};
use super::{Column, Frame, Labels, compound, missing_column};
use crate::error::{Error, Result};

/// Reads a frame and its length; if `wanted` is given, only those columns and no index.
pub(super) fn read(file: &File, path: &Path, name: &str, wanted: Option<&[&str]>) -> Result<(Frame, usize)> {
    if let Ok(table) = file.dataset(name) {
        return compound::read(file, &Array::new(table, path, name)?, path, name, wanted);
    }
    let group = open(file, path, name)?;
    let attributes = attributes(&group, path, name)?;
    let order = match attributes.get("column-order") {
        // A frame without columns stores an empty array of numbers here.
        Some(value) => value.as_strings().map(<[String]>::to_vec).unwrap_or_default(),
        None => {
            return Err(Error::format(
                path,
                format!("{name} lacks the attribute column-order: it is not a data frame"),
            ));
        }
    };
    let index = index_name(&group, path, name)?;
    let rows = index_length(&group, path, name, &index)?;
    let mut frame = Frame::default();
    if wanted.is_none() {
        frame.index = texts(read_column(&group, path, name, &index, None)?);
    }
    all_there(path, name, wanted, &order)?;
    for column_name in order {
        if wanted.is_some_and(|names| !names.contains(&column_name.as_str())) {
            continue;
        }
        let column = match read_column(&group, path, name, &column_name, None) {
            Ok(column) if column.len() != rows => {
                let what =
                    format!("{name}/{column_name} has {} entries, but {name} has {rows} rows", column.len());
                return Err(Error::format(path, what));
            }
            Err(error) if wanted.is_none() => unread(&error, path),
            read => read?,
        };
        frame.columns.push((column_name, column));
    }
    Ok((frame, rows))
}

/// What stands for a column that cannot be read, which is no reason to refuse a file when other columns are needed.
pub(super) fn unread(error: &Error, path: &Path) -> Column {
    let told = error.to_string();
    // The path is named again when the column is asked for.
    let why = told.strip_prefix(&format!("{}: ", path.display()));
    Column::Unread(why.unwrap_or(&told).to_string())
}

/// Refuses columns that a frame lacks.
pub(super) fn all_there(path: &Path, name: &str, wanted: Option<&[&str]>, there: &[String]) -> Result<()> {
    match wanted.unwrap_or_default().iter().find(|&&column| !there.iter().any(|name| name == column)) {
        Some(missing) => {
            let what = format!("{name}: {}", missing_column(missing, there));
            Err(Error::setting(path.display().to_string(), what))
        }
        None => Ok(()),
    }
}

/// The name of a frame's index, and the names of some rows.
pub(super) fn index(
    file: &File,
    path: &Path,
    name: &str,
    rows: Range<usize>,
) -> Result<(String, Vec<String>)> {
    if let Ok(table) = file.dataset(name) {
        return compound::index(&Array::new(table, path, name)?, path, name, rows);
    }
    let group = open(file, path, name)?;
    let index = index_name(&group, path, name)?;
    let names = texts(read_column(&group, path, name, &index, Some(rows))?);
    Ok((index, names))
}

fn open(file: &File, path: &Path, name: &str) -> Result<Group> {
    let missing = |_| Error::format(path, format!("has no {name}: not an h5ad file, or an incomplete one"));
    file.group(name).map_err(missing)
}

fn index_name(group: &Group, path: &Path, name: &str) -> Result<String> {
    let attributes = attributes(group, path, name)?;
    let index = attributes.get("_index").and_then(|value| value.as_str()).map(String::from);
    index.ok_or_else(|| {
        Error::format(path, format!("{name} lacks the attribute _index: it is not a data frame"))
    })
}

fn index_length(group: &Group, path: &Path, name: &str, index: &str) -> Result<usize> {
    let what = format!("{name}/{index}");
    if group.dataset(index).is_ok() {
        return Ok(array(group, path, name, index)?.length()? as usize);
    }
    let inner = group.group(index).named(path, &what)?;
    let parts = ["values", "codes"].into_iter().find(|part| inner.dataset(part).is_ok());
    let part = parts.ok_or_else(|| Error::format(path, format!("{what} is not a list of names")))?;
    Ok(array(&inner, path, &what, part)?.length()? as usize)
}

/// Some rows of a column, or all.
fn read_column(
    frame: &Group,
    path: &Path,
    frame_name: &str,
    name: &str,
    rows: Option<Range<usize>>,
) -> Result<Column> {
    let what = format!("{frame_name}/{name}");
    let Ok(group) = frame.group(name) else {
        let stored = array(frame, path, frame_name, name)?;
        // anndata 0.7 keeps the categories of a frame next to its columns.
        return match frame.dataset(&format!("__categories/{name}")) {
            Ok(names) => {
                let names =
                    Array::new(names, path, &format!("{frame_name}/__categories/{name}"))?.column()?;
                categorical(stored.numbers_of(rows)?, texts(names), path, &what)
            }
            Err(_) => stored.some(rows),
        };
    };
    match encoding(&attributes(&group, path, &what)?).as_str() {
        "categorical" => {
            let codes = array(&group, path, &what, "codes")?;
            let names = match group.group("categories") {
                // Newer writers store text this way.
                Ok(inner) => nullable(&inner, path, &format!("{what}/categories"), None)?,
                Err(_) => array(&group, path, &what, "categories")?.column()?,
            };
            categorical(codes.numbers_of(rows)?, texts(names), path, &what)
        }
        kind if kind.starts_with("nullable-") => nullable(&group, path, &what, rows),
        kind => Err(Error::format(
            path,
            format!(
                "{what} has encoding {kind:?}; only categorical, text, numbers, booleans and nullable arrays \
                 can be read"
            ),
        )),
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

/// `values` and `mask` (true = missing). A plain column if nothing is missing, else labels with code -1.
fn nullable(group: &Group, path: &Path, what: &str, rows: Option<Range<usize>>) -> Result<Column> {
    let values = array(group, path, what, "values")?.some(rows.clone())?;
    let mask = array(group, path, what, "mask")?;
    let mask: Vec<i64> = mask.numbers_of(rows)?;
    if mask.len() != values.len() {
        let what = format!("{what} has {} values, but {} mask entries", values.len(), mask.len());
        return Err(Error::format(path, what));
    }
    if mask.iter().all(|&missing| missing == 0) {
        return Ok(values);
    }
    let words = texts(values);
    let present: Vec<&str> = words
        .iter()
        .zip(&mask)
        .filter(|(_, missing)| **missing == 0)
        .map(|(word, _)| word.as_str())
        .collect();
    let labels = Labels::of(&present);
    let mut codes = labels.codes.iter();
    let spread = mask.iter().map(|&missing| match missing {
        0 => *codes.next().expect("one code for each entry that is present"),
        _ => -1,
    });
    Ok(Column::Categorical(Labels { codes: spread.collect(), names: labels.names }))
}

/// Any column as text, with entries as Python's `str` writes them.
pub(super) fn texts(column: Column) -> Vec<String> {
    match column {
        Column::Text(items) => items,
        Column::Integer(items) => items.iter().map(i64::to_string).collect(),
        Column::Float(items) => items.iter().map(|item| format!("{item:?}")).collect(),
        Column::Boolean(items) => items.iter().map(|&item| truth(item).to_string()).collect(),
        Column::Categorical(labels) => {
            (0..labels.len()).map(|i| labels.get(i).unwrap_or_default().to_string()).collect()
        }
        Column::Unread(_) => Vec::new(),
    }
}
