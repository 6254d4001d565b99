//! One product as cuBLASLt is told of it: descriptors, candidates, the call.

use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;

use crate::gpu::choices::Algorithm;
use crate::gpu::driver::Outcome;
use crate::gpu::{Operand, Product, Real};

/// Scratch for split sums; what NVIDIA advises for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// Algorithms that are timed, best guess first.
const TRIED: usize = 8;

/// How cuBLASLt is asked for a product, and the algorithm that was chosen.
pub struct Plan {
    work: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

pub fn said(call: &str) -> impl FnOnce(CublasError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}

fn kind(real: Real) -> sys::cudaDataType {
    match real {
        Real::F32 => sys::cudaDataType::CUDA_R_32F,
        Real::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

impl Plan {
    pub fn describe(p: &Product) -> Outcome<Plan> {
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

    /// The same by an algorithm that was chosen before.
    pub fn by(self, data: Algorithm) -> Plan {
        Plan { algorithm: sys::cublasLtMatmulAlgo_t { data }, ..self }
    }

    /// Algorithms whose result is repeatable, best guess first.
    pub fn candidates(&self, library: sys::cublasLtHandle_t) -> Outcome<Vec<sys::cublasLtMatmulAlgo_t>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // Sums split between blocks may be added by a last pass in a fixed order, never by atomics in place.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let preference = result::create_matmul_pref().map_err(said("cublasLtMatmulPreferenceCreate"))?;
        let mut found = [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; TRIED];
        let (mut count, workspace) = (0, WORKSPACE);
        // SAFETY: the attributes' own types; `found` has room for what is asked; only the first `count` are read.
        unsafe {
            let ask = |attribute, value: *const c_void, bytes| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
                    .map_err(said("cublasLtMatmulPreferenceSetAttribute"))
            };
            ask(
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
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

    pub unsafe fn run(
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

    pub fn destroy(&self) {
        // SAFETY: made by `describe`, used by nobody else.
        unsafe {
            let _ = result::destroy_matmul_desc(self.work);
            for layout in [self.a, self.b, self.c, self.d] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

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

/// The layout of a matrix `[rows, cols]` of ours, as the column-major one that cuBLASLt sees.
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
