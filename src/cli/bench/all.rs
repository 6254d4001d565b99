//! `bench` without a subcommand: everything that this machine can run, in one table.

use serde_json::{Value, json};

use super::{evaluate, loader, ops, step};
use crate::cli::device;
use crate::error::Result;
use crate::gpu::{Gpu, Real};
use crate::profile::{Ceilings, Sizes, repeats};

/// What to run on, and how to print.
#[derive(Debug, clap::Args)]
#[group(id = "everything")] // clap names groups by their type, and `bench` has Args of its own
pub struct Args {
    #[command(flatten)]
    device: device::Choice,
    /// Timings of each row; their median is reported [default: 5 on a CPU; on a GPU 100 of an op, 20 of the whole model]
    #[arg(long, value_parser = repeats)]
    turns: Option<usize>,
    /// Print a line of JSON for each row
    #[arg(long)]
    json: bool,
}

/// A row of the table.
struct Row {
    what: String,
    sizes: String,
    seconds: Option<f64>,
    /// How much per second, and of what.
    rate: (f64, &'static str),
    /// Share of the ceiling that the rate is measured against.
    share: Option<f64>,
}

/// Turns of the whole model and of an op, on a CPU and on a GPU.
const TURNS: [(u64, usize); 2] = [(5, 5), (20, 100)];

/// Times ceilings, ops, step, prediction, loader and evaluation, and prints each as it is done.
pub fn run(args: &Args) -> Result<()> {
    let gpu = args.device.open()?;
    let gpu = gpu.as_ref();
    let (steps, turns) = args.turns.map_or(TURNS[usize::from(gpu.is_some())], |turns| (turns as u64, turns));
    let sizes = sizes(gpu);
    let name = gpu.map_or("cpu".into(), Gpu::name);
    if !args.json {
        println!(
            "{name}; preset {}, {} x {} pairs per step, {} genes\n",
            sizes.preset, sizes.sets, sizes.cells, sizes.genes
        );
        println!("{:<24} {:<34} {:>12} {:>20} {:>8}", "", "", "time", "rate", "share");
    }
    let print =
        |row: &Row| if args.json { println!("{}", row.json(&name, gpu.map(Gpu::real))) } else { row.print() };

    let ceilings = Ceilings::measure(gpu);
    let rate =
        |what: &str, rate| Row { what: what.into(), sizes: String::new(), seconds: None, rate, share: None };
    print(&rate("copy", (ceilings.copy_gb_per_s, "GB/s")));
    print(&rate("matmul", (ceilings.matmul_tflop_per_s, "TFLOP/s")));
    ops::of_preset(&sizes.preset, gpu, turns, |timing| print(&of_op(timing, &ceilings)))?;
    for step::Work { name, many, unit, time } in [step::STEP, step::PREDICTION] {
        let (took, _) = time(&sizes, steps, gpu)?;
        let seconds = took.median();
        let count = sizes.sets * sizes.cells;
        let rate = (count as f64 / seconds, unit);
        let sizes = format!("{count} {many}");
        print(&Row { what: name.into(), sizes, seconds: Some(seconds), rate, share: None });
    }
    for (what, cells_per_s) in loader::made_up()? {
        print(&Row {
            sizes: "10000 made-up cells".into(),
            ..rate(&format!("loader, {what}"), (cells_per_s, "cells/s"))
        });
    }
    let (cells, took) = evaluate::made_up(args.turns.unwrap_or(TURNS[0].1))?; // on the CPU, whatever the device
    let (seconds, per_s) = (took.median(), cells as f64 / took.median());
    print(&Row {
        sizes: format!("{cells} made-up cells"),
        seconds: Some(seconds),
        ..rate("evaluate, full", (per_s, "cells/s"))
    });
    Ok(())
}

/// Sizes of the paper's model on a GPU, of the smallest on a CPU.
fn sizes(gpu: Option<&Gpu>) -> Sizes {
    let (preset, sets, cells) = if gpu.is_some() { ("s184", 32, 512) } else { ("tiny", 16, 32) };
    Sizes { preset: preset.into(), sets, cells, genes: 2000 }
}

/// A row for an op, against the ceiling that it comes closer to.
fn of_op(timing: &ops::Timing, ceilings: &Ceilings) -> Row {
    let [gb, tflop] = timing.rates();
    let shares = [gb / ceilings.copy_gb_per_s, tflop / ceilings.matmul_tflop_per_s];
    let (rate, share) = match shares[1] > shares[0] {
        true => ((tflop, "TFLOP/s"), shares[1]),
        false => ((gb, "GB/s"), shares[0]),
    };
    let sizes: Vec<String> = timing.shape.iter().map(|(letter, size)| format!("{letter} {size}")).collect();
    let what = format!("{} {}", timing.name, timing.cost.direction);
    Row { what, sizes: sizes.join(", "), seconds: Some(timing.median()), rate, share: Some(share) }
}

impl Row {
    fn print(&self) {
        let time = self.seconds.map_or(String::new(), |seconds| format!("{:.3} ms", 1e3 * seconds));
        let share = self.share.map_or(String::new(), |share| format!("{share:.2}"));
        let rate = match self.rate {
            (rate, "TFLOP/s") => format!("{rate:.3} TFLOP/s"),
            (rate, unit) => format!("{rate:.0} {unit}"),
        };
        println!("{:<24} {:<34} {time:>12} {rate:>20} {share:>8}", self.what, self.sizes);
    }

    fn json(&self, device: &str, precision: Option<Real>) -> Value {
        json!({
            "what": self.what, "sizes": self.sizes, "median_s": self.seconds, "rate": self.rate.0, "unit": self.rate.1,
            "share": self.share, "device": device, "precision": precision,
        })
    }
}
