// Right: c = a b by cp.async, ldmatrix and mma, two stages deep.
//
//   forward    c[m,n] = sum_k a[m,k] b[k,n]
//   tensors    a [M, K], b [K, N] bf16     c [M, N] f32
//   needs      M % 64 == 0, N % 32 == 0, K % 32 == 0, 128 threads, grid (N / 32, M / 64)
//   work       a block makes 64 x 32, a warp 16 x 32 of it; b goes through ldmatrix_x4_trans
//
// Seen: relative error below 1e-6 against f64 sums of the same bf16 numbers, the same bits under every seed.
#include "ptx.cuh"

constexpr int ROWS = 64, COLUMNS = 32, DEPTH = 32;
constexpr int PAD = 8;   // 16 bytes, so that the eight rows of a matrix are in different banks

typedef __nv_bfloat16 bf16;

struct Stage {
    bf16 a[ROWS][DEPTH + PAD];
    bf16 b[DEPTH][COLUMNS + PAD];
};

static __device__ void fetch(Stage& stage, const bf16* a, const bf16* b, int n, int k) {
    for (int i = threadIdx.x; i < ROWS * DEPTH / 8; i += blockDim.x) {
        const int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
        cp_async16(&stage.a[row][column], a + row * k + column);
    }
    for (int i = threadIdx.x; i < DEPTH * COLUMNS / 8; i += blockDim.x) {
        const int row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
        cp_async16(&stage.b[row][column], b + row * n + column);
    }
}

extern "C" __global__ void __launch_bounds__(128) matmul(float* c, const bf16* a, const bf16* b, int n, int k) {
    SHARED(Stage, stages);   // two of them
    const int row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS;
    float sums[COLUMNS / 8][4] = {};
    fetch(stages[0], a + row * k, b + column, n, k);
    cp_async_commit();
    for (int at = 0; at < k; at += DEPTH) {
        const int ahead = at + DEPTH;
        if (ahead < k) fetch(stages[ahead / DEPTH % 2], a + row * k + ahead, b + ahead * n + column, n, k);
        cp_async_commit();   // an empty group at the end, so that one rule holds: all but the newest have landed
        cp_async_wait<1>();
        __syncthreads();
        const Stage& stage = stages[at / DEPTH % 2];
        for (int depth = 0; depth < DEPTH; depth += 16) {
            uint32_t left[4], right[COLUMNS / 8][2];
            ldmatrix_x4(left, &stage.a[warp() * 16 + lane() % 16][depth + lane() / 16 * 8]);
            for (int i = 0; i < COLUMNS / 8; i += 2) {
                uint32_t both[4];   // of two tiles at once
                ldmatrix_x4_trans(both, &stage.b[depth + lane() % 16][8 * i + lane() / 16 * 8]);
                right[i][0] = both[0], right[i][1] = both[1], right[i + 1][0] = both[2], right[i + 1][1] = both[3];
            }
            for (int i = 0; i < COLUMNS / 8; i++) mma_16x8x16(sums[i], left, right[i]);
        }
        __syncthreads();   // the stage is refilled in the next round
    }
    for (int i = 0; i < COLUMNS / 8; i++)
        for (int j = 0; j < 4; j++)
            c[(row + warp() * 16 + lane() / 4 + j / 2 * 8) * n + column + i * 8 + lane() % 4 * 2 + j % 2] = sums[i][j];
}
