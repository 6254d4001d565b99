//! A small kit for charts: scales, round ticks, axes, marks, labels, and the SVG text they become.
//!
//! Lengths are in px of a drawing [`WIDTH`] wide: a third of a desktop page or a whole phone, so its letters have the same size on
//! both. Colours are classes of `style.css`, which the page and every file include.

use std::collections::HashSet;
use std::fmt::Write as _;

/// Width of every drawing.
pub const WIDTH: f64 = 380.0;

/// Margin of a drawing that stands alone.
const MARGIN: f64 = 14.0;

/// What the drawings look like, in both colour schemes.
pub const STYLE: &str = include_str!("style.css");

/// A drawing.
pub struct Svg {
    height: f64,
    title: String,
    description: String,
    body: String,
}

brief!(Svg, |svg| title: svg.title, height: svg.height);

impl Svg {
    /// An empty drawing with its title.
    pub fn new(height: f64, title: &str, description: &str) -> Svg {
        let mut svg = Svg {
            height,
            title: title.to_string(),
            description: description.to_string(),
            body: String::new(),
        };
        svg.text("title", 0.0, 14.0, &cut(title, 56));
        svg
    }

    /// As an element of a page.
    pub fn inline(&self) -> String {
        self.element("", 0.0, "")
    }

    /// As a file of its own, with a background and a margin.
    pub fn file(&self) -> String {
        let style = format!("<style>{STYLE}svg.chart {{ background: var(--panel); }}</style>");
        let [width, height] = [WIDTH, self.height].map(|length| px(length + 2.0 * MARGIN));
        let attributes =
            format!(" xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\"");
        self.element(&attributes, MARGIN, &style) + "\n"
    }

    fn element(&self, attributes: &str, margin: f64, style: &str) -> String {
        let Svg { height, title, description, body } = self;
        let (title, description) = (escape(title), escape(description));
        let view = [-margin, -margin, WIDTH + 2.0 * margin, height + 2.0 * margin].map(px).join(" ");
        // A screen reader hides what is inside an image, including links.
        let role = if body.contains("<a ") { "group" } else { "img" };
        format!(
            "<svg{attributes} class=\"chart\" viewBox=\"{view}\" role=\"{role}\" aria-label=\"{title}\">\
             <title>{title}</title><desc>{description}</desc>{style}{body}</svg>"
        )
    }

    /// Raw elements.
    pub fn push(&mut self, elements: &str) {
        self.body += elements;
    }

    /// A line of text; the class says where it is anchored.
    pub fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let (x, y, text) = (px(x), px(y), escape(text));
        self.body += &format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(px);
        self.body += &format!("<path class=\"{class}\" d=\"M{x1} {y1}L{x2} {y2}\"/>");
    }

    /// Many marks as one element. Those that fall on the same tenth of a px are drawn once, which looks the same.
    pub fn points(&mut self, class: &str, mark: Mark, places: impl IntoIterator<Item = [f64; 2]>) {
        let mut drawn = HashSet::new();
        let mut d = String::new();
        for place in places {
            let [x, y] = place.map(px);
            let at = match mark {
                Mark::Cap => format!("M{x} {y}h0"),
                Mark::Cross => format!("M{} {}l4 4m0-4l-4 4", px(place[0] - 2.0), px(place[1] - 2.0)),
            };
            if drawn.insert((x, y)) {
                d += &at;
            }
        }
        if !d.is_empty() {
            write!(self.body, "<path class=\"{class}\" d=\"{d}\"/>").expect("a string takes any text");
        }
    }
}

/// What a point looks like.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// The cap of a line without length: round or square, depending on its class.
    Cap,
    /// An oblique cross.
    Cross,
}

/// Maps numbers to px.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// First and last number.
    pub domain: [f64; 2],
    /// The pixels they map to.
    pub pixels: [f64; 2],
    /// Whether distances are those of log10(1 + x), for counts over several orders of magnitude.
    pub log: bool,
}

impl Scale {
    /// Linear, from round number to round number.
    pub fn linear([low, high]: [f64; 2], pixels: [f64; 2]) -> Scale {
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = step((high - low) / 5.0);
        Scale { domain: [(low / step).floor() * step, (high / step).ceil() * step], pixels, log: false }
    }

    /// For counts: from a power of ten or, if there are very small ones, from zero.
    pub fn counts([low, high]: [f64; 2], pixels: [f64; 2]) -> Scale {
        let low = if low >= 10.0 { 10f64.powf(low.log10().floor()) } else { 0.0 };
        Scale { domain: [low, (high * 1.15).max(low + 1.0)], pixels, log: true }
    }

    /// The pixel of a number.
    pub fn at(&self, x: f64) -> f64 {
        let bend = |x: f64| if self.log { (1.0 + x).log10() } else { x };
        let [low, high] = self.domain.map(bend);
        self.pixels[0] + (bend(x) - low) / (high - low) * (self.pixels[1] - self.pixels[0])
    }

    /// Round numbers in the domain.
    pub fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.domain;
        if self.log {
            // Over few powers of ten there is room for twice and five times each.
            let between: &[f64] = if high < 300.0 * low { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let powers = (0..12).flat_map(|power| between.iter().map(move |m| m * 10f64.powi(power)));
            return std::iter::once(0.0).chain(powers).filter(|&x| (low..=high).contains(&x)).collect();
        }
        let step = step((high - low) / 5.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The smallest 1, 2 or 5 times a power of ten that is not less than `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|m| m * power >= least * (1.0 - 1e-9)).unwrap_or(10.0);
    step * power
}

/// The field of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    /// Left to right.
    pub x: Scale,
    /// Bottom to top.
    pub y: Scale,
    /// Name of the x axis, below the field.
    pub below: &'a str,
    /// Name of the y axis, to its left.
    pub beside: &'a str,
}

impl Axes<'_> {
    /// Grid, numbers and names.
    pub fn draw(&self, svg: &mut Svg) {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        // A page holds thousands of charts: a chart's lines are one element, and its numbers share their class.
        let mut lines = [String::new(), String::new()];
        let mut numbers = [String::new(), String::new()];
        for tick in self.x.ticks() {
            let (x, text) = (px(self.x.at(tick)), tick_text(tick));
            lines[usize::from(tick == 0.0)] += &format!("M{x} {}V{}", px(top), px(bottom));
            numbers[0] += &format!("<text x=\"{x}\" y=\"{}\">{text}</text>", px(bottom + 15.0));
        }
        for tick in self.y.ticks() {
            let (y, text) = (self.y.at(tick), tick_text(tick));
            lines[usize::from(tick == 0.0)] += &format!("M{} {}H{}", px(left), px(y), px(right));
            numbers[1] += &format!("<text x=\"{}\" y=\"{}\">{text}</text>", px(left - 6.0), px(y + 3.5));
        }
        for (class, d) in ["grid", "zero"].into_iter().zip(&lines) {
            svg.push(&format!("<path class=\"{class}\" d=\"{d}\"/>"));
        }
        for (class, texts) in ["tick middle", "tick end"].into_iter().zip(&numbers) {
            svg.push(&format!("<g class=\"{class}\">{texts}</g>"));
        }
        svg.text("axis middle", (left + right) / 2.0, bottom + 33.0, self.below);
        let (x, y) = (px(11.0), px((top + bottom) / 2.0));
        let beside = escape(self.beside);
        svg.push(&format!(
            "<text class=\"axis middle\" transform=\"translate({x} {y}) rotate(-90)\">{beside}</text>"
        ));
    }

    /// The pixel of a pair of numbers.
    pub fn at(&self, x: f64, y: f64) -> [f64; 2] {
        [self.x.at(x), self.y.at(y)]
    }

    /// Names next to their points, each where no other name, no edge and no place of `full` is in the way; a name without such a
    /// spot is left out.
    pub fn names(&self, svg: &mut Svg, names: &[(&str, [f64; 2])], full: &[[f64; 2]]) {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        let mut taken: Vec<[f64; 4]> =
            full.iter().map(|[x, y]| [x - 3.5, y - 3.5, x + 3.5, y + 3.5]).collect();
        for (name, [x, y]) in names {
            let name = cut(name, 18);
            let width = 6.9 * name.chars().count() as f64;
            let places = [
                ("label", x + 6.0, y + 3.5, x + 6.0),
                ("label end", x - 6.0, y + 3.5, x - 6.0 - width),
                ("label middle", *x, y - 8.0, x - width / 2.0),
                ("label middle", *x, y + 15.0, x - width / 2.0),
                ("label", x + 3.0, y - 8.0, x + 3.0),
                ("label end", x - 3.0, y + 15.0, x - 3.0 - width),
            ];
            let free = places.into_iter().find(|&(_, _, base, from)| {
                let inside =
                    from >= left && from + width <= right && base - 9.0 >= top && base + 3.0 <= bottom;
                let apart = |b: &[f64; 4]| {
                    from > b[2] + 2.0 || from + width + 2.0 < b[0] || base - 9.0 > b[3] || base + 2.0 < b[1]
                };
                inside && taken.iter().all(apart)
            });
            if let Some((class, at, base, from)) = free {
                taken.push([from, base - 9.0, from + width, base + 2.0]);
                svg.text(class, at, base, &name);
            }
        }
    }
}

/// A legend in one line: class and kind of each mark, and its word.
pub fn legend(svg: &mut Svg, y: f64, entries: &[(&str, Mark, String)]) {
    let mut x = 5.0;
    for (class, mark, word) in entries {
        svg.points(class, *mark, [[x, y - 4.0]]);
        svg.text("key", x + 8.0, y, word);
        x += 23.0 + 5.9 * word.chars().count() as f64;
    }
}

/// `0.25`, `-2`, `1,000`, `2e-5`.
fn tick_text(x: f64) -> String {
    let size = x.abs();
    let text = match size {
        _ if size >= 1e6 || (size > 0.0 && size < 1e-3) => format!("{x:.0e}"),
        _ if size >= 1000.0 => thousands(x.round() as i64),
        // Sums of steps such as 0.1 end in stray digits.
        _ => format!("{x:.4}").trim_end_matches('0').trim_end_matches('.').to_string(),
    };
    if let Some(digits) = text.strip_prefix('-') { format!("\u{2212}{digits}") } else { text }
}

/// `12,345`.
pub fn thousands(n: impl Into<i64>) -> String {
    let n = n.into();
    let digits = n.unsigned_abs().to_string();
    let grouped: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|c| std::str::from_utf8(c).unwrap_or_else(|e| unreachable!("digits: {e}")))
        .collect();
    format!("{}{}", if n < 0 { "-" } else { "" }, grouped.join(","))
}

/// A length to a tenth of a px, in as few characters as possible.
pub fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// At most `most` letters, the last of them an ellipsis if some are missing.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most - 1).chain(['\u{2026}']).collect()
}

/// Text between tags and in quotes, for HTML and for XML, which allows no control characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\t' | '\n' | '\r' => escaped.push(' '),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}')
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = |low, high| Scale::linear([low, high], [0.0, 1.0]).ticks();
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-3.0, 9.0), [-5.0, 0.0, 5.0, 10.0]);
        assert_eq!(Scale::counts([0.0, 2500.0], [0.0, 1.0]).ticks(), [0.0, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::counts([30.0, 168.0], [0.0, 1.0]).ticks(), [10.0, 20.0, 50.0, 100.0]);
        assert!(ticks(2.0, 2.0).contains(&2.0));
        assert_eq!(
            ["0.6", "\u{2212}5", "1,000", "2e-5"],
            [0.6000000000000001, -5.0, 1000.0, 2e-5].map(tick_text)
        );
    }

    #[test]
    fn names_are_escaped_and_cut_by_letters() {
        assert_eq!(escape("<b a='\"'>&\u{1}"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd}");
        assert_eq!(cut("αβγδε", 4), "αβγ\u{2026}");
        assert_eq!([px(-0.01), px(12.0), px(3.07)], ["0", "12", "3.1"]);
        assert_eq!([thousands(-1234567), thousands(12)], ["-1,234,567", "12"]);
    }
}
