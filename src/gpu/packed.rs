//! A launch's arguments as the kernels of an NVIDIA GPU read them.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::DriverResult;
use super::{Arg, Map};

/// An argument as the kernel reads it: its first bytes, little-endian. A map needs 64-byte alignment and gets 128.
pub(super) type Packed = sys::CUtensorMap;

pub(super) fn pack(arg: &Arg) -> DriverResult<Packed> {
    let mut packed = Packed { opaque: [0; 16] };
    packed.opaque[0] = match *arg {
        Arg::Pointer(address) => address,
        Arg::Long(x) => x,
        Arg::Int(x) => u64::from(x as u32),
        Arg::Word(x) => u64::from(x),
        Arg::Float(x) => u64::from(x.to_bits()),
        Arg::Map(map) => return encode(&map),
    };
    Ok(packed)
}

fn encode(map: &Map) -> DriverResult<Packed> {
    use sys::{CUtensorMapDataType_enum as Kind, CUtensorMapFloatOOBfill_enum as Fill};
    use sys::{
        CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
        CUtensorMapSwizzle_enum as Swizzle,
    };
    let (size, down) = (map.size.map(|n| n as u64), [map.down as u64]);
    let (shape, steps) = ([Map::COLUMNS as u32, map.rows as u32], [1, 1]);
    let mut encoded = Packed { opaque: [0; 16] };
    // SAFETY: two axes, whose sizes, steps and box are as many numbers as the call reads.
    let done = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            Kind::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            map.address as *mut c_void,
            size.as_ptr(),
            down.as_ptr(),
            shape.as_ptr(),
            steps.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    done.result().map_err(|e| format!("cuTensorMapEncodeTiled, {map:?}: {e}"))?;
    Ok(encoded)
}
