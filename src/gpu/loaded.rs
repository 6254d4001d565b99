//! The kernels of an NVIDIA GPU: embedded fatbins, loaded when first used.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;

use cudarc::driver::{result, sys};

use super::Real;
use super::driver::{DriverResult, said};

// (file, storage, fatbin) of every kernel file, as build.rs compiled them; empty without nvcc.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Bytes of dynamic shared memory that a kernel may use without opting in.
const ALWAYS_SHARED: u32 = 48 << 10;

/// What was loaded; it stays so for the life of the process.
#[derive(Default)]
pub struct Loaded {
    modules: HashMap<(&'static str, Real), Module>,
    functions: HashMap<(&'static str, Real), Function>,
}

struct Module(sys::CUmodule);

struct Function {
    handle: sys::CUfunction,
    /// Bytes of dynamic shared memory that its launches may use. This never shrinks: a graph may hold an earlier launch.
    shared: u32,
}

// SAFETY: handles of the driver, which may be used from any thread that has the context bound.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl Loaded {
    /// A kernel of `file`, which may then be launched with `shared` bytes of dynamic shared memory. The context is bound.
    pub fn function(
        &mut self,
        file: &'static str,
        kernel: &'static str,
        real: Real,
        shared: u32,
    ) -> DriverResult<sys::CUfunction> {
        let function = match self.functions.entry((kernel, real)) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(new) => {
                let module = match self.modules.entry((file, real)) {
                    Entry::Occupied(found) => found.into_mut(),
                    Entry::Vacant(new) => new.insert(load(file, real)?),
                };
                let name = CString::new(kernel).map_err(said(kernel))?;
                // SAFETY: the module stays loaded.
                let handle = unsafe { result::module::get_function(module.0, name) }
                    .map_err(|e| format!("kernel {kernel} of {file}.cu: {e}"))?;
                new.insert(Function { handle, shared: ALWAYS_SHARED })
            }
        };
        if shared > function.shared {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a live function.
            unsafe { result::function::set_function_attribute(function.handle, most, shared as i32) }
                .map_err(|e| format!("{kernel} needs {shared} bytes of shared memory: {e}"))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }
}

fn load(file: &str, real: Real) -> DriverResult<Module> {
    let image = KERNELS.iter().find(|(name, storage, _)| *name == file && *storage == real.name());
    let (_, _, image) = image.ok_or_else(|| format!("no kernel file {file}.cu for {real:?}"))?;
    // The driver needs the image aligned, which `include_bytes!` does not promise.
    let image: Vec<u64> = image
        .chunks(8)
        .map(|c| {
            let mut word = [0; 8];
            word[..c.len()].copy_from_slice(c);
            u64::from_le_bytes(word)
        })
        .collect();
    // SAFETY: a whole fatbin, alive during the call.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
        .map(Module)
        .map_err(|e| format!("cannot load the kernels of {file}.cu: {e}"))
}
