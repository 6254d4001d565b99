// Numbers from one storage type to the other.
//
//   forward    y[i] = x[i], rounded to the nearest, ties to even, if y is bf16
//   tensors    cast_to_f32: x real, y f32     cast_to_real: x f32, y real     [..] of equal length
//   needs      nothing; 16-byte accesses if both addresses are 16-byte aligned
//   work       one thread per eight neighbours
//   bound by   memory: 6 bytes per element between f32 and bf16
//   repeatable yes: no sums
//   reference  src/ops/cast.rs
#include "common.cuh"

template <class To, class From> __device__ __forceinline__ void cast(To* y, const From* x, size_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at + 8 <= count && aligned16(y, x)) return store_pack(y + at, load_pack<8>(x + at));
    for (size_t i = at; i < at + 8 && i < count; i++) y[i] = from_float<To>(to_float(x[i]));
}

extern "C" __global__ void __launch_bounds__(256) cast_to_f32(float* y, const real* x, uint64_t count) { cast(y, x, count); }

extern "C" __global__ void __launch_bounds__(256) cast_to_real(real* y, const float* x, uint64_t count) { cast(y, x, count); }
