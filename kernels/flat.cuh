// Flat tensors: eight neighbours at a time, wherever a tensor begins and ends; the sum of a block's numbers.
//
//   load_eight(from, left)           8 numbers, zeros from the `left`-th on; a 16-byte access if the address allows it
//   store_eight(to, values, left)    the first `left` of them
//   block_total(x)                   the sum over a block's threads, in f64; every thread gets it
//
//   repeatable  yes: sums have one fixed order
#pragma once
#include "common.cuh"

__device__ __forceinline__ bool on_sixteen(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

template <class T> __device__ __forceinline__ Floats<8> load_eight(const T* from, size_t left) {
    if (left >= 8 && on_sixteen(from)) return load_pack<8>(from);
    Floats<8> values;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) values[i] = i < left ? to_float(from[i]) : 0.0f;
    return values;
}

template <class T> __device__ __forceinline__ void store_eight(T* to, const Floats<8>& values, size_t left) {
    if (left >= 8 && on_sixteen(to)) return store_pack(to, values);
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
