//! Wilcoxon rank sums of every group against the control, one gene at a time (Mann & Whitney 1947).
//!
//! All values of a gene are sorted once, each with its group. One walk over the sorted values then serves every group: a
//! value's place among the control's is known as soon as it is reached, so no group need be pooled and sorted with the control.
//!
//! ```text
//!   2 U_g  = sum over x of g   2 #{y of control: y < x} + #{y = x}
//!   T_g    = sum over values v (c_v + a_v)^3 - (c_v + a_v)       c_v, a_v: how often v occurs in control and g
//!          = T_control + sum over v in g [...(c_v + a_v) - ...(c_v)]
//! ```
//! Both are whole numbers. Zeros are one block below all other values, as expression is not negative.

use std::collections::{BTreeMap, BTreeSet};

use super::null::{Counted, SMALL, normal};
use super::side::Groups;
use crate::error::{Error, Result};

/// Shorter lists are sorted by comparison.
const RADIX_FROM: usize = 512;
const DIGIT: u32 = 11;
const BUCKETS: usize = 1 << DIGIT;

/// U and p of one gene in one group, against the control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// U of the group: pairs in which the group's cell is higher, ties counting a half.
    pub u: f64,
    /// Two-sided p.
    pub p: f64,
}

/// The test for a grouping, and its work space; one per thread.
pub struct RankSum<'a> {
    groups: &'a Groups,
    counted: &'a BTreeMap<usize, Counted>,
    sorted: Vec<u64>,
    spare: Vec<u64>,
    twice_u: Vec<u64>,
    ties: Vec<u128>,
    nonzeros: Vec<usize>,
}

brief!(RankSum<'_>, |sums| groups: sums.nonzeros.len());

/// The counted distributions that groups may need, by the number of a group's cells: among thousands of groups few sizes are small.
pub fn counted(groups: &Groups) -> BTreeMap<usize, Counted> {
    let control = groups.size(0);
    let sizes: BTreeSet<usize> = (1..groups.starts.len() - 1).map(|g| groups.size(g)).collect();
    let small = sizes.into_iter().filter(|&size| control.min(size) <= SMALL);
    small.filter_map(|size| Some((size, Counted::new(size, control)?))).collect()
}

impl<'a> RankSum<'a> {
    /// `counted` comes from [`counted`] for the same groups.
    pub fn new(groups: &'a Groups, counted: &'a BTreeMap<usize, Counted>) -> Self {
        let count = groups.starts.len() - 1;
        RankSum {
            groups,
            counted,
            sorted: Vec::new(),
            spare: Vec::new(),
            twice_u: vec![0; count],
            ties: vec![0; count],
            nonzeros: vec![0; count],
        }
    }

    /// The grouping.
    pub fn groups(&self) -> &'a Groups {
        self.groups
    }

    /// Tests one gene. `stored`: its positive values, each with its place among the groups' cells, places rising. `take` gets one
    /// test per perturbation.
    pub fn gene(&mut self, stored: &[(u32, f32)], mut take: impl FnMut(Test)) {
        self.load(stored);
        sort(&mut self.sorted, &mut self.spare);
        let control_ties = self.walk();
        let n2 = self.groups.size(0);
        for g in 1..self.groups.starts.len() - 1 {
            let n1 = self.groups.size(g);
            let u = self.twice_u[g] as f64 / 2.0;
            let larger = u.max((n1 * n2) as f64 - u);
            let ties = control_ties + self.ties[g];
            let p = match self.counted.get(&n1) {
                Some(counted) if ties == 0 => counted.p(larger),
                _ => normal(larger, n1, n2, ties),
            };
            take(Test { u, p });
        }
    }

    /// Packs (value, group): the bits of positive floats sort as the floats do.
    fn load(&mut self, stored: &[(u32, f32)]) {
        self.sorted.clear();
        self.nonzeros.fill(0);
        let mut g = 0;
        for &(place, value) in stored {
            while place as usize >= self.groups.starts[g + 1] {
                g += 1;
            }
            self.nonzeros[g] += 1;
            self.sorted.push((u64::from(value.to_bits()) << 32) | g as u64);
        }
    }

    /// One walk over the sorted values; returns the control's own ties.
    fn walk(&mut self) -> u128 {
        let zeros = |g: usize, nonzeros: &[usize]| (self.groups.size(g) - nonzeros[g]) as u64;
        let control_zeros = zeros(0, &self.nonzeros);
        let mut control_ties = cubic(control_zeros);
        for g in 1..self.twice_u.len() {
            let a = zeros(g, &self.nonzeros);
            self.twice_u[g] = a * control_zeros;
            self.ties[g] = cubic(a + control_zeros) - cubic(control_zeros);
        }
        let mut below = control_zeros;
        let mut rest = self.sorted.as_slice();
        while let Some(&first) = rest.first() {
            let g = first as u32 as usize;
            if rest.len() == 1 || (rest[1] >> 32) != (first >> 32) {
                // A value that stands alone ties with nothing.
                if g == 0 {
                    below += 1;
                } else {
                    self.twice_u[g] += 2 * below;
                }
                rest = &rest[1..];
                continue;
            }
            let mut equal = 0;
            let mut length = 0;
            while length < rest.len() && (rest[length] >> 32) == (first >> 32) {
                let g = rest[length] as u32 as usize;
                let same = rest[length..].iter().take_while(|&&key| key == rest[length]).count();
                length += same;
                // The control is group 0, so it comes first among equal values.
                if g == 0 {
                    equal = same as u64;
                    control_ties += cubic(equal);
                } else {
                    self.twice_u[g] += same as u64 * (2 * below + equal);
                    self.ties[g] += cubic(same as u64 + equal) - cubic(equal);
                }
            }
            below += equal;
            rest = &rest[length..];
        }
        control_ties
    }
}

/// Tests one sample against another; their values may be any numbers.
///
/// ```
/// use scale_engine::evaluate::ranksum::rank_sum;
///
/// // All four are above all three: the two orders of 35 that are as far apart have p = 2 / 35.
/// let test = rank_sum(&[1.5, 2.0, 1.7, 3.1], &[-0.2, 0.4, 0.9])?;
/// assert_eq!(test.u, 12.0);
/// assert!((test.p - 2.0 / 35.0).abs() < 1e-12);
/// # Ok::<(), scale_engine::error::Error>(())
/// ```
///
/// # Errors
/// A sample without values; NaN.
pub fn rank_sum(group: &[f32], control: &[f32]) -> Result<Test> {
    let mut steps = [control, group].concat();
    if group.is_empty() || control.is_empty() || steps.iter().any(|value| value.is_nan()) {
        return Err(Error::setting("values", "each sample needs one value or more, and none may be NaN"));
    }
    steps.sort_by(f32::total_cmp);
    steps.dedup();
    // Positive numbers in the order of the values.
    let stand_in = |value: f32| f32::from_bits(1 + steps.partition_point(|step| *step < value) as u32);
    let cells = 0..(control.len() + group.len()) as u32;
    let groups = Groups {
        perturbations: vec!["group".into()],
        appearance: vec![0],
        starts: vec![0, control.len(), cells.len()],
        cells: cells.clone().collect(),
    };
    let values = control.iter().chain(group).map(|&value| stand_in(value));
    let stored: Vec<(u32, f32)> = cells.zip(values).collect();
    let (counted, mut tests) = (counted(&groups), Vec::new());
    RankSum::new(&groups, &counted).gene(&stored, |test| tests.push(test));
    Ok(tests[0])
}

/// t^3 - t.
fn cubic(t: u64) -> u128 {
    let t = u128::from(t);
    t * t * t - t
}

/// Sorts by value, then group. The groups arrive in order and radix passes keep it, so only the value's digits need sorting.
fn sort(keys: &mut Vec<u64>, spare: &mut Vec<u64>) {
    if keys.len() < RADIX_FROM {
        keys.sort_unstable();
        return;
    }
    spare.resize(keys.len(), 0);
    let mut counts = [[0u32; BUCKETS]; 3];
    for &key in keys.iter() {
        for (pass, counts) in counts.iter_mut().enumerate() {
            counts[digit(key, pass)] += 1;
        }
    }
    for (pass, counts) in counts.iter_mut().enumerate() {
        if counts[digit(keys[0], pass)] as usize == keys.len() {
            continue;
        }
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        for &key in keys.iter() {
            let slot = &mut counts[digit(key, pass)];
            spare[*slot as usize] = key;
            *slot += 1;
        }
        std::mem::swap(keys, spare);
    }
}

#[inline]
fn digit(key: u64, pass: usize) -> usize {
    (key >> (32 + DIGIT * pass as u32)) as usize & (BUCKETS - 1)
}
