//! The findings of passes, part by part, in a folder that lasts until the data directory is complete: a run that was stopped or
//! killed continues after the parts that exist, and any number of processes, on any number of machines, can make them.
//!
//! ```text
//! WORK/  command          what the parts belong to: the settings, and the size and time of each source
//!        moments/00003    findings of the pass `moments` in part 3, a safetensors file with a checksum; likewise for each pass
//!        rows/00003.rows  the rows themselves, with checksums, which the last pass leaves next to its findings
//! ```
//!
//! A part is a range of rows of one file. Findings are joined in the order of parts, wherever they were made, so that the
//! data directory is the same byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use bytemuck::Pod;
use crc32fast::Hasher;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::Settings;
use super::block::{Part, cut};
use super::input::Inputs;
use crate::aside;
use crate::data::shard;
use crate::error::{At, Error, Result};
use crate::folder::files_of;
use crate::progress;

/// Format of what is in the folder.
const VERSION: u32 = 3;
/// In the metadata of findings: CRC-32 of their arrays.
const SUM: &str = "crc32";
/// What to do with a file of the folder that is not as it was written.
pub(super) const AGAIN: &str = "remove it and do the same again";

/// All possible passes, in order; the last one writes.
pub(super) const PASSES: [&str; 5] = ["filters", "totals", "moments", "clipped", "rows"];

/// How the work is divided, and where it is kept meanwhile.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Most cells of a part. Two runs with the same number give the same bytes.
    pub cells: usize,
    /// Folder of the findings, which is kept on errors; without one, `.NAME.parts` next to the data directory, which is not.
    pub work: Option<PathBuf>,
    /// Make only this part of this pass.
    pub only: Option<PartName>,
}

/// A part of a pass, written as in `moments/0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartName {
    /// One of the names in [`Plan::passes`](super::Plan::passes).
    pub pass: String,
    /// Index of the part, from 0.
    pub number: usize,
}

impl FromStr for PartName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<PartName, String> {
        let told = text.split_once('/').and_then(|(pass, number)| Some((pass, number.parse().ok()?)));
        let (pass, number) = told.ok_or("give a pass and a number, such as moments/0")?;
        if !PASSES.contains(&pass) {
            return Err(format!("{pass:?} is not a pass; there are {}", PASSES.join(", ")));
        }
        Ok(PartName { pass: pass.to_string(), number })
    }
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { cells: 1 << 18, work: None, only: None }
    }
}

/// Why preprocessing stops before there is a data directory.
pub(super) enum Halt {
    /// The requested part is made.
    Made,
    Failed(Error),
}

/// What passes make, unless they stop before.
pub(super) type Passed<T> = std::result::Result<T, Halt>;

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

/// What a pass finds in a part.
pub(super) trait Findings: Sized {
    /// Extension of the file that is left beside them, if one is: they are worth nothing without it.
    const BESIDE: Option<&str> = None;

    fn save(&self, to: &mut Saved);
    /// `None` if `save` did not write it.
    fn load(from: &Saved) -> Option<Self>;
}

/// The folder, and what is to be made in it.
pub(super) struct Work {
    dir: PathBuf,
    parts: Parts,
    /// Counts rows.
    pub progress: progress::Work,
    /// A named folder may be shared; our own belongs to this process.
    _claim: Option<fs::File>,
}

impl Work {
    /// Opens or makes the folder. If it has parts of another command, our own folder is emptied and a named one refused.
    pub fn open(settings: &Settings, parts: &Parts, progress: progress::Work) -> Result<Work> {
        let dir = match &parts.work {
            Some(dir) => dir.clone(),
            None => aside::beside(&aside::named_by(&settings.out), "parts")?,
        };
        let (told, wanted) = (dir.join("command"), command(settings, parts.cells)?);
        let _claim = match parts.work {
            Some(_) => None,
            None => {
                fs::create_dir_all(&dir).at(&dir)?;
                aside::claim(
                    &dir,
                    "another process is writing the same output; wait for it to finish, or choose another one",
                )?
            }
        };
        match fs::read_to_string(&told) {
            Ok(stored) if stored == wanted => {}
            Ok(_) if parts.work.is_some() => {
                let what = "contains parts of another command, or a source has changed since; remove it or \
                            give another `work`";
                return Err(Error::format(&dir, what));
            }
            _ => {
                if parts.work.is_none() {
                    aside::empty(&dir)?;
                }
                begin(&dir, &wanted)?;
            }
        }
        Ok(Work { dir, parts: parts.clone(), progress, _claim })
    }

    /// The folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One pass: what `find` finds in each part, unless it exists already, is passed to `join` in the order of parts. `find`
    /// may leave a file at the path it is given, with the extension [`Findings::BESIDE`]; `join` gets the same path.
    pub fn pass<F: Findings>(
        &self,
        name: &str,
        inputs: &Inputs,
        find: impl Fn(&Part, &Path) -> Result<F>,
        mut join: impl FnMut(&Part, &Path, F) -> Result<()>,
    ) -> Passed<()> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).at(&dir)?;
        let parts = cut(&inputs.files, self.parts.cells);
        let only = self.parts.only.as_ref();
        let here = only.filter(|part| part.pass == name).map(|part| part.number);
        if let Some(part) = here.filter(|&part| part >= parts.len()) {
            let what = format!("{name}/{part}: there are {} parts, numbered from 0", parts.len());
            return Err(Error::setting("only", what).into());
        }
        for part in parts.iter().filter(|part| here.is_none_or(|here| part.number == here)) {
            let path = dir.join(format!("{:05}", part.number));
            let beside = F::BESIDE.map(|extension| path.with_extension(extension));
            let made = path.exists() && beside.is_none_or(|file| file.exists());
            if !made && only.is_some() && here.is_none() {
                let what = format!("{name}/{} must be made first", part.number);
                return Err(Error::setting("only", what).into());
            }
            let found = if made {
                self.progress.add(part.rows.len() as u64);
                load(&path)?
            } else {
                let found = find(part, &path)?;
                let mut saved = Saved::default();
                found.save(&mut saved);
                aside::file(&path, |aside| saved.write(aside))?;
                found
            };
            if here.is_none() {
                join(part, &path, found)?;
            }
        }
        if here.is_some() { Err(Halt::Made) } else { Ok(()) }
    }

    /// Called after the last pass: a part that is still requested belongs to no pass.
    pub fn all_done(&self, passes: &[&str]) -> Result<()> {
        match &self.parts.only {
            Some(PartName { pass, .. }) => {
                let what = format!("{pass} is not a pass of this command, which has: {}", passes.join(", "));
                Err(Error::setting("only", what))
            }
            None => Ok(()),
        }
    }

    /// Removes what was made, unless there is no data directory and the user named the folder.
    pub fn end(self, failed: bool) {
        if failed && self.parts.work.is_some() {
            return;
        }
        // The folder may be anyone's: only our own files are removed. What cannot be removed is in nobody's way.
        PASSES.iter().for_each(|pass| drop(fs::remove_dir_all(self.dir.join(pass))));
        let _ = fs::remove_file(self.dir.join("command")).and_then(|()| fs::remove_dir(&self.dir));
    }
}

/// Makes the folder and records in it what its parts will belong to.
fn begin(dir: &Path, command: &str) -> Result<()> {
    // Several jobs may start at once: each puts the same text in its place.
    let begun = aside::whole(&dir.join("command"), command);
    if begun.is_err() {
        let _ = fs::remove_dir(dir);
    }
    begun
}

/// A description of what the parts belong to.
fn command(settings: &Settings, cells: usize) -> Result<String> {
    let mut text = format!(
        "{}, shards of format {}, parts of format {VERSION}\n{cells} cells a part\n{settings:#?}\n",
        crate::PROGRAM,
        shard::VERSION
    );
    let lists = [
        settings.labels.as_deref(),
        match &settings.genes {
            super::Genes::Listed(list) => Some(list.as_path()),
            super::Genes::Top(_) => None,
        },
    ];
    let mut sources: Vec<PathBuf> = lists.into_iter().flatten().map(Path::to_path_buf).collect();
    for input in &settings.inputs {
        sources.extend(files_of(input)?);
    }
    sources.sort();
    for path in sources {
        let about = path.metadata().at(&path)?;
        let time = about.modified().at(&path)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        text.push_str(&format!("{} bytes, changed {} ns: {path:?}\n", about.len(), time.as_nanos()));
    }
    Ok(text)
}

fn load<F: Findings>(path: &Path) -> Result<F> {
    let bytes = fs::read(path).at(path)?;
    let what = || Error::format(path, format!("is damaged, or not a part of this command; {AGAIN}"));
    Saved::read(&bytes).and_then(|saved| F::load(&saved)).ok_or_else(what)
}

/// Arrays by name.
#[derive(Default)]
pub(super) struct Saved(Vec<(String, Dtype, Vec<u8>)>);

/// A number that can be saved.
pub(super) trait Word: Pod {
    const KIND: Dtype;
}

impl Word for u8 {
    const KIND: Dtype = Dtype::U8;
}
impl Word for u32 {
    const KIND: Dtype = Dtype::U32;
}
impl Word for u64 {
    const KIND: Dtype = Dtype::U64;
}
impl Word for f32 {
    const KIND: Dtype = Dtype::F32;
}
impl Word for f64 {
    const KIND: Dtype = Dtype::F64;
}

impl Saved {
    pub fn put<T: Word>(&mut self, name: &str, numbers: &[T]) {
        self.0.push((name.to_string(), T::KIND, bytemuck::cast_slice(numbers).to_vec()));
    }

    pub fn take<T: Word>(&self, name: &str) -> Option<Vec<T>> {
        let (_, _, bytes) = self.0.iter().find(|(stored, kind, _)| stored == name && *kind == T::KIND)?;
        Some(bytemuck::pod_collect_to_vec(bytes))
    }

    /// `None` if they are not as they were written.
    fn read(bytes: &[u8]) -> Option<Saved> {
        let (_, about) = SafeTensors::read_metadata(bytes).ok()?;
        let file = SafeTensors::deserialize(bytes).ok()?;
        let array = |(name, view): (&str, TensorView)| (name.to_string(), view.dtype(), view.data().to_vec());
        let saved = Saved(file.iter().map(array).collect());
        (about.metadata().as_ref()?.get(SUM)? == &saved.sum()).then_some(saved)
    }

    /// CRC-32 of all arrays, whatever their order.
    fn sum(&self) -> String {
        let mut arrays: Vec<_> = self.0.iter().collect();
        arrays.sort_by(|one, other| one.0.cmp(&other.0));
        let mut sum = Hasher::new();
        for (name, kind, bytes) in arrays {
            sum.update(format!("{name} {kind:?} {}\n", bytes.len()).as_bytes());
            sum.update(bytes);
        }
        format!("{:08x}", sum.finalize())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let views = self.0.iter().map(|(name, kind, bytes)| {
            let length = bytes.len() / (kind.bitsize() / 8);
            (name.as_str(), TensorView::new(*kind, vec![length], bytes).expect("whole numbers"))
        });
        safetensors::serialize_to_file(views, Some([(SUM.to_string(), self.sum())].into()), path)
            .map_err(|error| Error::format(path, format!("could not be written: {error}")))
    }
}
