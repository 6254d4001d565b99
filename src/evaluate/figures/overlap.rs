//! Significant genes of each perturbation: missed, found, and only predicted.

use super::Seen;
use super::chart::{Axes, Mark, Scale, Svg, WIDTH, cut, escape, legend, px, thousands};

/// As many rows as stay readable; those of the largest effects are shown.
pub const ROWS: usize = 26;

const ROW: f64 = 14.0;
const TOP: f64 = 48.0;

/// A row per perturbation of one board or several; `None` if there is no differential expression. With `links`, a click chooses
/// the perturbation.
pub fn figure(seen: &[Seen], links: bool) -> Option<Svg> {
    let mut rows: Vec<Row> = Vec::new();
    for one in seen {
        let overlaps = one.overlaps.as_ref()?;
        rows.extend(one.order.iter().map(|&p| Row { seen: one, p, overlap: overlaps[p] }));
    }
    let size = |row: &Row| row.seen.size(row.p).unwrap_or(0.0);
    rows.sort_by(|a, b| size(b).total_cmp(&size(a)));
    rows.truncate(ROWS);
    rows.first()?;
    let bottom = TOP + ROW * rows.len() as f64 + 4.0;
    let most = |of: fn(&Overlap) -> usize| rows.iter().map(|row| of(&row.overlap)).max().unwrap_or(0) as f64;
    let axes = Axes {
        x: Scale::linear([-most(|o| o.real), most(|o| o.both + o.pred).max(1.0)], [104.0, 326.0]),
        y: Scale { domain: [0.0, 1.0], pixels: [bottom, TOP - 4.0], log: false },
        below: "genes: missed \u{2190} 0 \u{2192} found, then predicted only",
        beside: "",
    };
    let description = "Genes significant in real cells only (left of 0), in both (right of 0), and in predicted cells only.";
    let mut svg = Svg::new(bottom + 38.0, "Overlap of significant genes", description);
    let entry = |class, mark, word: &str| (class, mark, word.to_string());
    let entries = [
        entry("key-real", Mark::Cap, "real only"),
        entry("key-both", Mark::Cap, "both"),
        entry("key-pred", Mark::Cap, "predicted only"),
    ];
    legend(&mut svg, 34.0, &entries);
    // Left of 0 are counts too: no sign.
    for tick in axes.x.ticks() {
        let x = axes.x.at(tick);
        svg.line(if tick == 0.0 { "zero" } else { "grid" }, [x, TOP - 4.0], [x, bottom]);
        svg.text("tick middle", x, bottom + 15.0, &thousands(tick.abs() as i64));
    }
    svg.text("axis middle", WIDTH / 2.0 + 25.0, bottom + 33.0, axes.below);
    for (i, row) in rows.iter().enumerate() {
        row.draw(&mut svg, &axes, TOP + ROW * i as f64, seen.len() > 1, links);
    }
    Some(svg)
}

/// Numbers of significant genes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// In real cells only.
    pub real: usize,
    /// In both.
    pub both: usize,
    /// In predicted cells only.
    pub pred: usize,
}

struct Row<'a> {
    seen: &'a Seen<'a>,
    p: usize,
    overlap: Overlap,
}

impl Row<'_> {
    fn draw(&self, svg: &mut Svg, axes: &Axes, top: f64, many: bool, links: bool) {
        let Overlap { real, both, pred } = self.overlap;
        let report = &self.seen.board.report;
        let of = self.seen.board.cell_type.as_ref().filter(|_| many);
        let name = of.map_or(String::new(), |of| format!("{of} ")) + &report.perturbations[self.p];
        let [real, both, pred] = [real, both, pred].map(|n| n as f64);
        let said = format!("{name}: {real} real only, {both} both, {pred} predicted only");
        svg.push(&self.seen.open(self.p, links, &said));
        svg.push(&format!("<title>{}</title>", escape(&said)));
        svg.push(&format!(
            "<rect class=\"band\" x=\"0\" y=\"{}\" width=\"{}\" height=\"{ROW}\"/>",
            px(top),
            px(WIDTH)
        ));
        svg.text("name end", 98.0, top + 10.5, &cut(&name, 16));
        for (class, from, to) in
            [("bar-real", -real, 0.0), ("bar-both", 0.0, both), ("bar-pred", both, both + pred)]
        {
            let (x, width) = (axes.x.at(from), axes.x.at(to) - axes.x.at(from));
            if width > 0.0 {
                let (x, y, width) = (px(x), px(top + 2.0), px(width));
                svg.push(&format!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"10\"/>"
                ));
            }
        }
        svg.text("said end", WIDTH, top + 10.5, &format!("{} of {}", both, real + both));
        svg.push(if links { "</a>" } else { "</g>" });
    }
}
