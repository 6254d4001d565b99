// A row in the registers of a warp, as it is stored; sums over rows that a warp keeps for each of its columns.
//
//   Row<PACKS>       up to 32 PACKS VECTOR numbers: lane l has the packs l, l + 32, ..
//   Columns<PACKS>   one f32 for each column, held the same way
//   fits<PACKS>(..)  true if rows of that width fit and all of them may be accessed in packs
//
//   repeatable  yes: write_parts adds the warps of a block in order
#pragma once
#include "common.cuh"

// 16 bytes as they are stored, in words: the compiler would give each bf16 number a register.
struct alignas(16) Stored { uint32_t word[4]; };

__device__ __forceinline__ Floats<VECTOR> to_floats(const Stored& pack) {
    Floats<VECTOR> values;
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        const uint32_t word = pack.word[i * sizeof(real) / 4];
        values[i] = VECTOR == 4 ? __uint_as_float(word) : half_of(word, i);
    }
    return values;
}

// Calls work(p, column) for each of this lane's packs in a row of `width` numbers; column is the pack's first.
template <int PACKS, class Work> __device__ __forceinline__ void each_pack(int width, Work work) {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane()) * VECTOR;
        if (column < width) work(p, column);
    }
}

template <int PACKS> struct Row {
    Stored packs[PACKS];

    __device__ __forceinline__ void load(const real* from, int width) {
        each_pack<PACKS>(width, [&](int p, int column) {
            check_pack<real, VECTOR>(from + column);
            packs[p] = *reinterpret_cast<const Stored*>(from + column);
        });
    }

    __device__ __forceinline__ Floats<VECTOR> operator[](int p) const { return to_floats(packs[p]); }
};

template <int PACKS> using Columns = Floats<VECTOR>[PACKS];

template <int PACKS, class... T> __device__ __forceinline__ bool fits(int width, const T*... at) {
    return width <= 32 * PACKS * VECTOR && width % VECTOR == 0 && aligned(at...);
}

// parts[column] = the sum over the block's eight warps.
template <int PACKS> static __device__ void write_parts(float* parts, const Columns<PACKS>& sums, int width) {
    __shared__ __align__(16) float of_warp[8][32 * VECTOR];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int first = p * 32 * VECTOR;
        if (first >= width) break;
        __syncthreads();   // others may still be reading the previous pack
        store_pack(&of_warp[warp()][lane() * VECTOR], sums[p]);
        __syncthreads();
        if (threadIdx.x >= min(32 * VECTOR, width - first)) continue;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < 8; w++) sum += of_warp[w][threadIdx.x];
        parts[first + threadIdx.x] = sum;
    }
}
