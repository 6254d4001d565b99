// What attention's backward needs of each query, and the whole backward of a seed token: sums along rows, in either storage type.
//
//   backward   delta_i = dy_i . y_i
//              t_i     = p_i (dy_i . v_s - delta_i)          p_i  = exp(q_i . k_s / sqrt(K) - lse[i]), the seed's
//              dk_s    = sum_i t_i q_i / sqrt(K)             dv_s = sum_i p_i dy_i                                      =
//   tensors    qkv [B, N, R] rows that begin with q | k | v, y [B, N, HK], dy [B, N, S] rows that begin with y's HK numbers,
//              seed, dseed [B, 2HK] k | v or null: all real
//              lse, delta, t [B, H, N] f32, t null without a seed     parts [slices, B, 2HK] f32 or null
//   needs      nothing; packs of four if K, R, S and all addresses are multiples of them
//   work       one block per slice of a head's rows and 128 columns of dseed (32 without packs), with up to 8 warps: a warp
//              takes two rows at a time, and reads them once if the head has no more columns than the block. With more than
//              one slice, each leaves its part of dseed, and attention_queries_total adds them
//   bound by   memory: 2 N K numbers per head, with a seed 3 N K
//   repeatable yes: a warp's rows in order, then the warps' sums in order, then the slices' in order
//   reference  src/ops/attention/reference.rs
#include "common.cuh"

constexpr int WARPS = 8, ROWS = 2;   // most warps per block; rows a warp takes at a time

// A head of a set, and the seed's key and value for it, or null.
struct Head {
    const real *q, *dy, *y, *key, *value;
    size_t packed, slope, plain;   // from row to row of q, of dy, of y
    int n, width;
};

// N columns as they are stored.
template <int N> __device__ __forceinline__ Pack<real, N> stored(const real* from) {
    check_pack<real, N>(from);
    return *reinterpret_cast<const Pack<real, N>*>(from);
}

// N columns of ROWS rows, kept as they are stored: as floats they would take twice the registers. Rows that do not exist are
// read as the last one.
template <int N> struct Rows {
    Pack<real, N> at[ROWS];
    __device__ __forceinline__ void load(const real* from, size_t stride, int row, int n) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) at[r] = stored<N>(from + min(row + r, n - 1) * stride);
    }
    __device__ __forceinline__ float operator()(int r, int j) const { return to_float(at[r].at[j]); }
};

// A lane's N columns of the seed's key and value, kept as they are stored.
template <int N> struct Seed {
    Pack<real, N> key = {}, value = {};
    __device__ __forceinline__ void load(const Head& head, int column) {
        if (head.key && column < head.width) key = stored<N>(head.key + column), value = stored<N>(head.value + column);
    }
};

// Sums along ROWS rows: dy y, q k_s, dy v_s. ONE: one pass covers all columns, so q, dy and the seed stay loaded.
template <int N, bool ONE>
__device__ __forceinline__ void dots(float (&delta)[ROWS], float (&of_key)[ROWS], float (&of_value)[ROWS], Rows<N>& q,
                                     Rows<N>& dy, Seed<N>& seed, const Head& head, int row) {
    for (int c = lane() * N; c < head.width; c += 32 * N) {
        Rows<N> y;
        dy.load(head.dy + c, head.slope, row, head.n);
        y.load(head.y + c, head.plain, row, head.n);
        if (head.key) q.load(head.q + c, head.packed, row, head.n);
        if (!ONE) seed.load(head, c);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                delta[r] += dy(r, j) * y(r, j);
                if (head.key)
                    of_key[r] += q(r, j) * to_float(seed.key.at[j]), of_value[r] += dy(r, j) * to_float(seed.value.at[j]);
            }
        if (ONE) break;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        delta[r] = warp_sum(delta[r]);
        if (head.key) of_key[r] = warp_sum(of_key[r]), of_value[r] = warp_sum(of_value[r]);
    }
}

// Where a head's results go: delta and t from its first row on; dseed, or its parts if there are any, from its k on, with v
// `part` further.
struct Found {
    float *delta, *t;
    real* dseed;
    float* parts;
    size_t part;
};

// Rows `first` to `end` of a head, and which group of columns of dseed.
struct Slice { int first, end, columns; };

template <int N, bool ONE>
static __device__ void queries(const Found& found, const float* lse, const Head& head, const Slice& slice, float scale,
                               float* partial) {
    const int column = (slice.columns * 32 + lane()) * N, warps = blockDim.x / 32, end = slice.end;
    const bool writes = slice.columns == 0 && lane() == 0;
    Floats<N> dk = {}, dv = {};
    Seed<N> seed;
    if (ONE) seed.load(head, lane() * N);
    for (int row = slice.first + warp() * ROWS; row < end; row += warps * ROWS) {
        Rows<N> q = {}, dy = {};
        float delta[ROWS] = {}, of_key[ROWS] = {}, of_value[ROWS] = {}, lse_of[ROWS] = {};
        // Loaded together with the rows: after them it would mean one more wait.
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (head.key) lse_of[r] = lse[min(row + r, end - 1)];
        dots<N, ONE>(delta, of_key, of_value, q, dy, seed, head, row);
        if (!ONE && head.key && column < head.width) {
            q.load(head.q + column, head.packed, row, head.n);
            dy.load(head.dy + column, head.slope, row, head.n);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row + r >= end) break;
            const size_t i = row + r;
            if (writes) found.delta[i] = delta[r];
            if (!head.key) continue;
            const float p = expf(scale * of_key[r] - lse_of[r]), t = p * (of_value[r] - delta[r]);
            if (writes) found.t[i] = t;
#pragma unroll
            for (int j = 0; j < N; j++) dk[j] += t * q(r, j), dv[j] += p * dy(r, j);
        }
    }
    if (!head.key) return;
    constexpr int WIDTH = 32 * N;
    float* const mine = partial + warp() * 2 * WIDTH + lane() * N;
#pragma unroll
    for (int j = 0; j < N; j++) mine[j] = scale * dk[j], mine[WIDTH + j] = dv[j];
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * WIDTH; i += blockDim.x) {
        const int at = slice.columns * WIDTH + i % WIDTH;
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += partial[w * 2 * WIDTH + i];
        if (at >= head.width) continue;
        if (found.parts) found.parts[i / WIDTH * found.part + at] = sum;
        else found.dseed[i / WIDTH * found.part + at] = to_real(sum);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 4)
attention_queries(float* delta, float* t, real* dseed, float* parts, const real* dy, const real* y, const real* qkv,
                  const real* seed, const float* lse, int n, int heads, int width, int of_qkv, int of_dy, int pack, int slices,
                  float scale) {
    __shared__ float partial[WARPS * 2 * 32 * 4];
    const size_t set = blockIdx.x / heads, column = static_cast<size_t>(blockIdx.x % heads) * width;
    const size_t part = static_cast<size_t>(heads) * width, packed = of_qkv, slope = of_dy;
    const size_t row = static_cast<size_t>(blockIdx.x) * n, token = set * 2 * part + column;
    const size_t sets = gridDim.x / heads;
    const int slice = blockIdx.y % slices, columns = blockIdx.y / slices, height = ceil_div(n, slices);
    const int first = slice * height, end = min(n, first + height);
    const real* const key = seed ? seed + token : nullptr;
    float* const mine = parts ? parts + slice * sets * 2 * part + token : nullptr;
    const Head head{qkv + set * n * packed + column, dy + set * n * slope + column, y + set * n * part + column, key,
                    key + part, packed, slope, part, n, width};
    const Found found{delta + row, t + row, dseed + token, mine, part};
    const Slice rows{first, end, columns};
    if (pack == 4 && width <= 32 * 4) queries<4, true>(found, lse + row, head, rows, scale, partial);
    else if (pack == 4) queries<4, false>(found, lse + row, head, rows, scale, partial);
    else queries<1, false>(found, lse + row, head, rows, scale, partial);
}

// dseed[i] = sum_s parts[s, i]
extern "C" __global__ void __launch_bounds__(128)
attention_queries_total(real* dseed, const float* parts, int slices, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = 0.0f;
    for (int s = 0; s < slices; s++) sum += parts[static_cast<size_t>(s) * count + i];
    dseed[i] = to_real(sum);
}
