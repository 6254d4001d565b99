//! What the outside world can do to us. Our own bugs panic instead, with the op and the shapes.

use std::path::{Path, PathBuf};

/// Result of anything that touches files, settings or requests.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure the user can act on: each message names the file or field and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it claims to be, or holds what cannot be used.
    #[error("{}: {what}", path.display())]
    Format {
        /// File concerned.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A setting, option or request that cannot be honoured.
    #[error("{field}: {what}")]
    Setting {
        /// Option or config field, as the user writes it.
        field: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A GPU is missing, full or failed.
    #[error("{0}")]
    Device(String),
    /// Training stopped itself.
    #[error("{0}")]
    Stopped(String),
}

impl Error {
    /// A file problem that is not the system's.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// A problem with an option or a config field.
    pub fn setting(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Setting { field: field.into(), what: what.into() }
    }
}

/// Names the path in an I/O error: `File::open(p).at(p)?`.
pub trait At<T> {
    /// Attaches the path.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.as_ref().to_path_buf(), source })
    }
}

/// The names nearest to `wanted`, for "did you mean": at most three, best first.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let lower = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name.as_str()))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).filter(|(score, _)| *score > 0.6).map(|(_, name)| name).collect()
}

/// `unknown perturbation "X"; did you mean "Y" or "Z"?`
pub fn unknown<'a>(kind: &str, wanted: &str, names: impl IntoIterator<Item = &'a String>) -> String {
    match nearest(wanted, names).as_slice() {
        [] => format!("unknown {kind} {wanted:?}"),
        found => {
            let list: Vec<String> = found.iter().map(|name| format!("{name:?}")).collect();
            format!("unknown {kind} {wanted:?}; did you mean {}?", list.join(" or "))
        }
    }
}
