//! Kernels without a GPU: the text of every `.cu` compiled by g++ with `kernels/emulator.h` and run here, warps in random order,
//! against the op's reference. Skipped where there is no g++.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::selftest::table;

mod adamw;
mod gather;
mod many_sets;

/// Orders of warps and blocks that each row is run under.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Numbers of a row's inputs up to which it is emulated.
const SMALL: usize = 70_000;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of the kernels in a file's text.
fn kernels(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let after = code.split("__global__").skip(1);
    let name = |signature: &str| {
        let head = signature.split("__launch_bounds__").last().expect("a split has a last part");
        // After `__launch_bounds__(..)` comes the name; before it `void`.
        let head = if signature.contains("__launch_bounds__") {
            head.split_once(')').expect("closed").1
        } else {
            head
        };
        let head = head.trim_start().trim_start_matches("void").trim_start();
        head.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    after.map(|signature| name(signature.split_once('{').expect("a body").0)).collect()
}

/// Compiles one .cu for the CPU, unless that text was compiled before.
fn compile(source: &Path, real: Real, headers: &str, out: &Path, sanitize: bool) -> PathBuf {
    let file = source.file_stem().expect("a name").to_string_lossy();
    let (suffix, bf16) = if real == Real::F32 { ("f32", 0) } else { ("bf16", 1) };
    let text = fs::read_to_string(source).expect("a kernel file");
    let stem = out.join(format!("{file}_{suffix}"));
    let (library, mark) = (stem.with_extension("so"), stem.with_extension("mark"));
    let wrapper: String = kernels(&text).iter().map(|kernel| format!("EMULATED({kernel})\n")).collect();
    let wrapper = format!("#include {source:?}\n{wrapper}");
    let content = format!("{headers}{text}{wrapper}");
    if library.exists() && fs::read_to_string(&mark).is_ok_and(|old| old == content) {
        return library;
    }
    let cpp = stem.with_extension("cpp");
    fs::write(&cpp, wrapper).expect("the target folder can be written");
    let mut command = Command::new("g++");
    command
        .args(["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-Wno-unknown-pragmas"])
        .arg(format!("-DSCALE_BF16={bf16}"));
    if sanitize {
        command.args(["-fsanitize=address", "-fsanitize-sections=shared_memory"]);
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
    library
}

/// True if this process runs under AddressSanitizer's runtime: then the kernels are compiled for it.
fn sanitized() -> bool {
    fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("libasan"))
}

/// The folder of the emulated kernels; `None` without g++.
fn emulated() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if Command::new("g++").arg("--version").output().is_err() {
            eprintln!("skipped: no g++ to compile the kernels for the CPU");
            return None;
        }
        let out =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(if sanitized() { "sanitized" } else { "emulated" });
        fs::create_dir_all(&out).expect("the target folder can be written");
        let mut files: Vec<PathBuf> = fs::read_dir(here().join("kernels"))
            .expect("kernels")
            .map(|e| e.expect("readable").path())
            .collect();
        files.sort();
        let is = |path: &PathBuf, end: &str| path.extension().is_some_and(|e| e == end);
        let headers: String =
            files.iter().filter(|p| !is(p, "cu")).map(|p| fs::read_to_string(p).expect("a header")).collect();
        let jobs: Vec<(&PathBuf, Real)> =
            files.iter().filter(|p| is(p, "cu")).flat_map(|p| [(p, Real::F32), (p, Real::Bf16)]).collect();
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (jobs, headers, out) = (&jobs, &headers, &out);
                scope.spawn(move || {
                    for (source, real) in jobs.iter().skip(worker).step_by(2) {
                        compile(source, *real, headers, out, sanitized());
                    }
                });
            }
        });
        Some(out)
    };
    FOLDER.get_or_init(build).as_deref()
}

/// Holds every small row of an op to its bounds, in one storage.
fn hold(op: &str, real: Real) {
    let Some(folder) = emulated() else { return };
    let mut missed = Vec::new();
    let rows: Vec<_> = table().into_iter().filter(|row| row.op() == op && row.size() <= SMALL).collect();
    assert!(!rows.is_empty(), "no row of {op} is small enough to be emulated");
    for row in rows {
        for seed in SEEDS {
            let gpu = Gpu::emulated(folder, real, seed);
            let name = format!("{} {:?}, {real:?}, seed {seed}", row.name, row.shapes);
            match gpu::guard(|| Ok(row.judge(&gpu))) {
                Err(e) => missed.push(format!("{name}: {e}")),
                Ok(verdicts) => missed.extend(verdicts.iter().filter(|v| !v.holds()).map(|v| {
                    format!("{name}: {} is {:.1e} off, {:.1e} allowed", v.output, v.error, v.allowed)
                })),
            }
            missed.extend(gpu.overrun().map(|what| format!("{name}: {what}")));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

macro_rules! emulated_ops {
    ($($op:ident)*) => {$(
        mod $op {
            #[test]
            fn matches_its_reference_in_f32() {
                super::hold(stringify!($op), scale_engine::gpu::Real::F32);
            }

            #[test]
            fn matches_its_reference_in_bf16() {
                super::hold(stringify!($op), scale_engine::gpu::Real::Bf16);
            }
        }
    )*};
}

emulated_ops! {
    activation attention elementwise embedding flow layer_norm matmul mmd patch_embed pool rms_norm seed_attention squared_error
    swiglu tokens
}
