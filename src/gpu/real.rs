//! How a device stores numbers.

use serde::Serialize;

/// How activations, and the copy of the weights that products read, are stored. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Real {
    /// 2 bytes: 8 bits of exponent, 8 of precision.
    Bf16,
    /// 4 bytes, as on the CPU: for checks.
    F32,
}

impl Real {
    /// Bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Real::F32 => 4,
            Real::Bf16 => 2,
        }
    }

    /// Numbers in 16 bytes, the widest load.
    pub fn pack(self) -> usize {
        16 / self.bytes()
    }

    /// As options and compiled kernel files have it.
    pub fn name(self) -> &'static str {
        match self {
            Real::F32 => "f32",
            Real::Bf16 => "bf16",
        }
    }
}

/// Numbers in 16 bytes of the narrowest storage: an offset at a multiple of it is aligned for the widest loads of any storage.
pub const PACK: usize = 8;
