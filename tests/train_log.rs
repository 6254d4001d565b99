//! What the log of a run tells.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::config::Config;
use scale_engine::data::shard::Data;
use scale_engine::progress::{Event, Progress};
use scale_engine::train::{Begin, Settings, train};

use crate::train::{last, log, names, set, small};

#[test]
fn the_rate_of_a_line_is_that_of_the_steps_since_the_line_before() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let begin = Begin::drawn(Config::load(Some("tiny"), None, &set()).expect("a good config"));
    let progress = Progress::new(|event, _| {
        // Longer than all steps together.
        if let Event::Done(15) = event {
            std::thread::sleep(Duration::from_secs(3));
        }
    });
    let settings = Settings::new(&small().data, &small().split, dir.path(), begin);
    let outcome = train(&settings, &progress).expect("a run");
    let rates: Vec<f64> =
        log(dir.path()).iter().filter_map(|line| line["cells_per_second"].as_f64()).collect();
    let after = rates[2..].iter().copied().fold(0.0, f64::max);
    assert!(after > 1.5 * outcome.cells_per_second, "{} {rates:?}", outcome.cells_per_second);
    assert!(rates[1] < outcome.cells_per_second, "{} {rates:?}", outcome.cells_per_second);
}

#[test]
fn without_control_examples_nothing_is_learned_of_a_cell_type_that_is_held_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (split, data) = (dir.path().join("split.toml"), Data::open(&small().data).expect("data"));
    let held = names().0[0].clone();
    let text = format!(
        "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n[zeroshot]\n\"cells.{held}\" = \"test\"\n"
    );
    std::fs::write(&split, text).expect("written");
    for examples in [true, false] {
        let mut set = set();
        set.extend([
            format!("data.control_examples={examples}"),
            "train.steps=1".into(),
            "train.val_every=0".into(),
        ]);
        let said = Arc::new(Mutex::new(String::new()));
        let told = said.clone();
        let progress = Progress::new(move |event, _| {
            if let Event::Note(note) = event {
                *told.lock().expect("no panic") += &format!("{note}\n");
            }
        });
        let run = dir.path().join(format!("run-{examples}"));
        let begin = Begin::drawn(Config::load(Some("tiny"), None, &set).expect("a good config"));
        let settings = Settings::new(&small().data, &split, &run, begin);
        train(&settings, &progress).expect("a run");
        let said = said.lock().expect("no panic").clone();
        assert_eq!(said.contains(&format!("no cell of {held:?} is trained on")), !examples, "{said}");
        let statistics = Checkpoint::load(&last(&run)).expect("readable").state.statistics;
        let groups = 0..data.groups().len() as u32;
        let others: Vec<u32> = groups.filter(|&group| data.names(group)[0] != held).collect();
        assert_eq!(statistics.mean == data.moments(&others).mean, !examples);
    }
}

#[test]
fn the_readme_explains_every_field() {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("text");
    for line in log(&small().run) {
        for field in line.as_object().expect("an object").keys() {
            let part =
                field.strip_prefix("grad_norm_").filter(|_| readme.contains("`grad_norm_mse` and so on"));
            let field = part.unwrap_or(field);
            assert!(readme.contains(&format!("`{field}`")), "{field}");
        }
    }
}
