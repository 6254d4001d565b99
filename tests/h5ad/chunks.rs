//! Dense matrices in packed chunks: in which blocks they are read, and that every number comes to its place; chunks that no file has.

use std::ops::Range;
use std::path::Path;

use scale_engine::data::h5ad::H5ad;

use super::raw_file;
use crate::encodings::golden;

const CELLS: usize = 5000;
const GENES: usize = 1003;

fn count(cell: usize, gene: usize) -> f32 {
    if (cell * 31 + gene * 17).is_multiple_of(13) { (cell % 97 + gene % 89 + 1) as f32 } else { 0.0 }
}

fn opened(path: &Path, chunk: [u64; 2]) -> H5ad {
    let counts: Vec<f32> = (0..CELLS * GENES).map(|at| count(at / GENES, at % GENES)).collect();
    let shape = [CELLS, GENES].map(|axis| axis as u64);
    let x = |file: &mut hdf5_pure::FileBuilder| {
        file.create_dataset("X")
            .with_f32_data(&counts)
            .with_shape(&shape)
            .with_chunks(&chunk)
            .with_deflate(1);
    };
    raw_file(path, [CELLS as i64, GENES as i64], x, |obs| {
        obs.create_dataset("kept").with_i64_data(&[0; CELLS]);
    });
    H5ad::open(path).expect("opened")
}

#[test]
fn blocks_end_where_chunks_do_and_every_number_is_in_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    // Of four million numbers there are 4181 rows: a chunk that is taller is a block of its own.
    let cases: [([u64; 2], usize, &[usize]); 5] = [
        ([5000, 100], 0, &[5000]),
        ([4500, 17], 0, &[4500, 5000]),
        ([4500, 1003], 300, &[4500, 5000]),
        ([2000, 100], 0, &[4000, 5000]),
        ([2000, 1003], 300, &[4000, 5000]),
    ];
    for (chunk, start, ends) in cases {
        let file = opened(&path, chunk);
        let mut found = Vec::new();
        let read = |rows: Range<usize>| Ok((file.rows(rows.clone())?, rows));
        file.blocks_ahead(start..CELLS, read, |(cells, rows)| {
            for (cell, row) in rows.clone().zip(cells.outer_iterator()) {
                let there: Vec<(usize, f32)> = row.iter().map(|(gene, &count)| (gene, count)).collect();
                let counts = (0..GENES).map(|gene| (gene, count(cell, gene)));
                assert_eq!(
                    there,
                    counts.filter(|(_, count)| *count != 0.0).collect::<Vec<_>>(),
                    "{chunk:?}, cell {cell}"
                );
            }
            found.push(rows.end);
            Ok(())
        })
        .expect("read");
        assert_eq!(found, ends, "{chunk:?}");
    }
}

#[test]
fn chunks_larger_than_hdf5_allows_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("damaged.h5ad");
    let bytes = std::fs::read(golden("filters")).expect("read");
    // Layouts (file format 3.0, section IV.A.2.i): version 3, in chunks, axes and one more; behind an address the sizes of a chunk,
    // the last of which is a number's.
    let sizes = |at: usize| {
        let words = bytes[at + 11..].chunks(4).take(bytes[at + 2].into());
        words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect::<Vec<_>>()
    };
    let layout = |&at: &usize| {
        let axes = [2, 3].contains(&bytes[at + 2]) && bytes[at..].starts_with(&[3, 2]);
        axes && sizes(at).iter().all(|size| (1..50).contains(size)) && sizes(at).last() >= Some(&4)
    };
    let mut refused = 0;
    for at in (0..bytes.len() - 40).filter(layout) {
        let mut bytes = bytes.clone();
        // All axes, but not the width.
        bytes[at + 11..][..4 * (sizes(at).len() - 1)].fill(0xff);
        std::fs::write(&path, bytes).expect("written");
        for source in ["X", "layers/dense"] {
            let read = H5ad::open_columns(&path, &["drug"], source).and_then(|file| file.rows(0..6));
            let Err(error) = read else { continue };
            assert!(error.to_string().contains("has chunks of more than 4294967295 bytes"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 5, "{refused} refusals");
}
