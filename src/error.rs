//! What the outside world can do to us. Our own bugs panic instead, with the op and the shapes.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Result of anything that touches files, settings or requests.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure the user can act on: each message names the file or field and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a file operation.
    #[error("{}: {}", path.display(), words(cause))]
    Io {
        /// File or folder concerned.
        path: PathBuf,
        /// What the system said. It is part of the message, so not a source: who prints those too would say it twice.
        cause: io::Error,
    },
    /// A file is not what it claims to be, or holds what cannot be used.
    #[error("{}: {what}", path.display())]
    Format {
        /// File concerned.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A setting or request that cannot be honoured.
    #[error("{field}: {what}")]
    Setting {
        /// Field of the settings, config field, parameter or variable of the environment. In `what`, another one stands in
        /// backticks, which a value may follow: `` `size = total_counts` ``.
        field: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A GPU is missing, full or failed.
    #[error("{0}")]
    Device(String),
    /// Another rank has failed, is gone, cannot be reached or is about to do something else.
    #[error("{0}")]
    Rank(String),
    /// The loss or the gradient of a training step is not finite.
    #[error("{0}")]
    Diverged(String),
    /// The work was asked to stop, or could not be set up to notice such a request.
    #[error("{0}")]
    Stopped(String),
}

/// What went wrong: in the system's words, or in clearer ones where those do not say what is in the way.
fn words(cause: &io::Error) -> String {
    match cause.kind() {
        // The latter comes from making a folder, which is no error if one is already there; who makes a file anew says himself
        // that there is one.
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "is a file, but a folder is needed".into(),
        ErrorKind::IsADirectory => "is a folder, but a file is needed".into(),
        _ => cause.to_string(),
    }
}

impl Error {
    /// A file problem that is not the system's.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// The same with more words behind it, such as a way out; what the system refused is then words.
    pub fn followed_by(self, more: &str) -> Self {
        match self {
            Error::Io { path, cause } => Error::Format { path, what: words(&cause) + more },
            Error::Format { path, what } => Error::Format { path, what: what + more },
            Error::Setting { field, what } => Error::Setting { field, what: what + more },
            Error::Device(what) => Error::Device(what + more),
            Error::Rank(what) => Error::Rank(what + more),
            Error::Diverged(what) => Error::Diverged(what + more),
            Error::Stopped(what) => Error::Stopped(what + more),
        }
    }

    /// A problem with a setting; the program shows its user the option in place of the field ([`Error::Setting`]).
    pub fn setting(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Setting { field: field.into(), what: what.into() }
    }
}

/// Names the path in an I/O error: `File::open(p).at(p)?`.
pub trait At<T> {
    /// Attaches the path.
    ///
    /// # Errors
    /// The same, with the path.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|cause| {
            let path = path.as_ref();
            // The file that stands in the way may be further up.
            let met = || path.ancestors().find(|part| part.exists());
            let path = if cause.kind() == ErrorKind::NotADirectory { met().unwrap_or(path) } else { path };
            Error::Io { path: path.to_path_buf(), cause }
        })
    }
}

/// The names nearest to `wanted`, for "did you mean": at most three, best first.
pub fn nearest<'a, S: AsRef<str> + ?Sized + 'a>(
    wanted: &str,
    names: impl IntoIterator<Item = &'a S>,
) -> Vec<&'a str> {
    let lower = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(AsRef::as_ref)
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).filter(|(score, _)| *score > 0.6).map(|(_, name)| name).collect()
}

/// `unknown perturbation "X"; did you mean "Y" or "Z"?`, or, if nothing is near, some of the known names.
pub fn unknown<'a, S: AsRef<str> + ?Sized + 'a>(
    kind: &str,
    wanted: &str,
    names: impl IntoIterator<Item = &'a S> + Clone,
) -> String {
    let near: Vec<String> = nearest(wanted, names.clone()).iter().map(|name| format!("{name:?}")).collect();
    if !near.is_empty() {
        return format!("unknown {kind} {wanted:?}; did you mean {}?", near.join(" or "));
    }
    format!("unknown {kind} {wanted:?}; known: {}", some_of(&names.into_iter().collect::<Vec<_>>()))
}

/// [`unknown`] for the label of the control cells: names that mean a control come first.
pub fn unknown_control<'a, S: AsRef<str> + ?Sized + 'a>(
    kind: &str,
    wanted: &str,
    names: impl IntoIterator<Item = &'a S> + Clone,
) -> String {
    const WORDS: [&str; 7] = ["control", "nontarget", "ctrl", "dmso", "vehicle", "untreated", "unperturbed"];
    let means_it = |name: &&str| {
        let letters: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
        WORDS.iter().any(|word| letters.contains(word))
    };
    let likely = names.clone().into_iter().map(AsRef::as_ref).filter(means_it).take(3);
    let likely: Vec<String> = likely.map(|name| format!("{name:?}")).collect();
    match likely.is_empty() {
        true => unknown(kind, wanted, names),
        false => format!("unknown {kind} {wanted:?}; did you mean {}?", likely.join(" or ")),
    }
}

/// `1 group`, `2 groups`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `"a", "b", "c" and 4 more`; `none` if there are no names.
pub fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{:?}", name.as_ref())).collect();
    match (names.len(), names.len().saturating_sub(SHOWN)) {
        (0, _) => "none".into(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{At, unknown, unknown_control};

    #[test]
    fn what_the_system_said_is_told_once() {
        let error = std::fs::read("/no/such/file").at("/no/such/file").expect_err("there is none");
        assert!(error.to_string().starts_with("/no/such/file: No such file"), "{error}");
        assert!(std::error::Error::source(&error).is_none());
    }

    #[test]
    fn a_file_where_a_folder_is_needed_is_named_itself() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let wanted = format!("{}: is a file, but a folder is needed", file.path().display());
        for below in ["x", "x/y"] {
            let below = file.path().join(below);
            assert_eq!(std::fs::read(&below).at(&below).expect_err("below a file").to_string(), wanted);
        }
        let told = std::fs::read_dir(file.path()).at(file.path()).expect_err("a file").to_string();
        assert_eq!(told, wanted);
    }

    #[test]
    fn an_unknown_name_is_answered_by_the_nearest_or_else_by_some_there_are() {
        let names: Vec<String> = ["IFNB1", "IFNG", "IL6", "TNF", "CD3E", "MYC"].map(String::from).to_vec();
        assert_eq!(
            unknown("gene", "IFNB2", &names[..2]),
            r#"unknown gene "IFNB2"; did you mean "IFNB1" or "IFNG"?"#
        );
        assert_eq!(
            unknown("gene", "xxxx", &names),
            r#"unknown gene "xxxx"; known: "IFNB1", "IFNG", "IL6", "TNF", "CD3E" and 1 more"#
        );
        assert_eq!(unknown("gene", "xxxx", &names[2..4]), r#"unknown gene "xxxx"; known: "IL6", "TNF""#);
        assert_eq!(unknown("gene", "xxxx", &names[..0]), r#"unknown gene "xxxx"; known: none"#);
        let labels: Vec<String> = ["A1", "B2", "C3", "D4", "E5", "non-targeting"].map(String::from).to_vec();
        assert_eq!(
            unknown_control("label", "control", &labels),
            r#"unknown label "control"; did you mean "non-targeting"?"#
        );
        assert_eq!(unknown_control("label", "A2", &labels[..5]), unknown("label", "A2", &labels[..5]));
    }
}
