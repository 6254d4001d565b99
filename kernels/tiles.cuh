// A tile of 128 x 128 sums over a depth, by a block of 256 threads whose operands come through shared memory.
//
//   Window    a matrix, or a part of one: numbers outside it count as zeros
//   ALONG     sums(i, j) over d of a(i, d) and b(j, d): bf16 a * b by mma.sync; f32 (a - b)^2, twice the work of a product,
//             but nothing cancels
//   DOWN      sums(i, j) = sum_d a(i, d) b(d, j): bf16 by mma.sync, f32 by FMA
//
// A stage is 128 bytes of depth of both operands. Two are in flight while the third is multiplied; two blocks of three stages
// fit on a multiprocessor of sm_90. Rows are cut into 16-byte chunks, and chunk c of row r is stored at place c ^ r % 8 of it: eight neighbouring rows at
// one depth are in different banks. Chunks come by cp.async if every row is 16-byte aligned, otherwise by plain stores.
#pragma once
#include "flat.cuh"
#include "ptx.cuh"

enum Across { ALONG, DOWN };

constexpr int TILE = 128;                      // rows, and columns
constexpr int DEPTH = 128 / sizeof(real);      // of a stage, in numbers
constexpr int STAGES = 3;
constexpr int AREA = TILE * DEPTH;             // numbers of one operand in a stage
constexpr int TILE_SHARED = STAGES * 2 * AREA * sizeof(real);

// Where number `column` of row `row` is, in rows of WIDTH numbers.
template <int WIDTH> __device__ __forceinline__ int place(int row, int column) {
    return row * WIDTH + ((column / VECTOR) ^ (row % 8)) * VECTOR + column % VECTOR;
}

struct Window {
    const real* at;
    int rows, columns;
    size_t stride;   // numbers from one row to the next
    bool aligned;    // every row is 16-byte aligned and consists of whole chunks
};

// A stage [ROWS, WIDTH] of a window, from row `top` and column `left` on.
template <int ROWS, int WIDTH> __device__ __forceinline__ void fetch(real* to, const Window& from, int top, int left) {
    constexpr int CHUNKS = WIDTH / VECTOR, TURN = 256 / CHUNKS;   // chunks of a row; rows that the block fetches at once
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS * VECTOR, there = from.columns - left - chunk;
    const real* const first = from.at + (top + row) * from.stride + left + chunk;
    if (from.aligned) {
#pragma unroll
        for (int turn = 0; turn < ROWS; turn += TURN) {
            const bool ok = there > 0 && top + row + turn < from.rows;
            cp_async16_or_zero(to + place<WIDTH>(row + turn, chunk), ok ? first + turn * from.stride : from.at, ok);
        }
        return;
    }
#pragma unroll 1
    for (int turn = 0; turn < ROWS; turn += TURN) {
        const int count = top + row + turn < from.rows ? there : 0;
        real* const numbers = to + place<WIDTH>(row + turn, chunk);
        for (int i = 0; i < VECTOR; i++) numbers[i] = i < count ? first[turn * from.stride + i] : to_real(0.0f);
    }
}

// This thread's share of the tile: 64 sums, and their positions.
template <Across ACROSS> struct Sums;

#if SCALE_BF16

// Eight warps as 2 x 4, each 64 x 32.
template <Across ACROSS> struct Sums {
    float at[4][4][4] = {};   // by 16 rows, by 8 columns, as mma holds them

    __device__ __forceinline__ void add(const real* a, const real* b) {
        const int top = warp() / 4 * 64, left = warp() % 4 * 32, l = lane();   // for ldmatrix: row l % 8 of matrix l / 8
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t of_b[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int from = left + 16 * n;
                if (ACROSS == ALONG) ldmatrix_x4(of_b[n], b + place<DEPTH>(from + l / 16 * 8 + l % 8, k + l / 8 % 2 * 8));
                else ldmatrix_x4_trans(of_b[n], b + place<TILE>(k + l % 16, from + l / 16 * 8));
            }
#pragma unroll
            for (int m = 0; m < 4; m++) {
                uint32_t of_a[4];
                ldmatrix_x4(of_a, a + place<DEPTH>(top + 16 * m + l % 16, k + l / 16 * 8));
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    const uint32_t pair[2] = {of_b[n / 2][n % 2 * 2], of_b[n / 2][n % 2 * 2 + 1]};
                    mma_16x8x16(at[m][n], of_a, pair);
                }
            }
        }
    }

    template <class Use> __device__ __forceinline__ void each(Use use) const {
        const int row = warp() / 4 * 64 + lane() / 4, column = warp() % 4 * 32 + lane() % 4 * 2;
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) use(row + 16 * m + e / 2 * 8, column + 8 * n + e % 2, at[m][n][e]);
    }
};

#else

// Sixteen by sixteen threads, each with eight rows and eight columns spaced so that neighbours read neighbouring banks.
template <Across ACROSS> struct Sums {
    float at[8][8] = {};

    static __device__ __forceinline__ int row(int i) { return threadIdx.x / 16 + 16 * i; }
    static __device__ __forceinline__ int column(int j) {
        return ACROSS == ALONG ? threadIdx.x % 16 + 16 * j : threadIdx.x % 16 * 4 + j / 4 * 64 + j % 4;
    }

    __device__ __forceinline__ void add(const real* a, const real* b) {
        if constexpr (ACROSS == ALONG) {
#pragma unroll 1
            for (int k = 0; k < DEPTH; k += 4) {
                Floats<4> of_a[8];
#pragma unroll
                for (int i = 0; i < 8; i++) of_a[i] = load_pack<4>(a + place<DEPTH>(row(i), k));
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const Floats<4> of_b = load_pack<4>(b + place<DEPTH>(column(j), k));
#pragma unroll
                    for (int i = 0; i < 8; i++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const float apart = of_a[i][e] - of_b[e];
                            at[i][j] = fmaf(apart, apart, at[i][j]);
                        }
                }
            }
        } else {
#pragma unroll 1
            for (int k = 0; k < DEPTH; k += 2) {
                Floats<2> of_a[8];
#pragma unroll
                for (int i = 0; i < 8; i++) of_a[i] = load_pack<2>(a + place<DEPTH>(row(i), k));
#pragma unroll
                for (int j = 0; j < 16; j += 4) {
                    const int e = j / 8, first = j % 8;
                    const Floats<4> of_b = load_pack<4>(b + place<TILE>(k + e, column(first)));
#pragma unroll
                    for (int i = 0; i < 8; i++)
#pragma unroll
                        for (int n = 0; n < 4; n++) at[i][first + n] = fmaf(of_a[i][e], of_b[n], at[i][first + n]);
                }
            }
        }
    }

    template <class Use> __device__ __forceinline__ void each(Use use) const {
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) use(row(i), column(j), at[i][j]);
    }
};

#endif

// Adds the whole depth: a's columns. Afterwards the stages' memory is free.
template <Across ACROSS>
__device__ __forceinline__ void add_depth(Sums<ACROSS>& sums, real* stages, const Window& a, const Window& b) {
    const int steps = ceil_div(a.columns, DEPTH);
    const auto start = [&](int step) {
        real* of_a = stages + step % STAGES * 2 * AREA;
        if (step < steps) {
            fetch<TILE, DEPTH>(of_a, a, 0, step * DEPTH);
            if (ACROSS == ALONG) fetch<TILE, DEPTH>(of_a + AREA, b, 0, step * DEPTH);
            else fetch<DEPTH, TILE>(of_a + AREA, b, step * DEPTH, 0);
        }
        cp_async_commit();   // an empty group too: the wait counts groups
    };
    for (int step = 0; step < STAGES - 1; step++) start(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();   // all copies of this stage have landed, and nobody reads the stage that is filled next
        start(step + STAGES - 1);
        const real* of_a = stages + step % STAGES * 2 * AREA;
        sums.add(of_a, of_a + AREA);
    }
    __syncthreads();
}
