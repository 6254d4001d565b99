//! The split files of benchmarks.

use std::collections::HashSet;

use scale_engine::data::shard::{Data, Manifest};
use scale_engine::data::split::{FewShot, Part, Preset, Split};

use super::{load, part};
use crate::small_data::{World, header};

/// A directory with the given cell types, each with controls and one perturbation.
fn contexts(cell_types: &[&str], batches: &[&str]) -> World {
    let mut header = header(10, cell_types.len(), 1, batches.len());
    header.cell_types = cell_types.iter().map(|name| name.to_string()).collect();
    header.batches = batches.iter().map(|name| name.to_string()).collect();
    let groups: Vec<_> = (0..cell_types.len() as u32).flat_map(|c| [(c, 0, 0, 5), (c, 1, 0, 4)]).collect();
    World::of_groups(header, &groups)
}

fn preset(data: &Data, preset: Preset) -> Result<Split, String> {
    let text = preset.text(data, None).map_err(|error| error.to_string())?;
    load(data, &text)
}

#[test]
fn a_preset_holds_out_the_contexts_of_its_benchmark() {
    let tahoe = ["CVCL_0023", "CVCL_0334", "CVCL_0480", "CVCL_1097", "CVCL_1098", "CVCL_1285"];
    let pbmc = ["Donor1", "Donor12", "Donor2", "Donor4", "Donor9"];
    for (benchmark, names, held) in [
        (Preset::Tahoe, &tahoe[..], &[1, 2, 3, 4, 5][..]),
        (Preset::Pbmc, &pbmc[..], &[0, 1, 3, 4][..]),
        (Preset::Replogle, &["hepg2", "jurkat", "k562"][..], &[0][..]),
    ] {
        let (_dir, data) = contexts(names, &["plate1"]).open();
        let split = preset(&data, benchmark).expect("a split");
        let test: Vec<u32> = part(&split, Part::Test, &data).iter().map(|ids| ids.0).collect();
        let twice: Vec<u32> = held.iter().chain(held).copied().collect();
        assert_eq!(HashSet::<u32>::from_iter(test.clone()), HashSet::from_iter(twice), "{benchmark:?}");
        assert_eq!(split.perturbed(Part::Train, &data).len(), names.len() - held.len());
        assert!(split.part(Part::Val).is_empty());
    }
}

#[test]
fn a_preset_trains_on_the_same_share_of_each_context() {
    let names = ["Donor1", "Donor12", "Donor2", "Donor4", "Donor9"].map(String::from).to_vec();
    let header = Manifest { cell_types: names, ..header(10, 5, 10, 1) };
    // Donor1 lacks the last perturbation.
    let has = |&(c, p): &(u32, u32)| (c, p) != (0, 10);
    let pairs = (0..5).flat_map(|c| (0..11).map(move |p| (c, p))).filter(has);
    let (_dir, data) = World::of_groups(header, &pairs.map(|(c, p)| (c, p, 0, 4)).collect::<Vec<_>>()).open();
    let text = |share, seed| Preset::Pbmc.text(&data, Some(FewShot { share, seed }));
    let lists = text(0.3, 0).expect("a split file");
    assert!(lists.contains("3 of their 10 perturbations, drawn with seed 0"), "{lists}");
    assert_eq!(lists, text(0.3, 0).expect("a split file"), "one seed, one draw");
    assert_ne!(lists, text(0.3, 1).expect("a split file"), "another seed, another draw");
    let split = load(&data, &lists).expect("a split");
    let of = |part: Part, context: u32| -> HashSet<u32> {
        let groups = split.perturbed(part, &data).into_iter().map(|g| &data.groups()[g as usize]);
        groups.filter(|g| g.cell_type == context).map(|g| g.perturbation).collect()
    };
    assert_eq!(of(Part::Train, 2).len(), 10);
    for context in [1, 3, 4] {
        assert_eq!((of(Part::Train, context).len(), of(Part::Test, context).len()), (3, 7));
        assert_eq!(of(Part::Train, context), of(Part::Train, 1));
    }
    assert!(of(Part::Test, 0).is_subset(&of(Part::Test, 1)));
    let none = text(0.01, 0).expect_err("nothing is drawn").to_string();
    assert!(none.starts_with("few_shot: 0.01 of 10 perturbations"), "{none}");
}

#[test]
fn a_preset_without_its_contexts_says_where_they_could_be() {
    let donors = ["Donor1", "Donor12", "Donor2", "Donor4", "Donor9"];
    for (cell_types, batches, benchmark, expected) in [
        (&["B", "T"][..], &donors[..], Preset::Pbmc, "`cell_type = donor` `batch = cell_type`"),
        (&["HepG2", "k562"][..], &["1"][..], Preset::Replogle, "did you mean \"HepG2\""),
        (&["A", "B"][..], &["1"][..], Preset::Tahoe, "no \"CVCL_1097\", \"CVCL_1285\""),
        (&["hepg2"][..], &["1"][..], Preset::Replogle, "has no other cell line"),
    ] {
        let (_dir, data) = contexts(cell_types, batches).open();
        let message = preset(&data, benchmark).expect_err("refused");
        assert!(
            message.starts_with(&format!("Preset::{benchmark:?}: ")) && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn the_command_writes_a_preset_or_nothing() {
    let (dir, _data) = contexts(&["hepg2", "jurkat"], &["1"]).open();
    let out = dir.path().join("replogle.toml");
    let run = |preset: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.args(["split", "--preset", preset, "--data"]).arg(dir.path()).arg("--out").arg(&out);
        command.output().expect("started")
    };
    assert_eq!(run("tahoe").status.code(), Some(2));
    assert!(!out.exists());
    let output = run("replogle");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&out).expect("written");
    assert!(text.contains("\"small.hepg2\" = \"test\""), "{text}");
    let hash = Split::load(&out, &Data::open(dir.path()).expect("opened")).expect("a split").hash;
    assert!(table.contains(&hash), "{table}");
}

#[test]
fn the_command_draws_with_the_seed_that_it_is_given() {
    let header =
        Manifest { cell_types: ["hepg2", "jurkat"].map(String::from).to_vec(), ..header(10, 2, 10, 1) };
    let groups: Vec<_> = (0..2).flat_map(|c| (0..11).map(move |p| (c, p, 0, 4))).collect();
    let (dir, _data) = World::of_groups(header, &groups).open();
    let text = |seed: &str| {
        let out = dir.path().join(format!("{seed}.toml"));
        let mut command = crate::train::program();
        command.args(["split", "--preset", "replogle", "--few-shot", "0.3", "--seed", seed, "--data"]);
        assert!(command.arg(dir.path()).arg("--out").arg(&out).status().expect("started").success());
        std::fs::read_to_string(&out).expect("written")
    };
    assert!(text("7").contains("drawn with seed 7"), "{}", text("7"));
}
