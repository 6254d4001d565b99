//! One product as described to cuBLASLt: descriptors, candidates, the call.

use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;

use super::Alignments;
use crate::gpu::choices::Algorithm;
use crate::gpu::driver::DriverResult;
use crate::gpu::{Operand, Product, Real};

/// Bytes of scratch for split sums; what NVIDIA advises for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// How many algorithms are timed at most, best guess first.
const TRIED: usize = 8;

/// A product's descriptors, and the algorithm that was chosen.
pub struct Plan {
    work: Work,
    a: MatrixLayout,
    b: MatrixLayout,
    c: MatrixLayout,
    d: MatrixLayout,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

struct Work(sys::cublasLtMatmulDesc_t);
struct MatrixLayout(sys::cublasLtMatrixLayout_t);
struct Preference(sys::cublasLtMatmulPreference_t);

// When a descriptor is released there is nobody to tell of a failure.
impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: made by `Work::new`, used by nobody else.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: made by `MatrixLayout::new`, used by nobody else.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `Preference::new`, used by nobody else.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Error text: the call, and the library's status, which has no text of its own.
pub fn refused(call: &str) -> impl FnOnce(CublasError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}

fn kind(real: Real) -> sys::cudaDataType {
    match real {
        Real::F32 => sys::cudaDataType::CUDA_R_32F,
        Real::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

impl Plan {
    pub fn describe(p: &Product) -> DriverResult<Plan> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let [rows, cols, depth] = p.size;
        let work = Work::new()?;
        // cuBLASLt's first operand is our b, its second our a; a stored row of ours is a column of theirs.
        // 0 and 1 are CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h.
        let operation = |m: &Operand| i32::from(m.transposed);
        work.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(&p.b))?;
        work.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(&p.a))?;
        let epilogue = match (p.bias.is_some(), p.sums.is_some()) {
            (true, _) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (_, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
            _ => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        work.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        if p.bias.is_some() || p.sums.is_some() {
            work.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &kind(p.out.real))?;
            work.point(p)?;
        }
        if let Some(bias) = p.bias.filter(|_| p.batch > 1) {
            work.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &(bias.step as i64))?;
        }
        let (plus, batch) = (p.plus.unwrap_or(p.out), p.batch);
        Ok(Plan {
            work,
            a: MatrixLayout::new(&p.b, [depth, cols], batch)?,
            b: MatrixLayout::new(&p.a, [rows, depth], batch)?,
            c: MatrixLayout::new(&plus, [rows, cols], batch)?,
            d: MatrixLayout::new(&p.out, [rows, cols], batch)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        })
    }

    /// The same with an algorithm that was chosen before; `None` if the library does not accept it for this product.
    pub fn by(self, data: Algorithm, library: sys::cublasLtHandle_t) -> Option<Plan> {
        let algorithm = sys::cublasLtMatmulAlgo_t { data };
        // All zeros is a valid result, so the call need not write every field.
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        let Plan { work, a, b, c, d, .. } = &self;
        // SAFETY: all live; the call writes one struct.
        let accepted = unsafe {
            let asked = sys::cublasLtMatmulAlgoCheck(
                library,
                work.0,
                a.0,
                b.0,
                c.0,
                d.0,
                &algorithm,
                found.as_mut_ptr(),
            );
            asked == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
                && found.assume_init_ref().workspaceSize <= WORKSPACE
        };
        accepted.then_some(Plan { algorithm, ..self })
    }

    /// Algorithms with repeatable results that accept addresses of this alignment, best guess first.
    pub fn candidates(
        &self,
        library: sys::cublasLtHandle_t,
        [out, a, b, plus, _]: Alignments,
    ) -> DriverResult<Vec<sys::cublasLtMatmulAlgo_t>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // Sums split between blocks may be added by a last pass in a fixed order, never by atomics in place.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let (workspace, preference) = (WORKSPACE, Preference::new()?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        // By default it assumes 256.
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &plus)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out)?;
        let mut found = [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; TRIED];
        let mut count = 0;
        // SAFETY: `found` has room for what is requested; only the first `count` are read.
        unsafe {
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                library,
                self.work.0,
                self.a.0,
                self.b.0,
                self.c.0,
                self.d.0,
                preference.0,
                TRIED as i32,
                found.as_mut_ptr().cast(),
                &mut count,
            );
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
    ) -> DriverResult<()> {
        self.work.point(p)?;
        let (one, beta) = (1.0f32, if p.plus.is_some() || p.more { 1.0f32 } else { 0.0 });
        // SAFETY: the caller's contract; descriptors fit the operands.
        unsafe {
            result::matmul(
                library,
                self.work.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                p.b.address as *const c_void,
                self.a.0,
                p.a.address as *const c_void,
                self.b.0,
                p.plus.unwrap_or(p.out).address as *const c_void,
                self.c.0,
                p.out.address as *mut c_void,
                self.d.0,
                algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused("cublasLtMatmul"))
    }
}

impl Work {
    fn new() -> DriverResult<Work> {
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
        result::create_matmul_desc(compute, scale).map(Work).map_err(refused("cublasLtMatmulDescCreate"))
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> DriverResult<()> {
        // SAFETY: every caller passes the attribute's own type.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>())
        }
        .map_err(refused("cublasLtMatmulDescSetAttribute"))
    }

    /// Sets where the bias is read, or its gradient written. The heuristic inspects the pointer too: it may not be null.
    fn point(&self, p: &Product) -> DriverResult<()> {
        match p.bias.map(|b| b.address).or(p.sums) {
            Some(address) => {
                self.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)
            }
            None => Ok(()),
        }
    }
}

impl MatrixLayout {
    /// The layout of a matrix `[rows, cols]` of ours, as the column-major one that cuBLASLt sees.
    fn new(m: &Operand, [rows, cols]: [usize; 2], batch: usize) -> DriverResult<MatrixLayout> {
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        let (stored, width) = if m.transposed { (cols, rows) } else { (rows, cols) };
        let layout = result::create_matrix_layout(kind(m.real), width as u64, stored as u64, m.down as i64)
            .map(MatrixLayout)
            .map_err(refused("cublasLtMatrixLayoutCreate"))?;
        if batch > 1 {
            layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &(batch as i32))?;
            layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &(m.step as i64))?;
        }
        Ok(layout)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatrixLayoutAttribute_t, value: &T) -> DriverResult<()> {
        // SAFETY: every caller passes the attribute's own type.
        unsafe {
            result::set_matrix_layout_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>())
        }
        .map_err(refused("cublasLtMatrixLayoutSetAttribute"))
    }
}

impl Preference {
    fn new() -> DriverResult<Preference> {
        result::create_matmul_pref().map(Preference).map_err(refused("cublasLtMatmulPreferenceCreate"))
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> DriverResult<()> {
        // SAFETY: every caller passes the attribute's own type.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>())
        }
        .map_err(refused("cublasLtMatmulPreferenceSetAttribute"))
    }
}
