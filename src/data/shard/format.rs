//! The bytes of a shard that are not numbers: prelude, header, and where the sections are.
//!
//! A fixed 64-byte prelude leads to a JSON header: the prelude is enough to refuse a foreign file, the JSON is human-readable
//! (`head -c 1000`) and names its own fields, and neither is touched again once the file is open. Group tables can be long,
//! so they are a section, not JSON. Offsets count from the end of the header, so that they do not depend on its length.

use serde::{Deserialize, Serialize};

use super::Scale;

/// First bytes of a shard.
pub(super) const MAGIC: [u8; 8] = *b"scalecel";
/// Format version of a shard.
pub(crate) const VERSION: u32 = 2;
/// Every section begins at a multiple of this: a cache line, and more than any element's alignment.
pub(super) const ALIGN: u64 = 64;
/// Bytes before the header.
pub(super) const PRELUDE: usize = 64;
/// No genuine header comes near this.
pub(super) const HEADER_LIMIT: u32 = 1 << 20;
/// The sections' names, in file order.
pub(super) const SECTIONS: [&str; 7] =
    ["groups", "starts", "genes", "values", "library", "name_starts", "names"];

/// A section, by its index.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The ids and number of cells of each group.
    Groups,
    /// Where each row's genes and values begin.
    Starts,
    Genes,
    Values,
    /// Each row's total counts.
    Library,
    /// Where each row's name begins.
    NameStarts,
    Names,
}

/// How a shard stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    U8,
    U16,
    F32,
}

/// The low bits of a whole number below 2^23, taken from the bits of the number plus 2^23: a conversion would check its range.
#[inline]
pub(crate) fn low_bits(count: f32) -> u32 {
    (count + 8_388_608.0).to_bits()
}

impl Kind {
    /// The narrowest that holds counts up to `max`; log values are f32.
    pub(super) fn of(scale: Scale, max: f32) -> Kind {
        match scale {
            Scale::Counts if max <= f32::from(u8::MAX) => Kind::U8,
            Scale::Counts if max <= f32::from(u16::MAX) => Kind::U16,
            _ => Kind::F32,
        }
    }

    /// The kind whose number this is.
    pub(super) fn of_code(code: u32) -> Option<Kind> {
        [Kind::U8, Kind::U16, Kind::F32].into_iter().find(|&kind| kind as u32 == code)
    }

    /// Bytes per value.
    pub(super) fn width(self) -> u64 {
        match self {
            Kind::U8 => 1,
            Kind::U16 => 2,
            Kind::F32 => 4,
        }
    }

    /// Appends values; for the integer kinds they are whole and fit.
    pub(super) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Kind::U8 => out.extend(values.iter().map(|&v| low_bits(v) as u8)),
            Kind::U16 => values.iter().for_each(|&v| out.extend((low_bits(v) as u16).to_le_bytes())),
            Kind::F32 => out.extend_from_slice(bytemuck::cast_slice(values)),
        }
    }

    /// The inverse of `encode`.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Kind::U8 => out.extend(bytes.iter().map(|&b| f32::from(b))),
            Kind::U16 => {
                out.extend(bytes.chunks_exact(2).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))))
            }
            Kind::F32 => {
                out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            }
        }
    }
}

/// Where a section is, and its checksum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// CRC-32, always eight hexadecimal digits: the header's length must not depend on it.
    pub(super) crc: String,
}

/// What a shard says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) controls: bool,
    pub(super) genes: u64,
    pub(super) cell_types: u64,
    pub(super) perturbations: u64,
    pub(super) batches: u64,
    pub(super) scale: Scale,
    pub(super) target: Option<f64>,
    pub(super) factor: f32,
    pub(super) values: Kind,
    pub(super) groups: u64,
    pub(super) rows: u64,
    pub(super) nonzeros: u64,
    /// Bytes of all names.
    pub(super) names: u64,
    pub(super) sections: Vec<Section>,
}

impl Header {
    /// Offset and length of each section for these counts; `None` if a sum overflows.
    pub(super) fn layout(&self) -> Option<[(u64, u64); SECTIONS.len()]> {
        let starts = self.rows.checked_add(1).and_then(|n| n.checked_mul(8));
        let lengths = [
            self.groups.checked_mul(16),
            starts,
            self.nonzeros.checked_mul(2),
            self.nonzeros.checked_mul(self.values.width()),
            self.rows.checked_mul(4),
            starts,
            Some(self.names),
        ];
        let mut sections = [(0, 0); SECTIONS.len()];
        let mut end = 0u64;
        for (section, bytes) in sections.iter_mut().zip(lengths) {
            let offset = end.checked_next_multiple_of(ALIGN)?;
            end = offset.checked_add(bytes?)?;
            *section = (offset, bytes?);
        }
        Some(sections)
    }

    /// The prelude and header as written at the start of the file, and the header's checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut json = serde_json::to_vec(self).expect("a shard header is plain JSON");
        json.resize(json.len().next_multiple_of(ALIGN as usize), b' ');
        let crc = crc32fast::hash(&json);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(crc.to_le_bytes());
        bytes.resize(PRELUDE, 0);
        bytes.extend(json);
        (bytes, crc)
    }

    /// Reads prelude and header. Returns the header, its checksum and the offset at which the sections begin.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Header, u32, usize), String> {
        if bytes.len() < PRELUDE {
            return Err(format!("is {} bytes long, but a shard begins with {PRELUDE}", bytes.len()));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return Err("is not a shard: its first bytes are not `scalecel`".into());
        }
        let (version, length, crc) = (word(8), word(12), word(16));
        if version != VERSION {
            return Err(format!(
                "is a shard of format {version}, but this program reads {VERSION}; run preprocess again"
            ));
        }
        if bytes[20..PRELUDE].iter().any(|&b| b != 0) {
            return Err("has non-zero bytes in the reserved part of its prelude".into());
        }
        if length == 0 || length > HEADER_LIMIT || !u64::from(length).is_multiple_of(ALIGN) {
            return Err(format!("header length {length} is not a multiple of {ALIGN} up to {HEADER_LIMIT}"));
        }
        let end = PRELUDE + length as usize;
        let json = bytes.get(PRELUDE..end).ok_or_else(|| {
            format!("header of {length} bytes does not fit in a file of {} bytes", bytes.len())
        })?;
        let found = crc32fast::hash(json);
        if found != crc {
            return Err(format!("header checksum is {found:08x} instead of {crc:08x}; the file is damaged"));
        }
        let header = serde_json::from_slice(json).map_err(|e| format!("header: {e}"))?;
        Ok((header, crc, end))
    }
}

/// Sections whose checksums are not known yet.
pub(super) fn blank_sections() -> Vec<Section> {
    let section =
        |name: &&str| Section { name: name.to_string(), offset: 0, bytes: 0, crc: "00000000".into() };
    SECTIONS.iter().map(section).collect()
}
