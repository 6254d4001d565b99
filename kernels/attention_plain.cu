// Softmax attention within a set, in either storage type, of any width: the path for f32, odd widths and odd addresses.
//
//   forward    s[i,j]  = q_i . k_j / sqrt(K)                                j over the N rows and the seed, if given
//              lse[i]  = ln sum_j exp(s[i,j])        p[i,j] = exp(s[i,j] - lse[i])
//              y_i     = sum_j p[i,j] v_j
//   backward   ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//              dq_i    = sum_j ds[i,j] k_j + t_i k_s / sqrt(K)                                          =
//              dk_j    = sum_i ds[i,j] q_i           dv_j   = sum_i p[i,j] dy_i                         =
//   tensors    qkv, dqkv [B, N, R] rows that begin with q | k | v, y [B, N, HK], dy [B, N, S] rows that begin with y's HK
//              numbers, seed [B, 2HK] k | v or null, k_s its key: all real
//              lse, delta, t [B, H, N] f32, the last two as attention_queries writes them
//   needs      shared memory for a tile and, per warp, N f32 (backward: 2 N)
//   work       one warp per query, for dk and dv per key; its weights are in shared memory, where the rows of the other side
//              come 32 x 32 numbers at a time
//   bound by   reads of shared memory: two per multiplication
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
#include "common.cuh"

constexpr int TILE = 32;
typedef float Tile[TILE][TILE + 1];   // padded by one: a column covers as many banks as a row. The block's weights follow the tile

// Rows of q, k, v or dy of a head of a set.
struct Rows {
    const real* at;
    size_t stride;
    __device__ __forceinline__ const real* operator[](int i) const { return at + i * stride; }
};

// A head of a set, and this warp's query or key of it. A surplus warp takes part without writing, for the barriers.
struct Head {
    size_t part;            // from q to k, from k to v
    size_t row, slope;      // from row to row of qkv; of y or dy
    size_t packed, plain;   // where the head begins in qkv and in y or dy
    size_t seeded;          // where its key begins in seed
    size_t token;           // where it begins in lse
    int own;
    bool exists;

    __device__ Head(int n, int heads, int width, int row_of_qkv, int row_of_y) : row(row_of_qkv), slope(row_of_y) {
        const int warps = blockDim.x / 32, blocks = ceil_div(n, warps), mine = blockIdx.x % blocks * warps + warp();
        const size_t set = blockIdx.x / blocks / heads, column = static_cast<size_t>(blockIdx.x / blocks % heads) * width;
        part = static_cast<size_t>(heads) * width, seeded = set * 2 * part + column;
        packed = set * n * row + column, plain = set * n * slope + column;
        token = static_cast<size_t>(blockIdx.x / blocks) * n, own = min(mine, n - 1), exists = mine < n;
    }
    // Part 0, 1 or 2 of packed rows.
    __device__ Rows rows(const real* qkv, int which) const { return {qkv + packed + which * part, row}; }
    __device__ Rows rows(const real* y) const { return {y + plain, slope}; }
    // The warp's own row of a part.
    __device__ real* out(real* dqkv, int which) const {
        return exists ? dqkv + packed + which * part + own * row : nullptr;
    }
};

// Loads zeros beyond the last row and the last column.
static __device__ void load(Tile& tile, Rows rows, int first, int count, int column, int width) {
    __syncthreads();   // the previous tile is no longer read
    for (int i = warp(); i < TILE; i += blockDim.x / 32) {
        const bool exists = first + i < count && column + lane() < width;
        tile[i][lane()] = exists ? to_float(rows[first + i][column + lane()]) : 0.0f;
    }
    __syncthreads();
}

// to[j] = x . rows[j], one j per lane; x is the warp's own row.
static __device__ void dots(float* to, Tile& tile, const real* x, Rows rows, int count, int width) {
    for (int first = 0; first < count; first += TILE) {
        float sum = 0.0f;
        for (int column = 0; column < width; column += TILE) {
            load(tile, rows, first, count, column, width);
            for (int c = 0; c < min(TILE, width - column); c++) sum += to_float(x[column + c]) * tile[lane()][c];
        }
        if (first + lane() < count) to[first + lane()] = sum;
    }
}

// to = scale (sum_j weights[j] rows[j] + extra also); nothing is written if `to` is null.
static __device__ void weigh(real* to, Tile& tile, const float* weights, Rows rows, int count, int width, float scale,
                             float extra = 0.0f, const real* also = nullptr) {
    for (int column = 0; column < width; column += TILE) {
        const bool exists = column + lane() < width;
        float sum = also && exists ? extra * to_float(also[column + lane()]) : 0.0f;
        for (int first = 0; first < count; first += TILE) {
            load(tile, rows, first, count, column, width);
            for (int j = 0; j < min(TILE, count - first); j++) sum += weights[first + j] * tile[j][lane()];
        }
        if (to && exists) to[column + lane()] = to_real(scale * sum);
    }
}

static __device__ float dot(const real* a, const real* b, int width) {
    float sum = 0.0f;
    for (int c = lane(); c < width; c += 32) sum += to_float(a[c]) * to_float(b[c]);
    return warp_sum(sum);
}

extern "C" __global__ void __launch_bounds__(256) attention_plain_forward(
    real* y, float* lse, const real* qkv, const real* seed, int n, int heads, int width, int row, float scale) {
    SHARED(Tile, tile);
    float* const p = tile[1][0] + warp() * n;
    const Head head(n, heads, width, row, heads * width);
    const real* const q = head.rows(qkv, 0)[head.own];
    dots(p, *tile, q, head.rows(qkv, 1), n, width);
    const float first = seed ? scale * dot(q, seed + head.seeded, width) : -INFINITY;
    float top = first, sum = 0.0f;
    for (int j = lane(); j < n; j += 32) top = fmaxf(top, scale * p[j]);
    top = warp_max(top);
    for (int j = lane(); j < n; j += 32) sum += p[j] = expf(scale * p[j] - top);
    const float seed_weight = expf(first - top), weight = warp_sum(sum) + seed_weight;
    if (head.exists && lane() == 0) lse[head.token + head.own] = top + logf(weight);
    real* const to = head.exists ? y + head.plain + head.own * head.slope : nullptr;
    const real* const value = seed ? seed + head.seeded + head.part : nullptr;
    weigh(to, *tile, p, head.rows(qkv, 2), n, width, 1.0f / weight, seed_weight, value);
}

extern "C" __global__ void __launch_bounds__(256) attention_plain_dq(
    real* dqkv, const real* dy, const real* qkv, const real* seed, const float* lse, const float* delta, const float* t,
    int n, int heads, int width, int row, int slope, float scale) {
    SHARED(Tile, tile);
    float *const s = tile[1][0] + warp() * 2 * n, *const ds = s + n;
    const Head head(n, heads, width, row, slope);
    dots(s, *tile, head.rows(qkv, 0)[head.own], head.rows(qkv, 1), n, width);
    dots(ds, *tile, head.rows(dy)[head.own], head.rows(qkv, 2), n, width);
    const size_t own = head.token + head.own;
    for (int j = lane(); j < n; j += 32) ds[j] = expf(scale * s[j] - lse[own]) * (ds[j] - delta[own]);
    const float of_seed = seed ? t[own] : 0.0f;
    weigh(head.out(dqkv, 0), *tile, ds, head.rows(qkv, 1), n, width, scale, of_seed, seed ? seed + head.seeded : nullptr);
}

extern "C" __global__ void __launch_bounds__(256) attention_plain_dkv(
    real* dqkv, const real* dy, const real* qkv, const float* lse, const float* delta, int n, int heads, int width,
    int row, int slope, float scale) {
    SHARED(Tile, tile);
    float *const p = tile[1][0] + warp() * 2 * n, *const ds = p + n;
    const Head head(n, heads, width, row, slope);
    dots(p, *tile, head.rows(qkv, 1)[head.own], head.rows(qkv, 0), n, width);
    dots(ds, *tile, head.rows(qkv, 2)[head.own], head.rows(dy), n, width);
    for (int i = lane(); i < n; i += 32) {
        p[i] = expf(scale * p[i] - lse[head.token + i]);
        ds[i] = p[i] * (ds[i] - delta[head.token + i]);
    }
    weigh(head.out(dqkv, 1), *tile, ds, head.rows(qkv, 0), n, width, scale);
    weigh(head.out(dqkv, 2), *tile, p, head.rows(dy), n, width, 1.0f);
}
