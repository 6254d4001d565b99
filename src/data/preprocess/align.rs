//! One list of genes for all files, aligned by name or by an id.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use crate::data::h5ad::H5ad;
use crate::error::{Error, Result};
use crate::folder::name_of;

/// What the genes of several files have in common.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SharedGenes {
    /// Genes that every file has.
    pub common: usize,
    /// Genes that some file lacks and that are zeros there.
    pub partial: usize,
    /// For each file that lacks some, its name and how many.
    pub lacking: Vec<(String, usize)>,
}

/// The genes of all files.
pub(super) struct Aligned {
    /// Names, in the order of the first file and then of the files that added more.
    pub genes: Vec<String>,
    /// Ids, if the files are aligned by them.
    pub ids: Option<Vec<String>>,
    /// Position of each file's genes in that list; `None` if the two lists are the same.
    pub places: Vec<Option<Vec<u32>>>,
    /// `None` for a single file.
    pub shared: Option<SharedGenes>,
    pub notes: Vec<String>,
}

/// Aligns by the index of var, or by its column `id`. All files must have the same genes, unless `fill` is set.
pub(super) fn align(files: &[H5ad], id: Option<&str>, fill: bool) -> Result<Aligned> {
    let keys: Vec<Vec<String>> = files.iter().map(|file| file.gene_keys(id)).collect::<Result<_>>()?;
    let mut place_of: HashMap<&str, u32> = HashMap::new();
    let mut names = Names::default();
    let mut ids = Vec::new();
    let mut in_files: Vec<usize> = Vec::new();
    for (file, own) in files.iter().zip(&keys) {
        for (key, name) in own.iter().zip(&file.var().index) {
            let next = place_of.len() as u32;
            let place = *place_of.entry(key).or_insert(next) as usize;
            if place == in_files.len() {
                names.add(name, key, file.path())?;
                ids.push(key.clone());
                in_files.push(0);
            }
            in_files[place] += 1;
        }
    }
    let common = in_files.iter().filter(|&&count| count == files.len()).count();
    if common < in_files.len() && !fill {
        return Err(unequal(files, &keys));
    }
    let same = |own: &Vec<String>| own.len() == in_files.len() && own == &keys[0];
    let places = |own: &Vec<String>| {
        (!same(own)).then(|| own.iter().map(|key| place_of[key.as_str()]).collect::<Vec<u32>>())
    };
    let places = keys.iter().map(places).collect();
    let lacking =
        files.iter().zip(&keys).map(|(file, own)| (name_of(file.path()), in_files.len() - own.len()));
    let shared = SharedGenes {
        common,
        partial: in_files.len() - common,
        lacking: lacking.filter(|(_, missing)| *missing > 0).collect(),
    };
    let shared = (files.len() > 1).then_some(shared);
    let ids = id.map(|_| ids);
    Ok(Aligned { places, shared, ids, notes: names.notes(), genes: names.list })
}

/// Names the first gene that one of the files has and another lacks.
fn unequal(files: &[H5ad], keys: &[Vec<String>]) -> Error {
    let sets: Vec<HashSet<&str>> = keys.iter().map(|own| own.iter().map(String::as_str).collect()).collect();
    let lacks = |lacking: usize, having: usize| {
        let gene = keys[having].iter().find(|key| !sets[lacking].contains(key.as_str()))?;
        let what = format!(
            "gene {gene:?} is missing; {} has it, and all files must have the same genes: give \
             `fill_missing` to fill missing genes with zeros, or `gene_id` if the files name genes \
             differently",
            files[having].path().display()
        );
        Some(Error::format(files[lacking].path(), what))
    };
    let other = |file: usize| lacks(file, 0).or_else(|| lacks(0, file));
    (1..files.len()).find_map(other).expect("some file lacks a gene of the first, or the first one of it")
}

/// Unique names of the common genes: if another gene has taken a name, the id itself.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    taken: HashSet<String>,
    by_id: usize,
}

impl Names {
    fn add(&mut self, name: &str, id: &str, path: &Path) -> Result<()> {
        let free = [name, id].into_iter().position(|name| !self.taken.contains(name));
        let Some(choice) = free else {
            let what = format!("gene {name:?} with id {id:?}: other genes have taken both as their names");
            return Err(Error::format(path, what));
        };
        self.by_id += choice;
        let name = [name, id][choice].to_string();
        self.taken.insert(name.clone());
        self.list.push(name);
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let note = || format!("{} genes are named by their id: another gene has their name", self.by_id);
        if self.by_id > 0 { vec![note()] } else { Vec::new() }
    }
}
