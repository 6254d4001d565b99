//! The emulator itself: right kernels come out right, and each planted fault is seen. Each file of tests/emulator says at its head
//! what is planted and what must be seen.

use std::process::Command;

use half::bf16;
use scale_engine::error::Error;
use scale_engine::gpu::{self, Arg, Buffer, Gpu, Grid, Real};
use scale_engine::rng::Rng;

use super::emulate::{device, folder, sanitized};

mod clusters;
mod hopper;

/// Orders of warps, in one of which a fault must show.
const SEEDS: std::ops::Range<u64> = 0..8;

fn emulator(file: &'static str, real: Real, seed: u64) -> Option<Gpu> {
    folder("tests/emulator", Some(file)).map(|folder| device(&folder, real, seed))
}

/// Runs one block of a kernel with `shared` bytes; returns what the device said if it refused.
fn block(
    gpu: &Gpu,
    file: &'static str,
    kernel: &'static str,
    threads: u32,
    shared: usize,
    args: &[Arg],
) -> Result<(), String> {
    blocks(gpu, file, kernel, Grid::new(1, threads).with_shared(shared), args)
}

fn blocks(
    gpu: &Gpu,
    file: &'static str,
    kernel: &'static str,
    grid: Grid,
    args: &[Arg],
) -> Result<(), String> {
    gpu::guard(|| {
        // SAFETY: each test passes the arguments that the kernel's file names; faults stay inside buffers that are guarded.
        unsafe { gpu.launch(file, kernel, grid, args) };
        Ok(())
    })
    .map_err(|e| match e {
        Error::Device(what) => what,
        other => panic!("{other}"),
    })
}

/// Each of a file's faults, numbered from 1, is seen under some seed: by its words, or, if it has none, also by wrong numbers; and
/// the device can be used again afterwards. `run` gets the words and the fault, 0 for none, and returns whether the numbers are
/// right.
fn faults_are_seen(
    file: &'static str,
    faults: &[(&str, &str)],
    run: impl Fn(&Gpu, &str, usize) -> Result<bool, String>,
) {
    let mut missed = Vec::new();
    for (i, &(fault, words)) in faults.iter().enumerate() {
        let mut seen = Vec::new();
        for seed in SEEDS {
            let Some(gpu) = emulator(file, Real::Bf16, seed) else { return };
            seen.push(run(&gpu, words, 1 + i));
            assert_eq!(run(&gpu, words, 0), Ok(true), "after {fault}, seed {seed}");
        }
        let told = match words {
            "" => seen.iter().any(|found| *found != Ok(true)),
            words => seen.iter().any(|found| found.as_ref().is_err_and(|said| said.contains(words))),
        };
        if !told {
            missed.push(format!("{fault}: {seen:?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn numbers(buffer: &Buffer) -> Vec<f32> {
    let mut numbers = vec![0f32; buffer.bytes() / 4];
    buffer.download(0, &mut numbers);
    numbers
}

/// `kernel(y, x)` of 256 threads on x = 0, 1, 2 ..: y under each seed.
fn under_seeds(
    file: &'static str,
    kernel: &'static str,
    count: usize,
    more: &[Arg],
) -> Option<Vec<Vec<f32>>> {
    SEEDS
        .map(|seed| {
            let gpu = emulator(file, Real::F32, seed)?;
            let x: Vec<f32> = (0..count * 4).map(|i| i as f32).collect();
            let (x, y) = (gpu.upload("x", &x), gpu.buffer("y", count * 4));
            let args: Vec<Arg> =
                [Arg::from(&y), Arg::from(&x)].into_iter().chain(more.iter().copied()).collect();
            block(&gpu, file, kernel, 256, 4096, &args).expect("a launch that is not refused");
            Some(numbers(&y))
        })
        .collect()
}

#[test]
fn a_missing_barrier_shows_under_some_order_of_warps() {
    let Some(right) = under_seeds("missing_barrier", "reverse", 256, &[]) else { return };
    let truth: Vec<f32> = (0..256).map(|i| (255 - i) as f32).collect();
    assert!(right.iter().all(|y| *y == truth));
    let broken = under_seeds("missing_barrier", "reverse_broken", 256, &[]).expect("g++ is there");
    assert!(broken.iter().any(|y| y.iter().any(|v| v.is_nan())), "unwritten shared memory is NaN");

    let rounds = [Arg::Int(4)];
    let right = under_seeds("missing_barrier", "rounds", 256, &rounds).expect("g++ is there");
    assert!(right.iter().all(|y| *y == right[0]));
    let broken = under_seeds("missing_barrier", "rounds_broken", 256, &rounds).expect("g++ is there");
    assert!(
        broken.iter().any(|y| *y != right[0]),
        "a warp that runs ahead overwrites what others have still to read"
    );
}

#[test]
fn an_asynchronous_copy_lands_at_its_wait() {
    let Some(right) = under_seeds("copies", "copies", 1024, &[]) else { return };
    let truth: Vec<f32> = (0..1024).map(|i| ((i + 4) % 1024) as f32).collect();
    assert!(right.iter().all(|y| *y == truth));
    for broken in ["copies_without_wait", "copies_without_commit", "copies_but_one"] {
        let seen = under_seeds("copies", broken, 1024, &[]).expect("g++ is there");
        assert!(seen.iter().all(|y| y.iter().all(|v| v.is_nan())), "{broken}");
    }
    let seen = under_seeds("copies", "copies_without_barrier", 1024, &[]).expect("g++ is there");
    assert!(seen.iter().any(|y| y.iter().any(|v| v.is_nan())), "copies_without_barrier");
}

#[test]
fn what_would_hang_or_fault_is_refused_with_a_message() {
    let planted = [
        ("barrier_in_branch", "diverged"),
        ("two_barriers", "diverged"),
        ("shuffle_in_branch", "diverged"),
        ("mask_without_itself", "leaves this lane out"),
        ("reads_outside_mask", "outside its mask"),
        ("misaligned_pack", "no multiple of 16"),
        ("misaligned_copy", "no multiple of 16"),
        ("copy_to_global", "not in shared memory"),
        ("written_too_early", "before the warp met"),
    ];
    for seed in SEEDS {
        let Some(gpu) = emulator("refused", Real::F32, seed) else { return };
        for (kernel, words) in planted {
            let y = gpu.upload("y", &[0f32; 256]);
            let said = block(&gpu, "refused", kernel, 64, 4096, &[Arg::from(&y)]).expect_err(kernel);
            assert!(said.contains(kernel) && said.contains(words), "{kernel}, seed {seed}: {said}");
            block(&gpu, "refused", "nothing_wrong", 64, 4096, &[Arg::from(&y)])
                .expect("it can be used again");
            assert_eq!(numbers(&y)[63], 63.0);
        }
    }
}

#[test]
fn a_wrong_argument_is_refused() {
    let Some(gpu) = emulator("shared_overrun", Real::F32, 0) else { return };
    let y = gpu.buffer("y", 128);
    for args in [vec![Arg::from(&y)], vec![Arg::from(&y), Arg::Float(1.0)], vec![Arg::Int(0), Arg::Int(0)]] {
        assert!(block(&gpu, "shared_overrun", "static_overrun", 32, 0, &args).is_err(), "{args:?}");
    }
    let (tall, args) =
        (Grid { blocks: [1, 65_536, 1], threads: 32, shared: 0 }, [Arg::from(&y), Arg::Int(0)]);
    let said = blocks(&gpu, "shared_overrun", "static_overrun", tall, &args).expect_err("too tall");
    assert!(said.contains("65536 blocks along y"), "{said}");
}

#[test]
fn a_write_behind_a_buffer_is_seen_by_its_guard() {
    let Some(gpu) = emulator("refused", Real::F32, 0) else { return };
    let short = gpu.buffer("what is too short", 252);
    block(&gpu, "refused", "nothing_wrong", 64, 4096, &[Arg::from(&short)]).expect("inside the guard");
    assert_eq!(gpu.overrun(), None);
    drop(short);
    let seen = gpu.overrun().expect("the guard was written");
    assert!(seen.contains("what is too short"), "{seen}");
}

/// Runs itself in a child process with the sanitizer's runtime; there the faulty kernel must end the process.
#[test]
fn the_sanitizer_names_the_shared_array_that_is_overrun() {
    let Some(gpu) = emulator("shared_overrun", Real::F32, 0) else { return };
    let y = gpu.buffer("y", 128);
    block(&gpu, "shared_overrun", "static_overrun", 32, 0, &[Arg::from(&y), Arg::Int(0)])
        .expect("nothing is wrong yet");
    if sanitized() {
        let _ = block(&gpu, "shared_overrun", "static_overrun", 32, 0, &[Arg::from(&y), Arg::Int(1)]);
        panic!("the overrun was not seen");
    }
    let runtime =
        Command::new("g++").arg("-print-file-name=libasan.so").output().expect("g++ is there").stdout;
    let child = Command::new(std::env::current_exe().expect("a test binary"))
        .args(["--exact", "emulator::the_sanitizer_names_the_shared_array_that_is_overrun", "--nocapture"])
        .env("LD_PRELOAD", String::from_utf8_lossy(&runtime).trim())
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .expect("this binary runs");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(
        !child.status.success() && said.contains("AddressSanitizer") && said.contains("narrow"),
        "{said}"
    );
}

#[test]
fn dynamic_shared_memory_has_an_end() {
    let Some(gpu) = emulator("shared_overrun", Real::F32, 0) else { return };
    let y = gpu.buffer("y", 128);
    for bytes in [64, 100, 4096] {
        let args = |by: i32| [Arg::from(&y), Arg::Int(bytes as i32), Arg::Int(by)];
        block(&gpu, "shared_overrun", "dynamic_overrun", 32, bytes, &args(0))
            .expect("the last number is inside");
        if !sanitized() {
            let said = block(&gpu, "shared_overrun", "dynamic_overrun", 32, bytes, &args(1))
                .expect_err("one too far");
            assert!(said.contains("wrote outside"), "{said}");
        }
    }
}

#[test]
fn tensor_core_words_multiply_as_their_fragments_lie() {
    let (m, n, k) = (256, 64, 96);
    let rng = Rng::new(3);
    let draw = |stream: u64, len: usize| -> Vec<bf16> {
        (0..len as u64).map(|i| bf16::from_f32(rng.at(stream).normal(i))).collect()
    };
    let (a, b) = (draw(0, m * k), draw(1, k * n));
    let mut first: Option<Vec<f32>> = None;
    for seed in SEEDS.take(3) {
        let Some(gpu) = emulator("matmul", Real::Bf16, seed) else { return };
        let (x, w, c) = (gpu.upload("a", &a), gpu.upload("b", &b), gpu.buffer("c", m * n * 4));
        let args = [Arg::from(&c), Arg::from(&x), Arg::from(&w), Arg::from(n), Arg::from(k)];
        // Two stages of 64 x 40 and 32 x 40 numbers.
        let grid = Grid::plane(n / 32, m / 64, 128).with_shared(2 * (64 * 40 + 32 * 40) * 2);
        // SAFETY: the buffers hold a, b and c.
        gpu::guard(|| {
            unsafe { gpu.launch("matmul", "matmul", grid, &args) };
            Ok(())
        })
        .expect("not refused");
        let found = numbers(&c);
        for (i, &found) in found.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let terms = (0..k).map(|d| a[row * k + d].to_f64() * b[d * n + column].to_f64());
            let (truth, size) =
                terms.fold((0.0, 0.0), |(sum, size): (f64, f64), t| (sum + t, size + t.abs()));
            assert!((f64::from(found) - truth).abs() < 1e-6 * size, "{row}, {column}: {found} and {truth}");
        }
        assert!(first.get_or_insert_with(|| found.clone()) == &found, "other bits under seed {seed}");
    }
}

#[test]
fn sums_over_warps_and_blocks_are_right_in_blocks_of_any_whole_warps() {
    for threads in [32usize, 96, 256, 1024] {
        let Some(gpu) = emulator("warps", Real::F32, threads as u64) else { return };
        let x: Vec<f32> = (0..threads).map(|i| ((i * 37) % 101) as f32).collect();
        let (given, y) = (gpu.upload("x", &x), gpu.buffer("y", 4 * threads * 4));
        block(&gpu, "warps", "sums", threads as u32, 0, &[Arg::from(&y), Arg::from(&given)])
            .expect("not refused");
        let y = numbers(&y);
        let total = x.iter().sum::<f32>();
        for i in 0..threads {
            let mine = &x[i / 32 * 32..][..32];
            let told = [mine.iter().sum(), mine.iter().copied().fold(0.0, f32::max), total, 2.0 * total];
            let found: Vec<f32> = (0..4).map(|s| y[s * threads + i]).collect();
            assert_eq!(found, told, "thread {i} of {threads}");
        }
    }
}

#[test]
fn random_numbers_are_the_hosts() {
    let Some(gpu) = emulator("philox", Real::F32, 0) else { return };
    let rng = Rng::new(0x1234_5678_9ABC_DEF0).at(7);
    let (seed, stream) = rng.words();
    let (u, n) = (gpu.buffer("u", 1024), gpu.buffer("n", 1024));
    let args = [Arg::from(&u), Arg::from(&n), Arg::Long(seed), Arg::Long(stream)];
    block(&gpu, "philox", "draws", 256, 0, &args).expect("not refused");
    for (i, (u, n)) in numbers(&u).into_iter().zip(numbers(&n)).enumerate() {
        assert_eq!(u.to_bits(), rng.uniform(i as u64).to_bits());
        assert!((n - rng.normal(i as u64)).abs() < 2e-6, "normal {i}: {n} and {}", rng.normal(i as u64));
    }
}

#[test]
fn a_matrix_in_the_registers_of_a_warp_is_transposed() {
    let Some(gpu) = emulator("warps", Real::F32, 1) else { return };
    // Element (r, c) is 8 r + c, two per register, one lane after another along the rows.
    let pair = |low: u32, high: u32| low | high << 16;
    let x: Vec<u32> = (0..64).map(|lane| pair(2 * lane, 2 * lane + 1)).collect();
    let (given, y) = (gpu.upload("x", &x), gpu.buffer("y", 4 * x.len()));
    block(&gpu, "warps", "transposes", 64, 0, &[Arg::from(&y), Arg::from(&given)]).expect("not refused");
    let mut found = vec![0u32; x.len()];
    y.download(0, &mut found);
    for (lane, &found) in found.iter().enumerate() {
        let (warp, row, column) = (lane as u32 / 32 * 64, lane as u32 % 32 / 4, lane as u32 % 4 * 2);
        let told = pair(warp + 8 * column + row, warp + 8 * (column + 1) + row);
        assert_eq!(found, told, "lane {lane}");
    }
}
