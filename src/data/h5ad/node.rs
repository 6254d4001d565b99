//! Groups that know their place in the file, and what is in them.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use hdf5_pure::{AttrValue, File, Group};

use super::array::Array;
use super::hdf5::{Named, there};
use crate::error::{Error, Result};

/// A group, and what messages call it.
pub(super) struct Node<'a> {
    pub group: Group,
    /// Of the file.
    pub path: &'a Path,
    /// The group's path in the file, empty for the root.
    pub place: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(file: &File, path: &'a Path) -> Node<'a> {
        Node { group: file.root(), path, place: String::new() }
    }

    /// The place of something in this group.
    pub(super) fn of(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_string() } else { format!("{}/{name}", self.place) }
    }

    /// A group in this one.
    pub(super) fn inner(&self, name: &str) -> Result<Node<'a>> {
        let place = self.of(name);
        Ok(Node { group: self.group.group(name).named(self.path, &place)?, path: self.path, place })
    }

    /// The same, `None` if there is none of this name.
    pub(super) fn find_inner(&self, name: &str) -> Result<Option<Node<'a>>> {
        let place = self.of(name);
        let found = there(self.group.group(name)).named(self.path, &place)?;
        Ok(found.map(|group| Node { group, path: self.path, place }))
    }

    /// A dataset in this group.
    pub(super) fn array(&self, name: &str) -> Result<Array> {
        let place = self.of(name);
        Array::new(self.group.dataset(name).named(self.path, &place)?, self.path, &place)
    }

    /// The same, `None` if there is none of this name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Array>> {
        let place = self.of(name);
        let found = there(self.group.dataset(name)).named(self.path, &place)?;
        found.map(|dataset| Array::new(dataset, self.path, &place)).transpose()
    }

    pub(super) fn attributes(&self) -> Result<HashMap<String, AttrValue>> {
        let place = if self.place.is_empty() { "the root" } else { &self.place };
        self.group.attrs().named(self.path, &format!("the attributes of {place}"))
    }

    /// An attribute that is text.
    pub(super) fn word(&self, name: &str) -> Result<Option<String>> {
        Ok(self.attributes()?.get(name).and_then(|value| value.as_str()).map(String::from))
    }

    /// The attribute `encoding-type`, empty if absent (anndata 0.7 omits it on plain arrays).
    pub(super) fn encoding(&self) -> Result<String> {
        Ok(self.word("encoding-type")?.unwrap_or_default())
    }

    /// The columns of a frame, `None` if it is none.
    pub(super) fn columns(&self) -> Result<Option<Vec<String>>> {
        // A frame without columns stores an empty array of numbers here.
        let names = |value: &AttrValue| value.as_strings().map(<[String]>::to_vec).unwrap_or_default();
        Ok(self.attributes()?.get("column-order").map(names))
    }

    pub(super) fn wrong(&self, what: impl Display) -> Error {
        Error::format(self.path, format!("{} {what}", self.place).trim_start())
    }
}
