//! Progress of long work, on stderr; silent when stderr is not a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of `len` units with rate and time left, e.g. `bar("preprocess", cells, "cells")`.
pub fn bar(what: &str, len: u64, unit: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}} {{msg}}");
    let style = ProgressStyle::with_template(&template).expect("a template of known fields");
    ProgressBar::with_draw_target(Some(len), target).with_style(style).with_prefix(what.to_string())
}
