//! Writes h5ad files that Python's anndata opens (current encoding, gzip).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use hdf5_pure::{
    AttrValue, DatasetBuilder, EnumTypeBuilder, FileBuilder, FinishedGroup, GroupBuilder, make_i8_type,
};

use super::{Cells, Column, Frame, Labels};
use crate::aside;
use crate::error::{Error, Result};

/// What is written as X.
#[derive(Clone, Copy, Debug)]
pub enum X<'a> {
    /// Stored as CSR.
    Sparse(&'a Cells),
    /// Stored as a dense array.
    Dense {
        /// Cells and genes.
        shape: (usize, usize),
        /// Row-major, cells times genes.
        numbers: &'a [f32],
    },
}

/// Something other than X, `obs` and `var`: written under a path such as `uns/simulation/effects` or `varm/loadings`.
/// Shapes begin with the cells in `obsm`, the genes in `varm`, both in `layers`, either twice in `obsp` and `varp`.
#[derive(Clone, Debug)]
pub enum Extra<'a> {
    /// A dense array.
    Numbers {
        /// Its axes.
        shape: Vec<usize>,
        /// Row-major.
        values: &'a [f32],
    },
    /// A list of words.
    Strings(Vec<String>),
    /// One word.
    Text(String),
}

/// h5py cannot open a file from this writer with a chunk axis above 65,535; well below that is also faster for partial reads.
const CHUNK_AXIS: u64 = 16_384;
const CHUNK_NUMBERS: u64 = 65_536;
/// On zlib's scale; 4 is anndata's own choice.
const DEFLATE: u32 = 4;
/// The mappings that every h5ad file has, empty or not, and the axes that their entries share with X: 0 the cells, 1 the genes.
const MAPPINGS: [(&str, &[usize]); 6] =
    [("layers", &[0, 1]), ("obsm", &[0]), ("obsp", &[0, 0]), ("uns", &[]), ("varm", &[1]), ("varp", &[1, 1])];

/// Writes an h5ad file, completely or not at all. Makes the folders it lacks, and replaces a file that is there, whoever made it:
/// [`H5ad::replaceable`](super::H5ad::replaceable) tells whether one of our own commands did.
///
/// # Errors
/// What anndata could not open: X by columns, a size that disagrees with X or with an extra's axes, codes without a name, a name of
/// a category, column or extra that comes twice, a column name that is empty or contains `/`, text that contains a NUL, a column that was not read; an extra
/// outside `layers obsm obsp uns varm varp`; text or folders in another of them than `uns`. And a file that cannot be written.
pub fn write(path: &Path, obs: &Frame, var: &Frame, x: X, extras: &[(String, Extra)]) -> Result<()> {
    let shape = match &x {
        X::Sparse(cells) if cells.is_csc() => {
            return Err(Error::format(path, "X is CSC, but cells are written as CSR: give its to_csr()"));
        }
        X::Sparse(cells) => cells.shape(),
        X::Dense { shape, numbers } if shape.0.checked_mul(shape.1) != Some(numbers.len()) => {
            return Err(Error::format(path, format!("X has {} numbers for shape {shape:?}", numbers.len())));
        }
        X::Dense { shape, .. } => *shape,
    };
    check_frame(path, "obs", obs, shape.0)?;
    check_frame(path, "var", var, shape.1)?;
    let mut root = Node::default();
    for (place, extra) in extras {
        check_extra(place, extra, [shape.0, shape.1])
            .and_then(|()| root.insert(place, extra))
            .map_err(|what| Error::format(path, what))?;
    }
    let mut file = FileBuilder::new();
    file.set_attr("encoding-type", word("anndata"));
    file.set_attr("encoding-version", word("0.1.0"));
    match x {
        X::Sparse(cells) => {
            let group = sparse(file.create_group("X"), cells);
            file.add_group(group);
        }
        X::Dense { shape, numbers } => {
            let axes = [shape.0 as u64, shape.1 as u64];
            let dataset = file.create_dataset("X");
            dataset.with_f32_data(numbers);
            finish_array(dataset, &axes);
        }
    }
    for (name, frame) in [("obs", obs), ("var", var)] {
        let group = write_frame(file.create_group(name), frame);
        file.add_group(group);
    }
    for (name, _) in MAPPINGS {
        let group = root.groups.remove(name).unwrap_or_default().build(file.create_group(name));
        file.add_group(group);
    }
    aside::file(path, |aside| {
        file.write(aside).map_err(|error| Error::format(path, format!("cannot be written: {error}")))
    })
}

fn check_frame(path: &Path, name: &str, frame: &Frame, rows: usize) -> Result<()> {
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
fn check_extra(place: &str, extra: &Extra, x: [usize; 2]) -> std::result::Result<(), String> {
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

fn word(text: &str) -> AttrValue {
    AttrValue::VarLenString(text.to_string())
}

fn encode(dataset: &mut DatasetBuilder, kind: &str, version: &str) {
    dataset.set_attr("encoding-type", word(kind));
    dataset.set_attr("encoding-version", word(version));
}

fn encode_group(group: &mut GroupBuilder, kind: &str, version: &str) {
    group.set_attr("encoding-type", word(kind));
    group.set_attr("encoding-version", word(version));
}

/// Shape, encoding and, if worthwhile, chunks and compression of a numeric array.
fn finish_array(dataset: &mut DatasetBuilder, shape: &[u64]) {
    encode(dataset, "array", "0.2.0");
    compress(dataset, shape);
}

fn compress(dataset: &mut DatasetBuilder, shape: &[u64]) {
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
    dataset.with_chunks(&chunk).with_shuffle().with_deflate(DEFLATE);
}

fn sparse(mut group: GroupBuilder, cells: &Cells) -> FinishedGroup {
    encode_group(&mut group, "csr_matrix", "0.1.0");
    group.set_attr("shape", AttrValue::I64Array(vec![cells.rows() as i64, cells.cols() as i64]));
    let starts = cells.indptr();
    let starts = starts.to_proper();
    let entries = cells.nnz();
    // scipy keeps both index arrays at the same width.
    let wide = entries.max(cells.cols()) > i32::MAX as usize;
    let axes = [entries as u64];
    let data = group.create_dataset("data");
    data.with_f32_data(cells.data());
    compress(data, &axes);
    let indices = group.create_dataset("indices");
    if wide {
        indices.with_i64_data(&cells.indices().iter().map(|&i| i64::from(i)).collect::<Vec<_>>());
    } else {
        indices.with_i32_data(bytemuck::cast_slice(cells.indices()));
    }
    compress(indices, &axes);
    let indptr = group.create_dataset("indptr");
    if wide {
        indptr.with_i64_data(&starts.iter().map(|&i| i as i64).collect::<Vec<_>>());
    } else {
        indptr.with_i32_data(&starts.iter().map(|&i| i as i32).collect::<Vec<_>>());
    }
    compress(indptr, &[starts.len() as u64]);
    group.finish()
}

fn write_frame(mut group: GroupBuilder, frame: &Frame) -> FinishedGroup {
    encode_group(&mut group, "dataframe", "0.2.0");
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
    strings(group.create_dataset(index), &frame.index);
    for (name, column) in &frame.columns {
        match column {
            Column::Categorical(labels) => {
                let labels = categorical(group.create_group(name), labels);
                group.add_group(labels);
            }
            Column::Text(items) => strings(group.create_dataset(name), items),
            Column::Integer(items) => {
                finish_array(group.create_dataset(name).with_i64_data(items), &[items.len() as u64])
            }
            Column::Float(items) => {
                finish_array(group.create_dataset(name).with_f64_data(items), &[items.len() as u64])
            }
            Column::Boolean(items) => {
                let bytes: Vec<u8> = items.iter().map(|&item| u8::from(item)).collect();
                // h5py's boolean: an enumeration over int8.
                let truth =
                    EnumTypeBuilder::with_base(make_i8_type()).value("FALSE", 0).value("TRUE", 1).build();
                let truth = truth.expect("two small values fit int8");
                finish_array(
                    group.create_dataset(name).with_enum_u8_data(truth, &bytes),
                    &[bytes.len() as u64],
                );
            }
            Column::Unread(_) => unreachable!("refused before anything is written"),
        }
    }
    group.finish()
}

fn strings(dataset: &mut DatasetBuilder, items: &[String]) {
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    dataset.with_vlen_strings(&items).with_shape(&[items.len() as u64]);
    encode(dataset, "string-array", "0.2.0");
}

fn categorical(mut group: GroupBuilder, labels: &Labels) -> FinishedGroup {
    encode_group(&mut group, "categorical", "0.2.0");
    group.set_attr("ordered", AttrValue::I8(0));
    let codes = group.create_dataset("codes");
    // pandas' own widths: the narrowest signed integer that holds every code.
    match labels.names.len() {
        0..=127 => codes.with_i8_data(&labels.codes.iter().map(|&code| code as i8).collect::<Vec<_>>()),
        128..=32_767 => {
            codes.with_i16_data(&labels.codes.iter().map(|&code| code as i16).collect::<Vec<_>>())
        }
        _ => codes.with_i32_data(&labels.codes),
    };
    finish_array(codes, &[labels.codes.len() as u64]);
    strings(group.create_dataset("categories"), &labels.names);
    group.finish()
}

/// The mappings as a tree.
#[derive(Default)]
struct Node<'a> {
    groups: BTreeMap<String, Node<'a>>,
    leaves: BTreeMap<String, &'a Extra<'a>>,
}

impl<'a> Node<'a> {
    /// Places an extra that [`check_extra`] has let pass. The error says what is there already.
    fn insert(&mut self, place: &str, extra: &'a Extra<'a>) -> std::result::Result<(), String> {
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

    fn build(self, mut group: GroupBuilder) -> FinishedGroup {
        encode_group(&mut group, "dict", "0.1.0");
        for (name, node) in self.groups {
            let inner = node.build(group.create_group(&name));
            group.add_group(inner);
        }
        for (name, extra) in self.leaves {
            let dataset = group.create_dataset(&name);
            match extra {
                Extra::Numbers { shape, values } => {
                    let axes: Vec<u64> = shape.iter().map(|&axis| axis as u64).collect();
                    finish_array(dataset.with_f32_data(values), &axes);
                }
                Extra::Strings(items) => strings(dataset, items),
                Extra::Text(text) => {
                    dataset.with_vlen_strings(&[text]).with_shape(&[]);
                    encode(dataset, "string", "0.2.0");
                }
            }
        }
        group.finish()
    }
}
