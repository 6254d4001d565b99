//! The held-out contexts of the field's benchmarks, as split files.

use clap::ValueEnum;
use toml::Value;

use crate::data::shard::{Data, Manifest};
use crate::error::{Error, Result, some_of, unknown};

/// A benchmark and the contexts it holds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Tahoe-100M: holds out five cell lines
    Tahoe,
    /// Parse 10M PBMC cytokines: holds out four donors
    Pbmc,
    /// Replogle-Nadig: holds out the cell line hepg2
    Replogle,
}

impl Preset {
    /// The contexts that are held out entirely, all for the test part.
    pub fn contexts(self) -> &'static [&'static str] {
        match self {
            Preset::Tahoe => &["CVCL_1097", "CVCL_1285", "CVCL_1098", "CVCL_0334", "CVCL_0480"],
            Preset::Pbmc => &["Donor1", "Donor4", "Donor9", "Donor12"],
            Preset::Replogle => &["hepg2"],
        }
    }

    /// The `preprocess` options that make these contexts the cell types. Split files hold out no other column, so donors must
    /// take that role, and the actual cell type that of the batch: controls are matched by both, so they stay the same.
    fn columns(self) -> &'static str {
        match self {
            Preset::Tahoe => {
                "--celltype-col cell_line (cell_line_id of the parquet files) --batch-col plate --pert-col drugname_drugconc"
            }
            Preset::Pbmc => "--celltype-col donor --batch-col cell_type --pert-col cytokine",
            Preset::Replogle => "--celltype-col cell_line --batch-col gem_group --pert-col gene",
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// The split file for a data directory.
    ///
    /// # Errors
    /// A context that is not among its cell types, or a directory that holds no others.
    pub fn text(self, data: &Data) -> Result<String> {
        let Manifest { dataset, cell_types, sources, .. } = data.manifest();
        self.check(data.manifest())?;
        let path = match sources.as_slice() {
            [only] => only.path.clone(),
            _ => "*.h5ad".to_string(),
        };
        let quoted = |text: String| Value::String(text).to_string();
        let (name, path) = (quoted(dataset.clone()), quoted(path));
        let held: String = self
            .contexts()
            .iter()
            .map(|context| format!("{} = \"test\"\n", quoted(format!("{dataset}.{context}"))))
            .collect();
        Ok(format!(
            "# The contexts that the benchmark {:?} holds out, {} of {} here.\n\
             # No pair is held out to choose among checkpoints; for that, list some of a context that is trained on:\n\
             # [fewshot.\"data set.context\"]\n# val = [\"perturbation\", ...]\n\n\
             [datasets]\n{name} = {path}\n\n[training]\n{name} = \"train\"\n\n[zeroshot]\n{held}",
            self.name(),
            self.contexts().len(),
            cell_types.len()
        ))
    }

    fn check(self, manifest: &Manifest) -> Result<()> {
        let Manifest { cell_types, batches, columns, .. } = manifest;
        let has = |names: &[String], context: &str| names.iter().any(|name| name == context);
        let absent: Vec<&str> =
            self.contexts().iter().copied().filter(|context| !has(cell_types, context)).collect();
        let what = match absent.as_slice() {
            [] if cell_types.len() > self.contexts().len() => return Ok(()),
            [] => "the directory has no other context to learn from".to_string(),
            absent if absent.iter().any(|context| has(batches, context)) => format!(
                "{} are in column {:?}, which this directory uses as its batches; preprocess with {}",
                some_of(absent),
                columns.batch.as_deref().unwrap_or_default(),
                self.columns()
            ),
            [one] => format!("{} (column {:?})", unknown("context", one, cell_types), columns.cell_type),
            absent => format!(
                "no {} in column {:?}, which contains {}; preprocess the benchmark with {}",
                some_of(absent),
                columns.cell_type,
                some_of(&cell_types.iter().map(String::as_str).collect::<Vec<_>>()),
                self.columns()
            ),
        };
        Err(Error::setting(format!("--preset {}", self.name()), what))
    }
}
