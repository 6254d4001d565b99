//! `scale-engine profile`.

use super::device;
use crate::error::Result;
use crate::gpu::{Gpu, guard};
use crate::laps::Pass;
use crate::profile::{Kernel, MOST_REPEATS, Memory, Profile, Row, Sizes, profile};

const EXAMPLE: &str = "\
Example:
  scale-engine profile --preset s184 --sets 32 --cells 512 --device cuda

Each row is an op, forward or backward, summed over one training step: how long it takes, what it must read and write (its inputs \
and outputs, once each), how much it multiplies, and which share that is of two ceilings measured at the start: a copy far larger \
than the caches, and a matrix product. A share of copy above 1 means that the data came from a cache. On a GPU the table is \
followed by the memory of a step and by its kernels, timed by events. The first lines give the time of a step as `bench step` \
measures it, that of a step whose ops are timed one by one, and the share of the latter during which the GPU was idle. A step \
whose ops are not timed has less idle time: its kernels are queued as one graph.

Without a GPU, --dry counts what a step would move, multiply and hold on one: it makes the same ops and buffers but computes nothing. \
Memory is what the program asks for, without the allocator's overhead and the workspace of the matrix products (32 MiB).

To profile with nsys and ncu, see tools/profile.sh in the repository.";

/// Show where a training step's time goes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    sizes: Sizes,
    /// Number of timed steps
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MOST_REPEATS))]
    steps: u64,
    #[command(flatten)]
    device: device::Choice,
    /// Only count the bytes, FLOPs and memory of a step on a GPU: computes and times nothing, and needs no GPU
    #[arg(long)]
    dry: bool,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Rows below this share of the step are added up into one line.
const SMALL: f64 = 0.005;

/// Profiles and prints.
pub fn run(args: Args) -> Result<()> {
    let gpu = if args.dry { Some(Gpu::dry(args.device.precision)) } else { args.device.open()? };
    let steps = if args.dry { 1 } else { args.steps };
    let found = guard(|| profile(&args.sizes, steps, gpu.as_ref()))?;
    match (args.json, args.dry) {
        (true, _) => println!("{}", serde_json::to_string(&found).expect("plain numbers")),
        (_, true) => print_counts(&found),
        _ => print(&found),
    }
    Ok(())
}

const MB: f64 = 1e6;

/// Without times: nothing was computed.
fn print_counts(found: &Profile) {
    let Profile { precision, sizes, weights, pairs, .. } = found;
    let real = precision.map_or(String::new(), |real| format!(", {}", real.name()));
    println!("{} ({weights} weights), {pairs} pairs per step, counted only{real}\n", sizes.preset);
    println!("{:<34} {:<9} {:>6} {:>10} {:>10} {:>9}", "op", "pass", "calls", "MB", "kB/pair", "GFLOP");
    let mut rows: Vec<&Row> = found.rows.iter().collect();
    rows.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    let line = |name: &str, pass: &str, calls: f64, bytes: f64, flops: f64| {
        let kb = bytes / 1e3 / *pairs as f64;
        println!("{name:<34} {pass:<9} {calls:>6.0} {:>10.1} {kb:>10.2} {:>9.1}", bytes / MB, flops / 1e9);
    };
    for row in &rows {
        line(&name(row), pass(row), row.calls, row.bytes, row.flops);
    }
    let sum = |of: fn(&Row) -> f64| rows.iter().map(|row| of(row)).sum::<f64>();
    line("all", "", sum(|row| row.calls), sum(|row| row.bytes), sum(|row| row.flops));
    found.memory.iter().for_each(|memory| print_memory(memory, *pairs));
}

fn print_memory(memory: &Memory, pairs: usize) {
    let line = |name: &str, bytes: u64| {
        println!("{name:<51} {:>10.1} {:>10.2}", bytes as f64 / MB, bytes as f64 / 1e3 / pairs as f64);
    };
    println!("\n{:<51} {:>10} {:>10}", "memory", "MB", "kB/pair");
    line("between steps", memory.between);
    line("kept from forward to backward", memory.kept);
    line("block of a step's buffers", memory.block as u64);
    line("peak", memory.peak.bytes);
    let share = |&&(_, bytes): &&(&str, u64)| bytes as f64 >= SMALL * memory.peak.bytes as f64;
    for (what, bytes) in memory.peak.of.iter().filter(share) {
        line(&format!("  {what}"), *bytes);
    }
}

fn print(found: &Profile) {
    let Profile { device, precision, threads, sizes, weights, pairs, .. } = found;
    let stored = precision.map_or(format!("{threads} threads"), |real| real.name().into());
    println!("{} ({weights} weights), {pairs} pairs per step, {device}, {stored}", sizes.preset);
    let idle = found.idle.map_or(String::new(), |share| format!(", of which {:.1} % idle", 100.0 * share));
    println!(
        "step     {:.2} ms, {:.2} ms while its ops are timed{idle}",
        1e3 * found.step_s,
        1e3 * found.watched_s
    );
    let ceilings = &found.ceilings;
    println!(
        "ceilings {:.1} GB/s copied, {:.3} TFLOP/s multiplied\n",
        ceilings.copy_gb_per_s, ceilings.matmul_tflop_per_s
    );
    println!(
        "{:<34} {:<9} {:>6} {:>9} {:>7} {:>8} {:>8} {:>8} {:>9}",
        "op", "pass", "calls", "ms", "share", "GB/s", "of copy", "TFLOP/s", "of matmul"
    );
    let (large, small): (Vec<&Row>, Vec<&Row>) = found.rows.iter().partition(|row| row.share >= SMALL);
    large.iter().for_each(|row| print_row(row));
    if !small.is_empty() {
        let (ms, share) = (small.iter().map(|r| 1e3 * r.seconds), small.iter().map(|r| r.share));
        let name = format!("{} rows below {} %", small.len(), 100.0 * SMALL);
        println!("{name:<51} {:>9.3} {:>6.1}%", ms.sum::<f64>(), 100.0 * share.sum::<f64>());
    }
    found.memory.iter().for_each(|memory| print_memory(memory, *pairs));
    if !found.kernels.is_empty() {
        println!(
            "\n{:<51} {:>8} {:>9} {:>7} {:>8} {:>8}",
            "kernel", "launches", "ms", "share", "GB/s", "TFLOP/s"
        );
    }
    for Kernel { name, launches, seconds, share, work } in &found.kernels {
        let rate = |i: usize, unit: f64| work.map(|work| work[i] / seconds / unit).filter(|&rate| rate > 0.0);
        let shown = |rate: Option<f64>, digits| rate.map_or(String::new(), |rate| format!("{rate:.digits$}"));
        let (gb, tflop) = (shown(rate(0, 1e9), 1), shown(rate(1, 1e12), 3));
        println!(
            "{name:<51} {launches:>8.0} {:>9.3} {:>6.1}% {gb:>8} {tflop:>8}",
            1e3 * seconds,
            100.0 * share
        );
    }
}

fn name(row: &Row) -> String {
    let shape = if row.shape.is_empty() { String::new() } else { format!(" {:?}", row.shape) };
    format!("{}{shape}", row.op)
}

fn pass(row: &Row) -> &'static str {
    match row.pass {
        Pass::Forward => "forward",
        Pass::Backward => "backward",
        Pass::Update => "update",
    }
}

fn print_row(row: &Row) {
    let rate = |number: Option<f64>, digits| number.map_or(String::new(), |x| format!("{x:.digits$}"));
    println!(
        "{:<34} {:<9} {:>6.0} {:>9.3} {:>6.1}% {:>8.1} {:>8.2} {:>8} {:>9}",
        name(row),
        pass(row),
        row.calls,
        1e3 * row.seconds,
        100.0 * row.share,
        row.gb_per_s,
        row.of_copy,
        rate(row.tflop_per_s, 3),
        rate(row.of_matmul, 2),
    );
}
