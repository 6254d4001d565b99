//! Is there a GPU this program can use? Checked once, before anything else touches the driver's library: cudarc panics if it is
//! absent.

use cudarc::driver::{result, sys};

use crate::error::{Error, Result};

/// The oldest CUDA version of a driver that runs our kernels (1000 * major + 10 * minor).
const CUDA: i32 = 13000;

/// The oldest compute capability that the kernels are compiled for.
const CAPABILITY: (i32, i32) = (8, 0);

/// Succeeds if device `index` can run the kernels; otherwise says what is missing.
pub fn probe(index: usize) -> Result<()> {
    // SAFETY: opens the library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return refuse("no NVIDIA driver (libcuda.so.1 was not found)".into());
    }
    let mut version = 0;
    // SAFETY: the library is there, and the call writes one int.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked != sys::CUresult::CUDA_SUCCESS || version < CUDA {
        return refuse(format!(
            "the NVIDIA driver supports CUDA {}.{}, but the kernels need {}.{}; update the driver to 580 or newer",
            version / 1000,
            version % 1000 / 10,
            CUDA / 1000,
            CUDA % 1000 / 10
        ));
    }
    let devices = count();
    if devices <= index {
        return refuse(format!(
            "no CUDA device {index}: the driver reports {devices} (is CUDA_VISIBLE_DEVICES set?)"
        ));
    }
    let found = capability(index)
        .map_err(|e| Error::Device(format!("CUDA device {index} does not respond: {e:?}")))?;
    if super::loaded::KERNELS.is_empty() {
        return refuse(
            "this program was built without nvcc, so it has no kernels; run tools/cuda.sh and build again"
                .into(),
        );
    }
    if found < CAPABILITY {
        return refuse(format!(
            "CUDA device {index} has compute capability {}.{}; the kernels are compiled for {}.{} or newer",
            found.0, found.1, CAPABILITY.0, CAPABILITY.1
        ));
    }
    Ok(())
}

/// How many devices the driver reports; 0 without a driver.
pub fn count() -> usize {
    // SAFETY: opens the library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return 0;
    }
    let devices = result::init().and_then(|()| result::device::get_count()).unwrap_or(0);
    usize::try_from(devices).unwrap_or(0)
}

/// Compute capability: major and minor.
pub fn capability(index: usize) -> std::result::Result<(i32, i32), result::DriverError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index as i32)?;
    // SAFETY: the device is one the driver gave.
    unsafe {
        Ok((result::device::get_attribute(device, MAJOR)?, result::device::get_attribute(device, MINOR)?))
    }
}

fn refuse(what: String) -> Result<()> {
    Err(Error::Device(what))
}
