//! `obs` and `var`: groups with one child a column (anndata dataframe 0.2.0, and 0.1.0 of anndata 0.7).

use std::path::Path;

use hdf5_pure::{DType, Dataset, File, Group};

use super::hdf5::{Named, attributes, encoding, is_integer, length};
use super::{Column, Frame, Labels, missing_column};
use crate::error::{Error, Result};

/// Reads a frame and its length; of the columns only `wanted` and no index where that is given.
pub(super) fn read(file: &File, path: &Path, name: &str, wanted: Option<&[&str]>) -> Result<(Frame, usize)> {
    let group = open(file, path, name)?;
    let attributes = attributes(&group, path, name)?;
    let order = match attributes.get("column-order") {
        // A frame without columns stores an empty array of numbers here.
        Some(value) => value.as_strings().map(<[String]>::to_vec).unwrap_or_default(),
        None => {
            return Err(Error::format(path, format!("{name} lacks the attribute column-order: not a frame")));
        }
    };
    let index = index_name(&group, path, name)?;
    let rows = index_length(&group, path, name, &index)?;
    let mut frame = Frame::default();
    if wanted.is_none() {
        frame.index = texts(read_column(&group, path, name, &index)?);
    }
    if let Some(missing) =
        wanted.unwrap_or_default().iter().find(|&&column| !order.iter().any(|o| o == column))
    {
        return Err(Error::format(path, format!("{name}: {}", missing_column(missing, &order))));
    }
    for column_name in order {
        if wanted.is_some_and(|names| !names.contains(&column_name.as_str())) {
            continue;
        }
        let column = match read_column(&group, path, name, &column_name) {
            Ok(column) => column,
            // A column of an exotic kind is no reason to refuse a file whose other columns are asked for.
            Err(_) if wanted.is_none() => continue,
            Err(error) => return Err(error),
        };
        if column.len() != rows {
            let what =
                format!("{name}/{column_name} has {} entries, but {name} has {rows} rows", column.len());
            return Err(Error::format(path, what));
        }
        frame.columns.push((column_name, column));
    }
    Ok((frame, rows))
}

/// One entry of a frame's index, without reading the rest; `None` where it cannot be had.
pub(super) fn index_entry(file: &File, path: &Path, name: &str, row: usize) -> Option<String> {
    let group = open(file, path, name).ok()?;
    let index = index_name(&group, path, name).ok()?;
    group.dataset(&index).ok()?.read_string_rows(row as u64, 1).ok()?.pop()
}

fn open(file: &File, path: &Path, name: &str) -> Result<Group> {
    file.group(name).map_err(|error| match error {
        hdf5_pure::Error::NotAGroup(_) => Error::format(
            path,
            format!(
                "{name} is a compound table, as anndata before 0.7 wrote it; write the file again with a current anndata: \
                 anndata.read_h5ad(\"old.h5ad\").write_h5ad(\"new.h5ad\")"
            ),
        ),
        _ => Error::format(path, format!("has no {name}: not an h5ad file, or an incomplete one")),
    })
}

fn index_name(group: &Group, path: &Path, name: &str) -> Result<String> {
    let attributes = attributes(group, path, name)?;
    let index = attributes.get("_index").and_then(|value| value.as_str()).map(String::from);
    index.ok_or_else(|| Error::format(path, format!("{name} lacks the attribute _index: not a frame")))
}

fn index_length(group: &Group, path: &Path, name: &str, index: &str) -> Result<usize> {
    let what = format!("{name}/{index}");
    let entries = match group.dataset(index) {
        Ok(dataset) => length(&dataset, path, &what)?,
        Err(_) => {
            let inner = group.group(index).named(path, &what)?;
            let parts = ["values", "codes"].iter().find_map(|part| inner.dataset(part).ok());
            let dataset = parts.ok_or_else(|| Error::format(path, format!("{what} is no list of names")))?;
            length(&dataset, path, &what)?
        }
    };
    Ok(entries as usize)
}

fn read_column(frame: &Group, path: &Path, frame_name: &str, name: &str) -> Result<Column> {
    let what = format!("{frame_name}/{name}");
    match frame.group(name) {
        Ok(group) => match encoding(&attributes(&group, path, &what)?).as_str() {
            "categorical" => categorical(
                &group.dataset("codes").named(path, &format!("{what}/codes"))?,
                texts(categories(&group, path, &what)?),
                path,
                &what,
            ),
            kind if kind.starts_with("nullable-") => nullable(&group, path, &what),
            kind => Err(Error::format(
                path,
                format!(
                    "{what} has encoding {kind:?}; read are categorical, text, numbers, booleans and nullable arrays"
                ),
            )),
        },
        Err(_) => {
            let dataset = frame.dataset(name).named(path, &what)?;
            // anndata 0.7 keeps the categories of a frame beside its columns.
            match frame.dataset(&format!("__categories/{name}")) {
                Ok(stored) => categorical(&dataset, texts(plain(&stored, path, &what)?), path, &what),
                Err(_) => plain(&dataset, path, &what),
            }
        }
    }
}

/// The `categories` of a categorical column: an array, or a nullable array as newer writers store text.
fn categories(group: &Group, path: &Path, what: &str) -> Result<Column> {
    match group.dataset("categories") {
        Ok(dataset) => plain(&dataset, path, &format!("{what}/categories")),
        Err(_) => {
            nullable(&group.group("categories").named(path, &format!("{what}/categories"))?, path, what)
        }
    }
}

fn plain(dataset: &Dataset, path: &Path, what: &str) -> Result<Column> {
    length(dataset, path, what)?;
    let kind = dataset.dtype().named(path, what)?;
    Ok(match kind {
        DType::String | DType::VariableLengthString => Column::Text(dataset.read_string().named(path, what)?),
        DType::F32 | DType::F64 => Column::Float(dataset.read_f64().named(path, what)?),
        kind if is_integer(&kind) => Column::Integer(dataset.read_i64().named(path, what)?),
        // h5py stores a boolean as an enumeration of FALSE and TRUE.
        DType::Enum(names) if names.iter().all(|name| name == "FALSE" || name == "TRUE") => {
            Column::Boolean(dataset.read_i8().named(path, what)?.iter().map(|&value| value != 0).collect())
        }
        other => {
            return Err(Error::format(
                path,
                format!("{what} has type {other}, which is no column of labels or numbers"),
            ));
        }
    })
}

fn categorical(codes: &Dataset, names: Vec<String>, path: &Path, what: &str) -> Result<Column> {
    let stored = codes.read_i64().named(path, what)?;
    let mut checked = Vec::with_capacity(stored.len());
    for (row, &code) in stored.iter().enumerate() {
        if code < -1 || code >= names.len() as i64 {
            let what = format!("{what}: code {code} of row {row} is outside its {} categories", names.len());
            return Err(Error::format(path, what));
        }
        checked.push(code as i32);
    }
    Ok(Column::Categorical(Labels { codes: checked, names }))
}

/// `values` and `mask` (true = missing). Without missing entries a plain column, else labels with code -1.
fn nullable(group: &Group, path: &Path, what: &str) -> Result<Column> {
    let values = plain(&group.dataset("values").named(path, &format!("{what}/values"))?, path, what)?;
    let mask = group.dataset("mask").named(path, &format!("{what}/mask"))?.read_i8().named(path, what)?;
    if mask.len() != values.len() {
        let what = format!("{what} has {} values and {} mask entries", values.len(), mask.len());
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

/// Any column as text, as Python's `str` would write its entries.
fn texts(column: Column) -> Vec<String> {
    match column {
        Column::Text(items) => items,
        Column::Integer(items) => items.iter().map(i64::to_string).collect(),
        Column::Float(items) => items.iter().map(|item| format!("{item:?}")).collect(),
        Column::Boolean(items) => items.iter().map(|&item| truth(item).to_string()).collect(),
        Column::Categorical(labels) => {
            (0..labels.len()).map(|i| labels.get(i).unwrap_or_default().to_string()).collect()
        }
    }
}

/// Python's words.
pub(super) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Labels of whole numbers, names sorted as text like every other vocabulary.
pub(super) fn integer_labels(items: &[i64]) -> Labels {
    let words: Vec<String> = items.iter().map(i64::to_string).collect();
    Labels::of(&words)
}
