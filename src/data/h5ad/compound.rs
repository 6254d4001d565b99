//! `obs` and `var` of anndata before 0.7: one table of records. The first field is the index; the categories
//! of a field `F` are in `uns/F_categories`.

use std::ops::Range;
use std::path::Path;

use hdf5_pure::{CompoundMember, Datatype, File};

use super::array::Array;
use super::{Column, Frame, frame};
use crate::error::{Error, Result};

/// The table as a frame, and its length; if `wanted` is given, only those columns and no index.
pub(super) fn read(
    file: &File,
    table: &Array,
    path: &Path,
    name: &str,
    wanted: Option<&[&str]>,
) -> Result<(Frame, usize)> {
    let (size, members) = fields(table).ok_or_else(|| no_table(path, name))?;
    let (index, members) = members.split_first().expect("a table has an index");
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    frame::all_there(path, name, wanted, &names)?;
    let rows = table.length()?;
    let bytes = table.bytes(0, rows)?;
    let column = |member: &CompoundMember| -> Result<Column> {
        let what = format!("{name}/{}", member.name);
        let stored = table.decode(&member.datatype, &field(&bytes, size, member), &what)?;
        match (stored, categories(file, path, &member.name)?) {
            // As anndata did: integers that are not all codes stay as they are.
            (Column::Integer(codes), Some(names)) if codes.iter().all(|&code| code < names.len() as i64) => {
                frame::categorical(codes, names, path, &what)
            }
            (stored, _) => Ok(stored),
        }
    };
    let mut frame = Frame::default();
    if wanted.is_none() {
        frame.index = frame::texts(column(index)?);
    }
    for member in members.iter().filter(|m| wanted.is_none_or(|names| names.contains(&m.name.as_str()))) {
        let read = match column(member) {
            Err(error) if wanted.is_none() => frame::unread(&error, path),
            read => read?,
        };
        frame.columns.push((member.name.clone(), read));
    }
    Ok((frame, rows as usize))
}

/// The name of the index, and the names of some rows.
pub(super) fn index(
    table: &Array,
    path: &Path,
    name: &str,
    rows: Range<usize>,
) -> Result<(String, Vec<String>)> {
    let (size, members) = fields(table).ok_or_else(|| no_table(path, name))?;
    let bytes = table.bytes(rows.start as u64, rows.len() as u64)?;
    let names = table.decode(&members[0].datatype, &field(&bytes, size, &members[0]), name)?;
    Ok((members[0].name.clone(), frame::texts(names)))
}

fn no_table(path: &Path, name: &str) -> Error {
    Error::format(path, format!("{name} is neither a group nor a table of records"))
}

/// Bytes per record, and its fields, of which there is at least one.
fn fields(table: &Array) -> Option<(usize, &[CompoundMember])> {
    match table.kind() {
        Datatype::Compound { size, members } if !members.is_empty() => Some((*size as usize, members)),
        _ => None,
    }
}

/// The bytes of one field of all records.
fn field(bytes: &[u8], size: usize, member: &CompoundMember) -> Vec<u8> {
    let start = member.byte_offset as usize;
    let width = member.datatype.type_size() as usize;
    bytes
        .chunks_exact(size)
        .flat_map(|record| record.get(start..start + width).unwrap_or_default())
        .copied()
        .collect()
}

fn categories(file: &File, path: &Path, column: &str) -> Result<Option<Vec<String>>> {
    let name = format!("uns/{column}_categories");
    match file.dataset(&name) {
        // A single category was stored as one string without an axis.
        Ok(names) if names.shape().is_ok_and(|axes| axes.len() == 1) => {
            Ok(Some(frame::texts(Array::new(names, path, &name)?.column()?)))
        }
        Ok(names) => Ok(Array::new(names, path, &name)?.text().map(|name| vec![name])),
        Err(_) => Ok(None),
    }
}
