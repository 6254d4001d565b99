//! Names by which each cell and each gene of a file can be told from all others.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;

use rayon::prelude::*;

use super::{H5ad, make_unique};
use crate::error::{Error, Result, counted};

/// Rows whose names are read at once.
const ROWS: usize = 1 << 18;

/// The names of a file's cells, each once: a name that another cell has already is followed by `-1`, `-2` .., as anndata's
/// `obs_names_make_unique` does, and a cell without a name gets that of its row, from `cell1` on. Files hold such names where
/// samples were joined without a suffix; every output must then call a cell the same.
pub struct CellNames {
    /// Whether the file has names that can be read.
    readable: bool,
    /// Rows whose name is not the file's.
    made: HashMap<usize, String>,
    /// How many cells have a name that another cell has already.
    pub repeated: usize,
}

brief!(CellNames, |names| readable: names.readable, repeated: names.repeated);

impl CellNames {
    /// Reads all names of a file once, without keeping them.
    ///
    /// # Errors
    /// Names beyond the first that cannot be read.
    pub fn of(file: &H5ad) -> Result<CellNames> {
        let cells = file.shape().0;
        let readable = file.cell_names(0..cells.min(1)).is_ok();
        let mut names = CellNames { readable, made: HashMap::new(), repeated: 0 };
        if !readable {
            return Ok(names);
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut hashes = Vec::with_capacity(cells);
        for start in (0..cells).step_by(ROWS) {
            let read = names.get(file, start..cells.min(start + ROWS))?;
            hashes.extend(read.iter().map(|name| hasher.hash_one(name)));
        }
        hashes.par_sort_unstable();
        // Two names may have one hash, but then there is merely nothing to rename.
        if hashes.windows(2).any(|pair| pair[0] == pair[1]) {
            let own = names.get(file, 0..cells)?;
            let mut unique = own.clone();
            names.repeated = make_unique(&mut unique);
            let changed = own.into_iter().zip(unique).enumerate().filter(|(_, (own, name))| own != name);
            names.made = changed.map(|(row, (_, name))| (row, name)).collect();
        }
        Ok(names)
    }

    /// The names of some rows of the file.
    ///
    /// # Errors
    /// Rows that the file does not have, and names that cannot be read.
    pub fn get(&self, file: &H5ad, rows: Range<usize>) -> Result<Vec<String>> {
        let mut names = match self.readable {
            true => file.cell_names(rows.clone())?.1,
            false => vec![String::new(); rows.len()],
        };
        for (name, row) in names.iter_mut().zip(rows) {
            match self.made.get(&row) {
                Some(made) => name.clone_from(made),
                None if name.is_empty() => *name = format!("cell{}", row + 1),
                None => {}
            }
        }
        Ok(names)
    }

    /// What to know of names that were not the file's own, if any.
    pub fn note(&self, file: &H5ad) -> Option<String> {
        let told = counted(self.repeated, "cell");
        (self.repeated > 0).then(|| {
            format!(
                "{}: {told} had the name of an earlier cell; -1, -2 .. now follows it, as after adata.obs_names_make_unique()",
                file.path().display()
            )
        })
    }
}

impl H5ad {
    /// What identifies the genes, each once: their names, or what the column `id` of var says.
    ///
    /// # Errors
    /// A name or an id that appears twice, a column that is missing, a gene without an id.
    pub fn gene_keys(&self, id: Option<&str>) -> Result<Vec<String>> {
        let keys = match id {
            None => self.var.index.clone(),
            Some(column) => {
                let labels = self.var.labels(&self.path, column)?;
                let key = |gene: usize| match labels.get(gene) {
                    Some(key) if !key.is_empty() => Ok(key.to_string()),
                    _ => {
                        let what = format!("gene {:?} has no {column} in var", self.var.index[gene]);
                        Err(Error::format(&self.path, what))
                    }
                };
                (0..labels.len()).map(key).collect::<Result<_>>()?
            }
        };
        let mut seen = HashSet::with_capacity(keys.len());
        match (keys.iter().find(|key| !seen.insert(key.as_str())), id) {
            (None, _) => Ok(keys),
            (Some(twice), Some(column)) => {
                let what =
                    format!("{twice:?} appears twice in var/{column}, so genes cannot be told apart by it");
                Err(Error::format(&self.path, what))
            }
            (Some(twice), None) => {
                let what = format!(
                    "gene {twice:?} appears twice in var; make the names unique (scanpy: adata.var_names_make_unique()), or \
                 align by a column of ids with `gene_id`"
                );
                Err(Error::format(&self.path, what))
            }
        }
    }
}
