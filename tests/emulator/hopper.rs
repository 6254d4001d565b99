//! The words of Hopper on the emulator: the copy engine, its barriers and wgmma come out right, and each planted fault is seen.

use half::bf16;
use scale_engine::gpu::{Arg, Gpu, Map, Operand, Real};
use scale_engine::rng::Rng;

use super::{SEEDS, block, emulator, faults_are_seen, numbers};

const STEPS: usize = 5;
const DEPTH: usize = 64 * STEPS;

/// The faults of hopper.cu, in its order, and what must be said of each; nothing where wrong numbers tell.
const FAULTS: [(&str, &str); 14] = [
    ("data that is not waited for", ""),
    ("fewer bytes expected", "more than its barrier expects"),
    ("more bytes expected", "mbarrier_wait"),
    ("no swizzle", ""),
    ("a wrong step", ""),
    ("a slot given back early", "changed while a wgmma read it"),
    ("a slot that was not asked for", ""),
    ("sums that are not waited for", ""),
    ("no fence", "without a wgmma_fence"),
    ("a copy that outlives its block", "on its way"),
    ("a barrier that was not made", "not made"),
    ("two arrivals", ""),
    ("a box at an odd place", "no multiple of 1024"),
    ("an operand written early", "registers changed"),
];

/// How a and b lie, and where a is read from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Rows,
    Transposed,
    Registers,
    Columns,
}

/// What a run is judged by.
struct Inputs {
    a: Vec<bf16>,
    b: Vec<bf16>,
    way: Way,
}

impl Inputs {
    fn new(way: Way) -> Inputs {
        let rng = Rng::new(4);
        let draw = |stream: u64, len: usize| -> Vec<bf16> {
            (0..len as u64).map(|i| bf16::from_f32(rng.at(stream).normal(i))).collect()
        };
        Inputs { a: draw(0, 64 * DEPTH), b: draw(1, 128 * DEPTH), way }
    }

    /// c, or what the device said.
    fn run(&self, gpu: &Gpu, fault: usize) -> Result<Vec<f32>, String> {
        let (a, b, c) = (gpu.upload("a", &self.a), gpu.upload("b", &self.b), gpu.buffer("c", 64 * 128 * 4));
        let map = |address, [height, width]: [usize; 2]| {
            Arg::Map(Map::new(Operand::rows(address, Real::Bf16, width), [height, width], 64))
        };
        let wide = if self.way == Way::Rows { [128, DEPTH] } else { [DEPTH, 128] };
        let args = [
            Arg::from(&c),
            map(a.address(), if self.way == Way::Columns { [DEPTH, 64] } else { [64, DEPTH] }),
            map(b.address(), wide),
            STEPS.into(),
            fault.into(),
        ];
        let kernel = match self.way {
            Way::Rows => "product_rows",
            Way::Transposed => "product_transposed",
            Way::Registers => "product_registers",
            Way::Columns => "product_columns",
        };
        block(gpu, "hopper", kernel, 160, 2 * (8192 + 16384) + 16384 + 1024 + 1024, &args)?;
        Ok(numbers(&c))
    }

    fn right(&self, c: &[f32]) -> bool {
        c.iter().enumerate().all(|(i, &found)| {
            let (row, column) = (i / 128, i % 128);
            let of_b = |k: usize| if self.way == Way::Rows { column * DEPTH + k } else { k * 128 + column };
            let of_a = |k: usize| if self.way == Way::Columns { k * 64 + row } else { row * DEPTH + k };
            let terms = (0..DEPTH).map(|k| self.a[of_a(k)].to_f64() * self.b[of_b(k)].to_f64());
            let (truth, size) =
                terms.fold((0.0, 0.0), |(sum, size): (f64, f64), t| (sum + t, size + t.abs()));
            (f64::from(found) - truth).abs() < 1e-6 * size
        })
    }
}

#[test]
fn the_copy_engine_and_wgmma_multiply_as_their_descriptors_say() {
    for way in [Way::Rows, Way::Transposed, Way::Registers, Way::Columns] {
        let inputs = Inputs::new(way);
        let mut first: Option<Vec<f32>> = None;
        for seed in SEEDS {
            let Some(gpu) = emulator("hopper", Real::Bf16, seed) else { return };
            let c = inputs.run(&gpu, 0).expect("not refused");
            assert!(inputs.right(&c), "{way:?}, seed {seed}");
            assert!(first.get_or_insert_with(|| c.clone()) == &c, "other bits under seed {seed}");
        }
    }
}

#[test]
fn each_fault_of_hoppers_words_is_seen() {
    let all = [Way::Rows, Way::Registers].map(Inputs::new);
    faults_are_seen("hopper", &FAULTS, |gpu, words, fault| {
        let inputs = &all[usize::from(words == "registers changed")];
        inputs.run(gpu, fault).map(|c| inputs.right(&c))
    });
}

#[test]
fn bytes_fetched_as_they_lie_come_late_and_only_where_they_may() {
    let planted = [(0, ""), (1, ""), (2, "diverged"), (3, "no multiple of 16"), (4, "outside of")];
    bulk_faults_are_seen("bulk", 1.0, &planted);
}

#[test]
fn numbers_that_go_back_as_they_lie_come_late_and_in_no_order() {
    let planted = [(0, ""), (5, ""), (6, "on its way"), (7, "on its way"), (3, "no multiple of 16")];
    bulk_faults_are_seen("bulk_back", 3.0, &planted);
}

/// Each number and what refuses it, or nothing where some order must give another y than `times` x.
fn bulk_faults_are_seen(kernel: &'static str, times: f32, planted: &[(i32, &str)]) {
    let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let right: Vec<f32> = x.iter().map(|x| times * x).collect();
    for &(fault, words) in planted {
        let seen: Vec<_> = SEEDS
            .filter_map(|seed| {
                let gpu = emulator("bulk", Real::F32, seed)?;
                let (y, x) = (gpu.buffer("y", 512), gpu.upload("x", &x));
                let args = [Arg::from(&y), Arg::from(&x), Arg::Int(fault)];
                Some(block(&gpu, "bulk", kernel, 128, 1024, &args).map(|()| numbers(&y)))
            })
            .collect();
        match fault {
            0 => assert!(seen.iter().all(|y| y.as_ref() == Ok(&right)), "{kernel}: {seen:?}"),
            _ if words.is_empty() => {
                let other = seen.iter().any(|y| y.as_ref() != Ok(&right));
                assert!(seen.is_empty() || other, "{kernel}: fault {fault} is not seen");
            }
            _ => assert!(
                seen.iter().all(|y| y.as_ref().is_err_and(|e| e.contains(words))),
                "{kernel}: fault {fault}: {seen:?}"
            ),
        }
    }
}
