//! The names in a list of genes: a plain one, or the marked rows of a table.

use std::path::Path;

use crate::data::gzip;
use crate::error::{Error, Result};

/// The column that marks genes, as in scanpy's var and in our var.csv.
const MARK: &str = "highly_variable";

/// One name per line; or, if the first line is the header of a table (commas or tabs) with a column `highly_variable`, the names in
/// the first column of the rows where it is true. Packed with gzip or not.
pub fn names(path: &Path) -> Result<Vec<String>> {
    let text = gzip::text(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let first = text.lines().next().unwrap_or_default();
    let has_mark =
        |by: &char| first.split(*by).skip(1).any(|column| column.trim_matches(['"', ' ', '\r']) == MARK);
    match [',', '\t'].into_iter().find(has_mark) {
        Some(by) => marked(path, text, by as u8),
        None => Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()),
    }
}

fn marked(path: &Path, text: &str, by: u8) -> Result<Vec<String>> {
    let wrong = |what: String| Error::format(path, what);
    let mut table = csv::ReaderBuilder::new().delimiter(by).trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = table.headers().map_err(|error| wrong(error.to_string()))?;
    let mark = header.iter().position(|column| column == MARK).expect("seen in the first line");
    let mut names = Vec::new();
    for record in table.records() {
        let record = record.map_err(|error| wrong(error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        match &record[mark] {
            "True" | "true" | "TRUE" | "1" | "1.0" => names.push(record[0].to_string()),
            "False" | "false" | "FALSE" | "0" | "0.0" => {}
            other => {
                return Err(wrong(format!("line {line}: {MARK} is {other:?}; it must be True or False")));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        names(file.path())
    }

    #[test]
    fn a_list_and_a_table_name_genes() {
        let two = ["B".to_string(), "A".to_string()];
        for text in [
            "B\nA\n",
            "\u{feff}B\r\n\r\n A \r\n",
            ",gene_ids,highly_variable,means\nB,E1,True,0.5\nC,E2,False,0.1\nA,E3,True,2\n",
            "gene\tmeans\thighly_variable\nB\t1\ttrue\nC\t2\tfalse\nA\t3\t1\n",
            "\"\",\"highly_variable\"\n\"B\",TRUE\n\"A\",TRUE\n",
        ] {
            assert_eq!(read(text).expect(text), two, "{text}");
        }
        // A name with a comma is still a name.
        assert_eq!(read("A,B\nC\n").expect("a list"), ["A,B", "C"]);
        let refused = read("gene,highly_variable\nA,maybe\n").expect_err("neither true nor false");
        assert!(
            refused.to_string().ends_with("line 2: highly_variable is \"maybe\"; it must be True or False"),
            "{refused}"
        );
        assert!(read("gene,highly_variable\nA\n").is_err());
    }
}
