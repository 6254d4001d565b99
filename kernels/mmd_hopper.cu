// Maximum mean discrepancy on Hopper's tensor cores: the pairs of mmd.cu, whose head has the formulas.
//
//   forward    parts  = sums of k(a_i, a_j), times -2 for pairs (y, x), times 2 for those that stand for their mirror image too
//              w, p   if they are wanted
//   tensors    y, x [B, N, G] bf16, also as maps [B N, G] in boxes of 128 rows     w [B, N, 2N] bf16
//              pulls [B, N, 2T], norms [B, 2N], scale [B] f32 as in mmd.cu     parts [tiles, 8] f64: one per warp
//   needs      sm_90a, bf16, N % 8 == 0, G % 8 == 0, addresses that are multiples of 16 bytes
//   work       as in mmd_hopper.cuh, one block per multiprocessor. The two tiles of a cluster are one above the other: together a
//              square of 256 x 256 in the upper triangle of all 2N x 2N pairs. On the diagonal the left operand is one of the
//              right one's boxes, and what is below the diagonal is left out
//   bound by   compute, 4 B N^2 G (each pair once), if the level-2 cache delivers 32 bytes per cycle to each multiprocessor
//   repeatable yes: no atomics
//   reference  src/ops/mmd.rs
//
// A thread holds the sums of four rows and 32 columns of its warpgroup's 128 x 128 pairs: 4 j + i of half m is row 64 m + 16 warp +
// g + 8 (i / 2), column 8 j + t + i % 2, where g = lane / 4 and t = 2 (lane % 4). They become distances, then weights, in place.
// Rounded and packed in pairs, the weights are operands of mma_16x8x16, which sums them: times ones along the rows and,
// transposed, ones times them down the columns.
#include "hopper.cuh"
#include "mmd_hopper.cuh"

constexpr uint32_t ONES = 0x3F803F80u;   // two ones in bf16

// A block's work: tiles blockIdx.x, blockIdx.x + gridDim.x and so on; a cluster's two are neighbours, the even one first.
struct Pairs {
    int tiles, rows, width;
    __device__ __forceinline__ int across() const { return ceil_div(rows, SIDE); }   // in squares; there are twice as many sides
    __device__ __forceinline__ int steps() const { return ceil_div(width, STEP); }
};

// A tile: a side of rows and two of columns.
struct Tile {
    int set, row, column;   // row and column: sides, counted within the set
    __device__ __forceinline__ Tile(int tile, const Pairs& work) {
        const int across = work.across(), squares = across * (across + 1) / 2, square = tile / 2 % squares;
        int down = 0, along = square;   // in the upper triangle of squares, counted row by row
        while (along >= across - down) along -= across - down++;
        set = tile / 2 / squares, row = 2 * down + tile % 2, column = 2 * (down + along);
    }
    __device__ __forceinline__ bool diagonal() const { return column <= row; }
    __device__ __forceinline__ int left() const { return diagonal() ? FIRST + row - column : LEFT; }
    // Whether a warpgroup's columns are not below the diagonal.
    __device__ __forceinline__ bool has(int group) const { return column + group >= row; }
};

// By one thread.
__device__ __forceinline__ void fetch(Slots& slots, const TensorMap* y, const TensorMap* x, const Pairs& work) {
    Filler fill{slots, {}};
    const int rank = cluster_rank();
    for (int number = blockIdx.x; number < work.tiles; number += gridDim.x) {
        const Tile tile(number, work);
        const Side own(tile.row, work.rows), shared(tile.column + rank, work.rows);
        const auto map = [&](const Side& side) { return side.of_y ? y : x; };
        const auto row = [&](const Side& side) { return tile.set * work.rows + side.first - (side.of_y ? 0 : work.rows); };
        for (int step = 0; step < work.steps(); step++) {
            const int slot = fill.open(tile.diagonal() ? 2 : 3);
            if (!tile.diagonal()) fill.load(slot, LEFT, map(own), STEP * step, row(own));
            fill.share(slot, FIRST + rank, 0, map(shared), STEP * step, row(shared));
        }
    }
}

// What a warpgroup computes from 128 x 128 products.
struct Found {
    const Set set;
    const Side a, b;
    const Kernel kernel;
    const float* norms;   // of the set
    float of_row[2], of_column[32];   // norms of this thread's rows and columns

    static __device__ __forceinline__ int row(int m, int i, int of_lane) {
        return 64 * m + warp() % 4 * 16 + i / 2 % 2 * 8 + of_lane / 4;
    }
    static __device__ __forceinline__ int column(int i, int of_lane) { return i / 4 * 8 + of_lane % 4 * 2 + i % 2; }

    __device__ __forceinline__ void load(int m) {
        const int of_lane = anew(lane());
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = row(m, 2 * h, of_lane);
            of_row[h] = r < a.count ? norms[a.first + r] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const Floats<2> two = 8 * j < b.count ? load_pack<2>(norms + b.first + column(4 * j, of_lane)) : Floats<2>{};
            of_column[2 * j] = two[0], of_column[2 * j + 1] = two[1];
        }
    }
    __device__ __forceinline__ float both(int i) const { return of_row[i / 2 % 2] + of_column[i / 4 * 2 + i % 2]; }
    template <bool ENERGY> __device__ __forceinline__ bool near(float d2, float norms) const {
        return (ENERGY ? d2 : kernel.v) < 1e-4f * norms;
    }

    // Turns products into squared distances.
    template <bool ENERGY> __device__ __forceinline__ void measure(float (&s)[64], int m) const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const float norms = both(i), d2 = norms - 2.0f * s[i];
            s[i] = d2 < 0.0f ? 0.0f : d2;
            any |= near<ENERGY>(s[i], norms);
        }
        if (a.tile == b.tile) clear_diagonal(s, m), any = any_near<ENERGY>(s, m);
        if (__any_sync(0xFFFFFFFFu, any)) measure_near<ENERGY>(s, m);
        if (a.count == SIDE && b.count == SIDE) return;
        // Pairs that do not exist get a distance at which k and k' are 0.
        const int of_lane = anew(lane());
#pragma unroll
        for (int i = 0; i < 64; i++)
            if (row(m, i, of_lane) >= a.count || column(i, of_lane) >= b.count) s[i] = ENERGY ? -1.0f : INFINITY;
    }

    // Zeroes the pairs of a row with itself.
    __device__ __forceinline__ void clear_diagonal(float (&s)[64], int m) const {
        const int of_lane = anew(lane());
#pragma unroll
        for (int i = 0; i < 64; i++)
            if (row(m, i, of_lane) == column(i, of_lane)) s[i] = 0.0f;
    }

    // Whether any pair is near, other than a row with itself.
    template <bool ENERGY> __device__ __forceinline__ bool any_near(const float (&s)[64], int m) const {
        const int of_lane = anew(lane());
        bool any = false;
#pragma unroll
        for (int i = 0; i < 64; i++) any |= row(m, i, of_lane) != column(i, of_lane) && near<ENERGY>(s[i], both(i));
        return any;
    }

    // Computes distances that depend on what cancels once more, from the difference: by the whole warp, one pair after the other,
    // with the distances in local memory meanwhile. It is rare, and takes no registers from the common path.
    template <bool ENERGY> __device__ __forceinline__ void measure_near(float (&s)[64], int m) const {
        float all[64];
#pragma unroll
        for (int i = 0; i < 64; i++) all[i] = s[i];
#pragma unroll 1
        for (int i = 0; i < 64; i++) {
            const int r = row(m, i, lane()), c = column(i, lane());
            const bool there = r < a.count && c < b.count && a.first + r != b.first + c;
            uint32_t rest = __ballot_sync(0xFFFFFFFFu, there && near<ENERGY>(all[i], norms[a.first + r] + norms[b.first + c]));
#pragma unroll 1
            for (; rest; rest &= rest - 1) {
                const int one = __ffs(rest) - 1;
                const real* const left = set.row(a.first + row(m, i, one));
                const float exact = squared_distance(left, set.row(b.first + column(i, one)), set.width);
                if (lane() == one) all[i] = exact;
            }
        }
#pragma unroll
        for (int i = 0; i < 64; i++) s[i] = all[i];
    }

    // Turns distances into weights; returns the sum of their k.
    template <bool ENERGY> __device__ __forceinline__ double weigh(float (&s)[64], int m) const {
        double sum = 0.0;
#pragma unroll
        for (int i = 0; i < 64; i += 8) {
            float values = 0.0f;
#pragma unroll
            for (int e = i; e < i + 8; e++) {
                const float d2 = s[e];
                float value;
                if constexpr (ENERGY) kernel.energy_at(d2, value, s[e]);
                else kernel.gaussian_at(d2, value, s[e]);
                if (ENERGY && d2 < 0.0f) value = s[e] = 0.0f;
                values += value;
            }
            sum += values;
        }
        if (a.tile == b.tile) clear_diagonal(s, m);
        return sum;
    }
};

// A multiplying warpgroup of pairs.
struct OfPairs {
    Multiplier of;
    const Pairs& work;
    double* parts;
    real* weights;
    float* pulls;
    const real *y, *x;
    const float *norms, *scale;
    float slope;
    bool energy;
    uint32_t turn = 0;   // which half of `columns`

    // Stores 16 weights of each of eight rows, two registers per lane; `to` is the place of row g's first one in memory.
    static __device__ __forceinline__ void store(real* to, uint32_t left, uint32_t right, bool there) {
        const uint2 own = swap_out(left, right);
        if (there) *reinterpret_cast<uint2*>(to + own_four()) = own;
    }

    // Writes w, and its sums along the rows.
    __device__ __forceinline__ void keep(const uint32_t (&w)[8][4], int m, const Side& a, const Side& b, size_t first) const {
        const int of_lane = anew(lane()), top = 64 * m + warp() % 4 * 16 + of_lane / 4, sides = 2 * work.across();
        const int there = b.count - of_lane % 2 * 8;
        const uint32_t ones[2] = {ONES, ONES};
        float sums[4] = {};
#pragma unroll
        for (int k = 0; k < 8; k++) mma_16x8x16(sums, w[k], ones);
        computed_here(sums);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const bool exists = top + 8 * h < a.count;
            const size_t line = first + a.first + top + 8 * h;
            if (of_lane % 4 == 0 && exists) pulls[line * sides + b.tile] = sums[2 * h];
            real* const to = weights + line * 2 * work.rows + b.first;
#pragma unroll
            for (int k = 0; k < 8; k++) store(to + 16 * k, w[k][h], w[k][2 + h], exists && 16 * k < there);
        }
    }

    // Writes the mirror image of w, and its sums along the rows.
    __device__ __forceinline__ void keep_mirrored(const uint32_t (&w)[2][8][4], const Side& a, const Side& b, size_t first) {
        const int of_lane = anew(lane()), g = of_lane / 4, top = warp() % 4 * 16, sides = 2 * work.across();
        const int there = a.count - top - of_lane % 2 * 8;
        const uint32_t ones[4] = {ONES, ONES, ONES, ONES};
        float(&columns)[4][SIDE] = of.slots.columns[of.group][turn];
        real* to = weights + (first + b.first + g) * 2 * work.rows + a.first + top;
#pragma unroll
        for (int j = 0; j < 16; j++, to += 16 * static_cast<size_t>(work.rows)) {
            float sums[4] = {};
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const uint32_t turned[2] = {transpose_8x8(w[m][j / 2][j % 2 * 2]), transpose_8x8(w[m][j / 2][j % 2 * 2 + 1])};
                mma_16x8x16(sums, ones, turned);
                store(to + 64 * m, turned[0], turned[1], 8 * j + g < b.count && 64 * m < there);
            }
            computed_here(sums);
            if (g == 0) *reinterpret_cast<float2*>(&columns[warp() % 4][8 * j + 2 * of_lane]) = make_float2(sums[0], sums[1]);
        }
        mbarrier_arrive(&of.slots.summed[of.group]);   // every lane: racecheck credits an arrival to its own lane only
        mbarrier_wait(&of.slots.summed[of.group], turn);
        turn ^= 1;   // the other half is free to write: all lanes had read it before they arrived here
        const int c = threadIdx.x % GROUP;
        const float sum = columns[0][c] + columns[1][c] + (columns[2][c] + columns[3][c]);
        if (c < b.count) pulls[(first + b.first + c) * sides + a.tile] = sum;
    }

    __device__ __forceinline__ double take(const Tile& tile) {
        const Side a(tile.row, work.rows), b(tile.column + of.group, work.rows);
        const bool cross = a.of_y != b.of_y, wanted = weights && a.of_y, mirrored = !cross && a.tile != b.tile;
        const size_t first = static_cast<size_t>(tile.set) * work.rows;
        const Kernel kernel(energy, scale[tile.set], cross ? slope : -slope);
        Found found{Set(y, x, tile.set, work.rows, work.width), a, b, kernel, norms + 2 * first, {}, {}};
        float sums[2][64];
        of.multiply<false>(sums, work.steps(), tile.left(), [&] { found.load(0); });
        double sum = 0.0;
        uint32_t w[2][8][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            if (m == 1) found.load(m);
            if (energy) found.measure<true>(sums[m], m), sum += found.weigh<true>(sums[m], m);
            else found.measure<false>(sums[m], m), sum += found.weigh<false>(sums[m], m);
#pragma unroll
            for (int i = 0; i < 32; i++) w[m][i / 4][i % 4] = pack_bf16(sums[m][2 * i], sums[m][2 * i + 1]);
            if (wanted) keep(w[m], m, a, b, first);
        }
        if (wanted && mirrored) keep_mirrored(w, a, b, first);
        return sum * (cross ? -2.0 : mirrored ? 2.0 : 1.0);
    }

    __device__ __forceinline__ void run() {
        for (int number = blockIdx.x; number < work.tiles; number += gridDim.x) {
            const Tile tile(number, work);
            double sum = 0.0;
            if (tile.has(of.group)) sum = take(tile);
            else of.skip(work.steps());
            sum = warp_sum(sum);
            if (lane() == 0) parts[static_cast<size_t>(number) * WARPS + warp()] = sum;
        }
    }
};

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
mmd_hopper_pairs(double* parts, real* weights, float* pulls, const real* y, const real* x, const __grid_constant__ TensorMap of_y,
                 const __grid_constant__ TensorMap of_x, const float* norms, const float* scale, float slope, int energy,
                 int tiles, int rows, int width) {
    if (!SCALE_BF16) return;
    Slots& slots = open_slots();
    const Pairs work{tiles, rows, width};
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS) fetch(slots, &of_y, &of_x, work);
    } else {
        take_registers<MANY>();
        OfPairs{{slots, warpgroup(), {}}, work, parts, weights, pulls, y, x, norms, scale, slope, energy != 0}.run();
    }
    cluster_barrier();   // the other block may still arrive at this one's barriers
}
