//! `obs` and `var`: groups with one child per column (anndata dataframe 0.2.0, and 0.1.0 of anndata
//! 0.7), or the tables of [`super::compound`].

use std::ops::Range;

use super::column::{all_there, categorical, unread};
use super::node::Node;
use super::{Column, Frame, Labels, compound};
use crate::error::Result;

/// Reads a frame and its length; if `wanted` is given, only those columns and no index.
pub(super) fn read(root: &Node, name: &str, wanted: Option<&[&str]>) -> Result<(Frame, usize)> {
    if let Some(table) = root.find(name)? {
        return compound::read(root, &table, wanted);
    }
    let node = open(root, name)?;
    let lacks = || node.wrong("lacks the attribute column-order: it is not a data frame");
    let order = node.columns()?.ok_or_else(lacks)?;
    let index = index_name(&node)?;
    let rows = index_length(&node, &index)?;
    let mut frame = Frame::default();
    if wanted.is_none() {
        frame.index = read_column(&node, &index, None)?.texts();
    }
    all_there(root.path, wanted, &order)?;
    for column_name in order {
        if wanted.is_some_and(|names| !names.contains(&column_name.as_str())) {
            continue;
        }
        let column = match read_column(&node, &column_name, None) {
            Ok(column) if column.len() != rows => {
                let what = format!("has {} entries, but {name} has {rows} rows", column.len());
                return Err(root.wrong(format!("{} {what}", node.of(&column_name))));
            }
            Err(error) if wanted.is_none() => unread(&error, root.path),
            read => read?,
        };
        frame.columns.push((column_name, column));
    }
    Ok((frame, rows))
}

/// The name of a frame's index, and the names of some rows.
pub(super) fn index(root: &Node, name: &str, rows: Range<usize>) -> Result<(String, Vec<String>)> {
    if let Some(table) = root.find(name)? {
        return compound::index(&table, rows);
    }
    let node = open(root, name)?;
    let index = index_name(&node)?;
    let names = read_column(&node, &index, Some(rows))?.texts();
    Ok((index, names))
}

fn open<'a>(root: &Node<'a>, name: &str) -> Result<Node<'a>> {
    let missing = || root.wrong(format!("has no {name}: not an h5ad file, or an incomplete one"));
    root.find_inner(name)?.ok_or_else(missing)
}

fn index_name(frame: &Node) -> Result<String> {
    let lacks = || frame.wrong("lacks the attribute _index: it is not a data frame");
    frame.word("_index")?.ok_or_else(lacks)
}

fn index_length(frame: &Node, index: &str) -> Result<usize> {
    let names = match frame.find(index)? {
        Some(names) => names,
        None => {
            let inner = frame.inner(index)?;
            let values = inner.find("values")?;
            let codes = || inner.find("codes")?.ok_or_else(|| inner.wrong("is not a list of names"));
            values.map_or_else(codes, Ok)?
        }
    };
    Ok(names.length()? as usize)
}

/// Some rows of a column, or all.
fn read_column(frame: &Node, name: &str, rows: Option<Range<usize>>) -> Result<Column> {
    let Some(column) = frame.find_inner(name)? else {
        let stored = frame.array(name)?;
        // anndata 0.7 keeps the categories of a frame next to its columns.
        return match frame.find(&format!("__categories/{name}"))? {
            Some(names) => {
                let names = names.column()?.texts();
                categorical(stored.numbers_of(rows)?, names, frame.path, stored.name())
            }
            None => stored.some(rows),
        };
    };
    match column.encoding()?.as_str() {
        "categorical" => {
            let codes = column.array("codes")?;
            let names = match column.find_inner("categories")? {
                // Newer writers store text this way.
                Some(inner) => nullable(&inner, None)?,
                None => column.array("categories")?.column()?,
            };
            categorical(codes.numbers_of(rows)?, names.texts(), column.path, &column.place)
        }
        kind if kind.starts_with("nullable-") => nullable(&column, rows),
        kind => Err(column.wrong(format!(
            "has encoding {kind:?}; only categorical, text, numbers, booleans and nullable arrays can be read"
        ))),
    }
}

/// `values` and `mask` (true = missing). A plain column if nothing is missing, else labels with code -1.
fn nullable(column: &Node, rows: Option<Range<usize>>) -> Result<Column> {
    let values = column.array("values")?.some(rows.clone())?;
    let mask = column.array("mask")?.numbers_of(rows)?;
    if mask.len() != values.len() {
        let what = format!("has {} values, but {} mask entries", values.len(), mask.len());
        return Err(column.wrong(what));
    }
    if mask.iter().all(|&missing| missing == 0) {
        return Ok(values);
    }
    let words = values.texts();
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
