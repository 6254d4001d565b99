//! cuBLASLt: one plan per shape, its algorithm chosen by timing when the shape is first seen.
//!
//! cuBLASLt is column-major, so it is asked for out^T = b^T a^T: its columns are our rows.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaStream, result as driver, sys as cuda};

use super::choices::Algorithm;
use super::driver::{DriverResult, said};
use super::{Operand, Product, Real};

mod plan;

use plan::{Plan, WORKSPACE, refused};

/// Timed runs of each algorithm; the fastest counts.
const RUNS: usize = 3;

/// Fills of the workspace that keep a device busy: at an H200's 4 TB/s 8 us each, about what queueing a run takes the host.
const FILLS: usize = 16;

pub struct Plans {
    stream: Arc<CudaStream>,
    /// `Err` says why there is no cuBLASLt; reported when the first product is requested.
    library: DriverResult<sys::cublasLtHandle_t>,
    workspace: u64,
    plans: HashMap<Key, Option<Plan>>,
    /// Algorithms chosen by another process, by the key as text.
    adopted: HashMap<String, Algorithm>,
}

/// What an algorithm may depend on: the product without its addresses, but with how they are aligned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    batch: usize,
    operands: [(Real, usize, bool, usize); 3],
    bias: Option<usize>,
    plus: Option<(usize, usize)>,
    more: bool,
    sums: bool,
    alignments: Alignments,
}

/// What the address of each matrix is a multiple of: out, a, b, plus, bias or sums.
type Alignments = [u32; 5];

// SAFETY: descriptors and the handle belong to this struct alone, which is used behind a lock.
unsafe impl Send for Plans {}

impl Plans {
    pub fn new(stream: &Arc<CudaStream>) -> DriverResult<Plans> {
        // SAFETY: opens the library and closes it again.
        let library = match unsafe { sys::is_culib_present() } {
            true => result::create_handle().map_err(refused("cublasLtCreate")),
            false => Err(
                "cuBLASLt was not found (libcublasLt.so.13); it comes with CUDA and with PyTorch's wheels: \
                add its folder to LD_LIBRARY_PATH"
                    .into(),
            ),
        };
        // SAFETY: used on this stream alone, until `drop`.
        let workspace = unsafe { driver::malloc_async(stream.cu_stream(), WORKSPACE) }
            .map_err(|e| format!("no room for the matrix products' workspace (32 MiB): {e}"))?;
        Ok(Plans {
            stream: stream.clone(),
            library,
            workspace,
            plans: HashMap::new(),
            adopted: HashMap::new(),
        })
    }

    /// Version of the library, and the algorithm of every product that was planned here or adopted.
    pub fn algorithms(&self) -> (u64, Vec<(String, Algorithm)>) {
        // SAFETY: the library is there.
        let version = self.library.as_ref().map_or(0, |_| unsafe { sys::cublasLtGetVersion() } as u64);
        let told =
            |(key, plan): (&Key, &Option<Plan>)| Some((format!("{key:?}"), plan.as_ref()?.algorithm.data));
        let mut all = self.adopted.clone();
        all.extend(self.plans.iter().filter_map(told));
        (version, all.into_iter().collect())
    }

    /// Uses these for products that are not planned yet and accept them.
    pub fn adopt(&mut self, algorithms: &[(String, Algorithm)]) {
        self.adopted.extend(algorithms.iter().cloned());
    }

    /// Queues a product; false if its `sums` were not made.
    ///
    /// # Safety
    /// Every operand is in live device memory; those written overlap no other.
    pub unsafe fn run(&mut self, product: &Product) -> DriverResult<bool> {
        let library = self.library.clone()?;
        let key = Key::of(product);
        if !self.plans.contains_key(&key) {
            let mut plan = None;
            if let Some(&data) = self.adopted.get(&format!("{key:?}")) {
                plan = Plan::describe(product)?.by(data, library);
            }
            if plan.is_none() {
                // SAFETY: the caller's contract.
                plan = unsafe { self.choose_apart(library, product, key.alignments)? };
            }
            self.plans.insert(key.clone(), plan);
        }
        let Some(plan) = &self.plans[&key] else {
            if product.sums.is_none() {
                return Err(format!("cuBLASLt has no algorithm for {product:?}"));
            }
            // Without the sums there is always an algorithm.
            // SAFETY: the caller's contract.
            return unsafe { self.run(&Product { sums: None, ..*product }) }.map(|_| false);
        };
        // SAFETY: the caller's contract.
        unsafe { plan.run(library, product, &plan.algorithm, self.workspace, &self.stream) }?;
        Ok(product.sums.is_some())
    }

    /// False for a product that was requested and has no algorithm that makes its sums.
    pub fn fuses(&self, product: &Product) -> bool {
        !matches!(self.plans.get(&Key::of(product)), Some(None))
    }

    /// [`Plans::choose`], which computes the product many times: one that adds to `out` is tried with another output.
    unsafe fn choose_apart(
        &self,
        library: sys::cublasLtHandle_t,
        product: &Product,
        alignments: Alignments,
    ) -> DriverResult<Option<Plan>> {
        if !product.more {
            // SAFETY: the caller's contract.
            return unsafe { self.choose(library, product, alignments) };
        }
        let Product { size: [rows, _, _], batch, out, .. } = *product;
        let bytes = ((batch - 1) * out.step + rows * out.down) * out.real.bytes();
        let stream = self.stream.cu_stream();
        // SAFETY: memory for all of `out`, freed after the work that writes it; the rest is the caller's contract.
        unsafe {
            let address = driver::malloc_async(stream, bytes)
                .map_err(|e| format!("no room to try a product that adds ({bytes} bytes): {e}"))?;
            let apart = Product { out: Operand { address, ..out }, plus: Some(out), more: false, ..*product };
            let plan = self.choose(library, &apart, alignments);
            driver::free_async(address, stream).map_err(|e| format!("cuMemFreeAsync: {e}"))?;
            plan
        }
    }

    /// `alignments` are those of the product's own addresses, which may be smaller than those of the trial.
    unsafe fn choose(
        &self,
        library: sys::cublasLtHandle_t,
        product: &Product,
        alignments: Alignments,
    ) -> DriverResult<Option<Plan>> {
        let mut plan = Plan::describe(product)?;
        let mut found = plan.candidates(library, alignments)?;
        let Some(&first) = found.first() else { return Ok(None) };
        // SAFETY: the caller's contract.
        let run =
            |algorithm: &_| unsafe { plan.run(library, product, algorithm, self.workspace, &self.stream) };
        // The first run loads kernels; an algorithm that fails is dropped.
        found.retain(|algorithm| run(algorithm).is_ok());
        let flags = Some(cuda::CUevent_flags::CU_EVENT_DEFAULT);
        let event = || self.stream.record_event(flags).map_err(said("cuEventRecord"));
        // All are queued before the first is read: as in `Gpu::either`.
        self.keep_busy()?;
        let mut queued = Vec::new();
        for algorithm in found.iter().flat_map(|algorithm| [algorithm; RUNS]) {
            let start = event()?;
            run(algorithm)?;
            queued.push((algorithm, start, event()?));
        }
        let mut best = (f32::INFINITY, first);
        for (&algorithm, start, end) in queued {
            let took = start.elapsed_ms(&end).map_err(said("cuEventElapsedTime"))?;
            if took < best.0 {
                best = (took, algorithm);
            }
        }
        plan.algorithm = best.1;
        Ok(Some(plan))
    }

    /// Queues work of about a tenth of a millisecond, for the host to get ahead of the device.
    pub fn keep_busy(&self) -> DriverResult<()> {
        // SAFETY: the workspace has these bytes, and what uses it does so in the stream's order.
        (0..FILLS).try_for_each(|_| unsafe {
            driver::memset_d8_async(self.workspace, 0, WORKSPACE, self.stream.cu_stream())
                .map_err(said("cuMemsetD8Async"))
        })
    }
}

impl Drop for Plans {
    fn drop(&mut self) {
        self.plans.clear();
        // On whatever thread this is. A free that fails is harmless: the context has failed, and its memory goes with it.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: made by `new`, used by nobody else.
        unsafe {
            let _ = driver::free_async(self.workspace, self.stream.cu_stream());
            if let Ok(library) = self.library {
                let _ = result::destroy_handle(library);
            }
        }
    }
}

impl Key {
    fn of(p: &Product) -> Key {
        let of = |m: &Operand| (m.real, m.down, m.transposed, m.step);
        let beside = p.bias.map(|b| b.address).or(p.sums);
        let all =
            [p.out.address, p.a.address, p.b.address, p.plus.unwrap_or(p.out).address, beside.unwrap_or(0)];
        Key {
            size: p.size,
            batch: p.batch,
            operands: [of(&p.out), of(&p.a), of(&p.b)],
            bias: p.bias.map(|b| b.step),
            plus: p.plus.map(|m| (m.down, m.step)),
            more: p.more,
            sums: p.sums.is_some(),
            alignments: all.map(alignment),
        }
    }
}

/// 256, 16 or, below 16, the largest power of two that divides the address. Nothing in between: every further value would mean one
/// more plan to time for the same product.
fn alignment(address: u64) -> u32 {
    match address {
        _ if address.is_multiple_of(256) => 256,
        _ if address.is_multiple_of(16) => 16,
        _ => 1 << address.trailing_zeros(),
    }
}
