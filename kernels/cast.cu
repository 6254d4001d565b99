// Numbers from one storage type to the other.
//
//   forward    y[i] = x[i], rounded to the nearest, ties to even, if y is bf16
//   tensors    cast_to_f32: x real, y f32     cast_to_real: x f32, y real     [..] of equal length
//   needs      nothing; 16-byte accesses if both addresses are 16-byte aligned
//   work       one thread per eight neighbours
//   bound by   memory: 6 bytes per element between f32 and bf16
//   repeatable yes: no sums
//   reference  src/ops/cast.rs
#include "flat.cuh"

__device__ __forceinline__ float same(float x) { return x; }

extern "C" __global__ void __launch_bounds__(256) cast_to_f32(float* y, const real* x, uint64_t count) {
    each_eight(y, count, same, x);
}

extern "C" __global__ void __launch_bounds__(256) cast_to_real(real* y, const float* x, uint64_t count) {
    each_eight(y, count, same, x);
}
