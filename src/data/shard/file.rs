//! One shard, opened and checked: afterwards reading is slicing.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use rayon::prelude::*;

use super::disk::{NEAR, ask, let_go};
use super::format::{ALIGN, Header, Kind, Part, SECTIONS};
use super::{Manifest, Row, Scale, ShardEntry, Values};
use crate::data::h5ad::unfit_genes;
use crate::data::scale::misfit;
use crate::error::{At, Error, Result};

/// Bytes per checksum task.
const CHUNK: usize = 1 << 24;
/// Rows that are checked before their pages are released: a check holds little more of a shard than this in memory.
const STRETCH: usize = 1 << 15;

/// A mapped shard whose every byte has been checked.
pub(super) struct Shard {
    map: Mmap,
    kind: Kind,
    rows: u64,
    sections: Places,
}

/// Byte range of each section in the file.
pub(super) type Places = [Range<usize>; SECTIONS.len()];

impl Shard {
    /// Maps `dir/entry.file` and checks it against itself and the manifest.
    pub(super) fn open(dir: &Path, entry: &ShardEntry, manifest: &Manifest) -> Result<Shard> {
        let path = dir.join(&entry.file);
        Shard::check(map(&path)?, entry, manifest).map_err(|what| Error::format(path, what))
    }

    fn check(map: Mmap, entry: &ShardEntry, manifest: &Manifest) -> std::result::Result<Shard, String> {
        let (header, crc, begin) = Header::decode(&map)?;
        agrees(&header, manifest)?;
        let sections = place(&header, begin, map.len())?;
        if (map.len() as u64, header.rows, crc) != (entry.bytes, entry.cells, entry.crc) {
            return Err(format!(
                "has {} bytes, {} cells and checksum {crc:08x}, but the manifest says {}, {} and {:08x}: it \
                 is from another directory",
                map.len(),
                header.rows,
                entry.bytes,
                entry.cells,
                entry.crc
            ));
        }
        check_bytes(&map, &header, begin, &sections)?;
        let shard = Shard { map, kind: header.values, rows: header.rows, sections };
        shard.check_groups(&header, manifest)?;
        check_starts(shard.section(Part::Starts), "row", "value", header.nonzeros)?;
        check_starts(shard.section(Part::NameStarts), "name", "byte", header.names)?;
        shard.check_names()?;
        shard.check_rows(&header)?;
        Ok(shard)
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Number of values stored in all rows.
    pub(super) fn stored(&self) -> u64 {
        self.section::<u16>(Part::Genes).len() as u64
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Cell type, perturbation, batch and number of cells of each group.
    pub(super) fn groups(&self) -> &[[u32; 4]] {
        self.section(Part::Groups)
    }

    fn starts(&self) -> &[u64] {
        self.section(Part::Starts)
    }

    /// Row `row` of the shard.
    pub(super) fn row(&self, row: usize) -> Row<'_> {
        let starts = self.starts();
        let range = starts[row] as usize..starts[row + 1] as usize;
        let values = match self.kind {
            Kind::U8 => Values::U8(&self.section(Part::Values)[range.clone()]),
            Kind::U16 => Values::U16(&self.section(Part::Values)[range.clone()]),
            Kind::F32 => Values::F32(&self.section(Part::Values)[range.clone()]),
        };
        Row {
            genes: &self.section(Part::Genes)[range],
            values,
            library: self.section::<f32>(Part::Library)[row],
        }
    }

    /// Name of the cell in row `row`.
    pub(super) fn name(&self, row: usize) -> &str {
        let starts: &[u64] = self.section(Part::NameStarts);
        let bytes = &self.section(Part::Names)[starts[row] as usize..starts[row + 1] as usize];
        std::str::from_utf8(bytes).expect("names were checked at the door")
    }

    /// Requests the starts and library sizes of some rows from disk.
    pub(super) fn ask_places(&self, rows: Range<usize>) {
        let [starts, library] = [Part::Starts, Part::Library].map(|part| self.sections[part as usize].start);
        ask(&self.map, starts + rows.start * 8..starts + (rows.end + 1) * 8);
        ask(&self.map, library + rows.start * 4..library + rows.end * 4);
    }

    /// Requests the genes and values of some rows from disk.
    pub(super) fn ask_rows(&self, rows: Range<usize>) {
        self.stretches(rows).into_iter().for_each(|bytes| ask(&self.map, bytes));
    }

    /// Two requested rows with at most this many between them are read in one piece.
    pub(super) fn near(&self) -> usize {
        NEAR * self.rows as usize / self.sections[Part::Genes as usize].len().max(1)
    }

    /// Releases all pages from this process's memory.
    pub(super) fn let_go(&self) {
        let_go(&self.map, 0..self.map.len());
    }

    /// Byte ranges of the genes and of the values of some rows.
    fn stretches(&self, rows: Range<usize>) -> [Range<usize>; 2] {
        let [genes, values] = [Part::Genes, Part::Values].map(|part| self.sections[part as usize].start);
        let starts = self.starts();
        let [first, end] = [rows.start, rows.end].map(|row| starts[row] as usize);
        let width = self.kind.width() as usize;
        [genes + first * 2..genes + end * 2, values + first * width..values + end * width]
    }

    fn section<T: bytemuck::Pod>(&self, part: Part) -> &[T] {
        // The map begins at a page and sections at multiples of 64 bytes in it, so that every element type is aligned.
        bytemuck::cast_slice(&self.map[self.sections[part as usize].clone()])
    }

    fn check_groups(&self, header: &Header, manifest: &Manifest) -> std::result::Result<(), String> {
        let control = manifest.control_position();
        let mut rows = 0u64;
        for (i, &[cell_type, perturbation, batch, cells]) in self.groups().iter().enumerate() {
            if let Some((what, id, len)) = manifest.beyond([cell_type, perturbation, batch]) {
                return Err(format!("group {i} has {what} {id}, but the vocabulary has only {len}"));
            }
            if header.controls != (perturbation == control) {
                let (is, shard) =
                    if header.controls { ("perturbed", "controls") } else { ("control", "perturbed cells") };
                return Err(format!("group {i} is {is}, in a shard of {shard}"));
            }
            if cells == 0 {
                return Err(format!("group {i} has no cells"));
            }
            rows += u64::from(cells);
        }
        if rows != header.rows {
            return Err(format!("groups have {rows} cells in all, but the shard has {} rows", header.rows));
        }
        Ok(())
    }

    fn check_names(&self) -> std::result::Result<(), String> {
        let (starts, names): (&[u64], &[u8]) = (self.section(Part::NameStarts), self.section(Part::Names));
        let broken = |pair: &[u64]| std::str::from_utf8(&names[pair[0] as usize..pair[1] as usize]).is_err();
        match starts.par_windows(2).position_first(broken) {
            Some(row) => Err(format!("name {row} is not UTF-8")),
            None => Ok(()),
        }
    }

    fn check_rows(&self, header: &Header) -> std::result::Result<(), String> {
        let genes = header.genes as usize;
        let wrong = |row: usize| {
            row_error(&self.row(row), genes, header.scale).map(|what| format!("row {row}: {what}"))
        };
        let rows = self.rows as usize;
        for first in (0..rows).step_by(STRETCH) {
            let stretch = first..rows.min(first + STRETCH);
            if let Some(what) = stretch.clone().into_par_iter().with_min_len(256).find_map_first(wrong) {
                return Err(what);
            }
            self.stretches(stretch).into_iter().for_each(|bytes| let_go(&self.map, bytes));
        }
        self.let_go();
        Ok(())
    }
}

/// Checks that rows, or whatever else begins at `starts`, are contiguous and that the last one ends at `total`.
fn check_starts(starts: &[u64], what: &str, unit: &str, total: u64) -> std::result::Result<(), String> {
    if starts[0] != 0 {
        return Err(format!("{what} 0 begins at {}, not at the first {unit}", starts[0]));
    }
    if let Some(row) = starts.par_windows(2).position_first(|pair| pair[1] < pair[0]) {
        let [start, end] = [starts[row], starts[row + 1]];
        return Err(format!("{what} {row} ends at {end}, before its start at {start}"));
    }
    match starts[starts.len() - 1] {
        end if end != total => {
            Err(format!("the last {what} ends at {end}, but the shard stores {total} {unit}s"))
        }
        _ => Ok(()),
    }
}

/// The bytes of a shard file.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).at(path)?;
    if file.metadata().at(path)?.len() == 0 {
        return Err(Error::format(path, "is empty"));
    }
    // SAFETY: shards are written once, under another name, and never changed; we opened this one read-only. A program that
    // rewrites a shard while we run breaks that promise, with the same effect as changing our memory.
    unsafe { Mmap::map(&file) }.at(path)
}

/// What is wrong with a row, if anything.
fn row_error(row: &Row, genes: usize, scale: Scale) -> Option<String> {
    if let Some(what) = unfit_genes(row.genes, genes) {
        return Some(what);
    }
    if let Values::F32(values) = row.values {
        if let Some(place) = misfit(values, false) {
            return Some(format!("value {} is negative or not finite", values[place]));
        }
        if misfit(values, scale == Scale::Counts).is_some() {
            return Some("a count is not a whole number".into());
        }
    }
    let most = match row.values {
        Values::U8(values) => values.iter().max().map(|&v| f32::from(v)),
        Values::U16(values) => values.iter().max().map(|&v| f32::from(v)),
        Values::F32(values) => values.iter().copied().reduce(f32::max),
    };
    library_error(row.library, most, scale)
}

/// What is wrong with a library size, if anything; `most` is the largest stored value. Counts are whole, so a cell with one
/// has a size of at least 1; a size far below a count would not leave finite numbers.
pub(super) fn library_error(library: f32, most: Option<f32>, scale: Scale) -> Option<String> {
    match scale {
        Scale::Counts if !library.is_finite() || library < 0.0 => {
            Some(format!("library size {library} is negative or not finite"))
        }
        Scale::Counts => {
            let most = most.filter(|most| library < (most * 1e-30).max(1.0))?;
            Some(format!("library size {library} is too small for stored counts up to {most}"))
        }
        // If the source was already on a log scale, the size may be unknown: NaN.
        Scale::Log1p | Scale::Log1p10 if library < 0.0 || library.is_infinite() => {
            Some(format!("library size {library} is negative or infinite; an unknown one is NaN"))
        }
        _ => None,
    }
}

/// Checks the header's copy of facts in the manifest.
fn agrees(header: &Header, manifest: &Manifest) -> std::result::Result<(), String> {
    let counts = [
        ("genes", header.genes, manifest.genes.len()),
        ("cell types", header.cell_types, manifest.cell_types.len()),
        ("perturbations", header.perturbations, manifest.perturbations.len()),
        ("batches", header.batches, manifest.batches.len()),
    ];
    if let Some((what, found, named)) = counts.into_iter().find(|&(_, found, named)| found != named as u64) {
        return Err(format!("was written for {found} {what}, but the manifest lists {named}"));
    }
    if header.scale != manifest.scale {
        return Err(format!("contains {:?}, but the manifest says {:?}", header.scale, manifest.scale));
    }
    if (header.target, header.factor) != (manifest.target, manifest.factor) {
        let (target, factor) = (header.target, header.factor);
        return Err(format!("has target {target:?} and factor {factor}, but the manifest has others"));
    }
    if header.scale != Scale::Counts && header.values != Kind::F32 {
        return Err(format!(
            "stores {:?} values as {:?}; log values must be F32",
            header.scale, header.values
        ));
    }
    Ok(())
}

/// Where the sections are in the file, if the header and the file length allow it.
pub(super) fn place(header: &Header, begin: usize, len: usize) -> std::result::Result<Places, String> {
    let layout = header.layout().ok_or_else(|| {
        let Header { groups, rows, nonzeros, names, .. } = header;
        format!(
            "{groups} groups, {rows} rows, {nonzeros} values and names of {names} bytes are too much for any \
             file"
        )
    })?;
    if header.sections.len() != SECTIONS.len() {
        return Err(format!("has {} sections, not {}", header.sections.len(), SECTIONS.len()));
    }
    let mut places = Places::default();
    let mut end = begin as u64;
    for (i, (section, (offset, bytes))) in header.sections.iter().zip(layout).enumerate() {
        let name = &section.name;
        if name != SECTIONS[i] {
            return Err(format!("section {i} is {name:?}, expected {:?}", SECTIONS[i]));
        }
        if section.bytes != bytes {
            return Err(format!("section {name} has {} bytes, but its numbers need {bytes}", section.bytes));
        }
        if !section.offset.is_multiple_of(ALIGN) {
            return Err(format!("section {name} begins at {}, not at a multiple of {ALIGN}", section.offset));
        }
        if section.offset != offset {
            return Err(format!(
                "section {name} begins at {}, but after the one before it {offset} is expected",
                section.offset
            ));
        }
        let start = (begin as u64).checked_add(offset);
        end = start.and_then(|start| start.checked_add(bytes)).filter(|&end| end <= len as u64).ok_or_else(|| {
            format!("section {name} of {bytes} bytes at {offset} ends after the file's {len} bytes; it was cut short")
        })?;
        places[i] = (end - bytes) as usize..end as usize;
    }
    if end != len as u64 {
        return Err(format!("the last section ends at byte {end}, but the file at byte {len}"));
    }
    Ok(places)
}

/// Checks the checksums of the sections, and the zeros between them.
pub(super) fn check_bytes(
    map: &Mmap,
    header: &Header,
    begin: usize,
    sections: &Places,
) -> std::result::Result<(), String> {
    let mut end = begin;
    for (section, range) in header.sections.iter().zip(sections) {
        if map[end..range.start].iter().any(|&b| b != 0) {
            return Err(format!("has non-zero bytes before section {}", section.name));
        }
        let found = format!("{:08x}", checksum(map, range.clone()));
        if found != section.crc {
            let (name, written) = (&section.name, &section.crc);
            return Err(format!(
                "section {name} has checksum {found} instead of {written}; the file is damaged"
            ));
        }
        end = range.end;
    }
    Ok(())
}

/// CRC-32, in parallel; pages are released once read.
fn checksum(map: &Mmap, bytes: Range<usize>) -> u32 {
    let hash = |start: usize| {
        let chunk = start..bytes.end.min(start + CHUNK);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&map[chunk.clone()]);
        let_go(map, chunk);
        hasher
    };
    let parts: Vec<crc32fast::Hasher> = bytes.clone().into_par_iter().step_by(CHUNK).map(hash).collect();
    let join = |mut whole: crc32fast::Hasher, part: &crc32fast::Hasher| {
        whole.combine(part);
        whole
    };
    parts.iter().fold(crc32fast::Hasher::new(), join).finalize()
}
