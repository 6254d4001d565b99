//! What an h5ad file must not hold: anndata could not open it, or would find something else in it.

use std::collections::HashSet;
use std::path::Path;

use super::{Extra, MAPPINGS};
use crate::data::h5ad::{Column, Frame, Labels};
use crate::error::{Error, Result};

/// Refuses a frame that does not label `rows` rows, or has a column that cannot be stored.
pub(super) fn check_frame(path: &Path, name: &str, frame: &Frame, rows: usize) -> Result<()> {
    let wrong = |what: String| Err(Error::format(path, format!("{name}: {what}")));
    let mut taken = HashSet::new();
    if frame.index.len() != rows {
        return wrong(format!("{} names, but X has {rows} of them", frame.index.len()));
    }
    if let Some(text) = with_nul(&frame.index) {
        return wrong(format!("the name {text:?} contains a NUL, at which readers end it"));
    }
    for (column_name, column) in &frame.columns {
        let bad = |what: String| wrong(format!("column {column_name:?} {what}"));
        if let Column::Unread(why) = column {
            return bad(format!("could not be read: {why}"));
        }
        if column.len() != rows {
            return bad(format!("has {} entries, but X has {rows} of them", column.len()));
        }
        if !taken.insert(column_name) {
            return bad("appears twice".into());
        }
        if column_name.is_empty() || column_name.contains(['/', '\0']) {
            return bad("cannot be stored under that name: it is empty, or contains / or NUL".into());
        }
        let texts = match column {
            Column::Categorical(Labels { codes, names }) => {
                if codes.iter().any(|&code| code < -1 || i64::from(code) >= names.len() as i64) {
                    return bad(format!("has codes outside its {} categories", names.len()));
                }
                let mut seen = HashSet::new();
                if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
                    return bad(format!("names the category {twice:?} twice"));
                }
                names
            }
            Column::Text(items) => items,
            _ => continue,
        };
        if let Some(text) = with_nul(texts) {
            return bad(format!("has {text:?}, which contains a NUL, at which readers end it"));
        }
    }
    Ok(())
}

/// The first text that HDF5 would cut off, if any: its texts of any length end with a NUL.
fn with_nul(texts: &[String]) -> Option<&String> {
    texts.iter().find(|text| text.contains('\0'))
}

/// Why an extra cannot be stored at its place, beside an X of `[cells, genes]`.
pub(super) fn check_extra(place: &str, extra: &Extra, x: [usize; 2]) -> std::result::Result<(), String> {
    let (first, rest) = place.split_once('/').unwrap_or((place, ""));
    let known = MAPPINGS.iter().find(|(name, _)| *name == first);
    let Some((mapping, common)) = known.filter(|_| rest.split('/').all(|part| !part.is_empty())) else {
        let names: Vec<&str> = MAPPINGS.iter().map(|(name, _)| *name).collect();
        return Err(format!("cannot contain {place:?}: extras go under {}", names.join(", ")));
    };
    let (shape, texts) = match extra {
        Extra::Numbers { shape, values } => {
            let count = shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis));
            if count != Some(values.len()) {
                return Err(format!("{place} has {} numbers for shape {shape:?}", values.len()));
            }
            (shape.clone(), &[][..])
        }
        Extra::Strings(items) => (vec![items.len()], &items[..]),
        Extra::Text(text) => (Vec::new(), std::slice::from_ref(text)),
    };
    if place.contains('\0') || with_nul(texts).is_some() {
        return Err(format!("{place:?}: its name or text contains a NUL, at which readers end it"));
    }
    if *mapping != "uns" && rest.contains('/') {
        return Err(format!("cannot contain {place:?}: only uns has folders"));
    }
    let wanted: Vec<usize> = common.iter().map(|&axis| x[axis]).collect();
    if !shape.starts_with(&wanted) {
        return Err(format!("{place} has shape {shape:?}, but in {mapping} shapes begin with {wanted:?}"));
    }
    Ok(())
}
