//! Labels that are probably not what they seem.

use std::collections::BTreeMap;

use crate::error::some_of;

/// What tools write for a missing label. Read as text it is a label like any other.
const NOTHING: [&str; 6] = ["nan", "na", "n/a", "none", "null", "<na>"];

/// Warnings about a column's labels: labels that differ only in case and blanks, and words for "no
/// label", unless such a word is the control label.
pub fn doubts(column: &str, labels: &[String], control: &str) -> Vec<String> {
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for label in labels {
        let same = label.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        alike.entry(same).or_default().push(label);
    }
    let of_one = alike.values().filter(|names| names.len() > 1).map(|names| {
        format!(
            "column {column:?}: {} differ only in case or blanks, and are taken as different labels",
            some_of(names)
        )
    });
    let empty =
        |(same, names): &(&String, &Vec<&str>)| NOTHING.contains(&same.as_str()) && !names.contains(&control);
    let nothing = alike.iter().filter(empty).map(|(_, names)| {
        format!(
            "column {column:?}: the text {} counts as a label; only cells with a missing label are left out",
            some_of(names)
        )
    });
    of_one.chain(nothing).collect()
}

#[cfg(test)]
mod tests {
    use super::doubts;

    #[test]
    fn labels_that_are_hardly_meant_are_told() {
        let told = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|label| label.to_string()).collect();
            doubts("gene", &labels, "None").join("\n")
        };
        assert_eq!(told(&["TP53", "TP63", "NANOG", "None"]), "");
        let said = told(&["Ctrl", "TP53", "ctrl", "ctrl "]);
        assert!(
            said.contains(r#""Ctrl", "ctrl", "ctrl " differ only in case"#) && said.lines().count() == 1,
            "{said}"
        );
        let said = told(&["A", "nan"]);
        assert!(said.contains(r#"column "gene": the text "nan" counts as a label"#), "{said}");
    }
}
