//! What was measured on CPUs.

use serde_json::Value;

use super::{all, least, median, most, raw, thousands, three, told};

/// A field of the runs of atlas.json on one file.
pub fn of_atlas(raw: &Value, file: &str, who: &str, field: &str) -> Vec<f64> {
    let runs = raw["runs"].as_array().expect("runs");
    let own = runs.iter().filter(|r| r["file"] == file && r["who"] == who).cloned().collect();
    all(&Value::Array(own), field)
}

#[test]
fn preprocessing() {
    let raw = raw("atlas.json");
    let of = |file: &str, who: &str, field: &str| of_atlas(&raw, file, who, field);
    let row = |words: &str, file: &str| {
        let [ours, scanpy] = ["ours", "scanpy"].map(|who| median(of(file, who, "/s")));
        let [held, theirs] = ["ours", "scanpy"].map(|who| most(of(file, who, "/mib")));
        let mb = of(file, "ours", "/bytes")[0] / 1e6;
        format!(
            "| {words}, {mb:.0} MB | {ours:.1} | {scanpy:.1} | {:.1} | {held:.0} | {theirs:.0} |",
            scanpy / ours
        )
    };
    told(&[row("gzip", "gzip"), row("not compressed", "plain")]);
}

#[test]
fn loading() {
    let raw = raw("peers-loader.json");
    let best = |who: &str| most(all(&raw["runs"][who], "/cells_per_core_s"));
    let ours = best("ours, dense");
    let row = |words: &str, who: &[&str]| {
        let speed: Vec<String> = who.iter().map(|who| three(best(who))).collect();
        let share: Vec<String> =
            who.iter().map(|who| format!("1/{}", thousands((ours / best(who)).round() as u64))).collect();
        format!("| {words} | {} | {} |", speed.join(" / "), share.join(", "))
    };
    told(&[
        format!(
            "| ours, dense (normalised on the way) / sparse | {} / {} | 1 |",
            three(ours),
            three(best("ours, sparse"))
        ),
        row(
            "bionemo-scdl 0.1.3, get_row / DataLoader",
            &["bionemo-scdl, get_row", "bionemo-scdl, DataLoader"],
        ),
        row("anndata 0.12.19, backed", &["anndata, backed"]),
        row(
            "annbatch 0.3.1, blocks of 64 / single rows",
            &["annbatch, blocks of 64", "annbatch, single rows"],
        ),
        row("cell-load 0.10.4, X_hvg / X", &["cell-load, X_hvg", "cell-load, X"]),
    ]);
}

#[test]
fn rank_sums() {
    let raw = raw("peers-evaluate.json");
    let ours = median(all(&raw["runs"]["ours DE"], "/wall_s")) / 2.0;
    let peak = |who: &str| most(all(&raw["runs"][who], "/peak_mib"));
    let row = |who: &str| {
        let [wall, warm, function] =
            ["/wall_s", "/said/warm_up_s", "/said/function_s"].map(|field| all(&raw["runs"][who], field));
        let command = least(wall.iter().zip(&warm).map(|(wall, warm)| wall - warm).collect());
        let function = least(function);
        let both = [command, function].map(three).join(" / ");
        let times = [command, function].map(|s| three(s / ours)).join(" / ");
        format!("| {who}, the command / the function alone | {both} | {times} | {:.0} |", peak(who))
    };
    let own = "ours, half of the command that reads, tests and writes two files";
    told(&[
        format!("| {own} | {ours:.2} | 1 | {:.0} |", peak("ours DE")),
        row("illico 0.6.0"),
        row("pdex 0.3.0"),
        row("pdex 0.1.27"),
    ]);
}

#[test]
fn the_whole_profile() {
    let raw = raw("peers-evaluate.json");
    let ours = median(all(&raw["runs"]["ours full"], "/wall_s"));
    let row = |words: &str, who: &str, seconds: f64| {
        let (times, peak) = (three(seconds / ours), most(all(&raw["runs"][who], "/peak_mib")));
        format!("| {words} | {} | {times} | {peak:.0} |", three(seconds))
    };
    let peer = |who: &str| row(who, who, least(all(&raw["runs"][who], "/wall_s")));
    told(&[
        row("ours", "ours full", ours).replace("1.00", "1"),
        peer("cell-eval 0.8.2"),
        peer("cell-eval 0.6.6"),
    ]);
}

#[test]
fn a_training_step() {
    let raw = raw("step.json");
    let turns = raw["turns"].as_array().expect("turns");
    let row = |words: &str, step: &str| {
        let of = |field: &str| {
            let own = turns.iter().filter(|turn| turn["step"] == step).cloned().collect();
            median(all(&Value::Array(own), field))
        };
        let [ours, torch] = ["/ours_s", "/torch/median_s"].map(of);
        format!("| {words} | {:.0} | {:.0} | {:.1} |", 1e3 * ours, 1e3 * torch, torch / ours)
    };
    told(&[
        row("`tiny`, 512 pairs", "tiny llama default"),
        row("the same, `encoder.kind=mlp`", "tiny mlp default"),
        row("the same, `recipe=paper`", "tiny llama paper"),
        row("`s40`, 128 pairs", "s40 llama default"),
    ]);
}
