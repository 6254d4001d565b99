//! Every setting with its meaning: the comments of config.rs, which say it once.

use super::Config;

const SOURCE: &str = include_str!("../config.rs");

impl Config {
    /// As [`Config::to_toml`], with the meaning of each field above it.
    pub fn explained(&self) -> String {
        let (mut text, mut section) = (String::new(), String::new());
        for line in self.to_toml().lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                text += &comment("", name);
                section = name.to_string();
            } else if let Some((field, _)) = line.split_once(" = ") {
                text += &comment(&section, field);
            }
            text += &format!("{line}\n");
        }
        text
    }
}

/// What `section.field` means, in one line; empty for what is no field of a section.
pub(super) fn meaning(field: &str) -> String {
    let (section, name) = field.split_once('.').unwrap_or(("", field));
    comment(section, name).replace(['#', '\n'], "").trim().to_string()
}

/// The comment of a field in the struct of its section, `optim` in `OptimConfig`, as lines of TOML's comments.
fn comment(section: &str, field: &str) -> String {
    let (first, rest) = section.split_at(section.len().min(1));
    let head = format!("pub struct {}{rest}Config {{", first.to_uppercase());
    let fields =
        SOURCE.split_once(&head).and_then(|(_, rest)| rest.split_once("\n}")).map_or("", |(own, _)| own);
    let above = fields.split_once(&format!("    pub {field}: ")).map_or("", |(above, _)| above);
    let as_toml = |line: &str| line.strip_prefix("    ///").map(|words| format!("#{words}\n"));
    let own = above.lines().rev().take_while(|line| !line.starts_with("    pub "));
    let comments: Vec<String> = own.filter_map(as_toml).collect();
    comments.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let config = Config::new("s40", "paper").expect("names");
        let text = config.explained();
        assert_eq!(Config::from_toml(&text, "text".as_ref()).expect("TOML"), config);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("# tiny | s40"), "{text}");
        let settings = lines.windows(2).filter(|two| !two[1].is_empty() && !two[1].starts_with('#'));
        settings.for_each(|two| assert!(two[0].starts_with("# "), "{two:?}"));
        assert!(text.contains("# Steps between validations; 0 for none.\nval_every = 1000\n"), "{text}");
    }
}
