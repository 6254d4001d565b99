//! The paths of `[datasets]`, as cell-load expands them: a file, a folder, or a pattern with `*`, `?`, `[]` and `{a,b}`.
//!
//! This program opens none of them: its cells are in the data directory. But a file that means one thing to cell-load and
//! another to us is a trap, so the names are compared with those of the files that the directory was made from.

use glob::Pattern;

use crate::error::some_of;

/// The endings that cell-load reads in a folder, or for a pattern that does not itself name files with these endings.
const ENDINGS: [&str; 2] = [".h5", ".h5ad"];
/// Most alternatives of a pattern with braces; no genuine path needs more.
const MOST: usize = 4096;

/// What may be unintended in the path of a data set that was made from `sources` (file names). The
/// error says what is wrong with a pattern.
pub(super) fn doubts(clause: &str, path: &str, sources: &[String]) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    let patterns = patterns(path).map_err(|what| format!("{clause} = {path:?}: {what}"))?;
    let readable: Vec<&str> = sources
        .iter()
        .map(String::as_str)
        .filter(|name| ENDINGS.iter().any(|end| name.ends_with(end)))
        .collect();
    let (found, lacking): (Vec<&str>, Vec<&str>) =
        readable.iter().copied().partition(|name| patterns.iter().any(|pattern| pattern.matches(name)));
    if !lacking.is_empty() {
        said.push(format!(
            "{clause} = {path:?} is for cell-load alone, which would not read {}, from which this directory was made",
            some_of(&lacking)
        ));
    }
    for name in found.iter().filter_map(|name| name.strip_suffix(".h5")) {
        if let Some(later) = found.iter().find(|other| other.strip_suffix(".h5ad") == Some(name)) {
            said.push(format!(
                "{clause} = {path:?} is for cell-load alone, which identifies files by their stem: of {name}.h5 and \
                 {later} it reads only the second; this directory contains both"
            ));
        }
    }
    Ok(said)
}

/// Patterns of the file names that a path stands for.
fn patterns(path: &str) -> Result<Vec<Pattern>, String> {
    let mut all = Vec::new();
    for one in alternatives(path)? {
        let name = one.rsplit(['/', '\\']).next().unwrap_or_default();
        let names = match ENDINGS.iter().any(|end| name.ends_with(end)) {
            true => vec![name.to_string()],
            false => ENDINGS.map(|end| format!("*{end}")).to_vec(),
        };
        for name in names {
            all.push(
                Pattern::new(&name).map_err(|e| format!("not a valid pattern: {} at {}", e.msg, e.pos))?,
            );
        }
    }
    Ok(all)
}

/// Expands `a{b,c{d,e}}` to `ab`, `acd`, `ace`.
fn alternatives(path: &str) -> Result<Vec<String>, String> {
    let (mut done, mut open) = (Vec::new(), vec![path.to_string()]);
    while let Some(one) = open.pop() {
        let Some((head, inside, tail)) = innermost(&one) else {
            done.push(one);
            continue;
        };
        open.extend(inside.split(',').map(|choice| format!("{head}{choice}{tail}")));
        if open.len() + done.len() > MOST {
            return Err(format!("its braces expand to more than {MOST} paths"));
        }
    }
    Ok(done)
}

/// Splits at the first pair of braces without another inside: the text before, in and after it.
fn innermost(path: &str) -> Option<(&str, &str, &str)> {
    let close = path.find('}')?;
    let open = path[..close].rfind('{')?;
    Some((&path[..open], &path[open + 1..close], &path[close + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubts_of(path: &str, sources: &[&str]) -> String {
        let sources: Vec<String> = sources.iter().map(|name| name.to_string()).collect();
        doubts("[datasets] d", path, &sources).map_or_else(|what| what, |said| said.join("\n"))
    }

    #[test]
    fn a_path_stands_for_what_cell_load_reads() {
        let both = ["plate1.h5ad", "plate2.h5ad"];
        for path in ["in/", "in", "in/*.h5ad", "in/plate?.h5ad", "in/plate[12].h5ad", "{in,of}/plate*"] {
            assert_eq!(doubts_of(path, &both), "", "{path}");
        }
        assert_eq!(doubts_of("in/{plate{1,2},other}.h5ad", &both), "");
        assert!(doubts_of("in/plate1.h5ad", &both).contains("would not read \"plate2.h5ad\""));
        assert!(doubts_of("cells.h5ad", &both).contains("would not read \"plate1.h5ad\", \"plate2.h5ad\""));
        assert!(doubts_of("in/*.h5", &["a.h5", "a.h5ad"]).contains("would not read \"a.h5ad\""));
    }

    #[test]
    fn files_of_one_stem_and_broken_patterns_are_told() {
        assert!(doubts_of("in", &["a.h5", "a.h5ad"]).contains("a.h5 and a.h5ad"));
        assert_eq!(doubts_of("in", &["a.h5", "b.h5ad", "train-00000.parquet"]), "");
        assert!(doubts_of("in/[a.h5ad", &["a.h5ad"]).contains("not a valid pattern"));
        assert!(doubts_of(&"{a,b}".repeat(20), &["a.h5ad"]).contains("more than 4096 paths"));
        assert_eq!(doubts_of("in/}a{", &["a.h5ad"]), "");
    }
}
