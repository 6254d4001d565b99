//! One measure of all predictors on a line, better values to the right.

use super::chart::px;

const WIDTH: f64 = 132.0;

/// What is marked on the line.
#[derive(Debug)]
pub struct Strip<'a> {
    /// Mean of the prediction.
    pub prediction: f64,
    /// Interval of that mean.
    pub interval: Option<[f64; 2]>,
    /// Means of the baselines.
    pub baselines: &'a [f64],
    /// Mean of the ceiling.
    pub ceiling: Option<f64>,
    /// Whether small is good.
    pub falling: bool,
}

impl Strip<'_> {
    /// As an element of a table; the numbers are next to it, so screen readers skip it.
    pub fn draw(&self) -> String {
        let interval = self.interval.into_iter().flatten();
        let all: Vec<f64> = self
            .baselines
            .iter()
            .copied()
            .chain(self.ceiling)
            .chain(interval)
            .chain([self.prediction])
            .collect();
        let finite = || all.iter().copied().filter(|x| x.is_finite());
        let (low, high) =
            (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        if !self.prediction.is_finite() || all.len() < 2 {
            return String::new();
        }
        let at = |x: f64| {
            let share = if high > low { (x - low) / (high - low) } else { 0.5 };
            6.0 + (WIDTH - 12.0) * if self.falling { 1.0 - share } else { share }
        };
        let mut body = format!("<path class=\"grid\" d=\"M6 9H{}\"/>", px(WIDTH - 6.0));
        for &x in self.baselines.iter().filter(|x| x.is_finite()) {
            body += &format!("<path class=\"baseline\" d=\"M{} 4v10\"/>", px(at(x)));
        }
        if let Some(x) = self.ceiling.filter(|x| x.is_finite()) {
            body += &format!("<path class=\"ceiling\" d=\"M{} 9l4 -4l4 4l-4 4z\"/>", px(at(x) - 4.0));
        }
        if let Some([a, b]) = self.interval.filter(|i| i.iter().all(|x| x.is_finite())) {
            body += &format!("<path class=\"interval\" d=\"M{} 9H{}\"/>", px(at(a)), px(at(b)));
        }
        body += &format!("<circle class=\"dot\" cx=\"{}\" cy=\"9\" r=\"4\"/>", px(at(self.prediction)));
        format!("<svg class=\"chart strip\" viewBox=\"0 0 {WIDTH} 18\" aria-hidden=\"true\">{body}</svg>")
    }
}
