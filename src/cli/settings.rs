//! `scale-engine settings`, and the options by which a run is given its own.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::Result;

const EXAMPLE: &str = "\
Examples:
  scale-engine settings
  scale-engine settings --preset s40 --set recipe=paper > s40.toml

What is printed can be given to `train --config`.";

/// Print every setting of a run with its meaning and value, as TOML
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    choice: Choice,
}

/// What a config is made of.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Model size: tiny, s40, s184 or s280 [default: tiny]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Config file (TOML) whose settings replace the preset's
    #[arg(long, value_name = "C.toml")]
    pub config: Option<PathBuf>,
    /// Change one setting, e.g. flow.start=mixed; may be repeated, and wins over --config
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    pub set: Vec<String>,
}

/// Prints them.
pub fn run(Args { choice: Choice { preset, config, set } }: Args) -> Result<()> {
    print!("{}", Config::load(preset.as_deref(), config.as_deref(), &set)?.explained());
    Ok(())
}
