//! The parts of an h5ad file beside X, in anndata's encoding: arrays, frames and mappings.

use std::collections::BTreeMap;

use hdf5_pure::{AttrValue, DatasetBuilder, EnumTypeBuilder, StagedGroup, make_i8_type};

use super::Extra;
use crate::data::h5ad::{Column, Frame, Labels};

/// h5py cannot open a file from this writer with a chunk axis above 65,535; well below that is also faster for partial reads.
pub(super) const CHUNK_AXIS: u64 = 16_384;
const CHUNK_NUMBERS: u64 = 65_536;
/// On zlib's scale. Of log values 4, anndata's choice where it packs, takes 2.7 times as long and saves 14 to 18 %.
const DEFLATE: u32 = 1;

pub(super) fn word(text: &str) -> AttrValue {
    AttrValue::VarLenString(text.to_string())
}

fn encode(dataset: &mut DatasetBuilder, kind: &str, version: &str) {
    dataset.set_attr("encoding-type", word(kind));
    dataset.set_attr("encoding-version", word(version));
}

pub(super) fn encode_group(group: &mut StagedGroup, kind: &str, version: &str) {
    group.set_attr("encoding-type", word(kind));
    group.set_attr("encoding-version", word(version));
}

/// Shape, encoding and, if worthwhile, chunks and compression of a numeric array.
pub(super) fn finish_array(dataset: &mut DatasetBuilder, shape: &[u64]) {
    encode(dataset, "array", "0.2.0");
    compress(dataset, shape);
}

pub(super) fn compress(dataset: &mut DatasetBuilder, shape: &[u64]) {
    dataset.with_shape(shape);
    let numbers: u64 = shape.iter().product();
    if numbers < 512 {
        return;
    }
    let mut chunk = vec![1; shape.len()];
    let mut room = CHUNK_NUMBERS;
    for (axis, &size) in shape.iter().enumerate().rev() {
        chunk[axis] = size.min(CHUNK_AXIS).min(room).max(1);
        room /= chunk[axis];
    }
    pack(dataset, &chunk);
}

/// Stores a dataset in packed chunks.
pub(super) fn pack(dataset: &mut DatasetBuilder, chunk: &[u64]) {
    dataset.with_chunks(chunk).with_shuffle().with_deflate(DEFLATE);
}

pub(super) fn write_frame(group: &mut StagedGroup, frame: &Frame) {
    encode_group(group, "dataframe", "0.2.0");
    // A different name only if a column has taken this one.
    let taken = |name: &str| frame.columns.iter().any(|(column, _)| column == name);
    let index =
        ["_index", "_index_of_rows"].into_iter().find(|name| !taken(name)).unwrap_or("_names_of_rows");
    group.set_attr("_index", word(index));
    let order: Vec<String> = frame.columns.iter().map(|(name, _)| name.clone()).collect();
    group.set_attr(
        "column-order",
        if order.is_empty() { AttrValue::F64Array(Vec::new()) } else { AttrValue::VarLenStringArray(order) },
    );
    group.create_dataset(index, |dataset| strings(dataset, &frame.index));
    for (name, column) in &frame.columns {
        match column {
            Column::Categorical(labels) => group.create_group_with(name, |group| categorical(group, labels)),
            column => group.create_dataset(name, |dataset| plain(dataset, column)),
        };
    }
}

/// A column that is one dataset.
fn plain(dataset: &mut DatasetBuilder, column: &Column) {
    match column {
        Column::Text(items) => return strings(dataset, items),
        Column::Integer(items) => dataset.with_i64_data(items),
        Column::Float(items) => dataset.with_f64_data(items),
        Column::Boolean(items) => {
            let bytes: Vec<u8> = items.iter().map(|&item| u8::from(item)).collect();
            // h5py's boolean: an enumeration over int8.
            let truth = EnumTypeBuilder::with_base(make_i8_type()).value("FALSE", 0).value("TRUE", 1).build();
            dataset.with_enum_u8_data(truth.expect("two small values fit int8"), &bytes)
        }
        Column::Categorical(_) => unreachable!("a group, not a dataset"),
        Column::Unread(_) => unreachable!("refused before anything is written"),
    };
    finish_array(dataset, &[column.len() as u64]);
}

fn strings(dataset: &mut DatasetBuilder, items: &[String]) {
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    dataset.with_vlen_strings(&items).with_shape(&[items.len() as u64]);
    encode(dataset, "string-array", "0.2.0");
}

fn categorical(group: &mut StagedGroup, labels: &Labels) {
    encode_group(group, "categorical", "0.2.0");
    group.set_attr("ordered", AttrValue::I8(0));
    group.create_dataset("codes", |codes| {
        // pandas' own widths: the narrowest signed integer that holds every code.
        match labels.names.len() {
            0..=127 => codes.with_i8_data(&labels.codes.iter().map(|&code| code as i8).collect::<Vec<_>>()),
            128..=32_767 => {
                codes.with_i16_data(&labels.codes.iter().map(|&code| code as i16).collect::<Vec<_>>())
            }
            _ => codes.with_i32_data(&labels.codes),
        };
        finish_array(codes, &[labels.codes.len() as u64]);
    });
    group.create_dataset("categories", |dataset| strings(dataset, &labels.names));
}

/// The mappings as a tree.
#[derive(Default)]
pub(super) struct Node<'a> {
    groups: BTreeMap<String, Node<'a>>,
    leaves: BTreeMap<String, &'a Extra<'a>>,
}

impl<'a> Node<'a> {
    /// Places an extra that [`check_extra`](super::check::check_extra) has let pass. The error says what is there already.
    pub(super) fn insert(&mut self, place: &str, extra: &'a Extra<'a>) -> Result<(), String> {
        let mut parts: Vec<&str> = place.split('/').collect();
        let leaf = parts.pop().unwrap_or_default();
        let twice = || format!("{place} is there twice, or as a folder and as something in it");
        let mut node = self;
        for part in parts {
            if node.leaves.contains_key(part) {
                return Err(twice());
            }
            node = node.groups.entry(part.to_string()).or_default();
        }
        if node.groups.contains_key(leaf) || node.leaves.insert(leaf.to_string(), extra).is_some() {
            return Err(twice());
        }
        Ok(())
    }

    /// What was placed under a name.
    pub(super) fn group(&self, name: &str) -> Option<&Node<'a>> {
        self.groups.get(name)
    }

    pub(super) fn write(&self, group: &mut StagedGroup) {
        encode_group(group, "dict", "0.1.0");
        for (name, node) in &self.groups {
            group.create_group_with(name, |group| node.write(group));
        }
        for (name, extra) in &self.leaves {
            group.create_dataset(name, |dataset| match extra {
                Extra::Numbers { shape, values } => {
                    let axes: Vec<u64> = shape.iter().map(|&axis| axis as u64).collect();
                    finish_array(dataset.with_f32_data(values), &axes);
                }
                Extra::Strings(items) => strings(dataset, items),
                Extra::Text(text) => {
                    dataset.with_vlen_strings(&[text]).with_shape(&[]);
                    encode(dataset, "string", "0.2.0");
                }
            });
        }
    }
}
