//! Training stops and resumes, on a small simulated world.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::config::Config;
use scale_engine::data::preprocess::{self, Genes};
use scale_engine::data::simulate::{CONTROL, Settings as World, simulate};
use scale_engine::error::{Error, Result};
use scale_engine::progress::{Event, Progress};
use scale_engine::train::{Begin, Outcome, Settings, train};
use serde_json::{Value, json};

use crate::stopped::stopped;

const STEPS: u64 = 120;
pub const WORLD: World =
    World { cells: 900, skip: 0, genes: 60, perturbations: 4, cell_types: 2, batches: 2, seed: 1 };

/// A small world, its shards and a split with held-out pairs, made once.
pub struct Small {
    _dir: tempfile::TempDir,
    pub cells: PathBuf,
    pub data: PathBuf,
    pub split: PathBuf,
    /// A finished run.
    pub run: PathBuf,
}

pub fn small() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| dir.path().join(name);
        let (cells, data, split, run) = (place("cells.h5ad"), place("data"), place("split.toml"), place("run"));
        simulate(&WORLD).and_then(|w| w.write(&cells)).expect("a world");
        let settings = preprocess::Settings {
            genes: Genes::Top(60),
            ..preprocess::Settings::of_simulated(&cells, &data)
        };
        preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
        let perturbed = names().1;
        let text = format!(
            "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n[fewshot.\"cells.{}\"]\ntest = [{:?}]\nval = [{:?}]\n",
            names().0[0], perturbed[0], perturbed[1]
        );
        std::fs::write(&split, text).expect("written");
        let made = Small { _dir: dir, cells, data, split, run };
        trained(&made, &made.run, &[], &Progress::silent()).expect("a run");
        made
    })
}

/// Cell types and perturbations of the small world.
pub fn names() -> (Vec<String>, Vec<String>) {
    let truth = simulate(&WORLD).expect("a world").truth;
    (truth.cell_types.clone(), truth.perturbations.iter().filter(|p| *p != CONTROL).cloned().collect())
}

/// A model that is quick to train, with checkpoints every ten steps.
pub fn set() -> Vec<String> {
    let set = format!(
        "encoder.kind=mlp flow.width=32 flow.heads=1 flow.ffn=48 flow.layers=1 decoder.width=32 conditions.width=16 \
         data.sets=8 data.cells=16 flow.start=shifted train.steps={STEPS} train.checkpoint_every=10 train.val_every=50"
    );
    set.split_whitespace().map(String::from).collect()
}

pub fn trained(small: &Small, out: &Path, extra: &[&str], progress: &Progress) -> Result<Outcome> {
    trained_by(small, &small.split, out, extra, progress)
}

/// The same with another split file.
pub fn trained_by(
    small: &Small,
    split: &Path,
    out: &Path,
    extra: &[&str],
    progress: &Progress,
) -> Result<Outcome> {
    let mut set = set();
    set.extend(extra.iter().map(|s| s.to_string()));
    let begin = Begin::drawn(Config::load(Some("tiny"), None, &set)?);
    train(&Settings::new(&small.data, split, out, begin), progress)
}

fn resumed(small: &Small, out: &Path) -> Result<Outcome> {
    resumed_to(small, out, None)
}

pub fn resumed_to(small: &Small, out: &Path, steps: Option<u64>) -> Result<Outcome> {
    let begin = Begin::Resume { steps, shard: None };
    train(&Settings::new(&small.data, &small.split, out, begin), &Progress::silent())
}

pub fn last(run: &Path) -> PathBuf {
    run.join("checkpoints/last.safetensors")
}

pub fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("readable")
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The program in training, set up like the small run, once its first checkpoint has appeared.
fn in_training(small: &Small, run: &Path) -> Child {
    let mut command = program();
    command.args(["train", "--preset", "tiny", "--data"]).arg(&small.data).arg("--split").arg(&small.split);
    command.arg("--out").arg(run).args(set().iter().flat_map(|s| ["--set".to_string(), s.clone()]));
    let mut child = command.spawn().expect("the program starts");
    while !last(run).exists() {
        assert!(child.try_wait().expect("a child").is_none(), "ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// The lines of a run's metrics.jsonl.
pub fn log(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("readable");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Steps, losses and validations of a log: what must not depend on how often a run was stopped.
fn trace(run: &Path) -> Vec<String> {
    log(run).iter().map(|v| format!("{} {} {}", v["step"], v["loss"], v["val_pdcorr"])).collect()
}

#[test]
fn a_run_killed_in_the_middle_resumes_to_the_same_bits() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let mut child = in_training(small, &run);
    // SIGKILL: no handler runs, nothing is flushed.
    child.kill().expect("killed");
    child.wait().expect("gone");
    let step = Checkpoint::describe(&last(&run)).expect("a whole checkpoint").header.step;
    assert!(step < STEPS, "the run ended before it was killed");

    let outcome = resumed(small, &run).expect("it goes on");
    assert!(outcome.finished && outcome.step == STEPS);
    assert!(bytes(&last(&run)) == bytes(&last(&small.run)), "killed at step {step}: other bits");
    assert_eq!(trace(&run), trace(&small.run));
}

/// The names in a run's folder of checkpoints, sorted.
pub fn checkpoints(run: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run.join("checkpoints")).expect("readable");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("readable").file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn checkpoints_of_one_step_are_one_file() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = tempfile::tempdir().expect("a temporary folder");
    let more = ["train.steps=20", "train.val_every=10", "train.keep_all=true"];
    trained(small(), dir.path(), &more, &Progress::silent()).expect("trained");
    let names = ["best", "last", "step-10", "step-20"].map(|name| format!("{name}.safetensors"));
    assert_eq!(checkpoints(dir.path()), names);
    let [best, last, ten, twenty] = names.map(|name| {
        let path = dir.path().join("checkpoints").join(name);
        let header = Checkpoint::describe(&path).expect("whole").header;
        (std::fs::metadata(&path).expect("there").ino(), header.step)
    });
    assert_eq!((ten.1, twenty.1), (10, 20));
    assert_eq!(last, twenty);
    let open_to = |name: &str| dir.path().join(name).metadata().expect("there").permissions().mode();
    assert_eq!(open_to("checkpoints/last.safetensors"), open_to("config.toml"));
    assert!([ten, twenty].contains(&best), "{best:?} is neither {ten:?} nor {twenty:?}");
}

#[test]
fn a_run_is_one_processs_and_one_without_a_checkpoint_begins_anew() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let folder = dir.path().join("checkpoints");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join(".tmpAbCdEf"), "half").expect("written");
    let error = resumed(small, dir.path()).expect_err("nothing to go on with").to_string();
    assert!(error.contains("without `Begin::Resume`"), "{error}");
    let begin = || trained(small, dir.path(), &["train.steps=10"], &Progress::silent());
    let other = std::fs::File::open(&folder).expect("readable");
    other.lock().expect("locked");
    let error = begin().expect_err("taken").to_string();
    assert!(error.contains("another process"), "{error}");
    drop(other);
    begin().expect("a folder that holds no checkpoint is free");
    assert_eq!(checkpoints(dir.path()), ["best.safetensors", "last.safetensors"]);
    let other = std::fs::File::open(&folder).expect("readable");
    other.lock().expect("locked");
    let error = resumed_to(small, dir.path(), Some(20)).expect_err("taken").to_string();
    assert!(error.contains("another process"), "{error}");
}

#[test]
fn a_run_without_a_sound_last_checkpoint_names_another() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let more = ["train.steps=20", "train.val_every=10", "train.keep_all=true"];
    trained(small, dir.path(), &more, &Progress::silent()).expect("trained");
    let in_folder = |name: &str| dir.path().join("checkpoints").join(name);
    // Two names of one file would be damaged together.
    let copy = bytes(&last(dir.path()));
    std::fs::remove_file(last(dir.path())).expect("removed");
    let error = resumed(small, dir.path()).expect_err("no last").to_string();
    assert!(error.contains("copy") && error.contains("step-20.safetensors (step 20)"), "{error}");
    let begun = trained(small, dir.path(), &more, &Progress::silent()).expect_err("not free").to_string();
    assert!(begun.contains("step-20.safetensors (step 20) to last.safetensors, with cp --remove"), "{begun}");
    std::fs::write(last(dir.path()), &copy[..copy.len() / 2]).expect("written");
    let error = resumed(small, dir.path()).expect_err("half a file").to_string();
    assert!(error.contains("last.safetensors") && error.contains("step-20.safetensors (step 20)"), "{error}");
    // A best checkpoint of a step that the run will not reach again is not the best of this run.
    std::fs::copy(in_folder("step-10.safetensors"), last(dir.path())).expect("copied");
    let twentieth = bytes(&in_folder("step-20.safetensors"));
    std::fs::remove_file(in_folder("best.safetensors")).expect("removed");
    std::fs::write(in_folder("best.safetensors"), twentieth).expect("written");
    std::fs::remove_file(in_folder("step-20.safetensors")).expect("removed");
    resumed_to(small, dir.path(), Some(12)).expect("two more steps");
    let best = Checkpoint::describe(&in_folder("best.safetensors")).map(|told| told.header.step);
    assert!(best.as_ref().is_ok_and(|step| *step == 12), "{best:?}");
    assert!(in_folder("step-20.safetensors").exists());
}

/// A checkpoint is written while steps continue; a failure is noticed no later than at the next checkpoint or the run's end.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let keep_all = ["train.steps=10", "train.keep_all=true"];
    trained(small, dir.path(), &keep_all, &Progress::silent()).expect("trained");
    let whole = bytes(&last(dir.path()));
    let step = dir.path().join("checkpoints/step-10.safetensors");
    std::fs::remove_file(&step).and_then(|()| std::fs::create_dir(&step)).expect("made");
    let error = resumed_to(small, dir.path(), Some(40)).expect_err("a folder is in the way").to_string();
    assert!(error.contains("step-10.safetensors"), "{error}");
    assert!(bytes(&last(dir.path())) == whole, "the checkpoint before is gone");
}

#[test]
fn a_finished_run_is_not_sent_back_to_fewer_steps() {
    let small = small();
    let error = resumed_to(small, &small.run, Some(60)).expect_err("120 steps are done").to_string();
    assert!(error.starts_with("steps: ") && error.contains("120"), "{error}");
}

#[test]
fn the_config_of_a_run_that_goes_on_tells_its_steps_but_not_over_what_a_user_has_written() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let config = dir.path().join("config.toml");
    let told = || std::fs::read_to_string(&config).expect("readable");
    trained(small, dir.path(), &["train.steps=4"], &Progress::silent()).expect("trained");
    assert!(told().contains("steps = 4\n"), "{}", told());
    resumed_to(small, dir.path(), Some(6)).expect("trained");
    assert!(told().contains("steps = 6\n"), "{}", told());
    std::fs::write(&config, format!("# mine\n{}", told())).expect("written");
    resumed_to(small, dir.path(), Some(8)).expect("trained");
    assert!(told().starts_with("# mine\n") && told().contains("steps = 6\n"), "{}", told());
}

#[test]
fn a_run_keeps_its_split_and_does_not_go_on_with_another() {
    let small = small();
    let hash = Checkpoint::load(&last(&small.run)).expect("a checkpoint").state.header.split;
    assert_eq!(bytes(&small.run.join("split.toml")), bytes(&small.split));
    let told = Command::new(env!("CARGO_BIN_EXE_scale-engine")).arg("inspect").arg(&small.run).output();
    let told = String::from_utf8(told.expect("the program starts").stdout).expect("text");
    assert!(hash.len() == 64 && told.contains(&format!("split_sha256     {hash}")), "{told}");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = dir.path().join("other.toml");
    let text = String::from_utf8(bytes(&small.split)).expect("text");
    std::fs::write(&other, text + "# a word\n").expect("written");
    let settings = Settings::new(&small.data, &other, &small.run, Begin::RESUME);
    let error = train(&settings, &Progress::silent()).expect_err("another split").to_string();
    assert!(error.contains("another split file") && error.contains(&hash), "{error}");
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_says_that_the_run_is_not_finished_and_it_goes_on_to_the_same_bits() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let mut child = in_training(small, &run);
    // SIGINT: what a terminal sends on Ctrl-C.
    let sent = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill runs");
    assert!(sent.success());
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "nothing may take it for finished");
    let step = Checkpoint::describe(&last(&run)).expect("a whole checkpoint").header.step;
    assert!(step < STEPS, "the run ended before it was asked to");

    let mut again = program();
    again.args(["train", "--resume", "--data"]).arg(&small.data).arg("--split").arg(&small.split);
    assert!(again.arg("--out").arg(&run).status().expect("the program starts").success());
    assert!(bytes(&last(&run)) == bytes(&last(&small.run)), "stopped at step {step}: other bits");
    assert_eq!(trace(&run), trace(&small.run));
}

#[test]
fn each_loss_tells_how_hard_it_pulls_at_the_first_step_and_before_validations() {
    let small = small();
    let told: Vec<Value> = log(&small.run).into_iter().filter(|v| !v["grad_norm_mse"].is_null()).collect();
    assert_eq!(told.iter().map(|v| v["step"].as_u64()).collect::<Vec<_>>(), [1, 50, 100, STEPS].map(Some));
    for name in ["mse", "mmd", "flow", "effect"] {
        assert!(told.iter().all(|v| v[format!("grad_norm_{name}")].as_f64() > Some(0.0)), "{name}: {told:?}");
    }
    // With one loss alone the norm of the whole gradient is that loss's.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let alone = ["loss.w_mmd=0", "loss.w_flow=0", "loss.effect=0", "train.steps=1"];
    trained(small, &run, &alone, &Progress::silent()).expect("a run");
    let find = |field: &str| log(&run).iter().find_map(|v| v[field].as_f64()).expect("logged");
    let (whole, mse) = (find("grad_norm"), find("grad_norm_mse"));
    assert!((whole / mse - 1.0).abs() < 1e-6 && whole > 0.0, "{whole} {mse}");
}

#[test]
fn a_run_asked_to_stop_writes_a_checkpoint_and_says_so() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let outcome = trained(small, &run, &[], &stopped()).expect("a clean end");
    assert!(!outcome.finished && outcome.step == 0 && last(&run).exists());
    let error = trained(small, &run, &[], &Progress::silent()).expect_err("the folder is taken").to_string();
    assert!(error.contains("`Begin::Resume`"), "{error}");
    resumed(small, &run).expect("it goes on");
    assert!(bytes(&last(&run)) == bytes(&last(&small.run)));
}

#[test]
fn a_program_that_trains_is_told_what_happens_and_can_stop_the_run() {
    const BEGINS: &str = "Begins { what: \"train\", done: 0, all: 120, unit: \"steps\" }";
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let begin = Begin::drawn(Config::load(Some("tiny"), None, &set()).expect("a good config"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let told = told.clone();
        Progress::new(move |event, progress| {
            let event = match event {
                Event::Logged { step, numbers } => {
                    let mut line = json!({ "step": step });
                    numbers.iter().for_each(|(name, number)| line[name] = json!(number));
                    line.to_string()
                }
                event => format!("{event:?}"),
            };
            if event == "Done(3)" {
                progress.stop();
            }
            told.lock().expect("one thread trains").push(event);
        })
    };
    let settings = Settings::new(&small.data, &small.split, &run, begin);
    let outcome = train(&settings, &progress).expect("a run");
    assert_eq!((outcome.step, outcome.finished), (3, false));
    let told = told.lock().expect("one thread trains").clone();
    let (lines, others): (Vec<&str>, Vec<&str>) =
        told.iter().map(String::as_str).partition(|e| e.starts_with('{'));
    let others: Vec<&str> = others.into_iter().filter(|event| !event.starts_with("Note")).collect();
    assert_eq!(others, [BEGINS, "Done(1)", "Done(2)", "Done(3)", "Ends"]);
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).expect("a log");
    assert_eq!(lines, log.lines().collect::<Vec<_>>());
}

#[test]
fn a_loss_that_is_not_finite_stops_with_step_batch_and_checkpoint() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let set = ["optim.lr=1e18", "optim.warmup=0", "train.checkpoint_every=1", "train.log_every=1"];
    let error = trained(small, dir.path(), &set, &Progress::silent()).expect_err("it diverges");
    assert!(matches!(error, Error::Diverged(_)));
    let text = error.to_string();
    // As the log counts, which ends before this step.
    let step = log(dir.path()).iter().filter_map(|v| v["step"].as_u64()).max().map_or(1, |step| step + 1);
    let words = ["the loss is", "batch of type-", "last.safetensors has the weights that gave this loss"];
    for word in words.into_iter().chain([format!("step {step}: ").as_str()]) {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

#[test]
fn exit_codes_tell_wrong_words_from_failed_work() {
    let code = |args: &[&str]| program().args(args).status().expect("the program starts").code();
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["train", "--no-such-option"]), Some(2));
    assert_eq!(code(&["inspect", "no/such/file.h5ad"]), Some(1));
    let run = small().run.display().to_string();
    assert_eq!(code(&["inspect", &run, "--json"]), Some(0));
    assert_eq!(code(&["predict", &run, "--out", "x.h5ad"]), Some(2));
}
