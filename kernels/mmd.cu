// Maximum mean discrepancy between decoded and true cells (Gretton et al. 2012, eq. 5; SCALE v1, eq. 15-16).
//
//   forward    L      = mean_b 1/N^2 sum_{i,j} (k(y_i, y_j) + k(x_i, x_j) - 2 k(y_i, x_j))          all pairs, i = j too
//              gaussian  k = mean over s in {1/4, 1/2, 1, 2, 4} of exp(-d2 / (2 s v)),  d2 = |a - b|^2
//                        v = max(2 (mean |a|^2 - |mean a|^2), 1e-12) over the set's 2N rows, no gradient
//              energy    k = -sqrt(d2 + 1e-12)
//   backward   w[i,j] = -+ 4 / (B N^2) k'(d2[i,j])              - if j is a row of y, + if of x, 0 if j is i
//              dy_i   = dL (sum_j w[i,j] a_j - p[i] y_i)        p[i] = sum_j w[i,j]; a_j: the 2N rows          =
//   tensors    y, x, dy [B, N, G] real     w [B, N, 2N] real     pulls [B, N, 2T] f32: p by tile of j, T = ceil(N / 128)
//              norms [B, 2N] f32: |a|^2     columns [B, C, G] f32, spreads [B, C] f64: sums of 32 rows, of their squares
//              scale [B] f32: v     L, dL [1] f32     parts f64
//   needs      nothing; cp.async if G (for w: N) is a multiple of 16 bytes
//   work       rows: one block per 32 rows, read once, four at a time by a warp; for v they are relative to the set's first x: a
//              shift changes no distance, and what cancels in v is then only as large as the spread. pairs: one block per
//              128 x 128 tile of the upper triangle of all 2N x 2N pairs; it writes w, if wanted, and its mirror image.
//              backward: one block per tile of dy
//   bound by   compute: pairs 4 B N^2 G (each pair once), backward 4 B N^2 G; rows by memory: 2 B N G numbers
//   repeatable yes: sums have one fixed order
//   reference  src/ops/mmd.rs
//
// In bf16 d2 = |a|^2 + |b|^2 - 2 a.b of the stored numbers, whose products are exact; centred rows would have to be rounded again,
// which loses more than cancellation: 1e-6 |a|^2, whereas rounding the rows for storage has already cost 3e-6 |a|^2. Pairs
// whose k depends on less than 1e-4 (|a|^2 + |b|^2) are computed again from their difference. w is rounded; p sums the rounded
// values, so that dy does not depend on how far the rows are from the origin.
#include "mmd.cuh"
#include "tiles.cuh"

constexpr int CHUNK = 32, OWN = CHUNK / 8, SLAB = 8 * 32;   // of mmd_rows: rows per block and per warp, columns at a time
constexpr int PITCH = TILE + 5;   // row stride of a tile in shared memory: rows and columns are read without bank conflicts
static_assert(TILE == SIDE);
static_assert(TILE * PITCH * sizeof(float) <= TILE_SHARED, "the tile takes the place of the stages");

// Some rows of y, or of x, from column `left` on.
__device__ __forceinline__ Window window(const Set& set, int first, int count, int left) {
    const bool whole = set.width % VECTOR == 0 && aligned(set.row(first));
    return {set.row(first) + left, count, set.width - left, static_cast<size_t>(set.width), whole};
}

// A set's rows from `first` on, every eighth one by a warp, whose loads of all of them are in flight together. PACKS: each row
// begins at a multiple of 16 bytes; a test at each load would keep the next one behind it. Rows that do not exist are read as
// the first of x, from which they are no distance.
template <bool PACKS>
__device__ __forceinline__ void sum_rows(float* norms, float* columns, double* spread_of, const Set& set, int first, int count,
                                         float (&of_warps)[2][8][SLAB]) {
    const real* row[OWN];
    float norm[OWN] = {}, spread = 0.0f;
#pragma unroll
    for (int r = 0; r < OWN; r++) row[r] = warp() + 8 * r < count ? set.row(first + warp() + 8 * r) : set.x;
    for (int slab = 0, turn = 0; slab < set.width; slab += SLAB, turn ^= 1) {
        const int g = slab + 8 * lane(), left = max(0, set.width - g);
        const auto load = [&](const real* from) {
            if (!PACKS) return load_eight(from + g, left);
            return left > 0 ? load_pack<8>(from + g) : Floats<8>{};
        };
        Floats<8> values[OWN], sums{};
#pragma unroll
        for (int r = 0; r < OWN; r++) values[r] = load(row[r]);
        const Floats<8> origin = load(set.x);
#pragma unroll
        for (int r = 0; r < OWN; r++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float apart = values[r][i] - origin[i];
                norm[r] = fmaf(values[r][i], values[r][i], norm[r]);
                spread = fmaf(apart, apart, spread);
                sums[i] += apart;
            }
        store_pack(&of_warps[turn][warp()][8 * lane()], sums);
        __syncthreads();   // all had read the other half before they came here: it is free for the next slab
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < 8; w++) sum += of_warps[turn][w][threadIdx.x];
        if (slab + static_cast<int>(threadIdx.x) < set.width) columns[slab + threadIdx.x] = sum;
    }
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        norm[r] = warp_sum(norm[r]);
        if (lane() == 0 && warp() + 8 * r < count) norms[warp() + 8 * r] = norm[r];
    }
    const double of_block = block_total(spread);
    if (threadIdx.x == 0) *spread_of = of_block;
}

extern "C" __global__ void __launch_bounds__(256, 3)
mmd_rows(float* norms, float* columns, double* spreads, const real* y, const real* x, int sets, int rows, int width) {
    __shared__ __align__(16) float of_warps[2][8][SLAB];
    const OfSet of(sets);
    if (of.missing) return;
    const Set set(y, x, of.set, rows, width);
    const int first = of.block * CHUNK, count = min(CHUNK, 2 * rows - first);
    const size_t block = of.number();
    norms += static_cast<size_t>(of.set) * 2 * rows + first, columns += block * width, spreads += block;
    if (width % 8 == 0 && aligned(y, x)) sum_rows<true>(norms, columns, spreads, set, first, count, of_warps);
    else sum_rows<false>(norms, columns, spreads, set, first, count, of_warps);
}

// There are few blocks, so each must keep many loads in flight.
extern "C" __global__ void __launch_bounds__(1024)
mmd_scale(float* scale, const float* columns, const double* spreads, int chunks, int rows, int width) {
    const size_t first = static_cast<size_t>(blockIdx.x) * chunks;
    const double n = 2.0 * rows;
    double spread = 0.0, squares = 0.0;   // squares of the numbers, of the columns' sums
    for (int c = threadIdx.x; c < chunks; c += blockDim.x) spread += spreads[first + c];
    for (int g = threadIdx.x; g < width; g += blockDim.x) {
        double sum = 0.0;
#pragma unroll 16
        for (int c = 0; c < chunks; c++) sum += columns[(first + c) * width + g];
        squares += sum * sum;
    }
    const double v = 2.0 * block_total(spread / n - squares / (n * n));
    if (threadIdx.x == 0) scale[blockIdx.x] = fmaxf(static_cast<float>(v), 1e-12f);
}

#if SCALE_BF16

// From the product in the tile, or from the difference. By a whole warp, whose lanes hold consecutive j, some past the last row.
__device__ __forceinline__ float distance(float product, const Set& set, const Kernel& kernel, int i, int j, bool there,
                                          float norms) {
    const float d2 = norms - 2.0f * product;
    float found = d2 < 0.0f || i == j ? 0.0f : d2;
    const bool near = there && i != j && (kernel.energy ? found : kernel.v) < 1e-4f * norms;
    for (uint32_t rest = __ballot_sync(0xFFFFFFFFu, near); rest; rest &= rest - 1) {
        const int one = __ffs(rest) - 1;
        const float exact = squared_distance(set.row(i), set.row(j - lane() + one), set.width);
        if (lane() == one) found = exact;
    }
    return found;
}

#else

__device__ __forceinline__ float distance(float d2, const Set&, const Kernel&, int, int, bool, float) { return d2; }

#endif

// weights and pulls are null if no gradient is wanted. `slope` is 4 / (B N^2).
extern "C" __global__ void __launch_bounds__(256, 2)
mmd_pairs(double* parts, real* weights, float* pulls, const real* y, const real* x, const float* norms, const float* scale,
          float slope, int energy, int sets, int rows, int width) {
    SHARED(float, tile);
    const OfSet of(sets);
    if (of.missing) return;
    const Set set(y, x, of.set, rows, width);
    const int tiles = 2 * ceil_div(rows, TILE);
    int row = 0, column = of.block;   // in the upper triangle of tiles, counted row by row
    while (column >= tiles - row) column -= tiles - row++;
    const Side a(row, rows), b(row + column, rows);
    {
        Sums<ALONG> sums;
        add_depth(sums, reinterpret_cast<real*>(tile), window(set, a.first, a.count, 0), window(set, b.first, b.count, 0));
        sums.each([&](int r, int c, float sum) { tile[r * PITCH + c] = sum; });
    }
    __syncthreads();

    const size_t first = static_cast<size_t>(of.set) * rows;
    const auto keep = [&](int i, int j, float w) {
        const real rounded = to_real(w);
        weights[(first + i) * 2 * rows + j] = rounded;
        return to_float(rounded);
    };
    const auto keep_sum = [&](int i, const Side& others, float sum) {
        sum = warp_sum(sum);
        if (lane() == 0) pulls[(first + i) * tiles + others.tile] = sum;
    };

    const bool cross = a.of_y != b.of_y, wanted = weights && a.of_y, mirrored = !cross && a.tile != b.tile;
    const Kernel kernel(energy != 0, scale[of.set], cross ? slope : -slope);
    double sum = 0.0;
    for (int r = warp(); r < a.count; r += 8) {
        const int i = a.first + r;
        float values = 0.0f, pull = 0.0f;
#pragma unroll
        for (int c = lane(); c < TILE; c += 32) {
            const int j = b.first + c;
            const bool there = c < b.count;
            const float both = norms[2 * first + i] + (there ? norms[2 * first + j] : 0.0f);
            float value, w;
            kernel.at(distance(tile[r * PITCH + c], set, kernel, i, j, there, both), value, w);
            if (there) {
                values += value;
                if (wanted) pull += tile[r * PITCH + c] = keep(i, j, i == j ? 0.0f : w);
            }
        }
        sum += values;
        if (wanted) keep_sum(i, b, pull);
    }
    sum = block_total(sum) * (cross ? -2.0 : mirrored ? 2.0 : 1.0);   // its barriers also complete the weights in the tile
    if (threadIdx.x == 0) parts[of.number()] = sum;
    if (!mirrored || !wanted) return;
    for (int c = warp(); c < b.count; c += 8) {
        float pull = 0.0f;
        for (int r = lane(); r < a.count; r += 32) pull += keep(b.first + c, a.first + r, tile[r * PITCH + c]);
        keep_sum(b.first + c, a, pull);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
mmd_backward(real* dy, const float* d, const real* weights, const float* pulls, const real* y, const real* x, int sets,
             int rows, int width) {
    __shared__ float pull[TILE];
    SHARED(float, tile);
    const OfSet of(sets);
    if (of.missing) return;
    const Set set(y, x, of.set, rows, width);
    const int across = ceil_div(width, TILE), left = of.block % across * TILE, tiles = 2 * ceil_div(rows, TILE);
    const Side a(of.block / across, rows);
    const size_t first = static_cast<size_t>(of.set) * rows + a.first;
    if (threadIdx.x < a.count) {
        float sum = 0.0f;
        for (int t = 0; t < tiles; t++) sum += pulls[(first + threadIdx.x) * tiles + t];
        pull[threadIdx.x] = sum;
    }
    {
        Sums<DOWN> sums;
        const size_t stride = 2 * static_cast<size_t>(rows);
        const real* of_tile = weights + first * stride;
        for (int from = 0; from <= rows; from += rows) {   // the rows of y, then of x
            const Window w{of_tile + from, a.count, rows, stride, rows % VECTOR == 0 && aligned(of_tile)};
            add_depth(sums, reinterpret_cast<real*>(tile), w, window(set, from, rows, left));
        }
        sums.each([&](int r, int c, float sum) { tile[r * PITCH + c] = sum; });
    }
    __syncthreads();
    const int c = threadIdx.x % 16 * 8, there = width - left - c;
    if (there <= 0) return;
    for (int r = threadIdx.x / 16; r < a.count; r += 16) {
        Floats<8> own = load_eight(set.row(a.first + r) + left + c, there);
#pragma unroll
        for (int i = 0; i < 8; i++) own[i] = *d * (tile[r * PITCH + c + i] - pull[r] * own[i]);
        store_eight(dy + (set.row(a.first + r) - y) + left + c, own, there);   // dy is laid out as y is
    }
}
