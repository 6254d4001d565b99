//! `bench loader`: how fast cells come out of a data directory.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::json;

use crate::config::{DataConfig, SetOrder};
use crate::data::loader::{Batch, Carry, Loader};
use crate::data::preprocess::{self, preprocess};
use crate::data::sampler::Sampler;
use crate::data::shard::{Data, disk_bytes_read};
use crate::data::simulate::{self, simulate};
use crate::error::{At, Result};
use crate::folder::paths_in;
use crate::memory;
use crate::profile::{MOST_REPEATS, positive};
use crate::progress::Progress;

const EXAMPLE: &str = "\
Example:
  scale-engine bench loader --data DATA --cold

The rows of the output:
open    all shards are read and checked, as every command does first; with --cold their pages are
        dropped from memory before, and a plain read of the same files is timed for comparison
cold    with --cold: a step's sets are drawn and their rows copied, with all pages dropped before
        each step; MB/s are those of the disk
sparse  the same from pages in memory, on one thread
dense   the same, then normalised into dense rows of all genes, on one thread
loader  what the training loader delivers, on its own threads
copy    memory copied by one thread, for comparison

`a core`: per second of processor time; elapsed time grows while other programs run";

/// Time reading from a data directory
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Data directory, as `preprocess` writes it
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// B, sets per step
    #[arg(long, default_value_t = 16, value_parser = positive)]
    sets: usize,
    /// N: a set has N control cells and N perturbed cells
    #[arg(long, default_value_t = 512, value_parser = positive)]
    cells: usize,
    /// Timed steps
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=MOST_REPEATS))]
    steps: u64,
    /// Take every cell once before any comes again, instead of drawing sets by weight
    #[arg(long)]
    epoch: bool,
    /// Drop the shards from the page cache before they are opened, and before each step of the row `cold`
    #[arg(long)]
    cold: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Bytes of a plain read, and of the copy.
const PIECE: usize = 8 << 20;
const COPIED: usize = 64 << 20;

/// A line of the table.
#[derive(Serialize)]
struct Line {
    name: &'static str,
    cells_per_s: Option<f64>,
    cells_per_core_s: Option<f64>,
    mb_per_s: f64,
    /// Bytes read from the disk per byte that the rows need.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_per_needed: Option<f64>,
}

impl Line {
    /// A line with only a rate of bytes.
    fn of(name: &'static str, mb_per_s: f64) -> Line {
        Line { name, cells_per_s: None, cells_per_core_s: None, mb_per_s, read_per_needed: None }
    }
}

/// Times and prints.
pub fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    if args.cold {
        drop_pages(&args.data)?;
    }
    let plain = args.cold.then(|| read_plainly(&args.data)).transpose()?;
    if args.cold {
        drop_pages(&args.data)?;
    }
    let opened = Instant::now();
    let data = Arc::new(Data::open(&args.data)?);
    let bytes =
        shards(&args.data)?.iter().map(|path| Ok(path.metadata().at(path)?.len())).sum::<Result<u64>>()?;
    let open = bytes as f64 / opened.elapsed().as_secs_f64() / 1e6;
    let mut lines = vec![Line::of("open", open)];
    lines.extend(plain.map(|mb_per_s| Line::of("plain read", mb_per_s)));
    lines.extend(steps(args, &data)?);
    lines.push(Line::of("copy", copy()));
    if args.json {
        let figures = json!({
            "data": args.data, "sets": args.sets, "cells": args.cells, "steps": args.steps, "cold": args.cold, "bytes": bytes,
            "epoch": args.epoch, "seconds": began.elapsed().as_secs_f64(), "lines": lines,
        });
        println!("{figures}");
        return Ok(());
    }
    println!("{:<12} {:>12} {:>12} {:>10}", "", "cells/s", "a core", "MB/s");
    for line in lines {
        let [cells, core] = [line.cells_per_s, line.cells_per_core_s]
            .map(|rate| rate.map_or(String::new(), |rate| format!("{rate:.0}")));
        let read = line
            .read_per_needed
            .map_or(String::new(), |read| format!("   {read:.1} bytes read per byte needed"));
        println!("{:<12} {cells:>12} {core:>12} {:>10.0}{read}", line.name, line.mb_per_s);
    }
    Ok(())
}

/// The lines `sparse`, `dense` and `loader` for 10,000 made-up cells, kept meanwhile in a temporary folder of the system: name,
/// cells/s.
pub fn made_up() -> Result<Vec<(&'static str, f64)>> {
    memory::keep(); // as `train` does
    let dir = tempfile::tempdir().at(std::env::temp_dir())?;
    let (cells, data) = (dir.path().join("cells.h5ad"), dir.path().join("data"));
    simulate(&simulate::Settings { cells: 10_000, ..Default::default() })?.write(&cells)?;
    // One batch, as in earlier figures: with two, sets would be drawn from smaller groups.
    let settings = preprocess::Settings { batch: None, ..preprocess::Settings::of_simulated(&cells, &data) };
    preprocess(&settings, &Progress::silent())?;
    let (sets, cells) = (DataConfig::default().sets, 64);
    let args = Args { data: data.clone(), sets, cells, steps: 20, epoch: false, cold: false, json: false };
    let rates = steps(&args, &Arc::new(Data::open(&data)?))?;
    Ok(rates.into_iter().filter_map(|line| Some((line.name, line.cells_per_s?))).collect())
}

/// The rates at which the cells of steps are loaded.
fn steps(args: &Args, data: &Arc<Data>) -> Result<Vec<Line>> {
    let groups: Vec<u32> = (0..data.groups().len() as u32).collect();
    let order = if args.epoch { SetOrder::Epoch } else { SetOrder::Drawn };
    let settings = DataConfig { sets: args.sets, cells: args.cells, order, ..DataConfig::default() };
    let sampler = Sampler::new(data, &groups, settings, 0)?;
    let (cells, genes) = ((2 * args.sets * args.cells) as f64, data.genes());
    let mut batch = Batch::of(data, 0, &sampler.step(0));
    let number = if data.narrow() { 4.0 } else { 6.0 };
    let sparse = batch.rows.genes.len() as f64 * number;
    let steps = args.steps;
    let timed = |name, bytes: f64, clock: ClockId, work: &mut dyn FnMut(u64)| {
        work(0);
        let (began, spent) = (Instant::now(), processor_time(clock));
        (1..=steps).for_each(&mut *work);
        let (seconds, spent) = (began.elapsed().as_secs_f64(), processor_time(clock) - spent);
        let rate = |seconds: f64| Some(cells * steps as f64 / seconds);
        let mb_per_s = bytes * steps as f64 / seconds / 1e6;
        Line {
            name,
            cells_per_s: rate(seconds),
            cells_per_core_s: rate(spent),
            mb_per_s,
            read_per_needed: None,
        }
    };
    let draw = |batch: &mut Batch, k: u64| batch.refill(data, k, &sampler.step(k), Carry::Rows);
    let of_cold = args.cold.then(|| cold(args, data, &sampler, &mut batch)).transpose()?;
    if args.cold {
        // The lines below are for pages in memory.
        read_plainly(&args.data)?;
    }
    let of_sparse = timed("sparse", sparse, ClockId::ThreadCPUTime, &mut |k| draw(&mut batch, k));
    // One set at a time, as for a CPU that then computes with it.
    let mut out = vec![0.0; 2 * args.cells * genes];
    let of_dense = timed("dense", cells * genes as f64 * 4.0, ClockId::ThreadCPUTime, &mut |k| {
        draw(&mut batch, k);
        let rows = &batch.rows;
        (0..args.sets).for_each(|set| rows.dense_rows(set * 2 * args.cells, black_box(&mut out)));
    });
    let mut loader = Loader::start(data.clone(), sampler.clone(), 0, 4, Carry::Rows)?;
    let of_loader = timed("loader", sparse, ClockId::ProcessCPUTime, &mut |_| {
        let batch = loader.next();
        loader.give_back(black_box(batch));
    });
    Ok(of_cold.into_iter().chain([of_sparse, of_dense, of_loader]).collect())
}

/// Steps whose pages were all dropped beforehand.
fn cold(args: &Args, data: &Data, sampler: &Sampler, batch: &mut Batch) -> Result<Line> {
    let (mut seconds, mut spent, mut read, mut needed) = (0.0, 0.0, 0, 0);
    let steps = args.steps;
    // One extra step that does not count: rows are asked for ahead only once some have come from the disk.
    for k in 0..=steps {
        data.let_go();
        drop_pages(&args.data)?;
        let (began, used, before) =
            (Instant::now(), processor_time(ClockId::ThreadCPUTime), disk_bytes_read());
        batch.refill(data, k, &sampler.step(k), Carry::Rows);
        if k == 0 {
            continue;
        }
        seconds += began.elapsed().as_secs_f64();
        spent += processor_time(ClockId::ThreadCPUTime) - used;
        read += disk_bytes_read() - before;
        needed += batch.numbers.iter().map(|&cell| data.row(cell).bytes()).sum::<usize>();
    }
    let rate = |seconds: f64| Some((2 * args.sets * args.cells) as f64 * steps as f64 / seconds);
    Ok(Line {
        name: "cold",
        cells_per_s: rate(seconds),
        cells_per_core_s: rate(spent),
        mb_per_s: read as f64 / seconds / 1e6,
        read_per_needed: Some(read as f64 / needed.max(1) as f64),
    })
}

/// Seconds that a thread or the process has spent computing.
fn processor_time(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// MB/s of one thread, counting both reads and writes.
fn copy() -> f64 {
    let (from, mut to) = (vec![1u8; COPIED], vec![0u8; COPIED]);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        black_box(&mut to).copy_from_slice(black_box(&from));
        best = best.min(began.elapsed().as_secs_f64());
    }
    2.0 * COPIED as f64 / best / 1e6
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut shards = paths_in(dir)?;
    shards.retain(|path| path.extension().is_some_and(|end| end == "shard"));
    Ok(shards)
}

/// Asks the system to forget what it holds of the shards.
fn drop_pages(dir: &Path) -> Result<()> {
    for path in shards(dir)? {
        let file = File::open(&path).at(&path)?;
        // What is not yet on the disk cannot be dropped.
        file.sync_all().at(&path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(std::io::Error::from)
            .at(&path)?;
    }
    Ok(())
}

/// MB/s of reading the shards from end to end.
fn read_plainly(dir: &Path) -> Result<f64> {
    let (mut piece, mut bytes, began) = (vec![0; PIECE], 0, Instant::now());
    for path in shards(dir)? {
        let mut file = File::open(&path).at(&path)?;
        loop {
            match file.read(&mut piece).at(&path)? {
                0 => break,
                read => bytes += read,
            }
        }
    }
    Ok(bytes as f64 / began.elapsed().as_secs_f64() / 1e6)
}
