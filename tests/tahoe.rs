//! Shards in the form of Tahoe-100M's release give what the same cells give as h5ad; what is wrong with them is reported.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use scale_engine::data::h5ad::{H5ad, describe};
use scale_engine::data::preprocess::{Contents, Genes, Settings, preprocess};
use scale_engine::data::shard::{Data, Manifest};
use scale_engine::error::Result;
use scale_engine::progress::Progress;

const CONTROL: &str = "[('DMSO_TF', 0.0, 'uM')]";

/// tests/golden/tahoe, or a file in it.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tahoe").join(name)
}

fn settings(inputs: &[PathBuf], out: &Path) -> Settings {
    Settings {
        inputs: inputs.to_vec(),
        out: out.to_path_buf(),
        perturbation: "drugname_drugconc".into(),
        control: CONTROL.into(),
        cell_type: Some("cell_line_id".into()),
        batch: Some("plate".into()),
        genes: Genes::Top(30),
        ..Default::default()
    }
}

fn made(settings: &Settings) -> Result<(Contents, Data)> {
    let kept = preprocess(settings, &Progress::silent())?.contents;
    Ok((kept, Data::open(&settings.out)?))
}

/// Labels, genes and every row; not which files they came from.
fn told(data: &Data) -> (Manifest, Vec<String>) {
    let mut manifest = data.manifest().clone();
    manifest.sources.clear();
    manifest.shards.clear();
    manifest.dataset.clear();
    let rows = (0..data.cells()).map(|cell| {
        let row = data.row(cell);
        format!("{:?} {:?} {}", row.genes, row.values, row.library)
    });
    (manifest, rows.chain(data.groups().iter().map(|group| format!("{group:?}"))).collect())
}

/// A copy of the release that a test may spoil.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for folder in ["data", "metadata"] {
        std::fs::create_dir(dir.path().join(folder)).expect("made");
        for entry in
            std::fs::read_dir(golden(folder)).expect("a folder").map(|entry| entry.expect("an entry"))
        {
            std::fs::copy(entry.path(), dir.path().join(folder).join(entry.file_name())).expect("copied");
        }
    }
    dir
}

#[test]
fn a_folder_of_shards_gives_what_the_same_cells_give_as_h5ad() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let of_h5ad = made(&settings(&[golden("cells.h5ad")], &dir.path().join("h5ad"))).expect("shards").1;
    let (kept, of_folder) = made(&settings(&[golden("data")], &dir.path().join("folder"))).expect("shards");
    assert_eq!(told(&of_h5ad), told(&of_folder));
    assert_eq!((kept.cells, kept.dropped, kept.perturbations), (48, 0, 5));
    let blank = "[('Erdafitinib ', 0.05, 'uM')]".to_string();
    assert!(of_folder.manifest().perturbations.contains(&blank), "{:?}", of_folder.manifest().perturbations);
    // Shards one by one, as files of one data set.
    let shards = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"].map(golden);
    let of_files = made(&settings(&shards, &dir.path().join("files"))).expect("shards").1;
    assert_eq!(told(&of_h5ad).1, told(&of_files).1);
}

#[test]
fn a_shard_is_told_of_and_read_in_any_pieces() {
    let told = describe(&golden("data")).expect("described");
    assert_eq!((told["kind"].as_str(), told["cells"].as_u64()), (Some("Tahoe parquet"), Some(48)));
    assert_eq!(told["x"]["storage"], "parquet lists");
    assert_eq!((told["parquet"]["files"].as_u64(), told["parquet"]["rows"].as_u64()), (Some(2), Some(48)));
    assert!(told["parquet"]["preprocess"].as_str().expect("words").starts_with("reads it as it is"));
    let columns = told["obs"].to_string();
    assert!(columns.contains("drugname_drugconc") && !columns.contains("__index"), "{columns}");
    let (shards, cells) =
        (H5ad::open(&golden("data")).expect("opened"), H5ad::open(&golden("cells.h5ad")).expect("opened"));
    for range in [0..48, 0..1, 3..4, 10..12, 20..40, 28..30, 47..48, 5..5] {
        assert_eq!(
            shards.rows(range.clone()).expect("rows"),
            cells.rows(range.clone()).expect("rows"),
            "{range:?}"
        );
    }
    let walked: usize = shards.blocks().map(|block| block.expect("a block").0.len()).sum();
    assert_eq!(walked, 48);
    assert_eq!(shards.var().index, cells.var().index);
    assert_eq!(shards.obs().index, cells.obs().index);
}

#[test]
fn labels_come_from_a_parquet_table_by_what_was_its_index() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let of_h5ad = made(&settings(&[golden("cells.h5ad")], &dir.path().join("h5ad"))).expect("shards").1;
    let mut with_table = settings(&[golden("data")], &dir.path().join("table"));
    with_table.labels = Some(golden("labels.parquet"));
    with_table.cell_type = Some("line".into());
    let (kept, of_table) = made(&with_table).expect("shards");
    assert_eq!(kept.joined.map(|joined| (joined.matched, joined.unused)), Some((48, 0)));
    assert_eq!(told(&of_h5ad).1, told(&of_table).1);
}

#[test]
fn a_table_is_read_by_the_columns_that_are_asked_for() {
    let (dir, mut settings) = crate::preprocess::small(|_, _, _| ());
    let table = dir.path().join("labels.parquet");
    let schema =
        "message labels { required binary cell (UTF8); required binary drug (UTF8); required binary image; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let file = std::fs::File::create(&table).expect("made");
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    // The last column is neither text nor numbers.
    for column in [[&b"cell0"[..], b"cell1"], [b"none", b"a"], [b"\xff\xd8", b"\xff\xd9"]] {
        let mut out = group.next_column().expect("a column").expect("a column");
        let bytes = column.map(|bytes| ByteArray::from(bytes.to_vec()));
        out.typed::<ByteArrayType>().write_batch(&bytes, None, None).expect("written");
        out.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
    settings.labels = Some(table);
    let kept = made(&settings).expect("made").0;
    assert_eq!((kept.cells, kept.dropped), (2, 4));

    settings.out = dir.path().join("other");
    settings.batch = Some("image".into());
    let what = made(&settings).expect_err("no text").to_string();
    assert!(what.contains("labels.parquet: column \"image\""), "{what}");
}

#[test]
fn what_is_missing_is_told_with_the_way_out() {
    let refused = |spoil: &dyn Fn(&Path), change: &dyn Fn(&mut Settings), expected: &str| {
        let release = copied();
        spoil(release.path());
        let out = release.path().join("out");
        let mut settings = settings(&[release.path().join("data")], &out);
        change(&mut settings);
        let message = made(&settings).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
        assert!(!out.exists());
    };
    let (nothing, as_is) = (|_: &Path| (), |_: &mut Settings| ());
    let no_metadata = |dir: &Path| std::fs::remove_dir_all(dir.join("metadata")).expect("removed");
    refused(&no_metadata, &as_is, "gene_metadata.parquet and sample_metadata.parquet of the release");
    let swapped = |dir: &Path| {
        let table = |name: &str| dir.join("metadata").join(name);
        std::fs::copy(table("gene_metadata.parquet"), table("sample_metadata.parquet"))
            .map(drop)
            .expect("copied");
    };
    refused(&swapped, &as_is, "column \"drugname_drugconc\": not in ");
    refused(
        &nothing,
        &|settings| settings.cell_type = Some("cell_lin".into()),
        "did you mean \"cell_line_id\"",
    );
    refused(&nothing, &|settings| settings.source = "raw".into(), "omit `source`");
    let no_lists = |dir: &Path| {
        std::fs::copy(golden("labels.parquet"), dir.join("data/train-00000-of-00002.parquet"))
            .map(drop)
            .expect("copied");
    };
    refused(&no_lists, &as_is, "has no column \"genes\" of lists");
}

#[test]
fn a_damaged_shard_is_refused_and_never_a_panic() {
    let name = "data/train-00001-of-00002.parquet";
    let whole = std::fs::read(golden(name)).expect("readable");
    let release = copied();
    let shard = release.path().join(name);
    let out = release.path().join("out");
    let settings = settings(&[release.path().join("data")], &out);
    for length in (0..whole.len()).step_by(331) {
        std::fs::write(&shard, &whole[..length]).expect("written");
        let message = made(&settings).expect_err("cut off").to_string();
        assert!(message.contains(name), "{message}");
        assert!(!out.exists());
    }
    // A flipped bit may pass for other counts, as parquet need not have a checksum. But a failure comes with a message.
    for place in (4..whole.len()).step_by(37) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        std::fs::write(&shard, &flipped).expect("written");
        if let Err(error) = made(&settings) {
            assert!(!error.to_string().is_empty() && !out.exists());
        } else {
            std::fs::remove_dir_all(&out).expect("removed");
        }
    }
}

/// One damaged page, found by fuzzing: its header asks for more bytes than the file has.
#[test]
fn a_page_that_runs_past_the_end_is_refused_in_time() {
    let dir = copied();
    let shard = dir.path().join("data/endless.parquet");
    std::fs::copy(golden("endless.parquet"), &shard).expect("copied");
    let settings = Settings {
        batch: None,
        cell_type: Some("plate".into()),
        ..settings(&[shard], &dir.path().join("out"))
    };
    let (tell, told) = std::sync::mpsc::channel();
    // In a thread of its own: even if it never ended, the test would.
    std::thread::spawn(move || tell.send(made(&settings).err().map(|error| error.to_string())));
    let what = told.recv_timeout(std::time::Duration::from_secs(60)).expect("an answer").expect("a refusal");
    assert!(what.contains("endless.parquet: "), "{what}");
}

/// Another: it announces more entries of a dictionary than fit in memory.
#[test]
fn a_dictionary_that_promises_too_much_is_refused() {
    let dir = copied();
    let shard = dir.path().join("data/dictionary.parquet");
    std::fs::copy(golden("dictionary.parquet"), &shard).expect("copied");
    let what =
        H5ad::open_columns(&shard, &["drugname_drugconc", "plate"], "X").expect_err("refused").to_string();
    assert!(what.contains("dictionary.parquet: column"), "{what}");
    let shards = Settings { batch: None, ..settings(&[shard], &dir.path().join("out")) };
    assert!(made(&shards).is_err());
}

/// Another, on which the parquet crate panics: refused like others, with nothing else on stderr.
#[test]
fn a_page_on_which_the_crate_panics_is_refused() {
    let dir = copied();
    let shard = dir.path().join("data/panics.parquet");
    std::fs::copy(golden("panics.parquet"), &shard).expect("copied");
    let out = dir.path().join("out");
    let told = Command::new(env!("CARGO_BIN_EXE_scale-engine"))
        .args(["preprocess", "--pert-col", "drugname_drugconc", "--control-pert", CONTROL, "--celltype-col"])
        .args(["cell_line_id".as_ref(), "--out".as_ref(), out.as_os_str(), shard.as_os_str()])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.starts_with("error: ") && said.contains("panics.parquet: column"), "{said}");
    assert!(said.contains("download the file again") && said.lines().count() == 1, "{said}");
    // As a table of labels, too.
    let mut with_table = settings(&[golden("data")], &out);
    with_table.labels = Some(shard);
    let what = made(&with_table).expect_err("refused").to_string();
    assert!(what.contains("panics.parquet: column") && !out.exists(), "{what}");
}

#[test]
fn other_parquet_is_told_of_as_a_table() {
    let inspect = |path: &Path| {
        let told = Command::new(env!("CARGO_BIN_EXE_scale-engine")).arg("inspect").arg(path).output();
        String::from_utf8(told.expect("runs").stdout).expect("text")
    };
    let table = describe(&golden("labels.parquet")).expect("described");
    assert_eq!((table["kind"].as_str(), table["rows"].as_u64()), (Some("parquet table"), Some(48)));
    assert!(table["preprocess"].as_str().expect("words").contains("`labels`"));
    assert!(inspect(&golden("labels.parquet")).contains("parquet table"));
    assert!(inspect(&golden("data")).contains("Tahoe parquet"));
    // A shard without the tables of its release.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shard = dir.path().join("shard.parquet");
    std::fs::copy(golden("data/train-00000-of-00002.parquet"), &shard).expect("copied");
    let alone = describe(&shard).expect("described");
    assert!(alone["preprocess"].as_str().expect("words").contains("gene_metadata.parquet"), "{alone}");
}
