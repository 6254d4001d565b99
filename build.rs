//! If nvcc is found, compiles kernels/*.cu to fatbins, once for f32 and once for bf16 storage, and embeds them in the program.
//!
//! Order of search: SCALE_NVCC, PATH, /usr/local/cuda, .cuda (filled by tools/cuda.sh). Without nvcc, or with an empty SCALE_NVCC,
//! the program is built for the CPU alone, and the build says so once. A kernel that spills registers, or whose wgmma instructions
//! are serialised, fails the build.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// SASS for Ampere and Ada, SASS for Hopper, PTX for what comes after.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"];

/// Targets of a file that includes this header, whose instructions only Hopper itself has.
const HOPPER: (&str, [&str; 1]) = ("#include \"hopper.cuh\"", ["arch=compute_90a,code=sm_90a"]);

struct Job {
    source: PathBuf,
    file: String,
    storage: &'static str,
    targets: &'static [&'static str],
    image: PathBuf,
}

fn main() {
    for watched in ["kernels", "build.rs"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=SCALE_NVCC");
    // Set by .cargo/config.toml, which cargo reads only for builds begun inside this repository.
    let built_for = |name| env::var(name).unwrap_or_default();
    if built_for("CARGO_CFG_TARGET_ARCH") == "x86_64"
        && !built_for("CARGO_CFG_TARGET_FEATURE").contains("fma")
    {
        println!(
            "cargo:warning=no FMA: computes several times slower on the CPU than with RUSTFLAGS=\"-C target-cpu=x86-64-v3\""
        );
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    forget_earlier(&out);
    let mut table = String::from("pub(super) static KERNELS: &[(&str, &str, &[u8])] = &[\n");
    match nvcc() {
        None => {
            println!("cargo:warning=no nvcc: built for the CPU alone (tools/cuda.sh fetches one)")
        }
        Some(nvcc) => {
            let jobs = jobs(&out);
            compile(&nvcc, &jobs);
            for job in &jobs {
                let Job { file, storage, image, .. } = job;
                writeln!(table, "    ({file:?}, {storage:?}, include_bytes!({image:?})),")
                    .expect("a string takes text");
            }
        }
    }
    fs::write(out.join("kernels.rs"), table + "];\n").expect("OUT_DIR can be written");
}

/// Removes the images of an earlier build: tests take those that lie here for what the program holds.
fn forget_earlier(out: &Path) {
    let files = fs::read_dir(out).expect("OUT_DIR can be read").map(|entry| entry.expect("readable").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "fatbin"))
        .for_each(|image| fs::remove_file(image).expect("OUT_DIR can be written"));
}

fn nvcc() -> Option<PathBuf> {
    if let Some(chosen) = env::var_os("SCALE_NVCC") {
        return Some(PathBuf::from(chosen)).filter(|chosen| !chosen.as_os_str().is_empty());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let local = here.join(".cuda/nvidia/cu13/bin");
    if local.exists() {
        // Watching a missing path would make cargo run this at every build: tools/cuda.sh touches build.rs instead.
        println!("cargo:rerun-if-changed={}", local.display());
    }
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/local/cuda/bin"), local]);
    folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

fn jobs(out: &Path) -> Vec<Job> {
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder kernels")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    let mut jobs = Vec::new();
    for source in sources {
        let file = source.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&source).expect("a kernel file");
        let targets: &[&str] = if text.contains(HOPPER.0) { &HOPPER.1 } else { &TARGETS };
        for storage in ["f32", "bf16"] {
            let image = out.join(format!("{file}_{storage}.fatbin"));
            jobs.push(Job { source: source.clone(), file: file.clone(), storage, targets, image });
        }
    }
    jobs
}

/// Runs all jobs, as many in parallel as cargo allows.
fn compile(nvcc: &Path, jobs: &[Job]) {
    let workers =
        env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, jobs.len().max(1));
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                jobs.iter().skip(worker).step_by(workers).for_each(|job| compile_one(nvcc, job))
            });
        }
    });
}

fn compile_one(nvcc: &Path, job: &Job) {
    let mut command = Command::new(nvcc);
    command.args([
        "-std=c++17",
        "-fatbin",
        "-O3",
        "-lineinfo",
        "--compress-mode=size",
        "-Xptxas",
        "-v,--warn-on-spills",
    ]);
    job.targets.iter().for_each(|target| {
        command.args(["-gencode", target]);
    });
    command.arg(format!("-DSCALE_BF16={}", u8::from(job.storage == "bf16")));
    command.args(["-I", "kernels", "-o"]).arg(&job.image).arg(&job.source);
    let done = command.output().unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
    let report = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "nvcc {} ({}):\n{report}", job.source.display(), job.storage);
    // One line per kernel and target; `cargo build -vv` shows them, tools/kernels.py tabulates them.
    for line in report.lines().filter(|line| line.contains("registers") || line.contains("Compiling entry")) {
        println!("{} {}: {line}", job.file, job.storage);
    }
    let slow = report.lines().find(|line| {
        let spills = line.contains("spill") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads");
        spills || line.contains("Potential Performance Loss")
    });
    assert!(
        slow.is_none(),
        "nvcc {} ({}): {}\n{report}",
        job.source.display(),
        job.storage,
        slow.unwrap_or_default()
    );
}
