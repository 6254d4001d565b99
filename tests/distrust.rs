//! What goes wrong with files and disks: refused with a message, and nothing half-written is left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scale_engine::data::simulate::{Settings as World, simulate};

/// What a folder contains, hidden files too.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A folder with the cells.h5ad of a small world.
fn cells() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let world =
        World { cells: 600, skip: 0, genes: 200, perturbations: 3, cell_types: 2, batches: 1, seed: 2 };
    simulate(&world).and_then(|world| world.write(&dir.path().join("cells.h5ad"))).expect("a world");
    dir
}

const COLUMNS: &str =
    "--pert-col perturbation --control-pert non-targeting --celltype-col cell_type --n-top-genes 200";

/// Runs a line of shell in a folder; `ENGINE` is the program.
fn shell(dir: &Path, line: &str) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(dir).env("ENGINE", env!("CARGO_BIN_EXE_scale-engine")).args(["-c", line]);
    command.output().expect("a shell")
}

fn refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "{said:?} should say {expected:?}");
}

/// A limit on the size of files stands for a full disk: the system refuses the same writes, in the middle of a file.
#[test]
fn a_disk_that_fills_up_leaves_no_half_data_set() {
    let dir = cells();
    let whole = std::fs::metadata(dir.path().join("cells.h5ad")).expect("a file").len();
    assert!(whole > 40 << 10, "{whole} bytes are too few to be cut short");
    let preprocess = format!("\"$ENGINE\" preprocess cells.h5ad --out data {COLUMNS}");
    let made = shell(dir.path(), &preprocess);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::rename(dir.path().join("data"), dir.path().join("kept")).expect("renamed");
    // 512-byte blocks; without the trap the signal would end the program.
    for blocks in [0, 8, 40] {
        for command in [
            preprocess.as_str(),
            "\"$ENGINE\" export kept --out out.h5ad",
            "\"$ENGINE\" simulate --out out.h5ad --cells 600 --genes 200",
            "\"$ENGINE\" baseline mean --data kept --split split.toml --subset test --out out.h5ad",
        ] {
            let split = "[datasets]\ncells = \"cells.h5ad\"\n[zeroshot]\n\"cells.type1\" = \"test\"\n";
            std::fs::write(dir.path().join("split.toml"), split).expect("written");
            let output = shell(dir.path(), &format!("trap '' XFSZ; ulimit -f {blocks}; {command}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command} within {blocks} blocks: {said}");
            assert_eq!(
                names(dir.path()),
                ["cells.h5ad", "kept", "split.toml"],
                "{command} within {blocks} blocks: {said}"
            );
        }
    }
}

/// The superuser may write anywhere: the program is then run as `nobody`, if that user can reach it.
#[test]
fn a_folder_that_may_not_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = cells();
    let place = dir.path().join("closed");
    std::fs::create_dir(&place).expect("made");
    for (path, mode) in [(place.as_path(), 0o555), (dir.path(), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
    }
    let try_it = place.join("tried");
    let as_nobody = std::fs::write(&try_it, "").is_ok();
    let _ = std::fs::remove_file(&try_it);
    let run = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.current_dir(dir.path()).args(arguments.split(' '));
        if as_nobody {
            command.uid(65_534);
        }
        command.output()
    };
    if !run("--version").is_ok_and(|output| output.status.success()) {
        crate::shared::skipped("the super user runs this test, and nobody may not run the program");
        return;
    }
    let output = run(&format!("preprocess cells.h5ad --out closed/data {COLUMNS}")).expect("started");
    refused(&output, "closed/.data.parts: Permission denied");
    assert_eq!(names(&place), Vec::<String>::new());
    std::fs::set_permissions(dir.path().join("cells.h5ad"), std::fs::Permissions::from_mode(0o000))
        .expect("changed");
    let output = run(&format!("preprocess cells.h5ad --out data {COLUMNS}")).expect("started");
    refused(&output, "cells.h5ad: Permission denied");
    assert_eq!(names(dir.path()), ["cells.h5ad", "closed"]);
}

#[test]
fn a_file_that_is_cut_off_leaves_no_data_set() {
    let dir = cells();
    let path = dir.path().join("cells.h5ad");
    let whole = std::fs::read(&path).expect("readable");
    for part in 0..24 {
        std::fs::write(&path, &whole[..whole.len() * part / 24]).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command
            .current_dir(dir.path())
            .args(["preprocess", "cells.h5ad", "--out", "data"])
            .args(COLUMNS.split(' '));
        let expected = if part == 0 { "cells.h5ad: " } else { "cells.h5ad: is cut off" };
        refused(&command.output().expect("started"), expected);
        assert_eq!(names(dir.path()), ["cells.h5ad"], "{part} parts of 24");
    }
}

/// A folder of 10x with three cells and four features.
fn market(entries: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let count = entries.lines().count();
    let head = "%%MatrixMarket matrix coordinate real general\n";
    for (name, text) in [
        ("matrix.mtx", format!("{head}4 3 {count}\n{entries}")),
        ("barcodes.tsv", "AAA\nCCC\nGGG\n".into()),
        ("genes.tsv", "E1\tCD3E\nE2\tACTB\nE3\tMYC\nE4\tTP53\n".into()),
        ("labels.csv", "barcode,drug,line\nAAA,none,T\nCCC,a,T\nGGG,b,T\n".into()),
    ] {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

#[test]
fn numbers_that_are_no_counts_are_refused_by_cell_and_gene() {
    for (entries, expected) in [
        ("1 1 1\n2 2 nan\n3 3 4\n", "cell \"CCC\", gene \"ACTB\" is NaN"),
        ("1 1 1\n2 2 inf\n3 3 4\n", "cell \"CCC\", gene \"ACTB\" is inf"),
        ("1 1 1\n2 2 1e39\n3 3 4\n", "cell \"CCC\", gene \"ACTB\" is inf"),
        ("1 1 1\n2 2 -3\n3 3 4\n", "cell \"CCC\", gene \"ACTB\" is -3; negative values"),
        ("1 1 1\n2 2 2\n2 2 3\n3 3 4\n", "gene number 1 of cell number 1 twice"),
        ("1 1 1\n0 2 2\n3 3 4\n", "entry \"0 2 2\""),
        ("1 1 1\n2 4 2\n3 3 4\n", "entry \"2 4 2\""),
        ("1 1 1\n18446744073709551617 2 2\n3 3 4\n", "entry \"18446744073709551617 2 2\""),
    ] {
        let dir = market(entries);
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.current_dir(dir.path()).args(["preprocess", ".", "--labels", "labels.csv", "--out", "data"]);
        command.args("--pert-col drug --control-pert none --celltype-col line --n-top-genes 4".split(' '));
        refused(&command.output().expect("started"), expected);
        assert!(!dir.path().join("data").exists());
    }
}

/// Unsorted entries are sorted: the same entries in any order give the same bytes.
#[test]
fn entries_in_any_order_are_the_same_cells() {
    let bytes = |entries: &str| {
        let dir = market(entries);
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.current_dir(dir.path()).args(["preprocess", ".", "--labels", "labels.csv", "--out", "data"]);
        command.args("--pert-col drug --control-pert none --celltype-col line --n-top-genes 4".split(' '));
        let output = command.output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let shard: PathBuf = dir.path().join("data/perturbed-0000.shard");
        std::fs::read(shard).expect("a shard")
    };
    assert_eq!(bytes("1 1 1\n1 2 5\n3 2 2\n4 3 9\n"), bytes("4 3 9\n3 2 2\n1 2 5\n1 1 1\n"));
}

#[cfg(feature = "parquet")]
mod shards {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use scale_engine::data::h5ad::H5ad;

    use super::*;

    const SCHEMA: &str = "message shard {
        optional group genes (LIST) { repeated group list { optional int64 element; } }
        optional group expressions (LIST) { repeated group list { optional float element; } }
        required binary BARCODE_SUB_LIB_ID (UTF8);
        required binary sample (UTF8);
    }";

    /// Writes a column of lists as values and levels; `None` is a missing number.
    fn lists<T: DataType>(out: &mut SerializedFileWriterOf<'_>, rows: &[Vec<Option<T::T>>]) {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            if row.is_empty() {
                defined.push(1);
                repeated.push(0);
            }
            for (i, entry) in row.iter().enumerate() {
                repeated.push(i16::from(i > 0));
                defined.push(if entry.is_some() { 3 } else { 2 });
                values.extend(entry.clone());
            }
        }
        let mut column = out.next_column().expect("a column").expect("a column");
        column.typed::<T>().write_batch(&values, Some(&defined), Some(&repeated)).expect("written");
        column.close().expect("closed");
    }

    type SerializedFileWriterOf<'a> = parquet::file::writer::SerializedRowGroupWriter<'a, std::fs::File>;

    /// A release whose one cell holds the numbers given; genes and samples are those of tests/golden/tahoe.
    fn release(tokens: &[Option<i64>], counts: &[Option<f32>]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tahoe/metadata");
        std::fs::create_dir(dir.path().join("metadata")).expect("made");
        for name in names(&golden) {
            std::fs::copy(golden.join(&name), dir.path().join("metadata").join(&name)).expect("copied");
        }
        let file = std::fs::File::create(dir.path().join("shard.parquet")).expect("made");
        let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).expect("a writer");
        let mut group = writer.next_row_group().expect("a group");
        lists::<Int64Type>(&mut group, &[tokens.to_vec()]);
        lists::<FloatType>(&mut group, &[counts.to_vec()]);
        for text in ["cell0", "smp_1589"] {
            let mut column = group.next_column().expect("a column").expect("a column");
            column
                .typed::<ByteArrayType>()
                .write_batch(&[ByteArray::from(text)], None, None)
                .expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");
        dir
    }

    fn read(tokens: &[Option<i64>], counts: &[Option<f32>]) -> Result<Vec<f32>, String> {
        let dir = release(tokens, counts);
        let file = H5ad::open(&dir.path().join("shard.parquet")).map_err(|error| error.to_string())?;
        file.rows(0..1).map(|rows| rows.data().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_that_lie_are_refused_by_cell() {
        let (a, b) = (Some(47_707), Some(51_979));
        assert_eq!(read(&[Some(1), a, b], &[Some(-2.0), Some(3.0), Some(4.0)]).map(|row| row.len()), Ok(2));
        assert_eq!(read(&[b, a], &[Some(3.0), Some(0.0)]), Ok(vec![3.0]), "a stored zero");
        assert_eq!(read(&[Some(1)], &[Some(-2.0)]), Ok(vec![]));
        assert_eq!(read(&[], &[]), Ok(vec![]));
        for (tokens, counts, expected) in [
            (vec![a, a], vec![Some(1.0), Some(2.0)], "twice"),
            (vec![a, Some(2)], vec![Some(1.0), Some(2.0)], "cell \"cell0\": token 2 is not a gene"),
            (vec![a, Some(-7)], vec![Some(1.0), Some(2.0)], "token -7 is not a gene"),
            (vec![a, Some(i64::MAX)], vec![Some(1.0), Some(2.0)], "token 9223372036854775807 is not a gene"),
            // A token that is a known one only modulo 2^32.
            (vec![a, Some(51_979 + (1 << 32))], vec![Some(1.0), Some(2.0)], "is not a gene"),
            (vec![a, b], vec![Some(1.0)], "genes and expressions have different lengths"),
            (vec![a, None], vec![Some(1.0), Some(2.0)], "column \"genes\" lacks a number in row 0"),
            (vec![a, b], vec![None, Some(2.0)], "column \"expressions\" lacks a number in row 0"),
        ] {
            let message = read(&tokens, &counts).expect_err("refused");
            assert!(message.contains(expected) && message.contains("shard.parquet"), "{message}");
        }
    }

    #[test]
    fn counts_that_are_none_are_refused_by_cell_and_gene() {
        let token = [Some(47_707), Some(51_979)];
        for (count, expected) in [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf"), (-3.0, "is -3; negative")]
        {
            let dir = release(&token, &[Some(1.0), Some(count)]);
            let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
            command.current_dir(dir.path()).args(["preprocess", "shard.parquet", "--out", "data"]);
            command.args(["--pert-col", "drugname_drugconc", "--control-pert", "[('DMSO_TF', 0.0, 'uM')]"]);
            command.args("--celltype-col sample --scale log1p".split(' '));
            refused(
                &command.output().expect("started"),
                &format!("cell \"cell0\", gene \"ENSG00000273096\" {expected}"),
            );
            assert!(!dir.path().join("data").exists());
        }
    }
}
