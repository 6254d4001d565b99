//! Compiles the text of `.cu` files by g++ with `kernels/emulator.h`, for tests that run kernels where there is no GPU.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use scale_engine::gpu::{Chip, Gpu, Real};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// True if this process runs under AddressSanitizer's runtime: then the kernels are compiled for it.
pub fn sanitized() -> bool {
    fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("libasan"))
}

/// The folder with the compiled kernels of `sources`, a folder of this project: all of them, or those of one file. `None`, with a
/// note, if there is no g++.
pub fn folder(sources: &'static str, only: Option<&'static str>) -> Option<PathBuf> {
    static MADE: LazyLock<Mutex<HashMap<Asked, Option<PathBuf>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    made.entry((sources, only)).or_insert_with(|| build(sources, only)).clone()
}

/// The emulator, with the kernels of a [`folder`].
pub fn device(folder: &Path, real: Real, seed: u64) -> Gpu {
    // SAFETY: `folder` compiled what is in it, from this version's kernels.
    unsafe { Gpu::emulated(folder, real, seed, Chip::Hopper) }
}

/// The same without Hopper's kernels.
pub fn ada(folder: &Path, real: Real, seed: u64) -> Gpu {
    // SAFETY: as above.
    unsafe { Gpu::emulated(folder, real, seed, Chip::Ada) }
}

type Asked = (&'static str, Option<&'static str>);

fn build(sources: &str, only: Option<&str>) -> Option<PathBuf> {
    if Command::new("g++").arg("--version").output().is_err() {
        crate::shared::skipped("no g++ to compile the kernels for the CPU");
        return None;
    }
    let kind = if sanitized() { "sanitized" } else { "emulated" };
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind).join(sources);
    fs::create_dir_all(&out).expect("the target folder can be written");
    let list = |folder: &str, source: bool| {
        let entries = fs::read_dir(here().join(folder)).expect("a folder of kernels");
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "cu") == source);
        paths.sort();
        paths
    };
    let headers: String =
        list("kernels", false).iter().map(|p| fs::read_to_string(p).expect("a header")).collect();
    let mut files = list(sources, true);
    files.retain(|path| only.is_none_or(|only| path.file_stem().is_some_and(|stem| stem == only)));
    let jobs: Vec<(PathBuf, Real)> =
        files.into_iter().flat_map(|p| [(p.clone(), Real::F32), (p, Real::Bf16)]).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (jobs, headers, out) = (&jobs, &headers, &out);
            let mine = jobs.iter().skip(worker).step_by(workers);
            scope.spawn(move || mine.for_each(|(source, real)| compile(source, *real, headers, out)));
        }
    });
    Some(out)
}

/// What EMULATED needs for each kernel in a file's text: its name, and the numbers of its `__cluster_dims__`.
fn kernels(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let after = code.split("__global__").skip(1);
    let told = |signature: &str| {
        let head = signature.split("__launch_bounds__").last().expect("a split has a last part");
        // The name follows `__launch_bounds__(..)`, if there is one, otherwise `void`.
        let head = if signature.contains("__launch_bounds__") {
            head.split_once(')').expect("closed").1
        } else {
            head
        };
        let head = head.trim_start().trim_start_matches("void").trim_start();
        let name = head.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let cluster = signature.split_once("__cluster_dims__(").and_then(|(_, rest)| rest.split_once(')'));
        cluster.map_or(name.clone(), |(dims, _)| format!("{name}, {dims}"))
    };
    after.map(|signature| told(signature.split_once('{').expect("a body").0)).collect()
}

/// Compiles one .cu for the CPU, unless that text was compiled before.
fn compile(source: &Path, real: Real, headers: &str, out: &Path) {
    let file = source.file_stem().expect("a name").to_string_lossy();
    let (suffix, bf16) = if real == Real::F32 { ("f32", 0) } else { ("bf16", 1) };
    let text = fs::read_to_string(source).expect("a kernel file");
    let stem = out.join(format!("{file}_{suffix}"));
    let (library, mark) = (stem.with_extension("so"), stem.with_extension("mark"));
    let wrapper: String = kernels(&text).iter().map(|kernel| format!("EMULATED({kernel})\n")).collect();
    let wrapper = format!("#include {source:?}\n{wrapper}");
    let content = format!("{headers}{text}{wrapper}");
    if library.exists() && fs::read_to_string(&mark).is_ok_and(|old| old == content) {
        return;
    }
    let cpp = stem.with_extension("cpp");
    fs::write(&cpp, wrapper).expect("the target folder can be written");
    let mut command = Command::new("g++");
    command
        .args(["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-Wno-unknown-pragmas"])
        .arg(format!("-DSCALE_BF16={bf16}"));
    if sanitized() {
        command.arg("-fsanitize=address");
    }
    let done = command
        .arg("-I")
        .arg(here().join("kernels"))
        .arg("-o")
        .arg(&library)
        .arg(&cpp)
        .output()
        .expect("g++");
    assert!(done.status.success(), "{}:\n{}", source.display(), String::from_utf8_lossy(&done.stderr));
    fs::write(&mark, content).expect("the target folder can be written");
}
