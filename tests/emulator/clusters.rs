//! Clusters on the emulator: blocks that share what they fetch come out right, and each planted fault is seen.

use half::bf16;
use scale_engine::gpu::{Arg, Gpu, Grid, Map, Operand, Real};
use scale_engine::rng::Rng;

use super::{SEEDS, blocks, emulator, faults_are_seen, numbers, sanitized};

const STEPS: usize = 5;
const DEPTH: usize = 64 * STEPS;
/// Two clusters.
const BLOCKS: usize = 4;

/// The faults of clusters.cu, in its order, and what must be said of each; nothing where wrong numbers tell.
const FAULTS: [(&str, &str); 10] = [
    ("no meeting first", "not made"),
    ("no meeting last", "which has ended"),
    ("a copy that outlives where it goes", "on its way to it"),
    ("a slot the other block still reads", ""),
    ("arrivals at the wrong block", ""),
    ("half of the bytes expected", "more than its barrier expects"),
    ("too many bytes expected", "mbarrier_wait"),
    ("no such block", "to block 2 of a cluster of 2"),
    ("a thread that misses a meeting", "diverged"),
    ("a shared array", "a __shared__ array"),
];

struct Inputs {
    a: Vec<bf16>,
    b: Vec<bf16>,
}

impl Inputs {
    fn new() -> Inputs {
        let rng = Rng::new(5);
        let draw = |stream: u64, len: usize| -> Vec<bf16> {
            (0..len as u64).map(|i| bf16::from_f32(rng.at(stream).normal(i))).collect()
        };
        Inputs { a: draw(0, 64 * BLOCKS * DEPTH), b: draw(1, 128 * DEPTH) }
    }

    /// c of so many blocks, or what the device said.
    fn run(&self, gpu: &Gpu, count: usize, fault: usize) -> Result<Vec<f32>, String> {
        let c = gpu.buffer("c", 64 * count * 128 * 4);
        let (a, b) = (gpu.upload("a", &self.a), gpu.upload("b", &self.b));
        let map = |address, height| {
            Arg::Map(Map::new(Operand::rows(address, Real::Bf16, DEPTH), [height, DEPTH], 64))
        };
        let (a, b) = (map(a.address(), 64 * BLOCKS), map(b.address(), 128));
        let grid = Grid::new(count, 256).with_shared(2 * (8192 + 16384) + 8192 + 1024 + 1024);
        blocks(gpu, "clusters", "shared_stream", grid, &[Arg::from(&c), a, b, STEPS.into(), fault.into()])?;
        Ok(numbers(&c))
    }

    fn right(&self, c: &[f32]) -> bool {
        c.iter().enumerate().all(|(i, &found)| {
            let (row, column) = (i / 128, i % 128);
            let terms =
                (0..DEPTH).map(|k| self.a[row * DEPTH + k].to_f64() * self.b[column * DEPTH + k].to_f64());
            let (truth, size) =
                terms.fold((0.0, 0.0), |(sum, size): (f64, f64), t| (sum + t, size + t.abs()));
            (f64::from(found) - truth).abs() < 1e-6 * size
        })
    }
}

#[test]
fn blocks_of_a_cluster_multiply_by_what_they_fetch_together() {
    let inputs = Inputs::new();
    let mut first: Option<Vec<f32>> = None;
    for seed in SEEDS {
        let Some(gpu) = emulator("clusters", Real::Bf16, seed) else { return };
        let c = inputs.run(&gpu, BLOCKS, 0).expect("not refused");
        assert!(inputs.right(&c), "seed {seed}");
        assert!(first.get_or_insert_with(|| c.clone()) == &c, "other bits under seed {seed}");
    }
}

#[test]
fn each_fault_of_a_cluster_is_seen() {
    let inputs = Inputs::new();
    faults_are_seen("clusters", &FAULTS, |gpu, words, fault| {
        if sanitized() && words == "a __shared__ array" && fault > 0 {
            return Err(words.into()); // plain statics there, of which nobody knows where they lie
        }
        inputs.run(gpu, 2, fault).map(|c| inputs.right(&c))
    });
}

#[test]
fn a_grid_is_a_multiple_of_its_clusters() {
    let Some(gpu) = emulator("clusters", Real::Bf16, 0) else { return };
    let said = Inputs::new().run(&gpu, BLOCKS - 1, 0).expect_err("three blocks are no clusters of two");
    assert!(said.contains("3 blocks along x, no multiple of the 2"), "{said}");
}
