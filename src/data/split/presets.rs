//! The held-out contexts of the field's benchmarks, as split files.
//!
//! Tahoe's contexts are held out whole, in the paper too. Of PBMC's and Replogle's it trains on a part of the perturbations (30 % for
//! PBMC, not stated for Replogle), which [`FewShot`] draws; which ones the paper drew is not published (SCALE v1, section 4.1).

use std::collections::BTreeSet;

use toml::Value;

use crate::data::shard::{Data, Manifest};
use crate::error::{Error, Result, some_of, unknown};
use crate::rng::{Rng, stream};

/// A benchmark and the contexts it holds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Tahoe-100M: holds out five cell lines.
    Tahoe,
    /// Parse 10M PBMC cytokines: holds out four donors.
    Pbmc,
    /// Replogle-Nadig: holds out the cell line hepg2.
    Replogle,
}

/// The part of the held-out contexts' perturbations that is trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FewShot {
    /// Between 0 and 1.
    pub share: f64,
    /// Seeds the draw.
    pub seed: u64,
}

impl FewShot {
    /// One draw for all contexts: what is tested was seen in none of them.
    fn drawn(self, perturbations: BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        let mut drawn = Vec::from_iter(perturbations);
        let count = (self.share * drawn.len() as f64).round() as usize;
        if !(1..drawn.len()).contains(&count) {
            let what = format!(
                "{} of {} perturbations leaves none to train on, or none to test",
                self.share,
                drawn.len()
            );
            return Err(Error::setting("few_shot", what));
        }
        Rng::new(self.seed).at(stream::SPLIT).shuffle(&mut drawn);
        Ok(drawn.into_iter().take(count).collect())
    }
}

impl Preset {
    /// The contexts that are held out, for the test part.
    pub fn contexts(self) -> &'static [&'static str] {
        match self {
            Preset::Tahoe => &["CVCL_1097", "CVCL_1285", "CVCL_1098", "CVCL_0334", "CVCL_0480"],
            Preset::Pbmc => &["Donor1", "Donor4", "Donor9", "Donor12"],
            Preset::Replogle => &["hepg2"],
        }
    }

    /// The settings of `preprocess` that make these contexts the cell types. Split files hold out no other column, so donors must
    /// take that role, and the actual cell type that of the batch: controls are matched by both, so they stay the same.
    fn columns(self) -> &'static str {
        match self {
            Preset::Tahoe => {
                "`cell_type = cell_line` (cell_line_id of the parquet files) `batch = plate` `perturbation = drugname_drugconc`"
            }
            Preset::Pbmc => "`cell_type = donor` `batch = cell_type` `perturbation = cytokine`",
            Preset::Replogle => "`cell_type = cell_line` `batch = gem_group` `perturbation = gene`",
        }
    }

    /// What its contexts are.
    fn noun(self) -> &'static str {
        if self == Preset::Pbmc { "donor" } else { "cell line" }
    }

    /// The name as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tahoe => "tahoe",
            Preset::Pbmc => "pbmc",
            Preset::Replogle => "replogle",
        }
    }

    /// The split file for a data directory. Whole contexts are held out, or what `few` leaves of them.
    ///
    /// # Errors
    /// A context that is not among its cell types, a directory that holds no others, or a share that leaves nothing.
    pub fn text(self, data: &Data, few: Option<FewShot>) -> Result<String> {
        let Manifest { dataset, cell_types, sources, .. } = data.manifest();
        self.check(data.manifest())?;
        let path = match sources.as_slice() {
            [only] => only.path.clone(),
            _ => "*.h5ad".to_string(),
        };
        let (name, path) = (quoted(dataset), quoted(&path));
        let (held, trained) = match few {
            None => (self.whole(dataset), "none of their perturbed cells is trained on".to_string()),
            Some(few) => self.listed(data, few)?,
        };
        Ok(format!(
            "# The {}s that the benchmark {:?} holds out, {} of {} here; {trained}.\n\
             # No validation part: to select checkpoints, list here some perturbations of a {0} that is trained on:\n\
             # [fewshot.\"data set.{0}\"]\n# val = [\"perturbation\", ...]\n\n\
             [datasets]\n{name} = {path}\n\n[training]\n{name} = \"train\"\n\n{held}",
            self.noun(),
            self.name(),
            self.contexts().len(),
            cell_types.len()
        ))
    }

    /// The clauses that hold out whole contexts.
    fn whole(self, dataset: &str) -> String {
        let line = |context: &&str| format!("{} = \"test\"\n", quoted(&format!("{dataset}.{context}")));
        format!("[zeroshot]\n{}", self.contexts().iter().map(line).collect::<String>())
    }

    /// The clauses that hold out what was not drawn, and what was.
    fn listed(self, data: &Data, few: FewShot) -> Result<(String, String)> {
        let Manifest { dataset, cell_types, perturbations, .. } = data.manifest();
        let of_context = |context: &&str| -> BTreeSet<u32> {
            let here = data.groups().iter().filter(|g| cell_types[g.cell_type as usize] == *context);
            here.map(|g| g.perturbation).filter(|&p| p != data.control_id()).collect()
        };
        let here: Vec<BTreeSet<u32>> = self.contexts().iter().map(of_context).collect();
        let all: BTreeSet<u32> = here.iter().flatten().copied().collect();
        let count = all.len();
        let drawn = few.drawn(all)?;
        let clause = |(context, here): (&&str, &BTreeSet<u32>)| {
            let held = here.difference(&drawn).map(|&p| quoted(&perturbations[p as usize]));
            let held = held.collect::<Vec<_>>().join(", ");
            format!("[fewshot.{}]\ntest = [{held}]\n", quoted(&format!("{dataset}.{context}")))
        };
        let clauses: Vec<String> = self.contexts().iter().zip(&here).map(clause).collect();
        let (trained, seed) = (drawn.len(), few.seed);
        let told =
            format!("{trained} of their {count} perturbations, drawn with seed {seed}, are trained on");
        Ok((clauses.join("\n"), told))
    }

    fn check(self, manifest: &Manifest) -> Result<()> {
        let Manifest { cell_types, batches, columns, .. } = manifest;
        let has = |names: &[String], context: &str| names.iter().any(|name| name == context);
        let absent: Vec<&str> =
            self.contexts().iter().copied().filter(|context| !has(cell_types, context)).collect();
        let what = match absent.as_slice() {
            [] if cell_types.len() > self.contexts().len() => return Ok(()),
            [] => format!("the directory has no other {} to learn from", self.noun()),
            absent if absent.iter().any(|context| has(batches, context)) => format!(
                "{} are in column {:?}, which this directory uses as its batches; preprocess with {}",
                some_of(absent),
                columns.batch.as_deref().unwrap_or_default(),
                self.columns()
            ),
            [one] => format!("{} (column {:?})", unknown(self.noun(), one, cell_types), columns.cell_type),
            absent => format!(
                "no {} in column {:?}, which contains {}; preprocess the benchmark with {}",
                some_of(absent),
                columns.cell_type,
                some_of(cell_types),
                self.columns()
            ),
        };
        Err(Error::setting(format!("Preset::{self:?}"), what))
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
