//! What `h5ad::write` refuses: anndata could not open it, or would find something else in it.

use scale_engine::data::h5ad::{Column, Extra, Frame, Labels, X, write};

use super::{cells, frames, named};

#[test]
fn what_would_be_written_wrongly_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    let refused = |obs: &Frame, x: X, extras: &[(String, Extra)]| {
        let what = write(&path, obs, &var, x, extras).expect_err("a refusal").to_string();
        assert!(!path.exists(), "{what}: left a file");
        what
    };
    let with = |name: &str, column: Column| {
        let mut obs = obs.clone();
        obs.columns.push((name.into(), column));
        obs
    };
    let codes = |codes: &[i32]| Column::Categorical(Labels { codes: codes.to_vec(), names: named("x", 2) });
    let categories = |names: &[&str]| {
        let names = names.iter().map(|name| name.to_string()).collect();
        Column::Categorical(Labels { codes: vec![0, 1, 2], names })
    };
    let loadings = Extra::Numbers { shape: vec![4, 2], values: &[1.0; 4] };
    let x = cells();
    for (told, expected) in [
        (refused(&obs, X::Sparse(&x.to_csc()), &[]), "X is CSC"),
        (refused(&obs, X::Dense { shape: (3, 4), numbers: &[1.0; 11] }, &[]), "11 numbers for shape (3, 4)"),
        // Stored in a byte, 256 would be 0: another category.
        (refused(&with("bad", codes(&[0, 256, 0])), X::Sparse(&x), &[]), "outside its 2 categories"),
        (refused(&with("bad", codes(&[0, 1, -7])), X::Sparse(&x), &[]), "outside its 2 categories"),
        (
            refused(&with("note", Column::Integer(vec![1, 2, 3])), X::Sparse(&x), &[]),
            "\"note\" appears twice",
        ),
        (refused(&obs, X::Sparse(&x), &[("varm/l".into(), loadings)]), "4 numbers for shape [4, 2]"),
        (
            refused(&with("bad", categories(&["A", "B", "A"])), X::Sparse(&x), &[]),
            "\"bad\" names the category \"A\" twice",
        ),
        (refused(&with("a\0b", Column::Integer(vec![1, 2, 3])), X::Sparse(&x), &[]), "/ or NUL"),
        (refused(&with("a/b", Column::Integer(vec![1, 2, 3])), X::Sparse(&x), &[]), "/ or NUL"),
        (refused(&with("bad", categories(&["A", "x\0y", "B"])), X::Sparse(&x), &[]), "\"x\\0y\""),
    ] {
        assert!(told.contains(expected), "{told:?} should say {expected:?}");
    }
}

#[test]
fn extras_that_anndata_could_not_open_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    let x = cells();
    let text = |text: &str| Extra::Text(text.into());
    let numbers = |shape: &[usize]| Extra::Numbers {
        shape: shape.to_vec(),
        values: &[0.5; 16][..shape.iter().product::<usize>().min(16)],
    };
    let words = |count| Extra::Strings(named("word", count));
    for (extras, expected) in [
        (vec![("layers/l", numbers(&[5]))], "layers/l has shape [5], but in layers shapes begin with [3, 4]"),
        (vec![("layers/l", numbers(&[4, 3]))], "begin with [3, 4]"),
        (vec![("obsm/a", numbers(&[5]))], "begin with [3]"),
        (vec![("obsp/a", numbers(&[3]))], "begin with [3, 3]"),
        (vec![("varp/a", numbers(&[3, 3]))], "begin with [4, 4]"),
        (vec![("obsm/a", text("e"))], "has shape [], but in obsm"),
        (vec![("varm/a", words(3))], "begin with [4]"),
        (vec![("obsm/a/b", numbers(&[3, 2]))], "only uns has folders"),
        (vec![("uns", text("e"))], "extras go under"),
        (vec![("uns/a//b", text("e"))], "extras go under"),
        (vec![("uns/a", text("x\0y"))], "NUL"),
        (vec![("uns/a", text("1")), ("uns/a", text("2"))], "uns/a is there twice"),
        (vec![("uns/a", text("1")), ("uns/a/b", text("2"))], "as a folder"),
        (vec![("uns/a/b", text("1")), ("uns/a", text("2"))], "as a folder"),
        (vec![("uns/a", Extra::Numbers { shape: vec![usize::MAX, 2], values: &[0.5; 2] })], "2 numbers"),
    ] {
        let extras: Vec<(String, Extra)> =
            extras.into_iter().map(|(place, extra)| (place.to_string(), extra)).collect();
        let told = write(&path, &obs, &var, X::Sparse(&x), &extras).expect_err("a refusal").to_string();
        assert!(told.contains(expected) && !path.exists(), "{told:?} should say {expected:?}");
    }
    let fit = [
        ("layers/l", numbers(&[3, 4])),
        ("obsm/a", numbers(&[3, 2])),
        ("obsp/a", numbers(&[3, 3])),
        ("varp/a", numbers(&[4, 4])),
        ("varm/a", words(4)),
        ("uns/a/b/c", text("e")),
    ];
    let fit: Vec<(String, Extra)> =
        fit.into_iter().map(|(place, extra)| (place.to_string(), extra)).collect();
    write(&path, &obs, &var, X::Sparse(&x), &fit).expect("written");
}
