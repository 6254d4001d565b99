//! A step's cells on a device, sent with each step or read from the device's own copy, compared with the host's layout.

use std::path::Path;

use super::Check;
use super::case::{error, wide};
use crate::config::DataConfig;
use crate::data::effects::Effects;
use crate::data::loader::Batch;
use crate::data::preprocess::{Settings as Preprocess, preprocess};
use crate::data::sampler::Sampler;
use crate::data::shard::Data;
use crate::data::simulate::{Settings, simulate};
use crate::data::split::{Part, Split};
use crate::error::{At, Result};
use crate::gpu::{Gpu, Real};
use crate::ops::matmul;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::train::Feed;

/// Steps in a row, more than the two pinned pages.
const STEPS: u64 = 6;

/// All steps are sent before the first is read. With `busy` the device has some milliseconds of products to do first, so that a
/// page that is written too early would be seen. Cells that were sent and cells of the device's own copy must have the same bits.
///
/// # Errors
/// No room on disk for the cells.
pub fn check(gpu: &Gpu, busy: bool) -> Result<Check> {
    let dir = tempfile::tempdir().at(std::env::temp_dir())?;
    let data = shards(dir.path(), if busy { 6_000 } else { 150 })?;
    let text =
        format!("[datasets]\n{0} = \"data\"\n\n[training]\n{0} = \"train\"\n", data.manifest().dataset);
    let split = Split::of_text(&text, Path::new("selftest.toml"), &data)?;
    let (sets, cells) = if busy { (16, 128) } else { (3, 7) };
    let sampling = DataConfig { sets, cells, ..DataConfig::default() };
    let sampler = Sampler::new(&data, split.part(Part::Train), sampling, 3)?;
    let all = |feed: &mut Feed| -> Vec<Tensor> {
        // If numbers are enough, only step 0 has rows.
        let mut batch = Batch::of(&data, 0, &sampler.step(0));
        let step = |k| {
            batch.refill(&data, k, &sampler.step(k), feed.carry());
            feed.examples(&batch, &Effects::default()).cells
        };
        (0..STEPS).map(step).collect()
    };
    if busy {
        let x = Tensor::new(&[4096, 4096], vec![0.01; 4096 * 4096]).to_gpu(gpu, "selftest", gpu.real());
        (0..40).for_each(|_| drop(matmul::forward(None, &x, &x, None)));
    }
    let sent = all(&mut Feed::streamed(gpu, false));
    let own = all(&mut Feed::new(&data, Some(gpu), false));

    let allowed = if gpu.real() == Real::F32 { 1e-6 } else { 1.0 / 256.0 };
    let (mut worst, mut output) = (0.0, String::from("a step's cells"));
    let truth = all(&mut Feed::new(&data, None, false));
    for (k, (truth, (sent, own))) in truth.iter().zip(sent.iter().zip(&own)).enumerate() {
        let (sent, own) = (sent.to_host(), own.to_host());
        let same = sent.data().iter().zip(own.data()).all(|(a, b)| a.to_bits() == b.to_bits());
        let off = if same { error(&wide(sent.data()), &wide(truth.data())) } else { f64::INFINITY };
        if off.is_nan() || off > worst {
            let what = if same { "from the host's" } else { "between sent cells and its own copy" };
            (worst, output) = (off, format!("step {k}: off {what}"));
        }
    }
    Ok(Check { name: "feed".into(), real: gpu.real(), rows: STEPS as usize, output, error: worst, allowed })
}

/// A small world, packed as `preprocess` packs it.
fn shards(dir: &Path, cells: usize) -> Result<Data> {
    let (file, out) = (dir.join("cells.h5ad"), dir.join("data"));
    let world = Settings { cells, skip: 0, genes: 500, perturbations: 5, cell_types: 2, batches: 1, seed: 0 };
    simulate(&world)?.write(&file)?;
    preprocess(&Preprocess::of_simulated(&file, &out), &Progress::silent())?;
    Data::open(&out)
}
