//! Tables of text: features, labels, requests, marked genes. All are read by these rules:
//!
//! Tabs separate the columns in a `.tsv` or `.txt`, commas in all others; a field may be in double quotes. The file may be packed
//! with gzip, under any name, and begin with a byte order mark. The first line names the columns, of which no two may be called
//! alike. Blanks around a column's name or a field do not count, except behind a label ([`Row::exact`]), nor do empty lines; all
//! other lines have as many fields as the first (but see [`Table::with_row_names`]).

use std::collections::HashSet;
use std::io::{BufRead, Chain, Read};
use std::path::{Path, PathBuf};

use super::gzip;
use crate::error::{Error, Result, counted};

/// Ends the last line, if nothing else does.
const END: &[u8] = b"\n";

/// A table of which the names of the columns have been read.
pub(crate) struct Table {
    path: PathBuf,
    header: Vec<String>,
    rows: csv::Reader<Chain<Box<dyn BufRead>, &'static [u8]>>,
    record: csv::StringRecord,
    /// Whether `record` is the first row, and nobody has had it yet.
    is_ahead: bool,
}

/// A line of a table below the first.
pub(crate) struct Row<'a> {
    path: &'a Path,
    record: &'a csv::StringRecord,
    /// The line below it.
    next: u64,
}

impl Table {
    /// Opens a table whose name says what separates its columns. Without any line there are no columns.
    ///
    /// # Errors
    /// A file that cannot be read, or whose first line is not UTF-8; two columns of one name.
    pub fn open(path: &Path) -> Result<Table> {
        Table::separated(path, if has_tabs(path) { b'\t' } else { b',' })?.unlike()
    }

    /// The same whatever its name, and without the check of its columns ([`Table::unlike`]).
    pub fn separated(path: &Path, by: u8) -> Result<Table> {
        // A `\r` before the end of a line is a blank around the last field; so lines can be counted by `\n` alone.
        let rows = csv::ReaderBuilder::new()
            .delimiter(by)
            .terminator(csv::Terminator::Any(b'\n'))
            .flexible(true)
            .has_headers(false)
            .from_reader(gzip::open(path)?.chain(END));
        let path = path.to_path_buf();
        let (header, record) = (Vec::new(), csv::StringRecord::new());
        let mut table = Table { path, header, rows, record, is_ahead: false };
        if table.read()? {
            table.header = table.record.iter().map(|name| name.trim().to_string()).collect();
        }
        Ok(table)
    }

    /// The same, but all rows may have one field more than the first line, as R's `write.table` writes names of rows: then the
    /// first column is theirs, and has no name. A comma at the end of a row makes no such field.
    ///
    /// # Errors
    /// The first row cannot be read.
    pub fn with_row_names(mut self) -> Result<Table> {
        self.is_ahead = self.read()?;
        let ends = self.record.iter().next_back().is_some_and(|last| !last.trim().is_empty());
        if self.is_ahead && ends && self.record.len() == self.header.len() + 1 {
            self.header.insert(0, String::new());
        }
        Ok(self)
    }

    /// Refuses columns of one name.
    pub fn unlike(self) -> Result<Table> {
        check_names(&self.path, &self.header)?;
        Ok(self)
    }

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The next row, if there is one.
    ///
    /// # Errors
    /// It has more or fewer fields than there are columns, is not UTF-8 or cannot be read.
    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        if !std::mem::take(&mut self.is_ahead) && !self.read()? {
            return Ok(None);
        }
        let Table { path, header, rows, record, .. } = self;
        let row = Row { path, record, next: rows.position().line() };
        match record.len() == header.len() {
            true => Ok(Some(row)),
            false => {
                let (fields, columns) = (counted(record.len(), "field"), counted(header.len(), "column"));
                let what = format!("line {} has {fields}, but the first names {columns}", row.line());
                Err(no_text(path, &what))
            }
        }
    }

    /// Reads the next line that is not empty into `record`.
    fn read(&mut self) -> Result<bool> {
        loop {
            let mut bytes = std::mem::take(&mut self.record).into_byte_record();
            let read = self.rows.read_byte_record(&mut bytes);
            if !read.map_err(|error| no_text(&self.path, &error.to_string()))? {
                return Ok(false);
            }
            let line = self.rows.position().line().saturating_sub(1);
            let text = csv::StringRecord::from_byte_record(bytes);
            self.record = text.map_err(|_| no_text(&self.path, &format!("line {line} is not UTF-8")))?;
            if self.record.iter().any(|field| !field.trim().is_empty()) || self.record.len() > 1 {
                return Ok(true);
            }
        }
    }
}

impl<'a> Row<'a> {
    /// The field of a column, without the blanks around it.
    pub fn at(&self, column: usize) -> &'a str {
        self.record[column].trim()
    }

    /// The same with the blanks behind it, which may belong to a name: Tahoe's `"Erdafitinib "` is one. Those before it may follow a
    /// comma.
    pub fn exact(&self, column: usize) -> &'a str {
        let field = &self.record[column];
        field.strip_suffix('\r').unwrap_or(field).trim_start()
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> {
        self.record.iter().map(str::trim)
    }

    /// The line on which it begins, from 1.
    pub fn line(&self) -> u64 {
        let inside: u64 = self.record.iter().map(|field| field.matches('\n').count() as u64).sum();
        // A quote that is never closed takes the end of the last line, too.
        let open = self.record.iter().next_back().is_some_and(|last| last.ends_with('\n'));
        self.next - inside - u64::from(!open)
    }

    /// An error that names file and line.
    pub fn wrong(&self, what: impl AsRef<str>) -> Error {
        Error::format(self.path, format!("line {}: {}", self.line(), what.as_ref()))
    }
}

fn no_text(path: &Path, why: &str) -> Error {
    Error::format(path, format!("is not a table of text: {why}"))
}

/// Refuses two columns of one name, unless they have none: nobody can ask for those.
pub(crate) fn check_names(path: &Path, header: &[String]) -> Result<()> {
    let mut seen = HashSet::new();
    match header.iter().find(|name| !name.is_empty() && !seen.insert(*name)) {
        Some(twice) => Err(Error::format(path, format!("has two columns {twice:?}; rename one"))),
        None => Ok(()),
    }
}

/// Whether a table's name says that tabs separate its columns.
pub(crate) fn has_tabs(path: &Path) -> bool {
    // The ending below `.gz`, if the name has that.
    let packed = path.extension().is_some_and(|end| end == "gz");
    let plain = if packed { path.with_extension("") } else { path.into() };
    plain.extension().is_some_and(|end| end == "tsv" || end == "txt")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Lines and fields, or what is wrong.
    fn read(name: &str, bytes: &[u8]) -> std::result::Result<Vec<(u64, Vec<String>)>, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let all = || {
            let mut table = Table::open(&path)?;
            let mut rows = vec![(1, table.header().to_vec())];
            while let Some(row) = table.next()? {
                rows.push((row.line(), row.iter().map(String::from).collect()));
            }
            Ok(rows)
        };
        all().map_err(|error: Error| error.to_string().replace(&path.display().to_string(), "table"))
    }

    fn rows(rows: &[(u64, &[&str])]) -> Vec<(u64, Vec<String>)> {
        rows.iter().map(|(line, row)| (*line, row.iter().map(|field| field.to_string()).collect())).collect()
    }

    #[test]
    fn blanks_marks_and_empty_lines_do_not_count_but_lines_do() {
        let found =
            rows(&[(1, &["a", "b c"]), (3, &["1", "x,y"]), (4, &["", "two\nlines"]), (8, &["3", ""])]);
        let text = "a, b c\n\n1 ,\"x,y\"\n,\"two\nlines\"\n\n \n3,";
        let marked = format!("\u{feff}{}\n", text.replace("\nlines", "\rlines").replace('\n', "\r\n"));
        assert_eq!(read("t.csv", text.as_bytes()), Ok(found.clone()));
        assert_eq!(read("t.csv", marked.replace("\rlines", "\nlines").as_bytes()), Ok(found.clone()));
        let tabs = "a\tb c\n\n1\tx,y\n\t\"two\nlines\"\n\n\n3\t\n";
        for name in ["t.tsv", "t.txt"] {
            assert_eq!(read(name, tabs.as_bytes()), Ok(found.clone()));
        }
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(text.as_bytes()).expect("memory");
        let packed = packed.finish().expect("memory");
        for name in ["t.csv.gz", "t.csv"] {
            assert_eq!(read(name, &packed), Ok(found.clone()));
        }
        assert_eq!(read("t.csv", b"\n\n"), Ok(rows(&[(1, &[])])));
    }

    #[test]
    fn names_of_rows_need_no_name_where_they_are_asked_for() {
        let named = |text: &str| {
            let file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a file");
            std::fs::write(file.path(), text).expect("written");
            let mut table = Table::open(file.path())?.with_row_names()?;
            let mut rows = vec![(1, table.header().to_vec())];
            while let Some(row) = table.next()? {
                rows.push((row.line(), row.iter().map(String::from).collect()));
            }
            Ok::<_, Error>(rows)
        };
        let found =
            rows(&[(1, &["", "gene", "line"]), (2, &["AAAC-1", "MYC", "T"]), (3, &["AAAG-1", "", "B"])]);
        let text = "gene,line\nAAAC-1,MYC,T\nAAAG-1,,B\n";
        assert_eq!(named(text).expect("a table"), found);
        assert!(read("t.csv", text.as_bytes()).is_err(), "nobody asked");
        assert_eq!(named("a,b\n1,2\n").expect("a table"), rows(&[(1, &["a", "b"]), (2, &["1", "2"])]));
        // Only some rows have them, or none: a comma ends each.
        for text in ["a,b\nx,1,2\n1,2\n", "a,b\n1,2\nx,1,2\n", "a,b\n1,2,\n3,4,\n"] {
            let told = named(text).expect_err("refused").to_string();
            assert!(told.contains("is not a table of text: line "), "{told}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let refused = |bytes: &[u8]| read("t.csv", bytes).expect_err("refused");
        assert_eq!(refused(b"a,b,a\n1,2,3\n"), "table: has two columns \"a\"; rename one");
        assert!(read("t.csv", b"a,,\n1,2,3\n").is_ok());
        let few = |line: u32| {
            format!("table: is not a table of text: line {line} has 1 field, but the first names 2 columns")
        };
        assert_eq!(refused(b"a,b\n1,2\n\n3\n4,5\n"), few(4));
        // A quote that is never closed.
        assert_eq!(refused(b"a,b\n1,2\n\"3,4\n5,6\n7,8"), few(3));
        assert_eq!(refused(b"a,b\n1,2\n\"3,4\n5,6\n7,8\n"), few(3));
        assert_eq!(refused(b"a,b\n1,\xff\n"), "table: is not a table of text: line 2 is not UTF-8");
    }
}
