//! Writes checkpoints while training continues: a file of all weights and moments takes longer to reach a disk than many steps.

use std::fs::{self, File};
use std::mem;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::sent::Sent;
use crate::aside;
use crate::checkpoint::RunState;
use crate::error::{At, Result};
use crate::folder::name_of;
use crate::gpu::{Gpu, guard};
use crate::lock::help_until;
use crate::params::{Entry, Flats};
use crate::progress::{Event, Progress};

/// Writes one checkpoint at a time.
pub struct Writer {
    folder: PathBuf,
    progress: Progress,
    writing: Option<JoinHandle<(Sent, Result<()>)>>,
    /// Weights, averaged weights and both moments, one after the other, while they are not being written. As large as the file, and
    /// kept: for a device it is page-locked, so that the device continues while they arrive.
    numbers: Sent,
}

impl Writer {
    /// A writer to `folder` that has written nothing yet.
    pub fn new(folder: PathBuf, progress: Progress) -> Writer {
        Writer { folder, progress, writing: None, numbers: Sent::default() }
    }

    /// Room for four times `len` numbers from `gpu` or the host; the previous checkpoint must be finished.
    pub fn room(&mut self, len: usize, gpu: Option<&Gpu>) -> &mut Sent {
        assert!(self.writing.is_none(), "writer: begun before the last one was finished");
        self.numbers = mem::take(&mut self.numbers).room(4 * len, gpu);
        &mut self.numbers
    }

    /// Begins to write what was sent to `room` to FOLDER/NAME.safetensors, the same file for each name. `table` names the numbers.
    pub fn begin(&mut self, state: RunState, table: Vec<Entry>, names: Vec<String>) {
        let (folder, mut numbers) = (self.folder.clone(), mem::take(&mut self.numbers));
        self.writing = Some(std::thread::spawn(move || {
            let written = guard(|| write(&folder, &state, &table, numbers.numbers(), &names));
            (numbers, written)
        }));
    }

    /// Reports a checkpoint whose writing has failed; does not wait for one that is still being written.
    ///
    /// # Errors
    /// It could not be written.
    pub fn report_failure(&mut self) -> Result<()> {
        match self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// Waits until the checkpoint that was begun is written.
    ///
    /// # Errors
    /// It could not be written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        help_until(|| writing.is_finished());
        let (numbers, written) = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
        self.numbers = numbers;
        written
    }
}

/// A run that ends with an error leaves nothing half-written either, and reports a second error if there is one.
impl Drop for Writer {
    fn drop(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        help_until(|| writing.is_finished());
        if let Ok((_, Err(error))) = writing.join() {
            self.progress.tell(Event::Error(&error.to_string()));
        }
    }
}

fn write(folder: &Path, state: &RunState, table: &[Entry], numbers: &[f32], names: &[String]) -> Result<()> {
    let mut paths = names.iter().map(|name| folder.join(format!("{name}.safetensors")));
    let Some(first) = paths.next() else { return Ok(()) };
    let len = numbers.len() / 4;
    let flats = Flats::of(std::array::from_fn(|i| &numbers[i * len..(i + 1) * len]));
    state.save(&first, table, flats)?;
    paths.try_for_each(|path| link(&first, &path))
}

/// A second name for a file that is never changed, only replaced; a copy if the file system has no hard links.
fn link(first: &Path, path: &Path) -> Result<()> {
    aside::named(path, |aside| {
        fs::remove_file(aside).at(aside)?; // a link needs a free name
        fs::hard_link(first, aside).or_else(|_| fs::copy(first, aside).map(drop)).at(aside)
    })
}

/// Claims `folder` for this process as long as the result lives, and clears it of what a killed process left half-written.
///
/// # Errors
/// Another process trains into this run.
pub fn claim(folder: &Path) -> Result<Option<File>> {
    fs::create_dir_all(folder).at(folder)?;
    let claimed = aside::claim(folder, "another process is training this run")?;
    // Where the file system has no locks nothing was claimed, and the files may be another process's.
    if claimed.is_some() {
        sweep(folder)?;
    }
    Ok(claimed)
}

fn sweep(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        let name = name_of(&path);
        if name.starts_with(".tmp") || name.starts_with('.') && name.ends_with(".partial") {
            let _ = fs::remove_file(&path); // a folder is not ours
        }
    }
    Ok(())
}
