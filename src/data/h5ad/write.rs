//! Writes h5ad files that Python's anndata opens (current encoding, gzip).

mod check;
mod parts;

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use hdf5_pure::{
    AttrValue, DatasetBuilder, File, FileAccessProperties, FileCreateProperties, FileLocking, MaxExtent,
    SyncPolicy,
};

use super::{Cells, Frame, unfit};
use crate::aside::Aside;
use crate::error::{Error, Result};
use check::{check_extra, check_frame};
use parts::{CHUNK_AXIS, Node, compress, encode_group, finish_array, pack, word, write_frame};

type Hdf5<T> = std::result::Result<T, hdf5_pure::Error>;

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
    match x {
        X::Sparse(cells) if cells.is_csc() => {
            Err(Error::format(path, "X is CSC, but cells are written as CSR: give its to_csr()"))
        }
        X::Sparse(cells) => {
            let mut rows = Writer::create(path, cells.cols())?;
            for row in cells.outer_iterator() {
                rows.push(row.indices(), row.data())?;
            }
            rows.finish(obs, var, extras)
        }
        X::Dense { shape, numbers } => {
            if shape.0.checked_mul(shape.1) != Some(numbers.len()) {
                return Err(Error::format(
                    path,
                    format!("X has {} numbers for shape {shape:?}", numbers.len()),
                ));
            }
            let half = Half::create(path)?;
            let x = |dataset: &mut DatasetBuilder| {
                finish_array(dataset.with_f32_data(numbers), &[shape.0 as u64, shape.1 as u64]);
            };
            half.told(half.file.root().create_dataset("X", x).map(drop))?;
            half.finish(shape, obs, var, extras)
        }
    }
}

/// An h5ad file whose X is written cell by cell, as CSR: a thread packs and writes the rows as they come, so a file may be larger
/// than memory. The file appears with [`Writer::finish`]; a writer dropped before leaves nothing.
#[must_use = "the file appears with `finish`"]
pub struct Writer {
    genes: usize,
    /// Where each row begins, and where the last ends.
    starts: Vec<i64>,
    waiting: Piece,
    packer: Packer,
    half: Half,
}

brief!(Writer, |writer| path: writer.half.aside.place(), shape: (writer.starts.len() - 1, writer.genes));

impl Writer {
    /// Begins a file of cells with so many genes. Makes the folders it lacks.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(path: &Path, genes: usize) -> Result<Writer> {
        if genes > i32::MAX as usize {
            return Err(Error::format(path, format!("{genes} genes are more than scipy's int32 can number")));
        }
        let half = Half::create(path)?;
        let packer = half.told(Packer::begin(&half.file))?;
        Ok(Writer { genes, starts: vec![0], waiting: Piece::default(), packer, half })
    }

    /// Appends a cell given its non-zeros, genes ascending. One that is refused leaves no trace: others may follow.
    ///
    /// # Errors
    /// Not as many values as genes, genes that do not ascend, a gene that the file does not have; a file that cannot be written.
    pub fn push(&mut self, genes: &[u32], values: &[f32]) -> Result<()> {
        if let Some(what) = unfit(genes, values, self.genes) {
            let cell = self.starts.len() - 1;
            return Err(Error::format(self.half.aside.place(), format!("cell {cell}: {what}")));
        }
        self.starts.push(self.starts[self.starts.len() - 1] + genes.len() as i64);
        self.waiting.values.extend_from_slice(values);
        self.waiting.columns.extend_from_slice(bytemuck::cast_slice(genes));
        while self.waiting.values.len() >= PIECE {
            let rest = self.waiting.split_off(PIECE);
            let whole = std::mem::replace(&mut self.waiting, rest);
            self.half.told(self.packer.take(whole))?;
        }
        Ok(())
    }

    /// Writes what belongs to the rows, and puts the file in its place.
    ///
    /// # Errors
    /// As [`write()`].
    pub fn finish(self, obs: &Frame, var: &Frame, extras: &[(String, Extra)]) -> Result<()> {
        let Writer { genes, starts, waiting, mut packer, half } = self;
        let shape = (starts.len() - 1, genes);
        let finished = || {
            packer.take(waiting)?;
            packer.end()?;
            let x = half.file.group("X")?;
            x.set_attr("shape", AttrValue::I64Array(vec![shape.0 as i64, shape.1 as i64]))?;
            x.create_dataset("indptr", |dataset| {
                // As wide as the number of values demands: scipy widens the columns when it reads them.
                match i32::try_from(starts[shape.0]) {
                    Ok(_) => dataset.with_i32_data(&starts.iter().map(|&at| at as i32).collect::<Vec<_>>()),
                    Err(_) => dataset.with_i64_data(&starts),
                };
                compress(dataset, &[starts.len() as u64]);
            })
        };
        half.told(finished().map(drop))?;
        half.finish(shape, obs, var, extras)
    }
}

/// Numbers written at once: whole chunks, so that none is packed twice, and many, as each writing looks up its dataset.
const PIECE: usize = 32 * CHUNK_AXIS as usize;

/// Consecutive entries of X.
#[derive(Default)]
struct Piece {
    values: Vec<f32>,
    columns: Vec<i32>,
}

impl Piece {
    fn split_off(&mut self, at: usize) -> Piece {
        Piece { values: self.values.split_off(at), columns: self.columns.split_off(at) }
    }
}

/// A thread that packs and writes X while its next cells are made.
struct Packer {
    pieces: Option<SyncSender<Piece>>,
    thread: Option<JoinHandle<Hdf5<()>>>,
}

impl Packer {
    fn begin(file: &File) -> Hdf5<Packer> {
        file.root().create_group_with("X", |x| {
            encode_group(x, "csr_matrix", "0.1.0");
            x.create_dataset("data", |dataset| growing(dataset.with_f32_data(&[])));
            x.create_dataset("indices", |dataset| growing(dataset.with_i32_data(&[])));
        })?;
        file.commit()?;
        let (mut values, mut columns) = (file.dataset("X/data")?, file.dataset("X/indices")?);
        let (pieces, coming) = sync_channel::<Piece>(1);
        let thread = std::thread::spawn(move || {
            coming.into_iter().try_for_each(|piece| {
                values.append(&piece.values)?;
                columns.append(&piece.columns)
            })
        });
        Ok(Packer { pieces: Some(pieces), thread: Some(thread) })
    }

    fn take(&mut self, piece: Piece) -> Hdf5<()> {
        match self.pieces.as_ref().map(|pieces| pieces.send(piece)) {
            Some(Ok(())) => Ok(()),
            // It takes no more: it has failed.
            _ => self.end(),
        }
    }

    /// Waits until all is written.
    fn end(&mut self) -> Hdf5<()> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.pieces = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A dataset that will grow.
fn growing(dataset: &mut DatasetBuilder) {
    dataset.with_shape(&[0]).with_maxshape(&[MaxExtent::Unlimited]);
    pack(dataset, &[CHUNK_AXIS]);
}

/// A file under way: what all kinds of X have around them.
struct Half {
    /// Closed before it takes its place, or is removed.
    file: File,
    aside: Aside,
}

impl Half {
    fn create(path: &Path) -> Result<Half> {
        let aside = Aside::of(path)?;
        // Nobody else knows the file before it is renamed; until then it need not outlast a failure of the machine.
        let access = FileAccessProperties::new()
            .with_locking(FileLocking::Disabled)
            .with_sync_policy(SyncPolicy::OnClose);
        let opened = File::create_with_options(aside.path(), FileCreateProperties::new(), access);
        let file = told(path, opened)?;
        Ok(Half { file, aside })
    }

    fn told<T>(&self, done: Hdf5<T>) -> Result<T> {
        told(self.aside.place(), done)
    }

    fn finish(
        self,
        shape: (usize, usize),
        obs: &Frame,
        var: &Frame,
        extras: &[(String, Extra)],
    ) -> Result<()> {
        let path = self.aside.place();
        check_frame(path, "obs", obs, shape.0)?;
        check_frame(path, "var", var, shape.1)?;
        let mut mappings = Node::default();
        for (place, extra) in extras {
            check_extra(place, extra, [shape.0, shape.1])
                .and_then(|()| mappings.insert(place, extra))
                .map_err(|what| Error::format(path, what))?;
        }
        let (root, empty) = (self.file.root(), Node::default());
        let staged = || {
            root.set_attr("encoding-type", word("anndata"))?;
            root.set_attr("encoding-version", word("0.1.0"))?;
            for (name, frame) in [("obs", obs), ("var", var)] {
                root.create_group_with(name, |group| write_frame(group, frame))?;
            }
            for (name, _) in MAPPINGS {
                let mapping = mappings.group(name).unwrap_or(&empty);
                root.create_group_with(name, |group| mapping.write(group))?;
            }
            Ok(())
        };
        self.told(staged())?;
        drop(root);
        told(path, self.file.close())?;
        self.aside.done()
    }
}

fn told<T>(path: &Path, done: Hdf5<T>) -> Result<T> {
    done.map_err(|error| Error::format(path, format!("cannot be written: {error}")))
}
