//! A [`Board`] drawn as SVG text: for the page ([`super::page`]), and as files.
//!
//! ```text
//!   Board -> Seen: overlaps, effect sizes, their order -> score, overlap       one per cell type
//!         -> Shown: the genes of one perturbation      -> scatter, volcano     one per perturbation
//! ```

pub(crate) mod chart;
pub(crate) mod genes;
pub(crate) mod overlap;
pub(crate) mod scatter;
pub(crate) mod score;
pub(crate) mod strip;
pub(crate) mod volcano;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use rayon::prelude::*;

use super::board::Board;
use super::report::shortened;
use super::significant::{Genes, places};
use crate::aside;
use crate::error::Result;
use chart::{Svg, escape};
use genes::{Kind, Shown};
use overlap::Overlap;

/// What the size of a real effect is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Genes significant in the real cells.
    Significant,
    /// Euclidean length of the real change.
    Length,
}

impl Effect {
    /// In words, for an axis.
    pub fn words(self) -> &'static str {
        match self {
            Effect::Significant => "significant real genes",
            Effect::Length => "length of the real change",
        }
    }
}

/// A board, and what several of its figures need.
pub struct Seen<'a> {
    /// The scores.
    pub board: &'a Board,
    /// Significant genes, one entry per perturbation, if there is differential expression.
    pub overlaps: Option<Vec<Overlap>>,
    /// The same for all boards; `None` if nothing measures it.
    pub effect: Option<Effect>,
    /// Perturbations, the largest effect first.
    pub order: Vec<usize>,
    lengths: Option<Vec<f64>>,
    /// Number of each perturbation in the tables of real and pred, `[P]` each.
    places: Option<[Vec<usize>; 2]>,
}

brief!(Seen<'_>, |seen| perturbations: seen.order.len());

impl<'a> Seen<'a> {
    /// Prepares all boards.
    pub fn all(boards: &'a [Board]) -> Vec<Seen<'a>> {
        let one = |board: &'a Board| {
            let lengths =
                board.report.changes.as_ref().map(|[real, _]| real.iter().map(|x| length(x)).collect());
            let report = &board.report;
            let places = report
                .tables
                .as_ref()
                .map(|tables| tables.each_ref().map(|table| places(table, &report.perturbations)));
            let mut seen = Seen { board, overlaps: None, effect: None, order: Vec::new(), lengths, places };
            seen.overlaps = seen.overlaps();
            seen
        };
        let mut all: Vec<Seen> = boards.iter().map(one).collect();
        let tables = all.iter().all(|seen| seen.overlaps.is_some());
        let found = all.iter().flat_map(|seen| seen.overlaps.iter().flatten()).any(|o| o.real + o.both > 0);
        let effect = match all.iter().all(|seen| seen.lengths.is_some()) {
            _ if tables && found => Some(Effect::Significant),
            true => Some(Effect::Length),
            false => None,
        };
        for seen in &mut all {
            seen.effect = effect;
            let mut order: Vec<usize> = (0..seen.board.report.perturbations.len()).collect();
            // Effects of the same size stay in order of their names.
            let size = |p: &usize| seen.size(*p).unwrap_or(0.0);
            order.sort_by(|a, b| size(b).total_cmp(&size(a)));
            seen.order = order;
        }
        all
    }

    /// Size of a perturbation's real effect.
    ///
    /// # Panics
    /// If there is no such perturbation.
    pub fn size(&self, p: usize) -> Option<f64> {
        match self.effect? {
            Effect::Significant => self.overlaps.as_ref().map(|o| (o[p].real + o[p].both) as f64),
            Effect::Length => self.lengths.as_ref().map(|lengths| lengths[p]),
        }
    }

    /// The significant genes of a perturbation, if there is differential expression: real and pred.
    ///
    /// # Panics
    /// If there is no such perturbation.
    pub fn tables(&self, p: usize) -> Option<[Genes; 2]> {
        let ([real, pred], places) = (self.board.report.tables.as_ref()?, self.places.as_ref()?);
        let definitions = self.board.report.settings.rules.definitions();
        Some([Genes::of(real, places[0][p], &definitions), Genes::of(pred, places[1][p], &definitions)])
    }

    fn overlaps(&self) -> Option<Vec<Overlap>> {
        let count = |p: usize| {
            let kinds = genes::kinds(&self.tables(p)?);
            let of = |kind: Kind| kinds.iter().filter(|&&k| k == kind).count();
            Some(Overlap { real: of(Kind::Real), both: of(Kind::Both), pred: of(Kind::Pred) })
        };
        (0..self.board.report.perturbations.len()).into_par_iter().map(count).collect()
    }

    /// Opens a perturbation's group; with `links`, as a link to the address that chooses it.
    fn open(&self, p: usize, links: bool, said: &str) -> String {
        if !links {
            return "<g>".to_string();
        }
        let address = self.address(p);
        // Hundreds of stops for the tab key help nobody: keyboard users have the list of perturbations.
        format!("<a href=\"#{address}\" data-p=\"{p}\" tabindex=\"-1\" aria-label=\"{}\">", escape(said))
    }

    /// The part of the page's address that chooses a perturbation.
    ///
    /// # Panics
    /// If there is no such perturbation.
    pub fn address(&self, p: usize) -> String {
        let name = encoded(&self.board.report.perturbations[p]);
        let of =
            self.board.cell_type.as_ref().map_or(String::new(), |of| format!("type={}&amp;", encoded(of)));
        format!("{of}perturbation={name}")
    }
}

fn length(change: &[f32]) -> f64 {
    change.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// A name in an address: all but ASCII letters, digits and `-_.` as bytes.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            true => text.push(byte as char),
            false => write!(text, "%{byte:02X}").expect("a string takes any text"),
        }
    }
    text
}

/// Writes all figures to a folder, one per .svg file; returns how many. Files of an earlier run are replaced.
///
/// # Errors
/// A file that cannot be written.
pub fn write(dir: &Path, boards: &[Board]) -> Result<usize> {
    let mut names = Names::default();
    let mut written = 0;
    for seen in Seen::all(boards) {
        let of = seen.board.cell_type.as_deref();
        let alone = std::slice::from_ref(&seen);
        let mut whole: Vec<(String, Svg)> = Vec::new();
        for measure in score::measures(alone) {
            let figure = score::figure(alone, measure, false);
            whole.extend(figure.map(|svg| (names.of(of, "effect", measure), svg)));
        }
        whole.extend(overlap::figure(alone, false).map(|svg| (names.of(of, "overlap", ""), svg)));
        for (name, svg) in &whole {
            save(dir, name, svg)?;
        }
        let perturbations = &seen.board.report.perturbations;
        let named: Vec<[String; 3]> = perturbations
            .iter()
            .map(|name| ["scatter", "volcano_real", "volcano_pred"].map(|figure| names.of(of, name, figure)))
            .collect();
        let one = |(p, names): (usize, &[String; 3])| -> Result<usize> {
            let figures = details(&seen, p, usize::MAX);
            let there = names.iter().zip(&figures).filter_map(|(name, svg)| Some((name, svg.as_ref()?)));
            there.clone().try_for_each(|(name, svg)| save(dir, name, svg))?;
            Ok(there.count())
        };
        let counts: Vec<usize> = named.par_iter().enumerate().map(one).collect::<Result<_>>()?;
        written += whole.len() + counts.iter().sum::<usize>();
    }
    Ok(written)
}

/// Scatter, real and predicted volcano of a perturbation, each with at most `most` genes drawn.
///
/// # Panics
/// If there is no such perturbation.
pub fn details(seen: &Seen, p: usize, most: usize) -> [Option<Svg>; 3] {
    let shown = Shown::of(seen, p, most);
    let name = &seen.board.report.perturbations[p];
    let [real, pred] = volcano::pair(name, &shown).map_or([None, None], |pair| pair.map(Some));
    [scatter::figure(name, &shown), real, pred]
}

fn save(dir: &Path, name: &str, svg: &Svg) -> Result<()> {
    let path = dir.join(name);
    aside::whole(&path, svg.file())
}

/// File names, each given once.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    /// `type_name_figure.svg`, in characters that every file system takes, and few enough of them.
    fn of(&mut self, cell_type: Option<&str>, name: &str, figure: &str) -> String {
        let plain = |c: char| if c.is_alphanumeric() || "-+._".contains(c) { c } else { '-' };
        let whole = cell_type.map_or(String::new(), |cell_type| format!("{cell_type}_")) + name;
        let mut base = shortened(whole.chars().map(plain).collect(), &whole);
        if !figure.is_empty() {
            base = format!("{base}_{figure}");
        }
        let tries = (1..).map(|n| if n == 1 { format!("{base}.svg") } else { format!("{base}-{n}.svg") });
        let mut free = tries.filter(|name| self.0.insert(name.to_lowercase()));
        free.next().expect("there are enough numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_file_name_of_its_own() {
        let mut names = Names::default();
        let mut of = |name: &str| names.of(Some("T/b"), name, "scatter");
        assert_eq!(of("a b"), "T-b_a-b_scatter.svg");
        assert_eq!(of("a/b"), "T-b_a-b_scatter-2.svg");
        assert_eq!(of("A-B"), "T-b_A-B_scatter-3.svg");
        // File systems count bytes, of which each of these letters has two.
        let long = "\u{3b1}".repeat(70);
        let [one, other] =
            ["a", "b"].map(|last| names.of(Some(&long), &(long.clone() + last), "volcano_real"));
        assert!(one != other && !other.ends_with("-2.svg") && other.len() < 150, "{one} {other}");
        assert_eq!(encoded("a b&+ü"), "a%20b%26%2B%C3%BC");
    }
}
