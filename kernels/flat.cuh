// Flat tensors: eight neighbours at a time, wherever a tensor begins and ends; the sum of a block's numbers.
//
//   each_eight(y, count, f, x..)     y[i] = f(x[i], ..) for a thread's eight neighbours of `count`; 16-byte accesses if all
//                                    addresses allow them. y may be one of the x
//   each_of<N>(y, f, x..)            the same for the N numbers of a pack
//   load_eight(from, left)           8 numbers, zeros from the `left`-th on; a 16-byte access if the address allows it: a test at
//                                    each load, behind which later loads wait
//   store_eight(to, values, left)    the first `left` of them
//   block_total(x)                   the sum over a block's threads, in f64; every thread gets it
//
//   repeatable  yes: sums have one fixed order
#pragma once
#include "common.cuh"

template <int N, class Y, class F, class... X> __device__ __forceinline__ void each_of(Y* y, F f, const X*... x) {
    const auto all = [&](const auto&... values) {
        Floats<N> out;
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = f(values[i]...);
        store_pack(y, out);
    };
    all(load_pack<N>(x)...);
}

template <class Y, class F, class... X> __device__ __forceinline__ void each_eight(Y* y, size_t count, F f, const X*... x) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at + 8 <= count && aligned(y, x...)) return each_of<8>(y + at, f, x + at...);
    for (size_t i = at; i < at + 8 && i < count; i++) each_of<1>(y + i, f, x + i...);
}

template <class T> __device__ __forceinline__ Floats<8> load_eight(const T* from, size_t left) {
    if (left >= 8 && aligned(from)) return load_pack<8>(from);
    Floats<8> values;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) values[i] = i < left ? to_float(from[i]) : 0.0f;
    return values;
}

template <class T> __device__ __forceinline__ void store_eight(T* to, const Floats<8>& values, size_t left) {
    if (left >= 8 && aligned(to)) return store_pack(to, values);
#pragma unroll
    for (unsigned i = 0; i < 8; i++)
        if (i < left) to[i] = from_float<T>(values[i]);
}

static __device__ __forceinline__ double block_total(double x) {
    __shared__ double partial[32];
    x = warp_sum(x);
    __syncthreads();   // the previous call may still be reading `partial`
    if (lane() == 0) partial[warp()] = x;
    __syncthreads();
    double sum = 0.0;
    for (int i = 0; i < static_cast<int>(blockDim.x / 32); i++) sum += partial[i];
    return sum;
}
