// Maximum mean discrepancy on Hopper's tensor cores: the backward of mmd.cu.
//
//   backward   dy_i   = dL (sum_j w[i,j] a_j - p[i] y_i)        a_j: the 2N rows          =
//   tensors    y, dy [B, N, G] bf16, y and x as maps [B N, G] in boxes of 64 rows     w [B, N, 2N] bf16 as two maps [B N, N], of
//              its columns of y and of x, in boxes of 128 rows     pulls [B, N, 2T] f32: p by tile, T = ceil(N / 128)
//              dL [1] f32
//   needs      sm_90a, bf16, N % 8 == 0, G % 8 == 0, addresses that are multiples of 16 bytes. y and x must be finite: boxes
//              reach beyond a set, and weight 0 times what they find there must be 0
//   work       as in mmd_hopper.cuh, one block per multiprocessor. The two tiles of a cluster, 128 rows of dy by 256 columns, are
//              one above the other; if a set has an odd number of sides, its last tiles have a neighbour without rows
//   bound by   compute, 4 B N^2 G, if the level-2 cache delivers 32 bytes per cycle to each multiprocessor
//   repeatable yes: no atomics
//   reference  src/ops/mmd.rs
#include "hopper.cuh"
#include "mmd_hopper.cuh"

constexpr int COLUMNS = 2 * SIDE;

// A block's work: tiles blockIdx.x, blockIdx.x + gridDim.x and so on; a cluster's two are neighbours, the even one first.
struct Work {
    int tiles, rows, width;
    __device__ __forceinline__ int sides() const { return ceil_div(rows, SIDE); }
    __device__ __forceinline__ int across() const { return ceil_div(width, COLUMNS); }
    __device__ __forceinline__ int steps() const { return 2 * ceil_div(rows, STEP); }
};

struct Tile {
    int set, row, column;   // row and column: its first ones
    __device__ __forceinline__ Tile(int tile, const Work& work) {
        const int down = ceil_div(work.sides(), BLOCKS) * BLOCKS, across = work.across();
        row = tile % down * SIDE, column = tile / down % across * COLUMNS, set = tile / down / across;
    }
    __device__ __forceinline__ bool exists(const Work& work) const { return row < work.rows; }
    __device__ __forceinline__ bool has(int group, const Work& work) const { return column + group * SIDE < work.width; }
};

// By one thread.
__device__ __forceinline__ void fetch(Slots& slots, const TensorMap* const (&weights)[2], const TensorMap* const (&rows)[2],
                                      const Work& work) {
    Filler fill{slots, {}};
    const int rank = cluster_rank();
    for (int number = blockIdx.x; number < work.tiles; number += gridDim.x) {
        const Tile tile(number, work);
        const int first = tile.set * work.rows, boxes = tile.exists(work) + 1 + tile.has(1, work);
#pragma unroll
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < work.rows; k += STEP) {
                const int slot = fill.open(boxes);
                if (tile.exists(work)) fill.load(slot, LEFT, weights[half], k, first + tile.row);
#pragma unroll
                for (int part = 0; part < 2 && tile.has(rank, work); part++)
                    fill.share(slot, FIRST + rank, part * (BOX / 2), rows[half], tile.column + rank * SIDE + 64 * part, first + k);
            }
    }
}

// A multiplying warpgroup.
struct OfBackward {
    Multiplier of;
    const Work& work;
    real* dy;
    const float *d, *pulls;
    const real* y;

    __device__ __forceinline__ void take(const Tile& tile) {
        const int row = tile.row + warp() % 4 * 16 + lane() / 4, column = tile.column + of.group * SIDE;
        const size_t first = static_cast<size_t>(tile.set) * work.rows;
        const auto there = [&](int m, int h, int k) {
            return row + 64 * m + 8 * h < work.rows && column + 16 * k + lane() % 2 * 8 < work.width;
        };
        const auto place = [&](int m, int h, int k) {
            return (first + row + 64 * m + 8 * h) * work.width + column + 16 * k + own_four();
        };
        float sums[2][64], pull[2][2];
        uint2 own[2][8];   // of y: those of half m = 0, each replaced after use by that of m = 1
        const auto load = [&](int m, int h, int k) {
            own[h][k] = there(m, h, k) ? *reinterpret_cast<const uint2*>(y + place(m, h, k)) : uint2{0, 0};
        };
        of.multiply<true>(sums, work.steps(), LEFT, [&] {
#pragma unroll
            for (int i = 0; i < 16; i++) load(0, i / 8, i % 8);
#pragma unroll
            for (int i = 0; i < 4; i++) pull[i / 2][i % 2] = total(first, row + 64 * (i / 2) + 8 * (i % 2));
        });
        const float by = *d;
#pragma unroll
        for (int i = 0; i < 32; i++) {
            const int m = i / 16, h = i / 8 % 2, k = i % 8;
            const uint2 pair = swap_in(own[h][k]);
            if (m == 0) load(1, h, k);
            const float* const sum = sums[m] + 8 * k + 2 * h;
            const float p = pull[m][h];
            const uint32_t left = pack_bf16(by * (sum[0] - p * half_of(pair.x, 0)), by * (sum[1] - p * half_of(pair.x, 1)));
            const uint32_t right = pack_bf16(by * (sum[4] - p * half_of(pair.y, 0)), by * (sum[5] - p * half_of(pair.y, 1)));
            const uint2 out = swap_out(left, right);
            if (there(m, h, k)) *reinterpret_cast<uint2*>(dy + place(m, h, k)) = out;
        }
    }

    // p of a row, summed by four lanes.
    __device__ __forceinline__ float total(size_t first, int row) const {
        const int sides = 2 * work.sides();
        float sum = 0.0f;
        if (row < work.rows)
            for (int t = lane() % 4; t < sides; t += 4) sum += pulls[(first + row) * sides + t];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        return sum + __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
    }

    __device__ __forceinline__ void run() {
        for (int number = blockIdx.x; number < work.tiles; number += gridDim.x) {
            const Tile tile(number, work);
            if (tile.exists(work) && tile.has(of.group, work)) take(tile);
            else of.skip(work.steps());
        }
    }
};

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
mmd_hopper_backward(real* dy, const float* d, const __grid_constant__ TensorMap of_y_weights,
                    const __grid_constant__ TensorMap of_x_weights, const float* pulls, const real* y,
                    const __grid_constant__ TensorMap of_y, const __grid_constant__ TensorMap of_x, int tiles, int rows,
                    int width) {
    if (!SCALE_BF16) return;
    Slots& slots = open_slots();
    const Work work{tiles, rows, width};
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS) fetch(slots, {&of_y_weights, &of_x_weights}, {&of_y, &of_x}, work);
    } else {
        take_registers<MANY>();
        OfBackward{{slots, warpgroup(), {}}, work, dy, d, pulls, y}.run();
    }
    cluster_barrier();   // the other block may still arrive at this one's barriers
}
