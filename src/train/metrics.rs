//! What a run reports while it trains: metrics.jsonl, one line per logged step or validation, and the same for TensorBoard.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::line::Line;
use super::tensorboard::Events;
use crate::error::{At, Result};
use crate::progress::{Event, Progress};
use crate::run_folder::RunFolder;

/// The log; open only on the rank that writes.
pub struct Metrics(Option<Files>);

struct Files {
    path: PathBuf,
    file: File,
    events: Events,
    progress: Progress,
}

impl Metrics {
    /// Opens the log of a run that has done `step` steps, dropping the lines of steps that will be repeated. `progress` is told
    /// every line.
    pub fn open(run: &RunFolder, step: u64, progress: Progress) -> Result<Metrics> {
        let path = run.metrics();
        if path.exists() {
            // Lines that are not JSON are dropped below, UTF-8 or not.
            let text = String::from_utf8_lossy(&std::fs::read(&path).at(&path)?).into_owned();
            let done = |line: &&str| {
                let parsed: Option<Value> = serde_json::from_str(line).ok();
                parsed.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step)
            };
            let kept: String = text.lines().filter(done).map(|line| format!("{line}\n")).collect();
            crate::aside::whole(&path, kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).at(&path)?;
        Ok(Metrics(Some(Files { path, file, events: Events::create(run.path(), step)?, progress })))
    }

    /// A log that writes nothing.
    pub fn silent() -> Metrics {
        Metrics(None)
    }

    /// A training step and its learning rate.
    pub fn step(&mut self, line: &Line, lr: f64, cells_per_second: f64) -> Result<()> {
        let mut value = json!({ "step": line.step, "loss": line.loss });
        for (name, part) in &line.parts {
            value[name] = json!(part);
        }
        let latent_variance = line.latent_variance();
        // L_flow is small if latents hardly differ: the ratio is the share of their variance that is missed.
        if let Some((_, flow)) = line.parts.iter().find(|(name, _)| *name == "flow") {
            value["flow_over_variance"] = json!(flow / latent_variance);
        }
        value["latent_variance"] = json!(latent_variance);
        value["grad_norm"] = json!(line.norm);
        value["lr"] = json!(lr);
        value["cells_per_second"] = json!(cells_per_second.round());
        self.write(&value)
    }

    /// Norms of the parts' gradients, as `grad_norm_mse` and so on.
    pub fn part_norms(&mut self, step: u64, norms: &[(&'static str, f32)]) -> Result<()> {
        let mut value = json!({ "step": step });
        for (name, norm) in norms {
            value[format!("grad_norm_{name}")] = json!(norm);
        }
        self.write(&value)
    }

    /// A validation.
    pub fn validation(&mut self, step: u64, pdcorr: f64) -> Result<()> {
        self.write(&json!({ "step": step, "val_pdcorr": pdcorr }))
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        let Some(Files { path, file, events, progress }) = &mut self.0 else { return Ok(()) };
        // In one piece, for those who follow the file: `writeln!` would write each token on its own.
        file.write_all(format!("{value}\n").as_bytes()).at(path)?;
        let fields = value.as_object().expect("a line is an object");
        let scalars: Vec<(String, f64)> = fields
            .iter()
            .filter(|(name, _)| *name != "step")
            .filter_map(|(name, x)| Some((name.clone(), x.as_f64()?)))
            .collect();
        let step = value["step"].as_u64().expect("a line has a step");
        progress.tell(Event::Logged { step, numbers: &scalars });
        events.scalars(step, &scalars)
    }
}
