//! Which genes are kept: the highly variable ones, or those of a list.

mod list;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::Settings;
use super::hvg::{self, Flavor, GeneTable, Moments};
use super::input::Inputs;
use super::moments;
use super::seurat_v3::{self, Expected};
use super::work::{Passed, Work};
use crate::data::scale::Found;
use crate::data::shard::{MOST_GENES, Manifest, Scale};
use crate::error::{At, Error, Result, some_of, unknown};

/// The kept genes and what was found about all of them.
pub(super) struct Chosen {
    /// Positions in the common list of genes, in the order of their ids.
    pub kept: Vec<u32>,
    pub table: Option<GeneTable>,
    pub notes: Vec<String>,
}

/// So many of the most variable genes, in the order of the source. One pass, two for seurat_v3.
pub(super) fn most_variable(
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: f64,
    count: usize,
    work: &Work,
) -> Passed<Chosen> {
    let flavor = settings.flavor;
    if flavor == Flavor::SeuratV3 && found.scale != Scale::Counts {
        let what = format!("seurat_v3 ranks raw counts, but the source contains logs ({})", found.why);
        return Err(Error::setting("flavor", what).into());
    }
    let genes = inputs.genes.len();
    let mut notes = Vec::new();
    if settings.rescale_before_hvg {
        notes
            .push("genes are ranked by log1p / 10, which chooses different ones than log1p does".to_string());
    }
    let mut moments = moments::find(settings, inputs, found, target, work)?;
    let rest = moments.pop().expect("one more than there are batches");
    let mut table = match flavor {
        Flavor::SeuratV3 => by_clipped_counts(settings, inputs, moments, rest, count, work)?,
        _ if settings.hvg_batch.is_some() => hvg::table_over_batches(&moments, &inputs.genes, flavor, count)?,
        _ => hvg::table(&moments[0], flavor, count)?,
    };
    if count >= genes {
        table.highly_variable.fill(true);
        if count > genes {
            notes.push(format!("{count} genes were asked for, but the source has {genes}: all are kept"));
        }
    }
    let kept: Vec<u32> = (0..genes as u32).filter(|&gene| table.highly_variable[gene as usize]).collect();
    let made = kept.len();
    if count < genes && made > count {
        notes.push(format!("{made} genes are kept instead of {count}: the last of them are tied"));
    }
    if count < genes && made < count {
        notes.push(format!("{made} genes are kept instead of {count}: the others never vary"));
    }
    if kept.is_empty() {
        let what = "no gene varies: there is nothing to choose from";
        return Err(Error::format(inputs.files[0].file.path(), what).into());
    }
    few_enough("Genes::Top", made)?;
    Ok(Chosen { kept, table: Some(table), notes })
}

fn by_clipped_counts(
    settings: &Settings,
    inputs: &Inputs,
    moments: Vec<Moments>,
    mut whole: Moments,
    count: usize,
    work: &Work,
) -> Passed<GeneTable> {
    let expected: Vec<Expected> = moments.iter().map(Expected::of).collect();
    let clipped = moments::clipped(inputs, &expected, work)?;
    moments.iter().for_each(|batch| whole.join(batch));
    let batches: Vec<(Expected, Moments)> =
        expected.into_iter().zip(clipped).filter(|(expected, _)| expected.cells > 1.0).collect();
    Ok(seurat_v3::table(&whole, &batches, count, settings.hvg_batch.is_some()))
}

/// The names in a list of genes, or in a data directory.
pub(super) fn names(list: &Path) -> Result<Vec<String>> {
    if list.is_dir() { Ok(Manifest::read(list)?.genes) } else { list::names(list) }
}

/// The genes with the names of a list, in its order.
pub(super) fn listed(inputs: &Inputs, list: &Path, names: &[String]) -> Result<Chosen> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let places: HashMap<&str, u32> =
        inputs.genes.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(names.len());
    let unknown_ones: Vec<&str> = names.iter().copied().filter(|name| !places.contains_key(name)).collect();
    match unknown_ones[..] {
        [] => (),
        [name] => return Err(Error::format(list, unknown("gene", name, &inputs.genes))),
        [first, ..] => {
            let (count, all) = (unknown_ones.len(), names.len());
            let what = format!("{count} of {all} genes are unknown: {}", some_of(&unknown_ones));
            return Err(Error::format(list, format!("{what}; {}", unknown("gene", first, &inputs.genes))));
        }
    }
    for name in names {
        let place = places[name];
        if !seen.insert(place) {
            return Err(Error::format(list, format!("gene {name:?} appears twice in the list")));
        }
        kept.push(place);
    }
    if kept.is_empty() {
        return Err(Error::format(
            list,
            "names no genes; write one name per line, or mark some as highly_variable",
        ));
    }
    few_enough("genes", kept.len())?;
    Ok(Chosen { kept, table: None, notes: Vec::new() })
}

fn few_enough(field: &str, count: usize) -> Result<()> {
    if count > MOST_GENES {
        let what = format!(
            "{count} genes would be kept, but a data directory can have at most {MOST_GENES}: keep fewer"
        );
        return Err(Error::setting(field, what));
    }
    Ok(())
}

/// Writes var.csv: every gene in the order of the source.
pub(super) fn write_table(path: &Path, genes: &[String], chosen: &Chosen) -> Result<()> {
    let broken = |error: csv::Error| Error::format(path, format!("cannot be written: {error}"));
    let mut kept = vec![false; genes.len()];
    chosen.kept.iter().for_each(|&gene| kept[gene as usize] = true);
    let mut file = csv::Writer::from_path(path).map_err(broken)?;
    let mut header = vec!["gene"];
    if let Some(table) = &chosen.table {
        header.extend(table.columns.iter().map(|(name, _)| *name));
    }
    header.push("highly_variable");
    let merged = chosen.table.as_ref().is_some_and(|table| !table.batches.is_empty());
    if merged {
        header.push("highly_variable_nbatches");
    }
    file.write_record(&header).map_err(broken)?;
    for (i, gene) in genes.iter().enumerate() {
        let mut record = vec![gene.clone()];
        if let Some(table) = &chosen.table {
            record.extend(table.columns.iter().map(|(_, numbers)| numbers[i].to_string()));
        }
        record.push(kept[i].to_string());
        if let Some(table) = chosen.table.as_ref().filter(|_| merged) {
            record.push(table.batches[i].to_string());
        }
        file.write_record(&record).map_err(broken)?;
    }
    file.flush().at(path)
}
