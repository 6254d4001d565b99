//! `obs` and `var` of anndata before 0.7: one table of records. The first field is the index; the categories
//! of a field `F` are in `uns/F_categories`.

use std::ops::Range;

use hdf5_pure::{CompoundMember, Datatype};

use super::array::Array;
use super::column::{all_there, categorical, unread};
use super::node::Node;
use super::{Column, Frame};
use crate::error::Result;

/// The table as a frame, and its length; if `wanted` is given, only those columns and no index.
pub(super) fn read(root: &Node, table: &Array, wanted: Option<&[&str]>) -> Result<(Frame, usize)> {
    let (path, name) = (root.path, table.name());
    let (size, members) = fields(table)?;
    let (index, members) = members.split_first().expect("a table has an index");
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    all_there(path, wanted, &names)?;
    let rows = table.length()?;
    let bytes = table.bytes(0, rows)?;
    let column = |member: &CompoundMember| -> Result<Column> {
        let what = format!("{name}/{}", member.name);
        let stored = table.decode(&member.datatype, &field(&bytes, size, member), &what)?;
        match (stored, categories(root, &member.name)?) {
            // As anndata did: integers that are not all codes stay as they are.
            (Column::Integer(codes), Some(names)) if codes.iter().all(|&code| code < names.len() as i64) => {
                categorical(codes, names, path, &what)
            }
            (stored, _) => Ok(stored),
        }
    };
    let mut frame = Frame::default();
    if wanted.is_none() {
        frame.index = column(index)?.texts();
    }
    for member in members.iter().filter(|m| wanted.is_none_or(|names| names.contains(&m.name.as_str()))) {
        let read = match column(member) {
            Err(error) if wanted.is_none() => unread(&error, path),
            read => read?,
        };
        frame.columns.push((member.name.clone(), read));
    }
    Ok((frame, rows as usize))
}

/// The name of the index, and the names of some rows.
pub(super) fn index(table: &Array, rows: Range<usize>) -> Result<(String, Vec<String>)> {
    let (size, members) = fields(table)?;
    let bytes = table.bytes(rows.start as u64, rows.len() as u64)?;
    let names = table.decode(&members[0].datatype, &field(&bytes, size, &members[0]), table.name())?;
    Ok((members[0].name.clone(), names.texts()))
}

/// Bytes per record, and its fields, of which there is at least one; each lies within a record.
fn fields(table: &Array) -> Result<(usize, &[CompoundMember])> {
    let (size, members) = match table.kind() {
        Datatype::Compound { size: size @ 1.., members } if !members.is_empty() => (*size as usize, members),
        _ => return Err(table.wrong("is neither a group nor a table of records".to_string())),
    };
    if let Some(beyond) = members.iter().find(|member| span(member).end > size) {
        let (name, end) = (&beyond.name, span(beyond).end);
        let what =
            format!("has records of {size} bytes, but the field {name:?} ends at {end}: the file is damaged");
        return Err(table.wrong(what));
    }
    Ok((size, members))
}

/// Where a record has a field.
fn span(member: &CompoundMember) -> Range<usize> {
    let start = member.byte_offset as usize;
    start..start.saturating_add(member.datatype.type_size() as usize)
}

/// The bytes of one field of all records.
fn field(bytes: &[u8], size: usize, member: &CompoundMember) -> Vec<u8> {
    bytes.chunks_exact(size).flat_map(|record| &record[span(member)]).copied().collect()
}

fn categories(root: &Node, column: &str) -> Result<Option<Vec<String>>> {
    match root.find(&format!("uns/{column}_categories"))? {
        Some(names) if names.shape().len() == 1 => Ok(Some(names.column()?.texts())),
        // A single category was stored as one string without an axis.
        names => Ok(names.and_then(|name| name.text()).map(|name| vec![name])),
    }
}
