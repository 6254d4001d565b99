// What attention's tensor-core kernels share: tiles of bf16 rows in shared memory, and products of them by one warp.
//
//   tile       rows of WIDTH numbers in 16-byte chunks; chunk c of row r is stored at place c ^ r % 8, so that the same chunk
//              of eight neighbouring rows, which is what ldmatrix reads, covers all 32 banks
//   product    d [16 M, 8 N] += a b over DEPTH, d as mma_16x8x16 holds it: with g = lane / 4, t = 2 (lane % 4),
//              d[m][n][0], [1] = (16 m + g, 8 n + t), (.., + 1)     d[m][n][2], [3] = the same, eight rows below
//   needs      bf16, WIDTH % 64 == 0, rows that begin at multiples of 16 bytes
#pragma once
#include "ptx.cuh"

// Tensor-core kernels are for bf16 only: built with f32 storage they do nothing, and are never launched.
constexpr bool TENSOR_CORES = sizeof(real) == 2;

constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;

template <int WIDTH> struct Tile {
    real* at;
    // The chunk in row `eight` + `low`, where `eight` and `column` are multiples of 8 and `low` is below 8: passed separately,
    // so that the compiler sees that rows eight apart are a constant distance apart.
    __device__ __forceinline__ real* chunk(int eight, int low, int column) const {
        return at + (eight + low) * WIDTH + (column ^ low * 8);
    }
    // `row` is a multiple of 8.
    __device__ __forceinline__ Tile below(int row) const { return Tile{at + row * WIDTH}; }
};

// ---- between global memory and tiles; the caller is thread `thread` of THREADS

// Queues copies of rows 0 .. rows - 1; rows from `valid` (at least 1) on become zero. Not unrolled: addresses take registers.
template <int THREADS, int WIDTH>
__device__ __forceinline__ void load_rows(Tile<WIDTH> to, const real* from, size_t stride, int rows, int valid, int thread) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll 1
    for (int i = thread; i < rows * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * 8;
        const bool ok = row < valid;
        cp_async16_or_zero(to.chunk(row & ~7, row & 7, column), from + (ok ? row : 0) * stride + column, ok);
    }
}

template <int THREADS, int WIDTH>
__device__ __forceinline__ void store_rows(real* to, size_t stride, Tile<WIDTH> from, int rows, int thread) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll 1
    for (int i = thread; i < rows * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * 8;
        const uint4 chunk = *reinterpret_cast<const uint4*>(from.chunk(row & ~7, row & 7, column));
        *reinterpret_cast<uint4*>(to + row * stride + column) = chunk;
    }
}

// ---- between registers and tiles; every lane of the warp takes part

// Stores d times `scale`, rounded, from row `row` and column `column` on.
template <int M, int N, int WIDTH>
__device__ __forceinline__ void put(Tile<WIDTH> to, int row, int column, const float (&d)[M][N][4], float scale = 1.0f) {
    const int g = lane() / 4, t = lane() % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                real* const at = to.chunk(row + 16 * m + 8 * half, g, column + 8 * n) + t;
                *reinterpret_cast<uint32_t*>(at) = pack_bf16(scale * d[m][n][2 * half], scale * d[m][n][2 * half + 1]);
            }
}

// Stores d times `scale`, rounded, straight to global memory; rows from `rows` on are skipped.
template <int M, int N>
__device__ __forceinline__ void store(real* to, size_t stride, int rows, const float (&d)[M][N][4], float scale) {
    real* const at = to + lane() / 4 * stride + own_four();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                const uint32_t left = pack_bf16(scale * d[m][n][2 * half], scale * d[m][n][2 * half + 1]);
                const uint32_t right = pack_bf16(scale * d[m][n + 1][2 * half], scale * d[m][n + 1][2 * half + 1]);
                const uint2 own = swap_out(left, right);
                if (16 * m + 8 * half + lane() / 4 >= rows) continue;
                *reinterpret_cast<uint2*>(at + (16 * m + 8 * half) * stride + 8 * n) = own;
            }
}

// a [16, 16] from row `row` and column `depth` on; TRANSPOSED: the tile holds a's transpose.
template <bool TRANSPOSED, int WIDTH>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], Tile<WIDTH> from, int row, int depth) {
    const int low = lane() & 7, second = lane() & 8, third = lane() / 16 * 8;
    if (TRANSPOSED) ldmatrix_x4_trans(a, from.chunk(depth + third, low, row ^ second));
    else ldmatrix_x4(a, from.chunk(row + second, low, depth ^ third));
}

// b [16, 16], two operands of mma, from row `depth` and column `column` on; TRANSPOSED: the tile holds b's transpose.
template <bool TRANSPOSED, int WIDTH>
__device__ __forceinline__ void load_b(uint32_t (&b)[2][2], Tile<WIDTH> from, int depth, int column) {
    const int low = lane() & 7, second = lane() & 8, third = lane() / 16 * 8;
    uint32_t r[4];
    if (TRANSPOSED) ldmatrix_x4(r, from.chunk(column + third, low, depth ^ second));
    else ldmatrix_x4_trans(r, from.chunk(depth + second, low, column ^ third));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// ---- products by one warp

enum Side { AS_IT_LIES, TRANSPOSED };

// d's rows are a's from `row` on, its columns b's from `column` on. Four steps at a time are enough to hide ldmatrix, and save
// the registers that the addresses of all steps would take.
template <Side A, Side B, int DEPTH, int M, int N, int WIDTH_A, int WIDTH_B>
__device__ __forceinline__ void product(float (&d)[M][N][4], Tile<WIDTH_A> a, int row, Tile<WIDTH_B> b, int column) {
#pragma unroll 4
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_a<A == TRANSPOSED>(left[m], a, row + 16 * m, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[2][2];
            load_b<B == TRANSPOSED>(right, b, k, column + 8 * n);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16(d[m][n], left[m], right[0]);
                mma_16x8x16(d[m][n + 1], left[m], right[1]);
            }
        }
    }
}

// a is rounded from the registers in which a product left it: mma's d of two neighbours along N is laid out as the next mma's a.
// b is not transposed.
template <int M, int N, int DEPTH, int WIDTH>
__device__ __forceinline__ void product(float (&d)[M][N][4], const float (&a)[M][DEPTH][4], Tile<WIDTH> b) {
#pragma unroll
    for (int k = 0; k < DEPTH; k += 2) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) left[m][i] = pack_bf16(a[m][k + i / 2][i % 2 * 2], a[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[2][2];
            load_b<false>(right, b, 8 * k, 8 * n);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16(d[m][n], left[m], right[0]);
                mma_16x8x16(d[m][n + 1], left[m], right[1]);
            }
        }
    }
}

// ---- over the four neighbouring lanes that share a row of d

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
