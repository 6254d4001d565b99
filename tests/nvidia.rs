//! The program on GPUs, on a machine without one: NVIDIA's driver, cuBLASLt and NCCL are replaced by stand-ins
//! (tests/nvidia/library.cpp), and the program's fatbins by the same kernels compiled with g++. Work is done late, in random order.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use scale_engine::gpu::Gpu;
use serde_json::Value;

use super::emulate;
use crate::train::{last, small};

const STEPS: u64 = 8;

/// A model with every part, small enough for the emulator.
const MODEL: &str = "encoder.patch=16 encoder.width=32 encoder.heads=1 encoder.layers=1 encoder.ffn=48 flow.width=32 flow.heads=1 \
    flow.ffn=48 flow.layers=1 decoder.width=32 conditions.width=16 data.sets=4 data.cells=9 train.log_every=1 \
    train.checkpoint_every=4 train.val_every=4";

/// A test's machine: the folder of the libraries, and a folder of its own.
struct Machine {
    libraries: &'static Path,
    dir: tempfile::TempDir,
}

impl Machine {
    /// `None`, with a message, if the libraries cannot be made.
    fn new() -> Option<Machine> {
        Some(Machine { libraries: libraries()?, dir: tempfile::tempdir().expect("a temporary folder") })
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with so many GPUs, which `settings` describe further.
    fn program(&self, gpus: usize, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command
            .env("LD_LIBRARY_PATH", self.libraries)
            .env("STAND_IN_KERNELS", self.libraries.join("kernels.csv"))
            .env("STAND_IN_MEETINGS", self.dir.path())
            .env("STAND_IN_DEVICES", gpus.to_string())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// One of two processes that are ranks.
    fn rank_of_two(&self, rank: usize, port: u16, settings: &[(&str, &str)]) -> Command {
        let mut command = self.program(2, settings);
        command
            .envs([("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
            .env("MASTER_PORT", port.to_string());
        command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
        command
    }
}

/// Ranks meet on the port above this one.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port() - 1
}

/// Made once per build, by every process for itself and aside, so that none sees half of it.
fn libraries() -> Option<&'static Path> {
    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let kernels = emulate::folder("kernels", None)?;
        let build =
            Path::new(env!("OUT_DIR")).parent().and_then(Path::file_name).expect("target/../NAME/out");
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvidia").join(build);
        let aside = out.join(std::process::id().to_string());
        let place =
            |name: &str| fs::rename(&aside, out.join(name)).expect("the target folder can be written");
        fs::create_dir_all(&out).expect("the target folder can be written");
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvidia/library.cpp");
        let mut gxx = Command::new("g++");
        gxx.args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
        let made = gxx.arg(&aside).arg(own).output().expect("g++");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        place("libcuda.so");
        for other in ["libcublasLt.so", "libnccl.so"] {
            std::os::unix::fs::symlink("libcuda.so", &aside).expect("a link");
            place(other);
        }
        let mut table = String::new();
        for file in fs::read_dir(env!("OUT_DIR")).expect("what build.rs made") {
            let fatbin = file.expect("readable").path();
            if fatbin.extension().is_some_and(|e| e == "fatbin") {
                let library = kernels.join(fatbin.file_stem().expect("a name")).with_extension("so");
                table += &format!("{},{}\n", fatbin.display(), library.display());
            }
        }
        if table.is_empty() {
            crate::shared::skipped("the program was built without nvcc and holds no kernels");
            return None;
        }
        fs::write(&aside, table).expect("the target folder can be written");
        place("kernels.csv");
        Some(out)
    });
    FOLDER.as_deref()
}

/// `train` from the start, in f32, with these words appended.
fn train(command: &mut Command, out: &Path, words: &str) -> Output {
    training(command, out, STEPS, words).end()
}

fn training(command: &mut Command, out: &Path, steps: u64, words: &str) -> Running {
    command.arg("train").arg("--data").arg(&small().data).arg("--split").arg(&small().split);
    if !words.contains("--precision") {
        command.args(["--precision", "f32"]);
    }
    command.args(["--preset", "tiny", "--steps", &steps.to_string(), "--out"]).arg(out);
    MODEL.split_whitespace().for_each(|word| {
        command.args(["--set", word]);
    });
    Running(Some(command.args(words.split_whitespace()).spawn().expect("the program")))
}

/// A program that does not outlive its test.
struct Running(Option<Child>);

impl Running {
    fn end(mut self) -> Output {
        self.0.take().expect("not ended yet").wait_with_output().expect("a program that ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

fn alike(found: &[f64], told: &[f64]) -> bool {
    assert_eq!(told.len() as u64, STEPS, "a loss a step");
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * b.abs();
    found.len() == told.len() && found.iter().zip(told).all(near)
}

fn same_checkpoint(one: &Path, other: &Path) -> bool {
    let bytes = |run: &Path| fs::read(last(run)).expect("a checkpoint");
    bytes(one) == bytes(other)
}

#[test]
fn the_selftest_holds() {
    let Some(machine) = Machine::new() else { return };
    // The whole of it on the GPU that has all kernels; on the others, what they do differently.
    for (capability, cases) in [
        ("90", &[""][..]),
        ("80", &["model", "graph", "matmul_swiglu", "mmd", "attention"]),
        ("89", &["gather", "matmul_swiglu", "mmd", "attention"]),
    ] {
        for case in cases {
            let mut command = machine.program(1, &[("STAND_IN_CAPABILITY", capability)]);
            command.args(["selftest", "--device", "cuda", "--small"]);
            if !case.is_empty() {
                command.args(["--case", case]);
            }
            let ended = command.output().expect("the program");
            let told = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success(), "{capability}, {case}: {told}{}", said(&ended));
        }
    }
}

#[test]
fn a_run_is_the_cpus_in_any_order_and_however_cells_come() {
    let Some(machine) = Machine::new() else { return };
    let place = |name: &str| machine.place(name);
    let cpu = train(&mut machine.program(0, &[]), &place("cpu"), "--device cpu");
    assert!(cpu.status.success(), "{}", said(&cpu));
    for seed in ["1", "2", "3"] {
        let mut command = machine.program(1, &[("STAND_IN_SEED", seed)]);
        let ended = train(&mut command, &place(seed), "--device cuda");
        assert!(ended.status.success(), "{}", said(&ended));
        assert!(said(&ended).contains("cells are kept on a GPU of no silicon"), "{}", said(&ended));
        assert!(alike(&losses(&place(seed)), &losses(&place("cpu"))), "seed {seed}");
        assert!(same_checkpoint(&place(seed), &place("1")), "seed {seed}: other bits");
    }
    // Cells that are not on the device are sent alongside the steps.
    let sent = train(&mut machine.program(1, &[("STAND_IN_LEFT", "1000")]), &place("sent"), "--device cuda");
    assert!(said(&sent).contains("are sent to"), "{}", said(&sent));
    assert!(same_checkpoint(&place("sent"), &place("1")), "sent cells: other bits");
}

#[test]
fn several_gpus_are_one() {
    let Some(machine) = Machine::new() else { return };
    let place = |name: &str| machine.place(name);
    let one = train(&mut machine.program(1, &[]), &place("one"), "--device cuda");
    assert!(one.status.success(), "{}", said(&one));
    for (name, gpus, words) in
        [("two", 2, "--gpus 2"), ("four", 4, "--gpus all"), ("shared", 2, "--gpus 2 --set optim.shard=true")]
    {
        let ended = train(&mut machine.program(gpus, &[("STAND_IN_SEED", "7")]), &place(name), words);
        assert!(ended.status.success(), "{name}: {}", said(&ended));
        assert!(alike(&losses(&place(name)), &losses(&place("one"))), "{name}: other losses");
    }
    // Processes give the same bits as threads.
    let port = free_port();
    let ranks = [0, 1]
        .map(|rank| training(&mut machine.rank_of_two(rank, port, &[]), &place("processes"), STEPS, ""));
    for ended in ranks.map(Running::end) {
        assert!(ended.status.success(), "{}", said(&ended));
    }
    assert!(same_checkpoint(&place("processes"), &place("two")), "processes are not threads");
}

#[test]
fn several_gpus_go_on_to_the_same_bits() {
    let Some(machine) = Machine::new() else { return };
    let [whole, halves] = ["whole", "halves"].map(|name| machine.place(name));
    let ended =
        train(&mut machine.program(2, &[]), &whole, "--gpus 2 --precision bf16 --set train.keep_all=true");
    assert!(ended.status.success(), "{}", said(&ended));
    // Each GPU makes its own timings, and what is quickest rounds in its own way.
    fs::create_dir_all(halves.join("checkpoints")).expect("made");
    fs::copy(whole.join("checkpoints/step-4.safetensors"), last(&halves)).expect("copied");
    for choices in ["choices.json", "choices-1.json"] {
        fs::copy(whole.join(choices), halves.join(choices)).expect("choices of each rank");
    }
    let mut command = machine.program(2, &[("STAND_IN_SEED", "3")]);
    command.args(["train", "--resume", "--gpus", "2", "--precision", "bf16", "--steps", "8", "--data"]);
    let ended =
        command.arg(&small().data).arg("--split").arg(&small().split).arg("--out").arg(&halves).output();
    let ended = ended.expect("the program");
    assert!(ended.status.success(), "{}", said(&ended));
    assert!(same_checkpoint(&halves, &whole), "they went on to other bits");
}

#[test]
fn an_algorithm_that_the_library_refuses_is_chosen_anew() {
    let Some(machine) = Machine::new() else { return };
    let run = machine.place("run");
    let ended = train(&mut machine.program(1, &[]), &run, "--device cuda");
    assert!(ended.status.success(), "{}", said(&ended));
    let path = run.join("choices.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&path).expect("a file")).expect("JSON");
    let mut choices = read();
    let algorithms = choices["algorithms"].as_array_mut().expect("a list");
    assert!(!algorithms.is_empty());
    algorithms.iter_mut().for_each(|of| of[1][0] = 77.into());
    fs::write(&path, choices.to_string()).expect("written");
    let mut command = machine.program(1, &[]);
    command.args(["train", "--resume", "--device", "cuda", "--precision", "f32", "--steps", "12", "--data"]);
    let ended = command.arg(&small().data).arg("--split").arg(&small().split).arg("--out").arg(&run).output();
    let ended = ended.expect("the program");
    assert!(ended.status.success(), "{}", said(&ended));
    // What was used since is what is kept.
    let kept = read();
    let mut kept = kept["algorithms"].as_array().expect("a list").iter();
    assert!(kept.any(|of| of[1][0] != 77), "none was chosen anew");
}

#[test]
fn a_wait_that_is_forgotten_is_seen() {
    let Some(machine) = Machine::new() else { return };
    let place = |name: &str| machine.place(name);
    let whole = train(&mut machine.program(1, &[]), &place("whole"), "--device cuda");
    assert!(whole.status.success(), "{}", said(&whole));
    for (name, gpus, left, words) in
        [("sums", 2, "1000000000", "--gpus 2"), ("sent cells", 1, "1000", "--device cuda")]
    {
        // A wrong order may give the right result by chance.
        let seen = ["1", "2", "3", "4", "5", "6"].iter().any(|seed| {
            let out = place(&format!("{name} {seed}"));
            let settings = [("STAND_IN_FORGETS", "1"), ("STAND_IN_LEFT", left), ("STAND_IN_SEED", seed)];
            let ended = train(&mut machine.program(gpus, &settings), &out, words);
            match ended.status.success() {
                true => !alike(&losses(&out), &losses(&place("whole"))),
                false => ["the loss is", "comes with"].iter().any(|words| said(&ended).contains(words)),
            }
        });
        assert!(seen, "{name} without any wait");
    }
}

#[test]
fn a_gpu_that_fails_and_a_rank_that_is_killed_stop_all() {
    let Some(machine) = Machine::new() else { return };
    let place = |name: &str| machine.place(name);
    let ended = train(&mut machine.program(2, &[("STAND_IN_FAILS", "700")]), &place("fails"), "--gpus 2");
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    // Reported by whichever call meets it first.
    assert!(
        ["LAUNCH_FAILED", "EXECUTION_FAILED", "ncclUnhandledCudaError"]
            .iter()
            .any(|word| said(&ended).contains(word))
    );

    let port = free_port();
    let [first, second] =
        [0, 1].map(|rank| training(&mut machine.rank_of_two(rank, port, &[]), &place("killed"), 100_000, ""));
    let log = place("killed").join("metrics.jsonl");
    let begun = Instant::now();
    while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 4 {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(first);
    let killed = Instant::now();
    let ended = second.end();
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    assert!(said(&ended).contains("rank 0 was lost"), "{}", said(&ended));
    assert!(killed.elapsed() < Duration::from_secs(20), "after {:?}", killed.elapsed());
}

#[test]
fn what_is_missing_is_told_apart() {
    let Some(machine) = Machine::new() else { return };
    let scarce = ("STAND_IN_MEMORY", "34200000");
    let cases: [(usize, (&str, &str), &[&str]); 5] = [
        (1, ("LD_LIBRARY_PATH", "/"), if Gpu::count() > 0 { &[] } else { &["no NVIDIA driver"] }),
        (1, ("STAND_IN_VERSION", "12080"), &["supports CUDA 12.8", "update the driver"]),
        (0, ("STAND_IN_SEED", "1"), &["no CUDA device 0"]),
        (1, ("STAND_IN_CAPABILITY", "75"), &["compute capability 7.5"]),
        (1, scarce, &["no room for", "MiB", "lower data.sets"]),
    ];
    for (i, (gpus, setting, words)) in cases.into_iter().enumerate() {
        let out = machine.place(&i.to_string());
        let ended = train(&mut machine.program(gpus, &[setting]), &out, "--device cuda");
        // A machine that has a driver finds it.
        if words.is_empty() {
            continue;
        }
        assert_eq!(ended.status.code(), Some(1), "{setting:?}: {}", said(&ended));
        assert!(words.iter().all(|word| said(&ended).contains(word)), "{setting:?}: {}", said(&ended));
    }
}

#[test]
fn a_rank_that_never_joins_is_not_waited_for() {
    let Some(machine) = Machine::new() else { return };
    let (port, out) = (free_port(), machine.place("stuck"));
    let whole = training(&mut machine.rank_of_two(0, port, &[]), &out, STEPS, "");
    let stuck = training(&mut machine.rank_of_two(1, port, &[("STAND_IN_STUCK", "1")]), &out, STEPS, "");
    // Rank 0 has reached the point where it waits for the other.
    let begun = Instant::now();
    let joined = |entry: fs::DirEntry| entry.path().join("joined.0").exists();
    while !fs::read_dir(machine.dir.path()).expect("a folder").any(|entry| entry.is_ok_and(joined)) {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not join");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stuck);
    let killed = Instant::now();
    let ended = whole.end();
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    assert!(said(&ended).contains("rank 1 was lost"), "{}", said(&ended));
    assert!(killed.elapsed() < Duration::from_secs(40), "after {:?}", killed.elapsed());
}

#[test]
fn processes_of_a_machine_are_not_given_one_gpu() {
    let Some(machine) = Machine::new() else { return };
    for device in ["cuda:0", "cuda:1"] {
        let mut second = machine.rank_of_two(1, free_port(), &[]);
        let ended = train(&mut second, &machine.place("run"), &format!("--device {device}"));
        assert!(ended.status.code() == Some(2) && said(&ended).contains("the same GPU"), "{}", said(&ended));
    }
}
