//! Rows of attention: in cells and sets, with a seed, next to a gate, and of the seed itself.

use crate::ops::{attention, seed_attention, swiglu};
use crate::selftest::case::{Case, case};

/// All of them.
pub fn rows() -> Vec<Case> {
    let mut rows = plain();
    // Next to a SwiGLU: odd widths, rows that tensor cores take, rows that only the gates make odd.
    for (sizes, gate) in [
        ([2, 5, 2, 9], 7),
        ([3, 33, 1, 33], 1),
        ([2, 16, 2, 32], 24),
        ([2, 70, 1, 64], 40),
        ([2, 9, 2, 64], 13),
        ([1, 150, 1, 128], 96),
        ([2, 257, 2, 64], 320),
    ] {
        rows.push(beside(sizes, gate));
    }
    for [b, t, h, k] in [
        [1, 1, 1, 1],
        [33, 3, 1, 128],
        [7, 16, 4, 16],
        [300, 5, 3, 33],
        // More columns than a warp takes at once; many patches; more lanes than sets fill.
        [3, 7, 2, 520],
        [9, 64, 3, 16],
        [65, 2, 12, 8],
    ] {
        rows.push(seed(b, t, h, k));
    }
    rows
}

/// One row for each path: on any device, in cells, in sets, on Hopper.
fn plain() -> Vec<Case> {
    let mut rows = Vec::new();
    for (sizes, seeded) in [
        ([1, 1, 1, 1], false),
        ([2, 1, 2, 5], true),
        ([3, 33, 2, 9], true),
        ([3, 33, 2, 9], false),
        ([2, 97, 1, 33], true),
        ([300, 16, 1, 64], false),
        ([5, 4, 1, 128], false),
        ([2, 257, 2, 64], true),
        // Small enough to be emulated, one or more for each path on tensor cores: in cells of up to 16, 32, 64 rows; in sets with
        // one or more blocks of queries and of keys.
        ([7, 16, 2, 64], false),
        ([3, 13, 1, 64], false),
        ([3, 19, 2, 64], false),
        ([2, 33, 1, 64], false),
        ([3, 9, 2, 128], false),
        ([2, 5, 1, 64], true),
        ([1, 5, 1, 128], true),
        ([2, 70, 1, 64], false),
        ([1, 70, 1, 128], true),
        ([1, 150, 1, 128], true),
        ([1, 300, 1, 64], true),
        // For Hopper's own kernel too: sets that end inside a tile, two steps of keys; sizes not for it; several tiles per block.
        ([5, 35, 1, 128], true),
        ([1, 70, 2, 128], false),
        ([1, 180, 1, 128], false),
        ([3, 20, 1, 128], true),
        ([2, 512, 8, 128], true),
    ] {
        rows.push(attend(sizes, seeded));
    }
    // Each of an H200's 132 blocks takes two heads, one after the other, in three passes over keys. Judged by the CPU's op: the
    // reference's loops over f64 would take half a minute.
    let [b, n, h, k] = [33, 257, 8, 128];
    rows.push(case("attention of many heads", &[&[b, n, 3 * h * k], &[b, 2 * h * k]], move |t, v| {
        t.attention(v[0], Some(v[1]), h)
    }));
    rows
}

fn attend([b, n, h, k]: [usize; 4], seeded: bool) -> Case {
    let z = attention::reference::Sizes { rows: n, heads: h, width: k };
    if !seeded {
        return case("attention", &[&[b, n, 3 * h * k]], move |t, v| t.attention(v[0], None, h)).judged_by(
            move |x, _| attention::reference::forward(&x[0], None, z),
            move |dy, x| vec![attention::reference::backward(dy, &x[0], None, z).0],
        );
    }
    let shapes: [&[usize]; 2] = [&[b, n, 3 * h * k], &[b, 2 * h * k]];
    case("attention from a seed", &shapes, move |t, v| t.attention(v[0], Some(v[1]), h)).judged_by(
        move |x, _| attention::reference::forward(&x[0], Some(&x[1]), z),
        move |dy, x| {
            let (dx, ds) = attention::reference::backward(dy, &x[0], Some(&x[1]), z);
            vec![dx, ds]
        },
    )
}

fn beside([b, n, h, k]: [usize; 4], f: usize) -> Case {
    let (z, d) = (attention::reference::Sizes { rows: n, heads: h, width: k }, h * k);
    let shapes: [&[usize]; 2] = [&[b, n, 3 * d + 2 * f], &[b, 2 * d]];
    // The two branches read and write separate columns.
    let cut = |x: &[f64], width: usize, at: usize| -> [Vec<f64>; 2] {
        let part =
            |first| x.chunks(width).flat_map(move |row| if first { &row[..at] } else { &row[at..] }).copied();
        [true, false].map(|first| part(first).collect())
    };
    let join = |left: &[f64], right: &[f64], [a, b]: [usize; 2]| -> Vec<f64> {
        left.chunks(a).zip(right.chunks(b)).flat_map(|(l, r)| [l, r].concat()).collect()
    };
    case("attention beside a gate", &shapes, move |t, v| t.attention(v[0], Some(v[1]), h)).judged_by(
        move |x, _| {
            let [qkv, gates] = cut(&x[0], 3 * d + 2 * f, 3 * d);
            let mixed = attention::reference::forward(&qkv, Some(&x[1]), z);
            join(&mixed, &swiglu::reference::forward(&gates, f), [d, f])
        },
        move |dy, x| {
            let ([qkv, gates], [of_mixed, of_gated]) = (cut(&x[0], 3 * d + 2 * f, 3 * d), cut(dy, d + f, d));
            let (dqkv, dseed) = attention::reference::backward(&of_mixed, &qkv, Some(&x[1]), z);
            let dgates = swiglu::reference::backward(&of_gated, &gates, f);
            vec![join(&dqkv, &dgates, [3 * d, 2 * f]), dseed]
        },
    )
}

fn seed(b: usize, tokens: usize, h: usize, k: usize) -> Case {
    case("seed_attention", &[&[h * k], &[b, tokens, 2 * h * k]], move |t, v| t.seed_attention(v[0], v[1], h))
        .judged_by(
            move |x, _| seed_attention::reference::forward(&x[0], &x[1], tokens, h),
            move |dy, x| {
                let (dq, dkv) = seed_attention::reference::backward(dy, &x[0], &x[1], tokens, h);
                vec![dq, dkv]
            },
        )
}
