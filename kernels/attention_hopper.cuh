// What attention's kernels for Hopper share. A warpgroup's sums of one product become the left operand of the next without
// leaving registers: a thread holds the same elements of both.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"
#include "ring.cuh"

constexpr int K = 128;
constexpr int ROW = 128, BOX = 128 * ROW;                     // bytes of a box's row (64 numbers), of 128 rows
constexpr int MULTIPLIERS = 256, WARPS = MULTIPLIERS / 32;    // two warpgroups; a third fetches

template <int M> __device__ __forceinline__ void round_sums(uint32_t (&a)[M][4], const float (&d)[8 * M]) {
#pragma unroll
    for (int i = 0; i < 4 * M; i++) a[i / 4][i % 4] = pack_bf16(d[2 * i], d[2 * i + 1]);
}

// Issues sums = a b, or += if `keep`: b is 16 M rows of K numbers, in two boxes `apart` bytes apart.
template <int M>
__device__ __forceinline__ void begin_product(float (&sums)[64], const uint32_t (&a)[M][4], const unsigned char* b, bool keep,
                                              uint32_t apart = 16 * M * ROW) {
    const uint64_t right = wgmma_matrix(b, 1024, apart);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < M; k++) wgmma_64x128x16<true>(sums, a[k], right + k * ROW, keep || k > 0);
    wgmma_commit();
}
