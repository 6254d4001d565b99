//! `bench ops`: single ops, forward and backward separately.

use serde_json::{Map, json};

use super::place::{Place, Turn};
use super::rows::{self, Cost, Row};
use crate::cli::device;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Took};
use crate::memory;
use crate::profile::{Times, repeats};

const EXAMPLE: &str = "\
Examples:
  scale-engine bench ops --preset s184 --device cuda --json
  scale-engine bench ops --case mmd --shape 64,512,2048 --device cuda
  scale-engine bench ops --preset tiny --device cpu

Times each op alone, on random numbers, forward and backward separately. On a GPU a time is taken between two events in its queue, \
which is kept full; inputs exist in so many copies, used in turn, that three times the level-2 cache is read before one is used again. \
Bytes and FLOPs are the least that the op needs, so its GB/s and TFLOP/s, next to those of a copy and of a large matrix product, show how \
near it is to what the device can do. The time of a backward does not include its forward; adamw is a whole update: norm, clip, update, \
average. The larger presets have sizes for a GPU: on a CPU use --preset tiny or --small.";

/// Time single ops
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Model size: tiny, s40, s184 or s280
    #[arg(long, default_value = "s184")]
    preset: String,
    /// Time only this op, such as mmd
    #[arg(long)]
    case: Option<String>,
    /// Sizes for this op instead of the preset's, in the order in which the output prints them
    #[arg(long, value_delimiter = ',', requires = "case")]
    shape: Vec<usize>,
    /// Use tiny sizes, to try the command; the times are then mostly call overhead
    #[arg(long, conflicts_with = "shape")]
    small: bool,
    /// Timings per direction; their median is reported
    #[arg(long, default_value_t = 100, value_parser = repeats)]
    turns: usize,
    #[command(flatten)]
    device: device::Choice,
    /// Print a line of JSON for each op and direction
    #[arg(long)]
    json: bool,
}

/// Turns before those that count: the first calls choose algorithms and fill the memory pool.
const WARM: usize = 5;

/// A direction of an op at one size, timed.
#[derive(Debug)]
pub struct Timing {
    /// The op.
    pub name: &'static str,
    /// Names and sizes.
    pub shape: Vec<(&'static str, usize)>,
    /// The least that it must move and compute.
    pub cost: Cost,
    /// Seconds, sorted.
    pub took: Times,
}

/// Times the requested ops and prints each when it is done.
pub fn run(args: &Args) -> Result<()> {
    memory::keep(); // as `train` does
    let mut rows = if args.small { rows::small() } else { rows::of_preset(&args.preset)? };
    if let Some(name) = &args.case {
        let kind = rows::kind(name)?;
        rows.retain(|row| row.0.name == kind.name);
        if !args.shape.is_empty() {
            if args.shape.len() != kind.letters.len() || args.shape.contains(&0) {
                let what = format!("{name} takes the sizes {}, each above 0", kind.letters.join(","));
                return Err(Error::setting("--shape", what));
            }
            rows = vec![(kind, rows::padded(&args.shape))];
        }
    }
    let gpu = args.device.open()?;
    if gpu.is_none() {
        // The least that an op of these sizes holds.
        let bytes = args.shape.iter().fold(4u64, |all, &size| all.saturating_mul(size as u64));
        memory::check("--shape", "tensors of this shape", bytes)?;
    }
    if !args.json {
        let device =
            gpu.as_ref().map_or("cpu".into(), |gpu| format!("{}, {}", gpu.name(), gpu.real().name()));
        println!("{device}; medians of {}", args.turns);
    }
    let place = Place::new(gpu.as_ref());
    let print = |timing: &Timing| if args.json { timing.print_json(&place) } else { timing.print() };
    time_all(&place, &rows, args.turns, print);
    if let Some(gpu) = gpu.filter(|_| !args.json) {
        // Hopper's kernel and any device's; or the way that `what` names, and the alternative.
        for (what, size, [first, other]) in gpu.timed_ways() {
            println!("{what} {size:?}: {:.2} us, else {:.2} us", 1e6 * first, 1e6 * other);
        }
    }
    Ok(())
}

/// Every op at a preset's sizes, on a device or the host.
pub fn of_preset(preset: &str, gpu: Option<&Gpu>, turns: usize, told: impl FnMut(&Timing)) -> Result<()> {
    time_all(&Place::new(gpu), &rows::of_preset(preset)?, turns, told);
    Ok(())
}

fn time_all(place: &Place, rows: &[Row], turns: usize, mut told: impl FnMut(&Timing)) {
    for row in rows {
        let timed = match place.gpu() {
            Some(_) => time(place, row, turns),
            // Inside the pool, as in a step: an op then wakes one core fewer.
            None => rayon::scope(|_| time(place, row, turns)),
        };
        timed.iter().for_each(&mut told);
    }
}

/// Every op at small sizes, to try it, on a device or the host.
pub fn tried(gpu: Option<&Gpu>, turns: usize) -> Vec<Timing> {
    let place = Place::new(gpu);
    rows::small().iter().flat_map(|row| time(&place, row, turns)).collect()
}

fn time(place: &Place, (kind, sizes): &Row, turns: usize) -> Vec<Timing> {
    let costs = (kind.costs)(*sizes, place.real().bytes());
    let shape: Vec<_> = kind.letters.iter().copied().zip(sizes.iter().copied()).collect();
    let each = costs.into_iter().zip((kind.turns)(place, *sizes));
    each.map(|(cost, turn)| Timing {
        name: kind.name,
        shape: shape.clone(),
        cost,
        took: seconds_of(place, turn, turns.max(1)),
    })
    .collect()
}

/// Seconds of each of `turns` turns, sorted. All are queued before the first is read.
fn seconds_of(place: &Place, mut turn: Turn, turns: usize) -> Times {
    let warm = WARM.min(turns);
    (0..warm).for_each(|i| drop(turn(i)));
    place.gpu().inspect(|gpu| gpu.wait());
    place.run_ahead();
    let took: Vec<Took> = (warm..warm + turns).map(turn).collect();
    Times::of(took.into_iter().map(Took::seconds).collect())
}

impl Timing {
    /// Median seconds.
    pub fn median(&self) -> f64 {
        self.took.median()
    }

    /// GB/s and TFLOP/s.
    pub fn rates(&self) -> [f64; 2] {
        [self.cost.bytes as f64 / self.median() / 1e9, self.cost.flops as f64 / self.median() / 1e12]
    }

    fn print_json(&self, place: &Place) {
        let shape: Map<_, _> =
            self.shape.iter().map(|&(letter, size)| (letter.into(), size.into())).collect();
        let [gb, tflop] = self.rates();
        let us = |seconds: f64| 1e6 * seconds;
        let line = json!({
            "name": self.name, "shape": shape, "direction": self.cost.direction, "median_us": us(self.median()),
            "min_us": us(self.took.least()), "max_us": us(self.took.most()), "turns": self.took.turns(),
            "bytes": self.cost.bytes, "flops": self.cost.flops, "gb_per_s": gb, "tflop_per_s": tflop,
            "device": place.gpu().map_or("cpu".into(), Gpu::name), "precision": place.gpu().map(Gpu::real),
        });
        println!("{line}");
    }

    fn print(&self) {
        let shape: Vec<String> = self.shape.iter().map(|(letter, size)| format!("{letter} {size}")).collect();
        let [gb, tflop] = self.rates();
        println!(
            "{:<15} {:<28} {:<9} {:>11.2} us {gb:>9.2} GB/s {tflop:>9.3} TFLOP/s",
            self.name,
            shape.join(", "),
            self.cost.direction,
            1e6 * self.median()
        );
    }
}
