//! What a device's memory holds: bytes now, the peak, and what the peak consisted of.
//!
//! Counted where buffers are made and freed, so it is exact and the same on every device: requested bytes, without what an
//! allocator adds and without the workspace of matrix products.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use super::Gpu;
use crate::lock::lock;

/// The most that was held at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Bytes.
    pub bytes: u64,
    /// Bytes held under each name at that time, largest first.
    pub of: Vec<(&'static str, u64)>,
}

#[derive(Default)]
pub(super) struct Held(Mutex<Book>);

#[derive(Default)]
struct Book {
    now: u64,
    of: HashMap<&'static str, u64>,
    most: u64,
    /// `of` at the time of `most`.
    then: HashMap<&'static str, u64>,
    /// True once less than `most` is held; until then `then` need not be updated.
    fell: bool,
}

impl Book {
    /// Records what the peak consisted of, once it is over.
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.fell, true) {
            self.then.clone_from(&self.of);
        }
    }
}

impl Gpu {
    pub(super) fn took(&self, what: &'static str, bytes: usize) {
        let mut book = self.book();
        *book.of.entry(what).or_default() += bytes as u64;
        book.now += bytes as u64;
        if book.now > book.most {
            (book.most, book.fell) = (book.now, false);
        }
    }

    pub(super) fn gave(&self, what: &'static str, bytes: usize) {
        let mut book = self.book();
        book.settle();
        *book.of.get_mut(what).expect("given back under the name it was taken") -= bytes as u64;
        book.now -= bytes as u64;
    }

    /// Bytes of live buffers.
    pub fn held(&self) -> u64 {
        self.book().now
    }

    /// The most that was held since the device was opened, or since [`Gpu::forget_peak`].
    pub fn peak(&self) -> Peak {
        let mut book = self.book();
        book.settle();
        let mut of: Vec<_> = book.then.iter().map(|(&what, &bytes)| (what, bytes)).collect();
        of.retain(|&(_, bytes)| bytes > 0);
        of.sort_by_key(|&(what, bytes)| (std::cmp::Reverse(bytes), what));
        Peak { bytes: book.most, of }
    }

    /// Restarts the search for the peak, from what is held now.
    pub fn forget_peak(&self) {
        let mut book = self.book();
        (book.most, book.fell) = (book.now, false);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.0.held.0)
    }
}
