//! The names in a list of genes: a plain one, or the marked rows of a table.

use std::path::Path;

use crate::data::gzip;
use crate::data::table::Table;
use crate::error::Result;

/// The column that marks genes, as in scanpy's var and in our var.csv.
const MARK: &str = "highly_variable";

/// One name per line, without the blanks around it; or, if the first line is the header of a table (commas or tabs, whatever its
/// name) with a column `highly_variable`, the names in the first column of the rows where it is true. Packed with gzip or not.
pub fn names(path: &Path) -> Result<Vec<String>> {
    let mark = |table: &Table| table.header().iter().skip(1).position(|column| column == MARK);
    let table = |by: u8| {
        let table = Table::separated(path, by).ok()?;
        Some((mark(&table)? + 1, table))
    };
    match [b',', b'\t'].into_iter().find_map(table) {
        Some((mark, table)) => marked(table.unlike()?, mark),
        None => {
            let text = gzip::text(path)?;
            let names = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().map(str::trim);
            Ok(names.filter(|name| !name.is_empty()).map(str::to_string).collect())
        }
    }
}

/// The first column of the rows that are true in column `mark`.
fn marked(mut table: Table, mark: usize) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some(row) = table.next()? {
        match row.at(mark) {
            "True" | "true" | "TRUE" | "1" | "1.0" => names.push(row.at(0).to_string()),
            "False" | "false" | "FALSE" | "0" | "0.0" => {}
            other => return Err(row.wrong(format!("{MARK} is {other:?}; it must be True or False"))),
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
        // Quotes that are never closed make no header.
        for text in ["gene,\"highly_variable\nA,True\n", "\"x,highly_variable\",y\nA,True\n"] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(read(text).expect(text), lines);
        }
        assert_eq!(read("gene, \"highly_variable\"\nA,True\n").expect("a list").len(), 2);
    }
}
