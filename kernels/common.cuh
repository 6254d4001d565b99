// What every kernel file includes first: the storage type, 16-byte loads, sums over warps and blocks, random numbers.
//
//   real        the type that tensors are stored in: f32, or bf16 if SCALE_BF16 is 1; arithmetic is always f32
//   blocks      are one-dimensional and consist of whole warps
//   repeatable  yes: sums have one fixed order
#pragma once
#ifdef __CUDACC__
#include <cstdint>
#include <cuda_bf16.h>
#else
#include "emulator.h"
#endif

#ifndef SCALE_BF16
#define SCALE_BF16 0
#endif
#if SCALE_BF16
typedef __nv_bfloat16 real;
#else
typedef float real;
#endif

// Elements of `real` in 16 bytes, the widest load there is.
constexpr int VECTOR = 16 / sizeof(real);

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16(x); }
__device__ __forceinline__ real to_real(float x) { return from_float<real>(x); }

// The bf16 number `i` (even: the lower one) of a word that holds two: it is the upper half of an f32.
__device__ __forceinline__ float half_of(uint32_t word, int i) { return __uint_as_float(i % 2 ? word & 0xFFFF0000u : word << 16); }

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

// Which of a set's blocks this is. A set's blocks run along x; sets run along y and, since at most 65,535 fit there, along z:
// there may be a few blocks beyond the last set, which have nothing to do.
struct OfSet {
    uint32_t set, block;
    bool missing;
    __device__ __forceinline__ explicit OfSet(int sets)
        : set(blockIdx.z * gridDim.y + blockIdx.y), block(blockIdx.x), missing(set >= static_cast<uint32_t>(sets)) {}
    // The block's number, counted over all sets.
    __device__ __forceinline__ size_t number() const { return static_cast<size_t>(set) * gridDim.x + block; }
};

// The block's dynamic shared memory, as many bytes as the launch gives, 16-byte aligned.
#ifdef __CUDACC__
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#endif
#define SHARED(type, name) type* const name = reinterpret_cast<type*>(dynamic_shared)

// ---- packs: N neighbours in as few accesses as possible; the address is a multiple of 16 bytes, or of the pack if smaller

template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };

template <int N> struct Floats {
    float at[N];
    __device__ __forceinline__ float& operator[](int i) { return at[i]; }
    __device__ __forceinline__ float operator[](int i) const { return at[i]; }
};

template <class T, int N> __device__ __forceinline__ void check_pack(const T* at) {
#ifndef __CUDACC__
    emulator::require_aligned(at, N * sizeof(T) < 16 ? N * sizeof(T) : 16, "a pack");
#endif
}

// True if all of these addresses are multiples of BYTES: of 16, packs of any width may be loaded and stored there.
template <int BYTES = 16, class... T> __device__ __forceinline__ bool aligned(const T*... at) {
    return (reinterpret_cast<uintptr_t>(at) | ...) % BYTES == 0;
}

template <int N = VECTOR, class T> __device__ __forceinline__ Floats<N> load_pack(const T* from) {
    constexpr int STEP = N * sizeof(T) < 16 ? N : 16 / sizeof(T);
    check_pack<T, N>(from);
    Floats<N> values;
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
        const auto pack = *reinterpret_cast<const Pack<T, STEP>*>(from + i);
#pragma unroll
        for (int j = 0; j < STEP; j++) values[i + j] = to_float(pack.at[j]);
    }
    return values;
}

template <int N, class T> __device__ __forceinline__ void store_pack(T* to, const Floats<N>& values) {
    constexpr int STEP = N * sizeof(T) < 16 ? N : 16 / sizeof(T);
    check_pack<T, N>(to);
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
        Pack<T, STEP> pack;
#pragma unroll
        for (int j = 0; j < STEP; j++) pack.at[j] = from_float<T>(values[i + j]);
        *reinterpret_cast<Pack<T, STEP>*>(to + i) = pack;
    }
}

// The same, to global memory that is not read soon. A 16-byte pack always takes one access: where two packs go to one tensor at a
// distance that the compiler does not know, it splits a store_pack into words.
template <int N, class T> __device__ __forceinline__ void stream_pack(T* to, const Floats<N>& values) {
    if constexpr (N * sizeof(T) != 16) return store_pack(to, values);
    check_pack<T, N>(to);
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = from_float<T>(values[i]);
    __stcs(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&pack));
}

// ---- sums and maxima; every lane, or every thread, gets the result

template <class T> __device__ __forceinline__ T warp_sum(T x) {   // of float or double
#pragma unroll
    for (int flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, flip);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int flip = 16; flip > 0; flip /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, flip));
    return x;
}

static __device__ __forceinline__ float block_sum(float x) {
    __shared__ float partial[32];
    x = warp_sum(x);
    __syncthreads();   // the previous call may still be reading `partial`
    if (lane() == 0) partial[warp()] = x;
    __syncthreads();
    return warp_sum(lane() < static_cast<int>(blockDim.x / 32) ? partial[lane()] : 0.0f);
}

// ---- activations and their derivatives

// 1 / x to 2 units in the last place, 0 above 2^126: an exact division branches, and eight of them in a thread cannot overlap.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef __CUDACC__
    return __fdividef(1.0f, x);
#else
    return 1.0f / x;
#endif
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_derivative(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// x Phi(x), exact; its derivative is Phi(x) + x phi(x).
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ __forceinline__ float gelu_derivative(float x) {
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
}

// log(1 + e^x) without overflow; its derivative is the sigmoid. log(1 + u) = 2 atanh(u / (2 + u)), by four terms of a fit as in
// src/ops/vector.rs: log1pf branches.
__device__ __forceinline__ float softplus(float x) {
    const float u = expf(-fabsf(x)), s = u * reciprocal(2.0f + u), z = s * s;
    const float p = fmaf(fmaf(fmaf(0.1342575f, z, 0.1411831f), z, 0.2000378f), z, 0.3333332f);
    return fmaxf(x, 0.0f) + 2.0f * fmaf(p * z, s, s);
}

// ---- random numbers: Philox 4x32-10, the same integers as src/rng.rs

struct Stream {
    uint32_t key[2];
    uint64_t stream;

    __device__ uint4 block(uint64_t counter) const {
        uint4 x = make_uint4(static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                             static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32));
        uint32_t k0 = key[0], k1 = key[1];
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const uint64_t first = static_cast<uint64_t>(x.x) * 0xD2511F53u;
            const uint64_t second = static_cast<uint64_t>(x.z) * 0xCD9E8D57u;
            x = make_uint4(static_cast<uint32_t>(second >> 32) ^ x.y ^ k0, static_cast<uint32_t>(second),
                           static_cast<uint32_t>(first >> 32) ^ x.w ^ k1, static_cast<uint32_t>(first));
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return x;
    }

    // Uniform in [0, 1), 24 bits.
    static __device__ float unit(uint32_t word) { return static_cast<float>(word >> 8) * (1.0f / 16777216.0f); }

    // The `i`-th of the four numbers of a block.
    static __device__ float uniform(uint4 x, int i) {
        const uint32_t low = i % 2 ? x.y : x.x, high = i % 2 ? x.w : x.z;
        return unit(i < 2 ? low : high);
    }

    // Box-Muller over the pairs of a block; cosf, sinf and logf may differ from Rust's by an ulp.
    static __device__ float normal(uint4 x, int i) {
        const float u = 1.0f - unit(i < 2 ? x.x : x.z);   // above zero, as the logarithm needs it
        const float angle = 6.2831853f * unit(i < 2 ? x.y : x.w);
        const float radius = sqrtf(-2.0f * logf(u));
        return radius * (i % 2 ? sinf(angle) : cosf(angle));
    }

    __device__ float uniform(uint64_t i) const { return uniform(block(i / 4), i % 4); }
    __device__ float normal(uint64_t i) const { return normal(block(i / 4), i % 4); }
};

// The stream of a seed at an address, as the host's Rng names it.
__device__ __forceinline__ Stream make_stream(uint64_t seed, uint64_t address) {
    return Stream{{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, address};
}
