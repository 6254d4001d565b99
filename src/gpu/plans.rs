//! cuBLASLt: one plan a shape, its algorithm chosen by timing when the shape is first seen.
//!
//! cuBLASLt stores columns, so out^T = b^T a^T is asked for: its columns are our rows.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaStream, result as driver, sys as cuda};

use super::{Operand, Product, Real};

type Outcome<T> = std::result::Result<T, String>;

/// Scratch for split sums; what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Algorithms that are timed, best guess first.
const TRIED: usize = 8;

/// Timed runs of each; the fastest counts.
const RUNS: usize = 3;

pub struct Plans {
    stream: Arc<CudaStream>,
    /// `Err`: why there is no cuBLASLt; said when the first product is asked for.
    library: Outcome<sys::cublasLtHandle_t>,
    workspace: u64,
    plans: HashMap<Key, Option<Plan>>,
}

/// What an algorithm may depend on: the product without its addresses, but with how they are aligned.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    batch: usize,
    operands: [(Real, usize, bool, usize); 3],
    bias: Option<usize>,
    plus: Option<(usize, usize)>,
    more: bool,
    sums: bool,
    alignment: u32,
}

struct Plan {
    work: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors and the handle belong to this struct alone, which is used behind a lock.
unsafe impl Send for Plans {}

fn said(call: &str) -> impl FnOnce(CublasError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}

impl Plans {
    pub fn new(stream: &Arc<CudaStream>) -> Outcome<Plans> {
        // SAFETY: opens the library and closes it again.
        let library = match unsafe { sys::is_culib_present() } {
            true => result::create_handle().map_err(said("cublasLtCreate")),
            false => Err(
                "cuBLASLt was not found (libcublasLt.so.13); it comes with CUDA and with PyTorch's wheels: \
                add its folder to LD_LIBRARY_PATH"
                    .into(),
            ),
        };
        // SAFETY: used on this stream alone, as long as the process lives.
        let workspace = unsafe { driver::malloc_async(stream.cu_stream(), WORKSPACE) }
            .map_err(|e| format!("no room for the matrix products' workspace (32 MiB): {e}"))?;
        Ok(Plans { stream: stream.clone(), library, workspace, plans: HashMap::new() })
    }

    /// Queues a product; false if its `sums` were not made.
    ///
    /// # Safety
    /// Every operand lies in live device memory; the written ones overlap no other.
    pub unsafe fn run(&mut self, product: &Product) -> Outcome<bool> {
        product.check();
        let library = self.library.clone()?;
        let key = Key::of(product);
        if !self.plans.contains_key(&key) {
            // SAFETY: the caller's.
            let plan = unsafe { self.choose_apart(library, product)? };
            self.plans.insert(key.clone(), plan);
        }
        let Some(plan) = &self.plans[&key] else {
            if product.sums.is_none() {
                return Err(format!("cuBLASLt has no algorithm for {product:?}"));
            }
            // Without the sums there is always one.
            // SAFETY: the caller's.
            return unsafe { self.run(&Product { sums: None, ..*product }) }.map(|_| false);
        };
        // SAFETY: the caller's.
        unsafe { plan.run(library, product, &plan.algorithm, self.workspace, &self.stream) }?;
        Ok(product.sums.is_some())
    }

    /// [`Plans::choose`], which computes many times over, for a product that may add to `out`: then it writes elsewhere.
    unsafe fn choose_apart(
        &self,
        library: sys::cublasLtHandle_t,
        product: &Product,
    ) -> Outcome<Option<Plan>> {
        if !product.more {
            // SAFETY: the caller's.
            return unsafe { self.choose(library, product) };
        }
        let Product { size: [rows, _, _], batch, out, .. } = *product;
        let bytes = ((batch - 1) * out.step + rows * out.down) * out.real.bytes();
        let stream = self.stream.cu_stream();
        // SAFETY: memory for all of `out`, given back behind the work that writes it; the rest is the caller's.
        unsafe {
            let address = driver::malloc_async(stream, bytes)
                .map_err(|e| format!("no room to try a product that adds ({bytes} bytes): {e}"))?;
            let apart = Product { out: Operand { address, ..out }, plus: Some(out), more: false, ..*product };
            let plan = self.choose(library, &apart);
            driver::free_async(address, stream).map_err(|e| format!("cuMemFreeAsync: {e}"))?;
            plan
        }
    }

    unsafe fn choose(&self, library: sys::cublasLtHandle_t, product: &Product) -> Outcome<Option<Plan>> {
        let mut plan = Plan::describe(product)?;
        let found = plan.candidates(library)?;
        let Some(first) = found.first() else { return Ok(None) };
        plan.algorithm = *first;
        let mut best = f32::INFINITY;
        let event =
            || driver::event::create(cuda::CUevent_flags::CU_EVENT_DEFAULT).map_err(|e| e.to_string());
        let (start, end) = (event()?, event()?);
        for algorithm in &found {
            for _ in 0..RUNS {
                // SAFETY: the caller's; the events live until the end of this function.
                let took = unsafe {
                    driver::event::record(start, self.stream.cu_stream()).map_err(|e| e.to_string())?;
                    if plan.run(library, product, algorithm, self.workspace, &self.stream).is_err() {
                        break;
                    }
                    driver::event::record(end, self.stream.cu_stream()).map_err(|e| e.to_string())?;
                    driver::event::synchronize(end).map_err(|e| e.to_string())?;
                    driver::event::elapsed(start, end).map_err(|e| e.to_string())?
                };
                if took < best {
                    best = took;
                    plan.algorithm = *algorithm;
                }
            }
        }
        // SAFETY: both are done with.
        unsafe {
            driver::event::destroy(start)
                .and_then(|()| driver::event::destroy(end))
                .map_err(|e| e.to_string())?;
        }
        Ok(Some(plan))
    }
}

impl Drop for Plans {
    fn drop(&mut self) {
        self.plans.values().flatten().for_each(Plan::destroy);
        // A process that ends has nobody to tell of a failure.
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
        let all = [p.out.address, p.a.address, p.b.address, p.plus.map_or(0, |m| m.address)];
        Key {
            size: p.size,
            batch: p.batch,
            operands: [of(&p.out), of(&p.a), of(&p.b)],
            bias: p.bias.map(|b| b.step),
            plus: p.plus.map(|m| (m.down, m.step)),
            more: p.more,
            sums: p.sums.is_some(),
            alignment: all.iter().fold(0, |bits, a| bits | (a % 16) as u32),
        }
    }
}

fn kind(real: Real) -> sys::cudaDataType {
    match real {
        Real::F32 => sys::cudaDataType::CUDA_R_32F,
        Real::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

impl Plan {
    fn describe(p: &Product) -> Outcome<Plan> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let [rows, cols, depth] = p.size;
        let work = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )
        .map_err(said("cublasLtMatmulDescCreate"))?;
        // cuBLASLt's first operand is our b, its second our a; a stored row of ours is a column of theirs.
        // CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h.
        let operation = |m: &Operand| i32::from(m.transposed);
        set(work, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(&p.b))?;
        set(work, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(&p.a))?;
        let epilogue = match (p.bias.is_some(), p.sums.is_some()) {
            (true, _) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (_, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
            _ => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        set(work, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        if p.bias.is_some() || p.sums.is_some() {
            set(work, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &kind(p.out.real))?;
            point(work, p)?;
        }
        if let Some(bias) = p.bias.filter(|_| p.batch > 1) {
            set(work, Attribute::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &(bias.step as i64))?;
        }
        let (plus, batch) = (p.plus.unwrap_or(p.out), p.batch);
        Ok(Plan {
            work,
            a: layout(&p.b, [depth, cols], batch)?,
            b: layout(&p.a, [rows, depth], batch)?,
            c: layout(&plus, [rows, cols], batch)?,
            d: layout(&p.out, [rows, cols], batch)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        })
    }

    /// Algorithms whose result is repeatable, best guess first.
    fn candidates(&self, library: sys::cublasLtHandle_t) -> Outcome<Vec<sys::cublasLtMatmulAlgo_t>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // Sums split between blocks may be added by a last pass in a fixed order, never by atomics in place.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let preference = result::create_matmul_pref().map_err(said("cublasLtMatmulPreferenceCreate"))?;
        let mut found = [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; TRIED];
        let mut count = 0;
        // SAFETY: the attributes' own types; `found` has room for what is asked; only the first `count` are read.
        unsafe {
            let ask = |attribute, value: *const c_void, bytes| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
                    .map_err(said("cublasLtMatmulPreferenceSetAttribute"))
            };
            ask(
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const WORKSPACE_SIZE).cast(),
                size_of::<usize>(),
            )?;
            ask(
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (&raw const schemes).cast(),
                size_of::<u32>(),
            )?;
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                library,
                self.work,
                self.a,
                self.b,
                self.c,
                self.d,
                preference,
                TRIED as i32,
                found.as_mut_ptr().cast(),
                &mut count,
            );
            result::destroy_matmul_pref(preference).map_err(said("cublasLtMatmulPreferenceDestroy"))?;
            if asked != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                return Ok(Vec::new());
            }
            let found = found[..count as usize].iter().map(|f| f.assume_init_ref());
            Ok(found
                .filter(|f| f.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
                .map(|f| f.algo)
                .collect())
        }
    }

    unsafe fn run(
        &self,
        library: sys::cublasLtHandle_t,
        p: &Product,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        workspace: u64,
        stream: &CudaStream,
    ) -> Outcome<()> {
        point(self.work, p)?;
        let (one, beta) = (1.0f32, if p.plus.is_some() || p.more { 1.0f32 } else { 0.0 });
        // SAFETY: the caller's; descriptors fit the operands.
        unsafe {
            result::matmul(
                library,
                self.work,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                p.b.address as *const c_void,
                self.a,
                p.a.address as *const c_void,
                self.b,
                p.plus.unwrap_or(p.out).address as *const c_void,
                self.c,
                p.out.address as *mut c_void,
                self.d,
                algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(said("cublasLtMatmul"))
    }

    fn destroy(&self) {
        // SAFETY: made by `describe`, used by nobody else.
        unsafe {
            let _ = result::destroy_matmul_desc(self.work);
            for layout in [self.a, self.b, self.c, self.d] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

static WORKSPACE_SIZE: usize = WORKSPACE;

fn set<T>(
    work: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Outcome<()> {
    // SAFETY: every caller passes the attribute's own type.
    unsafe { result::set_matmul_desc_attribute(work, attribute, (&raw const *value).cast(), size_of::<T>()) }
        .map_err(said("cublasLtMatmulDescSetAttribute"))
}

/// Where the bias is read, or a bias's gradient written. The heuristic looks at it too: it may not be null.
fn point(work: sys::cublasLtMatmulDesc_t, p: &Product) -> Outcome<()> {
    match p.bias.map(|b| b.address).or(p.sums) {
        Some(address) => {
            set(work, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)
        }
        None => Ok(()),
    }
}

/// The layout of a matrix [rows, cols] of ours, as the column-major one that cuBLASLt sees.
fn layout(m: &Operand, [rows, cols]: [usize; 2], batch: usize) -> Outcome<sys::cublasLtMatrixLayout_t> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    let (stored, width) = if m.transposed { (cols, rows) } else { (rows, cols) };
    let layout = result::create_matrix_layout(kind(m.real), width as u64, stored as u64, m.down as i64)
        .map_err(said("cublasLtMatrixLayoutCreate"))?;
    if batch > 1 {
        let (count, step) = (batch as i32, m.step as i64);
        // SAFETY: the attributes' own types.
        unsafe {
            result::set_matrix_layout_attribute(
                layout,
                Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                (&raw const count).cast(),
                4,
            )
            .and_then(|()| {
                let offset = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                result::set_matrix_layout_attribute(layout, offset, (&raw const step).cast(), 8)
            })
            .map_err(said("cublasLtMatrixLayoutSetAttribute"))?;
        }
    }
    Ok(layout)
}
