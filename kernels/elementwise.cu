// Sums and differences of two tensors, multiples of one, and the weighted sum of scalars.
//
//   forward    add   y = a + b       sub   y = a - b       scale   y = c x       weighted_sum   y = sum_k c_k s_k
//   backward   by the same kernels: da = dy, db = dy or -dy, dx = c dy, ds_k = c_k dy                           =
//   tensors    a, b, x, y [..] real, or f32 where the kernel's name says so     weighted_sum: s_k, y [1] f32
//   needs      nothing; 16-byte accesses if all addresses are 16-byte aligned. y may be a, or x
//   work       one thread per eight neighbours; weighted_sum: one launch per term, as there are only as many as losses
//   bound by   memory: add and sub move 3 numbers per element, scale 2
//   repeatable yes: terms are added in the order of their launches
//   reference  src/ops/elementwise.rs
#include "common.cuh"

template <int N, class T> __device__ __forceinline__ void combine(T* y, const T* a, const T* b, float c) {
    const Floats<N> u = load_pack<N>(a), v = load_pack<N>(b);
    Floats<N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = fmaf(c, v[i], u[i]);
    store_pack(y, out);
}

// y = a + c b; called only with c = 1 or -1, for which c b is exact.
template <class T> __device__ __forceinline__ void combine(T* y, const T* a, const T* b, float c, size_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at + 8 <= count && aligned16(y, a, b)) return combine<8>(y + at, a + at, b + at, c);
    for (size_t i = at; i < at + 8 && i < count; i++) combine<1>(y + i, a + i, b + i, c);
}

template <int N, class T> __device__ __forceinline__ void multiply(T* y, const T* x, float c) {
    Floats<N> values = load_pack<N>(x);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] *= c;
    store_pack(y, values);
}

template <class T> __device__ __forceinline__ void multiply(T* y, const T* x, float c, size_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at + 8 <= count && aligned16(y, x)) return multiply<8>(y + at, x + at, c);
    for (size_t i = at; i < at + 8 && i < count; i++) multiply<1>(y + i, x + i, c);
}

extern "C" __global__ void __launch_bounds__(256) add(real* y, const real* a, const real* b, uint64_t count) {
    combine(y, a, b, 1.0f, count);
}

extern "C" __global__ void __launch_bounds__(256) add_f32(float* y, const float* a, const float* b, uint64_t count) {
    combine(y, a, b, 1.0f, count);
}

extern "C" __global__ void __launch_bounds__(256) sub(real* y, const real* a, const real* b, uint64_t count) {
    combine(y, a, b, -1.0f, count);
}

extern "C" __global__ void __launch_bounds__(256) scale(real* y, const real* x, float c, uint64_t count) {
    multiply(y, x, c, count);
}

extern "C" __global__ void __launch_bounds__(256) scale_f32(float* y, const float* x, float c, uint64_t count) {
    multiply(y, x, c, count);
}

// y += c s, by one thread.
extern "C" __global__ void __launch_bounds__(32) weighted_sum(float* y, const float* s, float c) {
    if (threadIdx.x == 0) *y = fmaf(c, *s, *y);
}
