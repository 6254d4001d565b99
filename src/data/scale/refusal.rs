//! Why values are not taken for what they are said or seem to be: what is wrong, not what to do, which depends on who asks.

use std::fmt;
use std::path::Path;

use super::GREATEST_LOG;
use crate::error::Error;

/// Why it cannot be said what values are.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Unclear {
    /// There is a value that is not finite, or is negative.
    Impossible(f32),
    /// The source records logarithms to another base than e.
    Recorded {
        /// The base.
        base: f64,
    },
    /// The cells' totals show logarithms to another base than e.
    OtherBase {
        /// The base.
        base: f64,
        /// What base^x - 1 sums to in every cell.
        total: f64,
    },
    /// Normalised, but without the logarithm.
    NotLogged {
        /// What the values sum to in every cell.
        total: f64,
    },
    /// Neither whole numbers nor surely logarithms: the reader must say what they are.
    Unsaid {
        /// The greatest value.
        greatest: f32,
        /// [`Told::logged`](super::Told::logged).
        logged: bool,
    },
}

/// Why a cell cannot be on the scale that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// A value is not finite or negative, or a fraction among counts.
    Value {
        /// Its position among the cell's stored values.
        place: usize,
        /// The value.
        value: f32,
    },
    /// The values are on another scale, as where counts were appended to logarithms; says how that shows.
    Scale(String),
    /// The given total cannot be that of the cell; says what it is and why not.
    Total(String),
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let multiply = |base: f64| format!("multiply them by ln({base}) = {:.6}", base.ln());
        match *self {
            Unclear::Impossible(value) => {
                write!(f, "contains {value}; counts and log1p values are finite and not negative")
            }
            Unclear::Recorded { base } => write!(
                f,
                "values are recorded as logarithms to base {base} (uns/log1p/base), but natural ones are needed: {}",
                multiply(base)
            ),
            Unclear::OtherBase { base, total } => write!(
                f,
                "contains log values to base {base}: {base}^x - 1 sums to {total} in every cell; natural logarithms are \
                 needed: {}",
                multiply(base)
            ),
            Unclear::NotLogged { total } => write!(
                f,
                "values are normalised to {total} per cell but not logged; give the counts, or take log1p of them \
                 (scanpy: sc.pp.log1p)"
            ),
            Unclear::Unsaid { greatest, logged } => write!(
                f,
                "values are neither whole counts nor log1p of normalised counts: they reach {greatest}, expm1 of them sums \
                 differently in each cell, and {}",
                match logged {
                    true if f64::from(greatest) > GREATEST_LOG =>
                        "no log1p is that large, although they are marked as such (uns/log1p)",
                    true => "their mark (uns/log1p) does not tell log1p from log1p / 10",
                    false => "they are not marked as log1p (uns/log1p)",
                }
            ),
        }
    }
}

impl std::error::Error for Unclear {}

impl Unclear {
    /// With what to do: `recorded` about a base that is recorded, `unsaid` if only saying what the values are would help.
    pub(crate) fn with(self, recorded: &str, unsaid: &str) -> String {
        match self {
            Unclear::Recorded { .. } => format!("{self} {recorded}"),
            Unclear::Unsaid { .. } => format!("{self}; {unsaid}"),
            _ => self.to_string(),
        }
    }

    /// The error of a file; `unsaid` as in [`Unclear::with`].
    pub(crate) fn of_file(self, path: &Path, unsaid: &str) -> Error {
        let recorded = "and delete uns/log1p/base, or just delete it if it is wrong";
        Error::format(path, self.with(recorded, unsaid))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refusal::Value { value, .. } if value.is_finite() && *value >= 0.0 => {
                write!(f, "contains {value}, which is not a count")
            }
            Refusal::Value { value, .. } => {
                write!(f, "contains {value}; counts and log1p values must be finite and not negative")
            }
            Refusal::Scale(what) => {
                write!(f, "{what}: not all cells are on the scale that was found or stated")
            }
            Refusal::Total(what) => write!(f, "has a given total of {what}"),
        }
    }
}
