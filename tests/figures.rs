//! The tables of benches/README.md hold what the raw files beside it hold: after a new measurement this lists the rows that changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod cpu;

use cpu::of_atlas;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn raw(file: &str) -> Value {
    let text = fs::read_to_string(root("benches/results").join(file)).expect("a raw file");
    serde_json::from_str(&text).expect("raw figures are JSON")
}

/// Three significant digits; thousands are separated.
fn three(x: f64) -> String {
    let unit = 10f64.powi(x.abs().log10().floor() as i32 - 2);
    match unit < 1.0 {
        true => format!("{x:.*}", (-unit.log10()).round() as usize),
        false => thousands(((x / unit).round() * unit).round() as u64),
    }
}

fn thousands(x: u64) -> String {
    match x {
        0..1000 => x.to_string(),
        _ => format!("{},{:03}", thousands(x / 1000), x % 1000),
    }
}

/// `field` of every run.
fn all(runs: &Value, field: &str) -> Vec<f64> {
    let number = |run: &Value| run.pointer(field).and_then(Value::as_f64).expect("a number of every run");
    runs.as_array().expect("a list of runs").iter().map(number).collect()
}

fn least(x: Vec<f64>) -> f64 {
    x.into_iter().fold(f64::INFINITY, f64::min)
}

fn most(x: Vec<f64>) -> f64 {
    x.into_iter().fold(0.0, f64::max)
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Microseconds of a row: ours the mean of its turns, a peer's its best.
fn micros(row: &Value) -> (f64, impl Fn(&str) -> f64) {
    let ours = all(&row["ours_us"], "");
    let peer = |name: &str| least(all(&row["peers"][name]["us"], ""));
    (ours.iter().sum::<f64>() / ours.len() as f64, peer)
}

fn told(rows: &[String]) {
    let readme = fs::read_to_string(root("benches/README.md")).expect("the README of the benches");
    let missing: Vec<&String> =
        rows.iter().filter(|row| !readme.lines().any(|line| line.starts_with(*row))).collect();
    assert!(
        missing.is_empty(),
        "benches/README.md has no such rows, which the raw files ask for:\n{missing:#?}"
    );
}

/// Measured in two runs: each preset's rows are from one.
struct Models([Value; 2]);

impl Models {
    fn read() -> Models {
        Models(["26", "27"].map(|day| raw(&format!("h200-2026-11-{day}/model-peers.json"))))
    }

    fn row(&self, name: &str, preset: &str, pairs: u64) -> Value {
        let rows = self.0.iter().flat_map(|raw| raw["rows"].as_array().expect("rows"));
        let asked =
            |r: &&Value| r["name"] == name && r["shape"]["preset"] == preset && r["shape"]["pairs"] == pairs;
        rows.clone().find(asked).expect("a row of the model").clone()
    }

    fn time(&self, words: &str, preset: &str, pairs: u64, unit: &str) -> String {
        let step = unit == "pair";
        let row = self.row(if step { "step" } else { "prediction" }, preset, pairs);
        let (ours, peer) = micros(&row);
        let [ms, compiled, eager] =
            [ours, peer("torch.compile"), peer("eager")].map(|us| format!("{:.1} ms", us / 1e3));
        let rate = three(pairs as f64 / ours * 1e6);
        let flops = match step && pairs == 16_384 {
            true => format!(", {:.0} TFLOP/s", row["flops"].as_f64().expect("FLOPs") / ours / 1e6),
            false => String::new(),
        };
        let times = peer("torch.compile") / ours;
        let long = if preset == "s184" && !flops.is_empty() { " times as long" } else { "" };
        format!("| {words} | **{ms}** | {rate} {unit}s/s{flops} | {compiled} ({times:.2}{long}) | {eager} |")
    }

    /// For s184 ours was measured alone, at a later commit than its peers.
    fn memory(&self, words: &str, name: &str, alone: &str) -> String {
        let text =
            fs::read_to_string(root("benches/results/h200-2026-11-27").join(alone)).expect("a raw file");
        let mut lines = text.lines().filter(|line| line.contains("\"pairs\":16384"));
        let line: Value = serde_json::from_str(lines.next_back().expect("a run")).expect("JSON");
        let of = |who: &str| {
            let gib = ["s40", "s184", "s280"].map(|preset| match (who, preset) {
                ("ours", "s184") => line["memory_gib"].clone(),
                _ => self.row(name, preset, 16_384)["peak_gib"][who].clone(),
            });
            gib.map(|gib| format!("{:.1}", gib.as_f64().expect("GiB"))).join("; ")
        };
        format!("| {words} | {} | {} | {} |", of("ours"), of("torch.compile"), of("eager"))
    }
}

/// README's section "How fast" and its table of presets.
#[test]
fn the_readmes_figures() {
    let text = fs::read_to_string(root("README.md")).expect("the README");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let models = Models::read();
    let both = |name: &str| {
        let row = models.row(name, "s184", 16_384);
        let (ours, peer) = micros(&row);
        [ours, peer("torch.compile")].map(|us| format!("{:.0} ms", us / 1e3))
    };
    let [step, predicted] = ["step", "prediction"].map(both);
    let atlas = raw("atlas.json");
    let times = |file: &str| {
        let [ours, scanpy] = ["ours", "scanpy"].map(|who| median(of_atlas(&atlas, file, who, "/s")));
        scanpy / ours
    };
    let scores = raw("peers-evaluate.json");
    let seconds = |who: &str| all(&scores["runs"][who], "/wall_s");
    let loader = raw("peers-loader.json");
    let best = |who: &str| most(all(&loader["runs"][who], "/cells_per_core_s"));
    let small = micros(&models.row("step", "s184", 2_048)).0 / 1e3;
    for asked in [
        format!("takes {}; the same model in PyTorch with `torch.compile` takes {}.", step[0], step[1]),
        format!("Predicting as many cells takes {}, against {}.", predicted[0], predicted[1]),
        format!(
            "preprocessing is {:.1} to {:.1} times as fast as scanpy 1.11.4",
            times("plain"),
            times("gzip")
        ),
        format!(
            "scoring {:.0} times as fast as cell-eval 0.8.2",
            least(seconds("cell-eval 0.8.2")) / median(seconds("ours full"))
        ),
        format!("the loader hands out {:.0} times as many", best("ours, dense") / best("cell-load, X_hvg")),
        format!("| {small:.1} ms | {:.0} minutes |", small * 100.0 / 60.0),
    ] {
        assert!(text.contains(&asked), "README.md does not say {asked:?}");
    }
}

#[test]
fn training_and_prediction() {
    let models = Models::read();
    told(&[
        models.time("training step, `s184`, 16,384 pairs", "s184", 16_384, "pair"),
        models.time("the same, 2,048 pairs", "s184", 2_048, "pair"),
        models.time("`s40`, 16,384 pairs", "s40", 16_384, "pair"),
        models.time("`s280`, 16,384 pairs", "s280", 16_384, "pair"),
        models.time("prediction, `s184`, 16,384 cells", "s184", 16_384, "cell"),
        models.time("the same, 2,048 cells", "s184", 2_048, "cell"),
        models.time("`s40`, 16,384 cells", "s40", 16_384, "cell"),
        models.time("`s280`, 16,384 cells", "s280", 16_384, "cell"),
        models.memory("training step, `s40`; `s184`; `s280`", "step", "step.txt"),
        models.memory("prediction, `s40`; `s184`; `s280`", "prediction", "predict.txt"),
    ]);
}

#[test]
fn kernels() {
    let raw = raw("h200-2026-11-26/kernel-peers.json");
    let row = |name: &str, way: &str, first: (&str, u64)| {
        let rows = raw["rows"].as_array().expect("rows");
        let found = rows
            .iter()
            .find(|r| r["name"] == name && r["direction"] == way && r["shape"][first.0] == first.1);
        found.unwrap_or_else(|| panic!("{name} {way} is in the raw file")).clone()
    };
    let copy = raw["ceilings"]["copy_gb_per_s"].as_f64().expect("a ceiling");
    // Our time, its share of a copy's speed, and the best time of some peers.
    let cells = |name: &str, first: (&str, u64), peers: &[&str]| {
        ["forward", "backward"].map(|way| {
            let row = row(name, way, first);
            let (ours, peer) = micros(&row);
            let share = row["bytes"].as_f64().expect("bytes") / ours / 1e3 / copy;
            let best = least(peers.iter().map(|name| peer(name)).collect());
            (format!("{ours:.0}"), format!("{share:.2}"), thousands(best.round() as u64))
        })
    };
    let pair = |words: &str, whose: &str, [(f, fs, fp), (b, bs, bp)]: [(String, String, String); 2]| {
        format!(
            "| {words}, forward / backward | {f} / {b} us | {fs} / {bs} of a copy | {whose} {fp} / {bp} us |"
        )
    };
    let gated = ["forward", "backward"].map(|way| {
        let row = row("matmul_swiglu", way, ("M", 131_072));
        let (ours, peer) = micros(&row);
        let rate = row["flops"].as_f64().expect("FLOPs") / ours / 1e6;
        [ours, rate, peer("compiled")].map(|x| thousands(x.round() as u64))
    });
    let gated = std::array::from_fn::<String, 3, _>(|i| format!("{} / {}", gated[0][i], gated[1][i]));
    let adamw = micros(&row("adamw", "step", ("L", 184_022_992))).0 / 1e3;
    let gather = micros(&row("gather", "forward", ("R", 32_768))).0;
    told(&[
        pair(
            "attention in a cell, M 8,192, P 16, H 8, K 64",
            "the best of SDPA and compiled math",
            cells(
                "attention_cell",
                ("M", 8_192),
                &["SDPA efficient", "SDPA cuDNN", "SDPA flash", "compiled math"],
            ),
        ),
        pair("SwiGLU, 131,072 x 1,408", "compiled", cells("swiglu", ("M", 131_072), &["compiled"])),
        pair(
            "RMSNorm, 131,072 x 512",
            "compiled",
            cells("rms_norm", ("M", 131_072), &["compiled", "compiled by hand"]),
        ),
        format!(
            "| gated MLP, M 131,072, 512 -> 1,408 (280277e), forward / backward | {} us | {} TFLOP/s | compiled {} us |",
            gated[0], gated[1], gated[2]
        ),
        format!("| AdamW with norm, clip and average, 184 M weights | {adamw:.2} ms |"),
        format!("| counts to normalised rows, 32,768 x 2,000 | {gather:.0} us |"),
    ]);
}

/// The numbers of the last line of a raw text that holds all these words.
fn numbers(file: &str, words: &[&str]) -> Vec<f64> {
    let text = fs::read_to_string(root("benches/results").join(file)).expect("a raw file");
    let line = text.lines().rfind(|line| words.iter().all(|word| line.contains(word))).expect("a line");
    let parts = line.split([' ', ';', ',', '[', ']', ':']);
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// The rows of kernels that were timed again after their peers.
#[test]
fn changed_kernels() {
    let peers = raw("h200-2026-11-26/kernel-peers.json");
    let best = |name: &str, n: u64, way: &str, whose: &str| {
        let mut rows = peers["rows"].as_array().expect("rows").iter();
        let asked = |r: &&Value| r["name"] == name && r["shape"]["N"] == n && r["direction"] == way;
        micros(rows.find(asked).expect("a row")).1(whose)
    };
    // Last in a line: us, GB/s and TFLOP/s, with their units.
    let timed = |op: &str, n: &str, way: &str, from_end: usize| {
        *numbers("h200-2026-11-27/ops-changed.txt", &[op, n, way, "TFLOP/s"])
            .iter()
            .rev()
            .nth(from_end)
            .expect("us")
    };
    let both =
        |one: &dyn Fn(&str) -> f64| ["forward", "backward"].map(|way| format!("{:.0}", one(way))).join(" / ");
    let row = |words: &str, op: &str, n: &str, whose: &str, peer: &str| {
        let [us, rate] = [2, 0].map(|from_end| both(&|way| timed(op, n, way, from_end)));
        let theirs = both(&|way| best(op, 512, way, peer));
        format!("| {words}, forward / backward | {us} us | {rate} TFLOP/s | {whose} {theirs} us")
    };
    let sizes = [(64, "B 256, N 64,"), (128, "B 128, N 128,"), (256, "B 64, N 256,")];
    let ours = sizes.map(|(_, n)| format!("{:.0}", timed("attention_set", n, "forward", 2))).join("; ");
    let cudnn =
        sizes.map(|(n, _)| format!("{:.0}", best("attention_set", n, "forward", "SDPA cuDNN"))).join("; ");
    // Three sizes, ours, and the way without it.
    let gate = ["gate, kept", "gate backward"].map(|way| numbers("h200-2026-11-27/ops.txt", &[way]));
    let [fused, apart] = [3, 4].map(|who| format!("{:.0} / {:.0}", gate[0][who], gate[1][who]));
    let geomloss = raw("h200-2026-11-27/mmd-peers.json")["rows"][0]["peers"]["geomloss"]["us"][0].as_f64();
    told(&[
        row("set attention, B 32, N 512, H 8, K 128", "attention_set", "B 32, N 512,", "cuDNN", "SDPA cuDNN"),
        format!("| the same with N 64; 128; 256, forward | {ours} us | | cuDNN {cudnn} us |"),
        format!(
            "| of which its product fused with SwiGLU, one kernel per direction (711e110) | {fused} us | | ours unfused, \
             cuBLASLt and a second kernel: {apart} us |"
        ),
        row("MMD, 64 x 512 x 2,048", "mmd", "N 512, G 2048", "compiled", "compiled")
            + &format!("; geomloss in f32, forward {:.1} ms |", geomloss.expect("us") / 1e3),
    ]);
}

#[test]
fn a_real_training() {
    // Step and ms by turns; a line behind a checkpoint, and the first, takes much longer.
    let plain = |last: &str| {
        let ms = Vec::from_iter(numbers("h200-2026-11-26/train.txt", &[last]).chunks(2).map(|pair| pair[1]));
        let usual = 1.3 * median(ms.clone());
        let ms = Vec::from_iter(ms.into_iter().filter(|&ms| ms < usual));
        ms.iter().sum::<f64>() / ms.len() as f64
    };
    let [large, small] = ["from step 50 to 150", "from step 400 to 1200"]
        .map(|steps| numbers("h200-2026-11-27/train.txt", &["ms a step", steps])[0]);
    let (whole, share) = (plain("100 104.0"), plain("; 300 15.4"));
    told(&[
        format!("| without checkpoints | {whole:.1} ms per step | {share:.1} ms |"),
        format!(
            "| with a checkpoint every 50 or 400 steps (the default is every 1,000) | {large:.0} ms | {small:.1} ms |"
        ),
    ]);
}
