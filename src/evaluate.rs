//! How well predicted cells match measured ones, by the field's measures.
//!
//! ```text
//!   two sides (cells, labels, genes) -> logs -> groups -> differential expression -> agreement of gene lists ─┐
//!                                                      -> mean profiles           -> agreement of profiles  ──┼> Report
//!                                                      -> distances of cells      -> one correlation        ──┘
//! ```
//! Three rule sets say what a measure is, by default cell-eval 0.6.6's: see [`rules`]. A [`board::Board`] adds baselines, a
//! ceiling and intervals to the report.
//!
//! From matrices and labels, without files:
//!
//! ```
//! use scale_engine::evaluate::{Matrix, Settings, Side, evaluate};
//!
//! // Four control cells and two of a perturbation, three genes, log1p values; the prediction overshoots gene A.
//! let labels = ["ctrl", "ctrl", "ctrl", "ctrl", "KO", "KO"];
//! let genes = ["A", "B", "C"].map(String::from).to_vec();
//! let side = |name: &str, a: f32| {
//!     let values = vec![
//!         0.5, 1.0, 0.0, 0.7, 0.9, 0.2, 0.6, 1.1, 0.1, 0.4, 1.0, 0.0, // control
//!         a, 0.9, 0.1, a + 0.2, 1.0, 0.0, // perturbed
//!     ];
//!     Side::new(name, Matrix::Dense { genes: 3, values }, &labels, genes.clone())
//! };
//! let settings = Settings { control: "ctrl".to_string(), ..Settings::default() };
//! let report = evaluate(&side("real", 1.5), &side("pred", 1.7), &settings)?;
//!
//! let error = report.column("mae").expect("in every profile but `de` and `pds`").values[0];
//! assert!((error.unwrap() - 0.2 / 3.0).abs() < 1e-6);
//! assert!(report.column("pearson_delta").unwrap().values[0] > Some(0.99));
//! # Ok::<(), scale_engine::error::Error>(())
//! ```

pub mod board;
pub mod bootstrap;
pub mod ceiling;
pub(crate) mod columns;
pub mod de;
pub(crate) mod de_metrics;
pub mod edistance;
pub mod expression;
pub mod figures;
pub mod files;
pub mod judge;
#[doc(hidden)]
pub mod lognorm;
#[doc(hidden)]
pub mod null;
pub mod page;
pub(crate) mod pairwise;
pub mod pseudobulk;
pub mod ranksum;
pub mod registry;
pub mod report;
pub mod rules;
pub mod scores;
pub mod side;
#[doc(hidden)]
pub mod significant;
pub mod table;
pub(crate) mod totals;

use crate::error::Result;
use registry::Profile;

pub use crate::correlation::{pearson, spearman};
pub use expression::{mae, mse};
pub use judge::Judge;
pub use report::Report;
pub use rules::Rules;
pub use side::{Matrix, Side};

/// What to compare, and by which definitions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Label of the control cells.
    pub control: String,
    /// Whose definitions to follow.
    pub rules: Rules,
    /// Which measures to compute.
    pub profile: Profile,
    /// Measures to leave out, by registry name.
    pub skip_metrics: Vec<String>,
    /// Whether a board scores one half of the measured cells against the other.
    pub ceiling: bool,
    /// How often a board resamples the perturbations for its intervals; 0: no intervals.
    pub bootstrap: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            control: "non-targeting".to_string(),
            rules: Rules::default(),
            profile: Profile::default(),
            skip_metrics: Vec::new(),
            ceiling: false,
            bootstrap: 0,
        }
    }
}

/// Compares two sides, without the ceiling and the intervals of `settings`, which a [`board::Board`] has.
///
/// # Errors
/// What [`Judge::new`] and [`Judge::score`] refuse.
pub fn evaluate(real: &Side, pred: &Side, settings: &Settings) -> Result<Report> {
    Judge::new(real, settings)?.score(pred)
}
