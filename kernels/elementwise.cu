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
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(256) add(real* y, const real* a, const real* b, uint64_t count) {
    each_eight(y, count, [](float u, float v) { return u + v; }, a, b);
}

extern "C" __global__ void __launch_bounds__(256) add_f32(float* y, const float* a, const float* b, uint64_t count) {
    each_eight(y, count, [](float u, float v) { return u + v; }, a, b);
}

extern "C" __global__ void __launch_bounds__(256) sub(real* y, const real* a, const real* b, uint64_t count) {
    each_eight(y, count, [](float u, float v) { return u - v; }, a, b);
}

extern "C" __global__ void __launch_bounds__(256) scale(real* y, const real* x, float c, uint64_t count) {
    each_eight(y, count, [&](float u) { return c * u; }, x);
}

extern "C" __global__ void __launch_bounds__(256) scale_f32(float* y, const float* x, float c, uint64_t count) {
    each_eight(y, count, [&](float u) { return c * u; }, x);
}

// y += c s, by one thread.
extern "C" __global__ void __launch_bounds__(32) weighted_sum(float* y, const float* s, float c) {
    if (threadIdx.x == 0) *y = fmaf(c, *s, *y);
}
