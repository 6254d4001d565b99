//! The order in which numpy adds f32 numbers, for means that agree bit for bit.
//!
//! Fewer than 8 numbers: one after another. Up to 128: eight interleaved partial sums, added as a tree, then the rest one after
//! another. More: two halves, the first a multiple of 8 long (Higham 1993, pairwise summation). A zero changes no partial sum,
//! so the zeros of a sparse column can be left out.

/// Longest run summed by eight interleaved partial sums.
const BLOCK: usize = 128;

/// Sum of `n` numbers, of which only the non-zero ones are given: (place, value), places rising from `first`.
pub fn sum(stored: &[(u32, f32)], first: u32, n: usize) -> f32 {
    if stored.is_empty() {
        return 0.0;
    }
    if n < 8 {
        return stored.iter().fold(0.0, |sum, (_, value)| sum + value);
    }
    if n > BLOCK {
        let half = n / 2 - (n / 2) % 8;
        let middle = first + half as u32;
        let (left, right) = stored.split_at(stored.partition_point(|&(place, _)| place < middle));
        return sum(left, first, half) + sum(right, middle, n - half);
    }
    let tail = first + (n - n % 8) as u32;
    let (eights, rest) = stored.split_at(stored.partition_point(|&(place, _)| place < tail));
    let mut part = [0.0f32; 8];
    for &(place, value) in eights {
        part[((place - first) % 8) as usize] += value;
    }
    let tree = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    rest.iter().fold(tree, |sum, (_, value)| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy 2.3.5: `np.add.reduce(x)` for x[i] = f32(1 / (1 + i * 37 % 101)), with every third number set to 0.
    #[test]
    fn sums_agree_with_numpy_bit_for_bit() {
        let expected: &[(usize, u32)] = &[
            (1, 0x3f800000),
            (7, 0x3f97c447),
            (8, 0x3f99f93d),
            (9, 0x3f99f93d),
            (127, 0x4083710c),
            (128, 0x408408bf),
            (129, 0x408408be),
            (1000, 0x4208e5f4),
            (4099, 0x430c40de),
            (20011, 0x442bd42a),
        ];
        for &(n, bits) in expected {
            let all: Vec<f32> =
                (0..n).map(|i| if i % 3 == 2 { 0.0 } else { 1.0 / (1.0 + (i * 37 % 101) as f32) }).collect();
            let stored: Vec<(u32, f32)> = (5..).zip(all).filter(|(_, value)| *value != 0.0).collect();
            assert_eq!(sum(&stored, 5, n).to_bits(), bits, "{n} numbers");
        }
    }
}
