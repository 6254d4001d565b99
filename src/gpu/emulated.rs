//! A driver without a device: the same kernels compiled by g++ with `kernels/emulator.h`, run in this process.
//!
//! Far too slow to train with. It is how CI executes every kernel, and every launch, without a GPU.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;
use libloading::Library;

use super::driver::{ALIGN, DriverResult};
use super::{Arg, Driver, Grid, Map, Operand, Product, Real};
use crate::lock::lock;

pub struct Emulated {
    folder: PathBuf,
    chip: Chip,
    seed: AtomicU64,
    files: Mutex<HashMap<(&'static str, Real), &'static Library>>,
    /// Size of every live allocation, by address.
    live: Mutex<HashMap<u64, usize>>,
    /// Side copies that are still under way: to, from, bytes.
    beside: Mutex<Vec<(u64, u64, usize)>>,
}

/// Fills the target of a side copy under way: reading it too early gives NaN, or ids of no gene.
const UNDERWAY: u8 = 0xFF;

/// As in `emulator.h`.
#[repr(C)]
struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    reserved: u32,
    seed: u64,
}

/// As in `emulator.h`.
#[repr(C)]
struct Argument {
    kind: u32,
    reserved: u32,
    bits: u64,
}

/// As in `emulator_hopper.h`.
#[repr(C)]
struct TensorMap {
    base: u64,
    width: u64,
    height: u64,
    stride: u64,
    box_width: u32,
    box_height: u32,
}

type Kernel = unsafe extern "C" fn(*const Launch, *const Argument, c_int, *mut c_char, usize) -> c_int;

/// Multiprocessors reported to kernels: few, so that blocks get several tiles at sizes that can be emulated; enough for two
/// clusters.
const PROCESSORS: usize = 5;

/// More bytes than this are refused, as by any device: the allocator would try to find them, and a sanitizer's would end the
/// process.
const MOST: usize = 1 << 38;

/// The chip that the emulator imitates: which of the compiled kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// Compute capability 9.0: all of them.
    Hopper,
    /// 8.9: without Hopper's, and without those that ask for more shared memory than a block has there.
    Ada,
}

impl Emulated {
    pub fn new(folder: &Path, chip: Chip, seed: u64) -> Emulated {
        Emulated {
            folder: folder.into(),
            chip,
            seed: AtomicU64::new(seed),
            files: Mutex::default(),
            live: Mutex::default(),
            beside: Mutex::default(),
        }
    }
}

impl TensorMap {
    /// A map as the kernel reads it; none for other arguments.
    fn of(arg: &Arg) -> Option<TensorMap> {
        let Arg::Map(map) = arg else { return None };
        let [width, height] = map.size.map(|n| n as u64);
        let (box_width, box_height) = (Map::COLUMNS as u32, map.rows as u32);
        Some(TensorMap { base: map.address, width, height, stride: map.down as u64, box_width, box_height })
    }
}

impl Argument {
    /// `map` is what a map's argument points to.
    fn of(arg: &Arg, map: &Option<TensorMap>) -> Argument {
        let (kind, bits) = match *arg {
            Arg::Pointer(address) => (0, address),
            Arg::Int(x) => (1, u64::from(x as u32)),
            Arg::Word(x) => (2, u64::from(x)),
            Arg::Long(x) => (4, x),
            Arg::Float(x) => (5, u64::from(x.to_bits())),
            Arg::Map(_) => (6, map.as_ref().map_or(0, |map| &raw const *map as u64)),
        };
        Argument { kind, reserved: 0, bits }
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "the emulator".into()
    }

    fn memory(&self) -> (u64, u64) {
        (u64::MAX, u64::MAX)
    }

    fn allocate(&self, bytes: usize) -> DriverResult<u64> {
        if bytes > MOST {
            return Err("out of memory".into());
        }
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|e| e.to_string())?;
        // SAFETY: no caller asks for zero bytes.
        let address = unsafe { alloc(layout) } as u64;
        if address == 0 {
            return Err("out of memory".into());
        }
        lock(&self.live).insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let known = lock(&self.live).remove(&address);
        let bytes = known.expect("an allocation's address");
        // SAFETY: made by `allocate` with this layout.
        unsafe { dealloc(address as *mut u8, Layout::from_size_align_unchecked(bytes, ALIGN)) };
    }

    fn pin(&self, bytes: usize) -> DriverResult<u64> {
        let address = self.allocate(bytes)?;
        // SAFETY: just allocated.
        unsafe { self.fill(address, 0, bytes)? };
        Ok(address)
    }

    unsafe fn unpin(&self, address: u64) {
        // SAFETY: the caller's contract.
        unsafe { self.free(address) };
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> DriverResult<()> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn upload_beside(&self, to: u64, from: &[u8]) -> DriverResult<()> {
        let mut beside = lock(&self.beside);
        beside.push((to, from.as_ptr() as u64, from.len()));
        // SAFETY: the caller's contract.
        unsafe { self.fill(to, UNDERWAY, from.len()) }
    }

    fn meet_beside(&self) -> DriverResult<()> {
        let landed = std::mem::take(&mut *lock(&self.beside));
        // SAFETY: the contract of `upload_beside`: both stay valid until a mark, and this comes before it.
        landed.into_iter().try_for_each(|(to, from, bytes)| unsafe { self.copy(to, from, bytes) })
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> DriverResult<()> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> DriverResult<()> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn fill(&self, at: u64, byte: u8, bytes: usize) -> DriverResult<()> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::write_bytes(at as *mut u8, byte, bytes) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        file: &'static str,
        kernel: &'static str,
        real: Real,
        grid: Grid,
        args: &[Arg],
    ) -> DriverResult<()> {
        let mut files = lock(&self.files);
        let library = match files.entry((file, real)) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(free) => {
                let path = self.folder.join(format!("{file}_{}.so", real.name()));
                // SAFETY: compiled from our kernels, as `Gpu::emulated`'s caller promised; it runs nothing when loaded.
                let library =
                    unsafe { Library::new(&path) }.map_err(|e| format!("{}: {e}", path.display()))?;
                // Never closed: the next device of this process finds it open, with its threads' stacks allocated.
                free.insert(Box::leak(Box::new(library)))
            }
        };
        // A different order of warps and blocks at each launch, the same in every run.
        let seed = self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let launch =
            Launch { grid: grid.blocks, block: [grid.threads, 1, 1], shared: grid.shared, reserved: 0, seed };
        let maps: Vec<Option<TensorMap>> = args.iter().map(TensorMap::of).collect();
        let arguments: Vec<Argument> =
            args.iter().zip(&maps).map(|(arg, map)| Argument::of(arg, map)).collect();
        let mut message = [0 as c_char; 2048];
        // SAFETY: `EMULATED` of emulator.h defines the symbol with this signature; the pointers are the caller's contract.
        unsafe {
            let entry = library
                .get::<Kernel>(format!("emulate_{kernel}\0").as_bytes())
                .map_err(|e| format!("{kernel} of {file}.cu: {e}"))?;
            let failed =
                entry(&launch, arguments.as_ptr(), args.len() as c_int, message.as_mut_ptr(), message.len());
            if failed != 0 {
                return Err(format!(
                    "{kernel} {grid:?}: {}",
                    CStr::from_ptr(message.as_ptr()).to_string_lossy()
                ));
            }
        }
        Ok(())
    }

    unsafe fn product(&self, p: &Product) -> DriverResult<bool> {
        let [rows, cols, depth] = p.size;
        for n in 0..p.batch {
            for r in 0..rows {
                // SAFETY: the caller's contract, here and below: every operand is in live memory.
                let a: Vec<f64> = (0..depth).map(|d| unsafe { read(&p.a, n, r, d) }).collect();
                for c in 0..cols {
                    let mut sum: f64 = (0..depth).map(|d| a[d] * unsafe { read(&p.b, n, d, c) }).sum();
                    sum +=
                        p.bias.map_or(0.0, |b| unsafe { read(&Operand { transposed: false, ..b }, n, 0, c) });
                    sum += p.plus.map_or(0.0, |plus| unsafe { read(&plus, n, r, c) });
                    sum += if p.more { unsafe { read(&p.out, n, r, c) } } else { 0.0 };
                    unsafe { write(&p.out, n, r, c, sum as f32) };
                }
                if let Some(sums) = p.sums {
                    unsafe {
                        write(&Operand::rows(sums, Real::F32, 1), 0, r, 0, a.iter().sum::<f64>() as f32)
                    };
                }
            }
        }
        Ok(true)
    }

    fn can_time(&self) -> bool {
        false
    }

    fn hopper(&self) -> Option<usize> {
        (self.chip == Chip::Hopper).then_some(PROCESSORS)
    }

    fn shared(&self) -> usize {
        match self.chip {
            Chip::Hopper => 227 << 10,
            Chip::Ada => 99 << 10,
        }
    }
}

/// # Safety
/// The element is in live memory.
unsafe fn read(m: &Operand, n: usize, i: usize, j: usize) -> f64 {
    let address = m.at(n, i, j);
    // SAFETY: the caller's contract.
    match m.real {
        Real::F32 => f64::from(unsafe { *(address as *const f32) }),
        Real::Bf16 => unsafe { *(address as *const bf16) }.to_f64(),
    }
}

/// # Safety
/// The element is in live memory.
unsafe fn write(m: &Operand, n: usize, i: usize, j: usize, x: f32) {
    let address = m.at(n, i, j);
    // SAFETY: the caller's contract.
    match m.real {
        Real::F32 => unsafe { *(address as *mut f32) = x },
        Real::Bf16 => unsafe { *(address as *mut bf16) = bf16::from_f32(x) },
    }
}
