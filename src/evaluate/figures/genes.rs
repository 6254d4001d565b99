//! Which genes of a perturbation its figures draw and name, and with which marks.

use std::array::from_fn;

use super::Seen;
use super::chart::{Mark, Svg, legend, thousands};
use crate::evaluate::significant::Genes;

/// How many genes are named.
const NAMED: usize = 9;

/// On which sides a gene is significant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither.
    None,
    /// Only the measured one.
    Real,
    /// Only the predicted one.
    Pred,
    /// Both.
    Both,
}

impl Kind {
    /// In drawing order, the most telling last, on top of the others.
    pub const ALL: [Kind; 4] = [Kind::None, Kind::Real, Kind::Pred, Kind::Both];

    fn class(self) -> &'static str {
        ["none", "real", "pred", "both"][self as usize]
    }

    fn mark(self) -> Mark {
        if self == Kind::Pred { Mark::Cross } else { Mark::Cap }
    }

    fn word(self) -> &'static str {
        ["neither", "real only", "pred. only", "both"][self as usize]
    }
}

/// The genes of one perturbation.
pub struct Shown<'a> {
    /// Gene names, `[G]`.
    pub names: &'a [String],
    /// Those of real and pred, if there is differential expression.
    pub tables: Option<[Genes; 2]>,
    /// Real and pred change, `[G]` each, if there are profiles.
    pub changes: Option<[&'a [f32]; 2]>,
    /// `[G]`.
    pub kinds: Vec<Kind>,
    /// The genes that are drawn, all or some.
    pub drawn: Vec<usize>,
    /// Those named: significant first, then by size of change.
    pub named: Vec<usize>,
}

brief!(Shown<'_>, |shown| genes: shown.names.len());

/// On which sides each gene is significant.
pub fn kinds([real, pred]: &[Genes; 2]) -> Vec<Kind> {
    let kind = |g: usize| match (real.significant(g), pred.significant(g)) {
        (false, false) => Kind::None,
        (true, false) => Kind::Real,
        (false, true) => Kind::Pred,
        (true, true) => Kind::Both,
    };
    (0..real.fdr.len()).map(kind).collect()
}

impl<'a> Shown<'a> {
    /// The genes of perturbation `p`, at most `most` of them drawn: significant ones, the largest change first, and every n-th of
    /// the others.
    ///
    /// # Panics
    /// If there is no such perturbation.
    pub fn of(seen: &Seen<'a>, p: usize, most: usize) -> Shown<'a> {
        let report = &seen.board.report;
        let tables = seen.tables(p);
        let changes = report.changes.as_ref().map(|changes| from_fn(|side| changes[side][p].as_slice()));
        let genes = report.genes.len();
        let kinds = tables.as_ref().map_or(vec![Kind::None; genes], kinds);
        let size = |g: usize| match (&changes, &tables) {
            (Some([real, pred]), _) => f64::from(real[g].abs().max(pred[g].abs())),
            (_, Some([real, pred])) => real.log_fold[g].abs().max(pred.log_fold[g].abs()),
            _ => 0.0,
        };
        let mut ranked: Vec<usize> = (0..genes).collect();
        ranked.sort_by(|&a, &b| {
            let plain = |g: usize| kinds[g] == Kind::None;
            plain(a).cmp(&plain(b)).then(size(b).total_cmp(&size(a)))
        });
        let significant = kinds.iter().filter(|&&kind| kind != Kind::None).count();
        let mut drawn: Vec<usize> = (0..genes).collect();
        if genes > most {
            let first = significant.min(most * 3 / 4);
            let others: Vec<usize> = (0..genes).filter(|&g| kinds[g] == Kind::None).collect();
            let every = others.len().div_ceil((most - first).max(1)).max(1);
            drawn = ranked[..first].iter().chain(others.iter().step_by(every)).copied().collect();
        }
        let mut named = ranked;
        named.truncate(NAMED);
        // A named gene is always drawn.
        let missing: Vec<usize> =
            named.iter().copied().filter(|g| genes > most && !drawn.contains(g)).collect();
        drawn.extend(missing);
        Shown { names: &report.genes, tables, changes, kinds, drawn, named }
    }

    /// How many genes are of one kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds.iter().filter(|&&k| k == kind).count()
    }

    /// What the marks mean; nothing if all look alike.
    pub fn legend(&self, svg: &mut Svg) {
        if self.tables.is_none() {
            return;
        }
        let entry = |kind: Kind| {
            (kind.class(), kind.mark(), format!("{} {}", kind.word(), thousands(self.count(kind) as i64)))
        };
        let entries: Vec<_> = Kind::ALL.into_iter().rev().map(entry).collect();
        legend(svg, 34.0, &entries);
    }

    /// A mark for every drawn gene, and rings around the named ones.
    pub fn draw(&self, svg: &mut Svg, place: impl Fn(usize) -> [f64; 2]) {
        for kind in Kind::ALL {
            let genes = self.drawn.iter().copied().filter(|&g| self.kinds[g] == kind);
            // On their own, points in the background's grey would be too faint.
            let class = if self.tables.is_none() { "plain" } else { kind.class() };
            svg.points(class, kind.mark(), genes.map(&place));
        }
        svg.push("<g class=\"ring\">");
        for &g in &self.named {
            let [x, y] = place(g).map(super::chart::px);
            let name = super::chart::escape(&self.names[g]);
            svg.push(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"4\"><title>{name}</title></circle>"));
        }
        svg.push("</g>");
    }

    /// Names and places of the named genes.
    pub fn labels(&self, place: impl Fn(usize) -> [f64; 2]) -> Vec<(&'a str, [f64; 2])> {
        self.named.iter().map(|&g| (self.names[g].as_str(), place(g))).collect()
    }
}
