//! `bench loader`: how fast cells come out of a data directory.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::data::loader::{Batch, Carry, Loader};
use crate::data::sampler::{Sampler, Sampling};
use crate::data::shard::Data;
use crate::error::{At, Result};

const EXAMPLE: &str = "\
Example:
  scale-engine bench loader --data DATA --cold

open    every byte of the shards is read and checked, as each command does first; with --cold their pages are dropped before, and
        a plain read of the same files, dropped again, stands beside it
sparse  a step's sets are drawn and their rows copied out of the map, by one thread
dense   the same, then normalised to rows of all genes, by one thread
loader  what the loader of training hands out, by its own threads
copy    memory copied by one thread, for comparison";

/// Time reading from a data directory
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Data directory, as `preprocess` writes it
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// B, sets a step
    #[arg(long, default_value_t = 16)]
    sets: usize,
    /// N, cells a set on each side
    #[arg(long, default_value_t = 512)]
    cells: usize,
    /// Timed steps
    #[arg(long, default_value_t = 20)]
    steps: u64,
    /// Drop the shards from the page cache before they are opened
    #[arg(long)]
    cold: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Bytes of a plain read, and of the copy.
const PIECE: usize = 8 << 20;
const COPIED: usize = 256 << 20;

/// A line of the table.
struct Line {
    name: &'static str,
    cells_per_s: Option<f64>,
    mb_per_s: f64,
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
    let mut lines = vec![Line { name: "open", cells_per_s: None, mb_per_s: open }];
    lines.extend(plain.map(|mb_per_s| Line { name: "plain read", cells_per_s: None, mb_per_s }));
    lines.extend(steps(args, &data)?);
    lines.push(Line { name: "copy", cells_per_s: None, mb_per_s: copy() });
    if args.json {
        let line = |line: &Line| json!({ "name": line.name, "cells_per_s": line.cells_per_s, "mb_per_s": line.mb_per_s });
        let figures = json!({
            "data": args.data, "sets": args.sets, "cells": args.cells, "steps": args.steps, "cold": args.cold, "bytes": bytes,
            "seconds": began.elapsed().as_secs_f64(), "lines": lines.iter().map(line).collect::<Vec<_>>(),
        });
        println!("{figures:#}");
        return Ok(());
    }
    println!("{:<12} {:>12} {:>10}", "", "cells/s", "MB/s");
    for line in lines {
        let cells = line.cells_per_s.map_or(String::new(), |rate| format!("{rate:.0}"));
        println!("{:<12} {cells:>12} {:>10.0}", line.name, line.mb_per_s);
    }
    Ok(())
}

/// The rates at which steps' cells come.
fn steps(args: &Args, data: &Arc<Data>) -> Result<Vec<Line>> {
    let groups: Vec<u32> = (0..data.groups().len() as u32).collect();
    let settings = Sampling { sets: args.sets, cells: args.cells, ..Sampling::default() };
    let sampler = Sampler::new(data, &groups, settings, 0)?;
    let cells = 2 * args.sets * args.cells;
    let mut batch = Batch::of(data, 0, &sampler.step(0));
    let (stored, genes) = (batch.rows.genes.len(), data.genes());
    let sparse = (stored * if data.narrow() { 4 } else { 6 }) as f64;
    let line = |name, seconds: f64, bytes: f64| {
        let rate = args.steps.max(1) as f64 / seconds;
        Line { name, cells_per_s: Some(cells as f64 * rate), mb_per_s: bytes * rate / 1e6 }
    };
    let timed = |work: &mut dyn FnMut(u64)| {
        work(0);
        let began = Instant::now();
        (1..=args.steps.max(1)).for_each(&mut *work);
        began.elapsed().as_secs_f64()
    };
    let draw = |batch: &mut Batch, k: u64| batch.refill(data, k, &sampler.step(k), Carry::Rows);
    let of_sparse = timed(&mut |k| draw(&mut batch, k));
    // A set at a time, as a CPU that goes on to compute with it takes it.
    let mut out = vec![0.0; 2 * args.cells * genes];
    let of_dense = timed(&mut |k| {
        draw(&mut batch, k);
        (0..args.sets)
            .for_each(|set| batch.rows.dense_rows(set * 2 * args.cells, genes, black_box(&mut out)));
    });
    let mut loader = Loader::start(data.clone(), sampler.clone(), 0, 4, Carry::Rows);
    let of_loader = timed(&mut |_| {
        let batch = loader.next();
        loader.give_back(black_box(batch));
    });
    let dense = (cells * genes * 4) as f64;
    Ok(vec![
        line("sparse", of_sparse, sparse),
        line("dense", of_dense, dense),
        line("loader", of_loader, sparse),
    ])
}

/// MB/s of one thread, read and written.
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
    let entries = std::fs::read_dir(dir).at(dir)?.map(|entry| Ok(entry.at(dir)?.path()));
    let all: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|end| end == "shard")).collect())
}

/// Asks the system to forget what it holds of the shards.
fn drop_pages(dir: &Path) -> Result<()> {
    for path in shards(dir)? {
        let file = File::open(&path).at(&path)?;
        // What is not yet on the disk cannot be dropped.
        file.sync_all().at(&path)?;
        #[cfg(target_os = "linux")]
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
