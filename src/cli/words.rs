//! What the library calls a setting, in the words of the command line.
//!
//! The library knows fields, not options: it names them as the field of an [`Error::Setting`] and, in backticks, inside its messages
//! (`` `size` ``, or with a value, `` `size = total_counts` ``). What a command prints of the library's errors, warnings and notes
//! goes through here, so that its user reads of the options that he can give.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;

/// A field of the library's settings, or a function, and what stands for it on the command line: an option of the command that
/// runs, or another command. A field that is called alike in the settings of two commands is the same option of both.
pub const OPTIONS: [(&str, &str); 57] = [
    // Settings and parts of `preprocess` and `genes`.
    ("batch", "--batch-col"),
    ("cell_type", "--celltype-col"),
    ("control", "--control-pert"),
    ("fill_missing", "--fill-missing"),
    ("filters.knockdown", "--knockdown-filter"),
    ("filters.min_cells", "--min-cells"),
    ("filters.min_cells_per_pert", "--min-cells-per-pert"),
    ("filters.min_counts", "--min-counts"),
    ("filters.min_genes", "--min-genes"),
    ("flavor", "--flavor"),
    ("gene_id", "--gene-id"),
    ("genes", "--genes"),
    ("Genes::Top", "--n-top-genes"),
    ("labels", "--labels"),
    ("only", "--part"),
    ("perturbation", "--pert-col"),
    ("rescale_before_hvg", "--rescale-before-hvg"),
    ("scale", "--scale"),
    ("size", "--size-col"),
    ("source", "--source"),
    ("target", "--target-sum"),
    ("work", "--work"),
    // Those of `simulate` and `profile`.
    ("batches", "--batches"),
    ("cell_types", "--cell-types"),
    ("cells", "--cells"),
    ("perturbations", "--perturbations"),
    ("sets", "--sets"),
    ("skip", "--skip"),
    // Those of splits, configs and `train`.
    ("Begin::Resume", "--resume"),
    ("few_shot", "--few-shot"),
    ("groups", "--split"),
    ("init_from", "--init-from"),
    ("Preset::Pbmc", "--preset pbmc"),
    ("Preset::Replogle", "--preset replogle"),
    ("Preset::Tahoe", "--preset tahoe"),
    ("set", "--set"),
    ("steps", "--steps"),
    ("train", "--split"),
    // Those of `predict`, `baseline`, `export` and `evaluate`.
    ("asked", "--subset"),
    ("ControlFile::size", "--size-col"),
    ("data", "--data"),
    ("effects_out", "--effects-out"),
    ("features", "--perturbation-features"),
    ("observe", "--observe"),
    ("out", "--out"),
    ("part", "--subset"),
    ("real_out", "--real-out"),
    ("skip_metrics", "--skip-metrics"),
    ("Source::File", "--controls"),
    ("unit", "--values"),
    ("with_controls", "--with-controls"),
    // What another command does.
    ("h5ad::describe", "inspect"),
    ("predict::Settings::with_controls", "predict --with-controls"),
    ("preprocess::Settings::genes", "preprocess --genes"),
    ("preprocess::Settings::labels", "preprocess --labels"),
    ("preprocess::Settings::source", "preprocess --source"),
    ("preprocess::Settings::target", "preprocess --target-sum"),
];

/// What stands for a field on the command line.
pub fn option(field: &str) -> Option<&'static str> {
    OPTIONS.iter().find(|(known, _)| *known == field).map(|(_, option)| *option)
}

/// A message of the library with options in place of the fields in backticks; what else stands in backticks is kept.
pub fn in_options(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('`') {
        said.push_str(before);
        let closed = after.split_once('`').and_then(|(inside, beyond)| {
            let (field, value) = match inside.split_once(" = ") {
                Some((field, value)) => (field, format!(" {value}")),
                None => (inside, String::new()),
            };
            Some((option(field)?, value, beyond))
        });
        let Some((option, value, beyond)) = closed else {
            said.push('`');
            rest = after;
            continue;
        };
        // A command needs them to be told from the words around it.
        let mark = if option.starts_with('-') { "" } else { "`" };
        said.extend([mark, option, &value, mark]);
        rest = beyond;
    }
    said + rest
}

/// An error as the program tells it.
pub fn told(error: &Error) -> String {
    let Error::Setting { field, what } = error else { return in_options(&error.to_string()) };
    // `a, b or c`; the name of a column, in quotes, is no field.
    let one = |field: &str| option(field).unwrap_or(field).to_string();
    let either = |fields: &str| fields.split(" or ").map(one).collect::<Vec<_>>().join(" or ");
    let fields = match field.contains('"') {
        true => field.clone(),
        false => field.split(", ").map(either).collect::<Vec<_>>().join(", "),
    };
    format!("{fields}: {}", in_options(what))
}

/// Writes a line to stderr in one piece: several ranks may share it, and each line stays whole.
pub fn say(line: impl Display) {
    // Who has closed it wants to hear nothing.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Tells on stderr what the library notes.
pub fn note(what: impl Display) {
    say(format_args!("note: {}", in_options(&what.to_string())));
}

/// Tells on stderr what the library warns of.
pub fn warning(what: impl Display) {
    say(format_args!("warning: {}", in_options(&what.to_string())));
}

/// Prints what the library reports as a line of JSON, with options in its notes.
pub fn print_json(report: &impl Serialize) {
    let mut report = serde_json::to_value(report).expect("a report is plain JSON");
    notes_in_options(&mut report, false);
    println!("{report}");
}

/// The texts of a report that the library writes itself; all others are the user's names.
const NOTES: [&str; 4] = ["notes", "warnings", "why", "fallbacks"];

fn notes_in_options(value: &mut Value, is_note: bool) {
    match value {
        Value::String(text) if is_note => *text = in_options(text),
        Value::Array(items) => items.iter_mut().for_each(|item| notes_in_options(item, is_note)),
        Value::Object(fields) => fields
            .iter_mut()
            .for_each(|(name, value)| notes_in_options(value, is_note || NOTES.contains(&name.as_str()))),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_as_options() {
        let told = |field: &str, what: &str| told(&Error::setting(field, what));
        assert_eq!(
            told("size", "give `target = 1e4`, or `scale`"),
            "--size-col: give --target-sum 1e4, or --scale"
        );
        assert_eq!(told("filters.min_cells, work or data.sets", "x"), "--min-cells, --work or data.sets: x");
        assert_eq!(told("train.steps", "is 0"), "train.steps: is 0");
        assert_eq!(told("column \"a, size or b\"", "x"), "column \"a, size or b\": x");
        let error = Error::format("size", "give `preprocess::Settings::genes = DIR` (`predict` does)");
        assert_eq!(super::told(&error), "size: give `preprocess --genes DIR` (`predict` does)");
    }

    #[test]
    fn only_notes_of_a_report_have_options() {
        let mut report =
            serde_json::json!({ "out": "`size`", "notes": ["give `size`"], "of": { "why": "`out`" } });
        notes_in_options(&mut report, false);
        assert_eq!(
            report.to_string(),
            r#"{"out":"`size`","notes":["give --size-col"],"of":{"why":"--out"}}"#
        );
    }

    #[test]
    fn a_single_backtick_hides_no_field() {
        assert_eq!(
            in_options("\"5`-FU\": give `size = x`, ` or `y"),
            "\"5`-FU\": give --size-col x, ` or `y"
        );
        assert_eq!(in_options("`size"), "`size");
    }
}
