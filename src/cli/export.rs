//! `scale-engine export`

use std::path::{Path, PathBuf};

use crate::aside;
use crate::data::h5ad::H5ad;
use crate::data::population::{Population, Unit};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{Error, Result};

/// Write a data directory, or a part of it, as an h5ad file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: the measured test cells, on the scale that evaluate reads

  scale-engine export DATA --split held_out.toml --subset test --out test.h5ad")]
pub struct Args {
    /// Data directory
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// The file to write; cells come condition by condition, under their names in the source
    #[arg(long, value_name = "F.h5ad")]
    pub out: PathBuf,
    /// counts: as measured; log1p: ln(1 + counts scaled to the target); scaled: log1p / 10, what the network sees
    #[arg(long, value_enum, default_value_t = Unit::Log1p)]
    pub values: Unit,
    /// Only this part of the split, control cells included where the split puts them
    #[arg(long, value_name = "train|val|test", requires = "split")]
    pub subset: Option<Part>,
    /// Split file
    #[arg(long, value_name = "S.toml", requires = "subset")]
    pub split: Option<PathBuf>,
}

/// Gathers the cells and writes them.
pub fn run(args: Args) -> Result<()> {
    let inputs: Vec<&Path> = [&args.data].into_iter().chain(&args.split).map(PathBuf::as_path).collect();
    aside::apart(&[&args.out], &inputs)?;
    H5ad::replaceable(&args.out)?;
    let data = Data::open(&args.data)?;
    let mut population = Population::like(data.manifest());
    population.unit = args.values;
    let groups = match (&args.split, args.subset) {
        (Some(path), Some(subset)) => {
            let split = Split::load(path, &data)?;
            split.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            population.notes.push(("split".into(), split.hash.clone()));
            split.part(subset).to_vec()
        }
        _ => (0..data.groups().len() as u32).collect(),
    };
    if groups.is_empty() {
        return Err(Error::setting("--subset", "this part of the split has no cells"));
    }
    for &group in &groups {
        let cells: Vec<u64> = data.groups()[group as usize].range().collect();
        population.extend_measured(&data, data.names(group), &cells)?;
    }
    population.write(&args.out)?;
    println!(
        "{}: {} cells x {} genes in {} groups",
        args.out.display(),
        population.len(),
        population.genes.len(),
        groups.len()
    );
    Ok(())
}
