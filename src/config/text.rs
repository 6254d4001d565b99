//! A config as TOML text, and back.

use std::path::Path;

use super::Config;
use crate::error::{Error, Result};

impl Config {
    /// The config as TOML text, with every field present.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self)
            .unwrap_or_else(|e| unreachable!("plain structs of numbers and names: {e}"))
    }

    /// Name and value of every field, as a setting names it: the same names in the same order for all configs.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let all = toml::Table::try_from(self).expect("plain structs of numbers and names");
        let of = |(name, value): (String, toml::Value)| match value {
            toml::Value::Table(section) => section
                .into_iter()
                .map(|(field, value)| (format!("{name}.{field}"), value.to_string()))
                .collect(),
            value => vec![(name, value.to_string())],
        };
        all.into_iter().flat_map(of).collect()
    }

    /// Reads back what [`Config::to_toml`] wrote; `path` only serves the error.
    ///
    /// # Errors
    /// Text that is not TOML; a field that is missing, unknown or of another type. Ranges are not looked at.
    pub fn from_toml(text: &str, path: &Path) -> Result<Config> {
        toml::from_str(text).map_err(|e| Error::format(path, format!("config: {}", e.message())))
    }
}
