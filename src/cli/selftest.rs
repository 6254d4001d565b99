//! `scale-engine selftest`.

use std::collections::HashSet;
use std::time::Instant;

use super::device::Device;
use crate::error::{Error, Result, unknown};
use crate::gpu::{self, Gpu, Real};
use crate::progress::Progress;
use crate::selftest::{Case, Check, Size, feed, gather, graph, model, nccl, ops, table};

const EXAMPLE: &str = "\
Example:
  scale-engine selftest --device cuda

Checks every kernel, at awkward sizes and at the model's, against its reference, and that it gives the same bits each time; the \
whole model against the CPU (loss, every gradient, 50 steps); and that the same seed gives the same bits twice. All this in f32 and in bf16. An op that has its own kernels \
for Hopper has a line for them too (`attention on Hopper`), with the sizes that these kernels accept. The exit code is 1 if any \
check fails. Under compute-sanitizer:
  compute-sanitizer --tool memcheck scale-engine selftest --device cuda --small";

/// How often each op is run once more: what is not ordered on the device shows as other bits, seldom if at all.
const AGAIN: usize = 20;

/// Check every GPU kernel and the whole model on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The GPU: cuda or cuda:1
    #[arg(long, default_value = "cuda")]
    device: Device,
    /// Use small shapes and few steps, for tools that slow kernels down a hundredfold
    #[arg(long)]
    small: bool,
    /// Run only this check: the name of an op, `feed`, `nccl`, `model` or `graph` (--list prints all)
    #[arg(long)]
    case: Option<String>,
    /// Check only this precision [default: both]
    #[arg(long)]
    precision: Option<Real>,
    /// List the names that --case accepts
    #[arg(long)]
    list: bool,
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the checks and prints their table.
pub fn run(args: Args) -> Result<()> {
    let names = names();
    if args.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(case) = args.case.as_ref().filter(|&case| !names.contains(case)) {
        return Err(Error::setting("--case", unknown("check", case, &names)));
    }
    let index = match args.device {
        Device::Cuda(index) => index.unwrap_or(0),
        Device::Auto => 0,
        Device::Cpu => {
            return Err(Error::setting(
                "--device",
                "the CPU is checked by `cargo test`; give cuda or cuda:NUMBER",
            ));
        }
    };
    let began = Instant::now();
    let mut checks = Vec::new();
    let asked = args.precision;
    let reals = [Real::F32, Real::Bf16].into_iter().filter(|&real| asked.is_none_or(|asked| asked == real));
    for (i, real) in reals.enumerate() {
        let gpu = Gpu::fenced(index, real)?;
        if !args.json && i == 0 {
            println!("{}", gpu.name());
        }
        let second = Gpu::open(index, real)?;
        checks.extend(gpu::guard(|| run_on(&gpu, &second, &args))?);
    }
    if args.json {
        println!("{}", serde_json::to_string(&checks).expect("plain values"));
    } else {
        print(&checks);
        println!("{:.1} s", began.elapsed().as_secs_f64());
    }
    match checks.iter().filter(|check| !check.holds()).count() {
        0 => Ok(()),
        missed => Err(Error::Device(format!("{missed} of {} checks exceed their bound", checks.len()))),
    }
}

/// Ops, and the checks that are not rows of the table.
fn names() -> Vec<String> {
    let mut names: Vec<String> = table().iter().map(|row| row.op().to_string()).collect();
    names.extend(["gather", "feed", "nccl", "model", "graph"].map(String::from));
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn run_on(gpu: &Gpu, second: &Gpu, args: &Args) -> Result<Vec<Check>> {
    let (most, again, size, steps) =
        if args.small { (20_000, 0, Size::Small, 6) } else { (usize::MAX, AGAIN, Size::Tiny, 50) };
    let asked = |name: &str| args.case.as_deref().is_none_or(|case| case == name);
    let rows: Vec<Case> = table().into_iter().filter(|row| row.size() <= most && asked(row.op())).collect();
    let mut checks = ops(gpu, &rows, again, &Progress::terminal())?;
    if asked("gather") {
        checks.push(gather(gpu));
    }
    if asked("feed") {
        checks.push(feed(gpu, !args.small)?);
    }
    if asked("nccl") {
        checks.extend(nccl(second)?);
    }
    if asked("model") {
        checks.extend(model(gpu, size, steps)?);
    }
    if asked("graph") {
        checks.push(graph(gpu, second, size, steps)?);
    }
    Ok(checks)
}

fn print(checks: &[Check]) {
    println!("{:<26} {:>5} {:>5} {:>9} {:>9}      nearest to its bound", "", "", "rows", "error", "allowed");
    for check in checks {
        let Check { name, real, rows, output, error, allowed } = check;
        let real = if *real == Real::F32 { "f32" } else { "bf16" };
        let mark = if check.holds() { "ok  " } else { "MISS" };
        println!("{name:<26} {real:>5} {rows:>5} {error:>9.1e} {allowed:>9.1e} {mark} {output}");
    }
}
