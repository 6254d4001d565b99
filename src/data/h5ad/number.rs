//! Numbers of every stored width, in either byte order.

use std::fmt::Debug;

use bytemuck::Pod;
use half::f16;
use hdf5_pure::{Datatype, DatatypeByteOrder};

/// f32 holds every whole number up to here, and not every one above.
pub(super) const EXACT_BELOW: f32 = 16_777_216.0;

/// A type to which stored numbers are converted.
pub(super) trait Number: Pod {
    /// Stored types (as named by [`word`]) whose little-endian bytes need no conversion.
    const SAME: &[&str];
    fn signed(value: i64) -> Self;
    fn unsigned(value: u64) -> Self;
    fn real(value: f64) -> Self;
}

macro_rules! cast {
    ($kind:ty, $same:expr) => {
        impl Number for $kind {
            const SAME: &[&str] = $same;
            fn signed(value: i64) -> Self {
                value as $kind
            }
            fn unsigned(value: u64) -> Self {
                value as $kind
            }
            fn real(value: f64) -> Self {
                value as $kind
            }
        }
    };
}
cast!(f32, &["f32"]);
cast!(f64, &["f64"]);
// Above 2^63 it wraps to a negative number, which no valid pointer or code can be.
cast!(i64, &["i64", "u64"]);

/// Positions, which are below 2^31: what cannot be a position becomes a number from 2^31 up.
impl Number for u32 {
    // Negative 32-bit numbers become 2^31 and above.
    const SAME: &[&str] = &["i32", "u32"];
    fn signed(value: i64) -> u32 {
        u32::try_from(value).unwrap_or(u32::MAX)
    }
    fn unsigned(value: u64) -> u32 {
        u32::try_from(value).unwrap_or(u32::MAX)
    }
    fn real(_: f64) -> u32 {
        u32::MAX
    }
}

/// The stored type in one word, `None` if it is not a number of 8 to 64 bits.
pub(super) fn word(kind: &Datatype) -> Option<&'static str> {
    match kind {
        Datatype::FixedPoint { size, layout, .. }
            if layout.bit_offset == 0 && u64::from(layout.bit_precision) == u64::from(*size) * 8 =>
        {
            match (layout.signed, size) {
                (true, 1) => Some("i8"),
                (true, 2) => Some("i16"),
                (true, 4) => Some("i32"),
                (true, 8) => Some("i64"),
                (false, 1) => Some("u8"),
                (false, 2) => Some("u16"),
                (false, 4) => Some("u32"),
                (false, 8) => Some("u64"),
                _ => None,
            }
        }
        Datatype::FloatingPoint { size, layout, .. } => match (size, layout.exponent_size) {
            (2, 5) => Some("f16"),
            (4, 8) => Some("f32"),
            (8, 11) => Some("f64"),
            _ => None,
        },
        // h5py stores a boolean as an enumeration of FALSE and TRUE over int8; nobody writes a wider one as a boolean.
        Datatype::Enumeration { size: 1, members, .. }
            if members.iter().all(|member| member.name == "FALSE" || member.name == "TRUE") =>
        {
            Some("bool")
        }
        _ => None,
    }
}

/// Whether the stored bytes are the same as the numbers in memory.
pub(super) fn is_same<T: Number>(kind: &Datatype) -> bool {
    let order = match kind {
        Datatype::FixedPoint { byte_order, .. } | Datatype::FloatingPoint { byte_order, .. } => byte_order,
        _ => return false,
    };
    let little = cfg!(target_endian = "little") && *order == DatatypeByteOrder::LittleEndian;
    little && word(kind).is_some_and(|word| T::SAME.contains(&word))
}

/// Whether this type has whole numbers that f32 cannot hold.
pub(super) fn may_round(kind: &Datatype) -> bool {
    matches!(word(kind), Some("i32" | "u32" | "i64" | "u64" | "f64"))
}

/// The first stored whole number that f32 cannot hold.
pub(super) fn rounded(kind: &Datatype, bytes: &[u8]) -> Option<String> {
    if word(kind) == Some("f64") {
        let rounded = |number: &&f64| number.fract() == 0.0 && f64::from(**number as f32) != **number;
        return decode::<f64>(kind, bytes)?.iter().find(rounded).map(f64::to_string);
    }
    let unsigned = word(kind) == Some("u64");
    let whole = |number: i64| if unsigned { i128::from(number as u64) } else { number.into() };
    let mut numbers = decode::<i64>(kind, bytes)?.into_iter().map(whole);
    numbers.find(|&number| number != (number as f32) as i128).map(|number| number.to_string())
}

/// What is wrong with such a number, and the way out.
pub(super) fn too_large(stored: &str) -> String {
    format!(
        "{stored}, a whole number above 2^24 that would be rounded: no gene has that many counts in one cell \
         (a sum over cells, or an overflow?); leave such cells out, or give log1p values"
    )
}

/// The stored numbers, booleans as 0 and 1; `None` if [`word`] gives none.
pub(super) fn decode<T: Number>(kind: &Datatype, bytes: &[u8]) -> Option<Vec<T>> {
    let swapped = match kind {
        Datatype::FixedPoint { byte_order, .. } | Datatype::FloatingPoint { byte_order, .. } => {
            match byte_order {
                DatatypeByteOrder::LittleEndian => false,
                DatatypeByteOrder::BigEndian => true,
                DatatypeByteOrder::Vax => return None,
            }
        }
        _ => false,
    };
    Some(match word(kind)? {
        "bool" | "i8" => each(bytes, swapped, |b| T::signed(i8::from_le_bytes(b).into())),
        "i16" => each(bytes, swapped, |b| T::signed(i16::from_le_bytes(b).into())),
        "i32" => each(bytes, swapped, |b| T::signed(i32::from_le_bytes(b).into())),
        "i64" => each(bytes, swapped, |b| T::signed(i64::from_le_bytes(b))),
        "u8" => each(bytes, swapped, |b| T::unsigned(u8::from_le_bytes(b).into())),
        "u16" => each(bytes, swapped, |b| T::unsigned(u16::from_le_bytes(b).into())),
        "u32" => each(bytes, swapped, |b| T::unsigned(u32::from_le_bytes(b).into())),
        "u64" => each(bytes, swapped, |b| T::unsigned(u64::from_le_bytes(b))),
        "f16" => each(bytes, swapped, |b| T::real(f16::from_le_bytes(b).into())),
        "f32" => each(bytes, swapped, |b| T::real(f32::from_le_bytes(b).into())),
        _ => each(bytes, swapped, |b| T::real(f64::from_le_bytes(b))),
    })
}

fn each<const N: usize, T>(bytes: &[u8], swapped: bool, of: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (whole, _) = bytes.as_chunks::<N>();
    if !swapped {
        return whole.iter().map(|&number| of(number)).collect();
    }
    let turned = |mut number: [u8; N]| {
        number.reverse();
        of(number)
    };
    whole.iter().map(|&number| turned(number)).collect()
}

/// A float as Python's `str` writes it: the shortest text that means it, with at least two digits in an exponent.
pub(crate) fn spelled(number: impl Debug) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, power)) => {
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
        None => text.replace("NaN", "nan"),
    }
}

/// The f64 whose text is that of a stored f32: 0.1, and not 0.10000000149.
pub(super) fn widened(number: f32) -> f64 {
    match number.fract() == 0.0 && number.abs() < EXACT_BELOW {
        true => number.into(),
        false => spelled(number).parse().unwrap_or(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use hdf5_pure::{EnumTypeBuilder, make_i8_type, make_i32_type};

    use super::{spelled, widened, word};

    /// As `[str(x) for x in (0.0, 10.0, ..)]` and `str(np.float32(x))` have them.
    #[test]
    fn floats_are_spelled_as_in_python() {
        let python = [
            "0.0",
            "10.0",
            "0.0001",
            "1e-05",
            "1.5e-09",
            "123456789012345.0",
            "1e+16",
            "-2.5e+100",
            "nan",
            "inf",
        ];
        for text in python {
            assert_eq!(spelled(text.parse::<f64>().expect("a number")), text);
        }
        for text in ["0.1", "1e-09", "3.4028235e+38"] {
            let stored: f32 = text.parse().expect("a number");
            assert_eq!((spelled(widened(stored)).as_str(), widened(stored) as f32), (text, stored));
        }
    }

    #[test]
    fn a_truth_value_is_one_byte() {
        for (base, told) in [(make_i8_type(), Some("bool")), (make_i32_type(), None)] {
            let kind = EnumTypeBuilder::with_base(base).value("FALSE", 0).value("TRUE", 1).build();
            assert_eq!(word(&kind.expect("two small values")), told);
        }
    }
}
