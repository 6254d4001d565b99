//! results.csv and agg_results.csv, as polars writes them for cell-eval 0.6.6 (`MetricPipeline.get_results`, `get_agg_results`).

use std::iter::Sum;
use std::path::Path;

use crate::aside;
use crate::error::Result;

/// A measure's value for every perturbation. `None`: the measure leaves it out; NaN: undefined.
#[derive(Clone, Debug)]
pub struct Column {
    /// As in the header of results.csv.
    pub name: String,
    /// One per perturbation.
    pub values: Vec<Option<f64>>,
    /// Set if the measure is one of all perturbations at once, whose value is in every row: what that value is made of.
    pub whole: Option<Joined>,
}

/// What a measure of all perturbations at once is made of.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Two numbers per perturbation, real and pred, if it counts.
    pub pairs: Vec<Option<[f64; 2]>>,
    /// Makes one number of the real and pred numbers.
    pub join: fn(&[f64], &[f64]) -> f64,
}

/// How many perturbations a mean over numbers leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Those without a value.
    pub null: usize,
    /// Those whose value is undefined.
    pub nan: usize,
}

impl Sum for Gaps {
    fn sum<I: Iterator<Item = Gaps>>(all: I) -> Gaps {
        all.fold(Gaps::default(), |a, b| Gaps { null: a.null + b.null, nan: a.nan + b.nan })
    }
}

impl Column {
    /// One value per perturbation; NaN stays with cell-eval's `quirks`, and is left out without them.
    pub fn new(name: &str, mut values: Vec<Option<f64>>, quirks: bool) -> Column {
        if !quirks {
            values.iter_mut().for_each(|value| *value = value.filter(|v| !v.is_nan()));
        }
        Column { name: name.to_string(), values, whole: None }
    }

    /// One value for all perturbations; NaN as in [`Column::new`].
    pub fn whole(name: &str, whole: Joined, quirks: bool) -> Column {
        let count = whole.pairs.len();
        let value = whole.over(0..count);
        Column { whole: Some(whole), ..Column::new(name, vec![Some(value); count], quirks) }
    }

    /// The measure's mean over the perturbations `chosen` (with repeats), or its one value for them; NaN if nothing is defined.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn over(&self, chosen: &[u32]) -> f64 {
        if let Some(whole) = &self.whole {
            return whole.over(chosen.iter().map(|&p| p as usize));
        }
        let numbers = chosen.iter().filter_map(|&p| self.values[p as usize]).filter(|v| !v.is_nan());
        let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
        sum / count
    }

    /// How many values a mean over numbers leaves out.
    pub fn gaps(&self) -> Gaps {
        let count = |of: fn(&Option<f64>) -> bool| self.values.iter().filter(|value| of(value)).count();
        Gaps { null: count(|value| value.is_none()), nan: count(|value| value.is_some_and(f64::is_nan)) }
    }
}

impl Joined {
    fn over(&self, chosen: impl Iterator<Item = usize>) -> f64 {
        let (real, pred): (Vec<f64>, Vec<f64>) =
            chosen.filter_map(|p| self.pairs[p]).map(|[real, pred]| (real, pred)).unzip();
        (self.join)(&real, &pred)
    }
}

/// What polars' `describe` says about a column; `None` is an empty field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// Values present, NaN included.
    pub count: usize,
    /// Values missing.
    pub null: usize,
    /// How many of the values are NaN.
    pub nan: usize,
    /// Mean of the values; NaN if one of them is.
    pub mean: Option<f64>,
    /// Mean of the values that are numbers.
    pub mean_of_numbers: Option<f64>,
    /// Standard deviation of the values (n - 1).
    pub std: Option<f64>,
    /// Smallest number.
    pub min: Option<f64>,
    /// The values nearest to a quarter, a half and three quarters of the way, NaN sorted last; not interpolated.
    pub quartiles: [Option<f64>; 3],
    /// Largest number.
    pub max: Option<f64>,
}

impl Column {
    /// Summarises the column.
    pub fn summary(&self) -> Summary {
        let Gaps { null, nan } = self.gaps();
        let mut values: Vec<f64> = self.values.iter().copied().flatten().collect();
        let numbers: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        let n = values.len();
        let mean_of =
            |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let mean = mean_of(&values);
        let std = mean.filter(|_| n > 1).map(|mean| {
            let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
            (squares / (n - 1) as f64).sqrt()
        });
        // If all of them are NaN, min and max are NaN too.
        let among = if numbers.is_empty() { &values } else { &numbers };
        let min = among.iter().copied().reduce(f64::min);
        let max = among.iter().copied().reduce(f64::max);
        values.sort_by(|a, b| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b)));
        let nearest = |q: f64| {
            let place = (q * n.saturating_sub(1) as f64 + 0.5).floor() as usize;
            values.get(place).copied()
        };
        Summary {
            count: n,
            null,
            nan,
            mean,
            mean_of_numbers: mean_of(&numbers),
            std,
            min,
            quartiles: [0.25, 0.5, 0.75].map(nearest),
            max,
        }
    }
}

/// Writes a row per perturbation and a column per measure.
///
/// # Errors
/// A file that cannot be written.
///
/// # Panics
/// If a column has fewer values than there are perturbations.
pub fn write_results(path: &Path, perturbations: &[String], columns: &[Column]) -> Result<()> {
    let values = |p: usize| columns.iter().map(|column| column.values[p]).collect();
    let rows = perturbations.iter().enumerate().map(|(p, name)| (name.as_str(), values(p)));
    write(path, "perturbation", columns.iter().map(|column| &column.name), rows)
}

/// Writes count, null_count, mean, std, min, quartiles and max of every column.
///
/// # Errors
/// A file that cannot be written.
pub fn write_summary(path: &Path, columns: &[Column]) -> Result<()> {
    let summaries: Vec<Summary> = columns.iter().map(Column::summary).collect();
    type Statistic = (&'static str, fn(&Summary) -> Option<f64>);
    let rows: [Statistic; 9] = [
        ("count", |s| Some(s.count as f64)),
        ("null_count", |s| Some(s.null as f64)),
        ("mean", |s| s.mean),
        ("std", |s| s.std),
        ("min", |s| s.min),
        ("25%", |s| s.quartiles[0]),
        ("50%", |s| s.quartiles[1]),
        ("75%", |s| s.quartiles[2]),
        ("max", |s| s.max),
    ];
    let rows = rows.iter().map(|&(name, value)| (name, summaries.iter().map(value).collect()));
    write(path, "statistic", columns.iter().map(|column| &column.name), rows)
}

/// Writes a header, `corner` and the measures, and rows of a name and a value per measure; `None` is an empty field.
///
/// # Errors
/// A file that cannot be written.
///
/// # Panics
/// If a row has more or fewer values than there are measures.
pub fn write<'a>(
    path: &Path,
    corner: &str,
    measures: impl Iterator<Item = &'a String>,
    rows: impl Iterator<Item = (&'a str, Vec<Option<f64>>)>,
) -> Result<()> {
    let mut text = csv::Writer::from_writer(Vec::new());
    let mut line = |first: &str, others: Vec<String>| {
        let fields = [first.to_string()].into_iter().chain(others);
        text.write_record(fields).expect("a row has a value per measure");
    };
    line(corner, measures.cloned().collect());
    for (name, values) in rows {
        line(name, values.into_iter().map(|value| value.map_or(String::new(), number)).collect());
    }
    let text = text.into_inner().expect("memory takes any text");
    aside::whole(path, text)
}

/// The shortest digits that read back as the same number: `1.0`, `2.5e-7`, `NaN`.
pub fn number(value: f64) -> String {
    format!("{value:?}")
}

/// A csv field.
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_string()
}
