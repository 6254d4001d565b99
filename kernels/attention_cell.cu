// Softmax attention within small sets on tensor cores: the patch tokens of a cell.
//
//   forward    s[i,j]  = q_i . k_j / sqrt(K)                lse[i]  = ln sum_j exp(s[i,j])
//              p[i,j]  = exp(s[i,j] - lse[i])               y_i     = sum_j p[i,j] v_j
//   backward   dp[i,j] = dy_i . v_j                         delta_i = sum_j p[i,j] dp[i,j]
//              ds[i,j] = p[i,j] (dp[i,j] - delta_i) / sqrt(K)
//              dq_i    = sum_j ds[i,j] k_j                                                 =
//              dk_j    = sum_i ds[i,j] q_i                  dv_j    = sum_i p[i,j] dy_i    =
//   tensors    qkv, dqkv [M, P, 3HK] packed q | k | v, y, dy [M, P, HK] bf16     lse [M, H, P] f32
//   needs      bf16, K = 64 and P <= 64 or K = 128 and P <= 16, addresses that are multiples of 16 bytes
//   work       one warp per head of a cell, whose numbers fit in its share of shared memory; neighbouring warps take
//              neighbouring heads, so a block reads whole rows. The backward computes its scores twice, by queries for dq and
//              by keys for dk and dv: tensor cores have time to spare here, and the weights then stay in registers
//   bound by   memory: forward moves 4 M P H K numbers, backward 7 (not y: delta comes from p)
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
#include "attention.cuh"

// Where a warp's head of a cell begins in qkv, in y and in lse; `part`: from q to k, and from row to row of y.
struct Place {
    size_t packed, plain, token, part;
};

__device__ __forceinline__ Place place(int item, int n, int heads, int width) {
    const size_t cell = item / heads, head = item % heads, part = static_cast<size_t>(heads) * width;
    return {cell * n * 3 * part + head * width, cell * n * part + head * width, static_cast<size_t>(item) * n, part};
}

// Turns products of 16 queries with all keys into probabilities, 0 for keys that do not exist; lse[h], of row 8 h + lane / 4,
// is in base 2, as is `scale`.
template <int N>
__device__ __forceinline__ void softmax(float (&s)[1][N][4], float (&lse)[2], float scale, int keys) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[0][n][i] = 8 * n + lane() % 4 * 2 + i % 2 < keys ? scale * s[0][n][i] : -INFINITY;
                top = fmaxf(top, s[0][n][i]);
            }
        top = quad_max(top);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) sum += s[0][n][i] = exp2_approx(s[0][n][i] - top);
        sum = quad_sum(sum);
        lse[h] = top + log2f(sum);
        const float share = 1.0f / sum;
#pragma unroll
        for (int n = 0; n < N; n++) s[0][n][2 * h] *= share, s[0][n][2 * h + 1] *= share;
    }
}

template <int K, int ROWS>
__device__ __forceinline__ void forward(real* y, float* lse, const real* qkv, int items, int n, int heads, float scale) {
    SHARED(real, memory);
    const int item = blockIdx.x * (blockDim.x / 32) + warp();
    if (item >= items) return;
    const Place at = place(item, n, heads, K);
    const Tile<K> q{memory + warp() * 3 * ROWS * K}, k = q.below(ROWS), v = k.below(ROWS);
    load_rows<32>(q, qkv + at.packed, 3 * at.part, ROWS, n, lane());
    load_rows<32>(k, qkv + at.packed + at.part, 3 * at.part, ROWS, n, lane());
    load_rows<32>(v, qkv + at.packed + 2 * at.part, 3 * at.part, ROWS, n, lane());
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    for (int row = 0; row < n; row += 16) {
        float p[1][ROWS / 8][4] = {}, sum[1][K / 8][4] = {}, row_lse[2];
        product<AS_IT_LIES, TRANSPOSED, K>(p, q, row, k, 0);
        softmax(p, row_lse, scale * LOG2E, n);
        product(sum, p, v);
        __syncwarp();   // other lanes have read these queries, which are overwritten now
        put(q, row, 0, sum);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int query = row + 8 * h + lane() / 4;
            if (lane() % 4 == 0 && query < n) lse[at.token + query] = LN2 * row_lse[h];
        }
    }
    __syncwarp();
    store_rows<32>(y + at.plain, at.part, q, n, lane());
}

// The backward's inputs in a warp's share of shared memory, with lse in base 2 and delta per query.
template <int K, int ROWS> struct Inputs {
    Tile<K> q, k, v, dy, out;   // out: staging for 16 rows of dq
    float *lse, *delta;
    int n;
    static constexpr int SIZE = (4 * ROWS + 16) * K + 2 * ROWS * static_cast<int>(sizeof(float) / sizeof(real));

    __device__ __forceinline__ Inputs(real* memory, int n) : q{memory}, n(n) {
        k = q.below(ROWS), v = k.below(ROWS), dy = v.below(ROWS), out = dy.below(ROWS);
        lse = reinterpret_cast<float*>(out.below(16).at), delta = lse + ROWS;
    }
};

// dq of 16 queries; leaves their delta for by_keys.
template <int K, int ROWS>
__device__ __forceinline__ void by_queries(float (&dq)[1][K / 8][4], const Inputs<K, ROWS>& in, int row, float scale) {
    float p[1][ROWS / 8][4] = {}, ds[1][ROWS / 8][4] = {};
    product<AS_IT_LIES, TRANSPOSED, K>(p, in.q, row, in.k, 0);
    product<AS_IT_LIES, TRANSPOSED, K>(ds, in.dy, row, in.v, 0);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int query = row + 8 * h + lane() / 4;
        const float lse = in.lse[query];
        float delta = 0.0f;
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                const bool exists = 8 * n + lane() % 4 * 2 + i % 2 < in.n;
                p[0][n][i] = exists ? exp2_approx(scale * LOG2E * p[0][n][i] - lse) : 0.0f;
                delta += p[0][n][i] * ds[0][n][i];
            }
        delta = quad_sum(delta);
        if (lane() % 4 == 0) in.delta[query] = delta;
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - delta);
    }
    product(dq, ds, in.k);
}

// dk and dv of 16 keys. Rows of p and ds are keys here. A query that does not exist has lse = inf, so p = 0.
template <int K, int ROWS>
__device__ __forceinline__ void by_keys(float (&dk)[1][K / 8][4], float (&dv)[1][K / 8][4], const Inputs<K, ROWS>& in,
                                        int row, float scale) {
    float p[1][ROWS / 8][4] = {}, ds[1][ROWS / 8][4] = {};
    product<AS_IT_LIES, TRANSPOSED, K>(p, in.k, row, in.q, 0);
    product<AS_IT_LIES, TRANSPOSED, K>(ds, in.v, row, in.dy, 0);
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int query = 8 * n + lane() % 4 * 2 + i % 2;
            p[0][n][i] = exp2_approx(scale * LOG2E * p[0][n][i] - in.lse[query]);
            ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - in.delta[query]);
        }
    product(dv, p, in.dy);
    product(dk, ds, in.q);
}

template <int K, int ROWS>
__device__ __forceinline__ void backward(real* dqkv, const real* dy, const real* qkv, const float* lse, int items, int n,
                                         int heads, float scale) {
    SHARED(real, memory);
    const int item = blockIdx.x * (blockDim.x / 32) + warp();
    if (item >= items) return;
    const Place at = place(item, n, heads, K);
    const size_t stride = 3 * at.part;
    const Inputs<K, ROWS> in(memory + warp() * Inputs<K, ROWS>::SIZE, n);
    load_rows<32>(in.q, qkv + at.packed, stride, ROWS, n, lane());
    load_rows<32>(in.k, qkv + at.packed + at.part, stride, ROWS, n, lane());
    load_rows<32>(in.v, qkv + at.packed + 2 * at.part, stride, ROWS, n, lane());
    load_rows<32>(in.dy, dy + at.plain, at.part, ROWS, n, lane());
    cp_async_commit();
    for (int i = lane(); i < ROWS; i += 32) {
        in.lse[i] = i < n ? LOG2E * lse[at.token + i] : INFINITY;
        in.delta[i] = 0.0f;
    }
    cp_async_wait<0>();
    __syncwarp();
    for (int row = 0; row < n; row += 16) {
        float dq[1][K / 8][4] = {};
        by_queries(dq, in, row, scale);
        put(in.out, 0, 0, dq, scale);
        __syncwarp();
        store_rows<32>(dqkv + at.packed + row * stride, stride, in.out, min(n - row, 16), lane());
        __syncwarp();
    }
    for (int row = 0; row < n; row += 16) {
        float dk[1][K / 8][4] = {}, dv[1][K / 8][4] = {};
        by_keys(dk, dv, in, row, scale);
        __syncwarp();   // other lanes have read these keys and values, which are overwritten now
        put(in.k, row, 0, dk, scale);
        put(in.v, row, 0, dv);
    }
    __syncwarp();
    store_rows<32>(dqkv + at.packed + at.part, stride, in.k, n, lane());
    store_rows<32>(dqkv + at.packed + 2 * at.part, stride, in.v, n, lane());
}

// ---- for width K, up to so many rows: K x ROWS

extern "C" __global__ void __launch_bounds__(128, 4)
attention_cell_forward_64x16(real* y, float* lse, const real* qkv, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) forward<64, 16>(y, lse, qkv, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
attention_cell_forward_64x32(real* y, float* lse, const real* qkv, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) forward<64, 32>(y, lse, qkv, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
attention_cell_forward_64x64(real* y, float* lse, const real* qkv, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) forward<64, 64>(y, lse, qkv, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
attention_cell_forward_128x16(real* y, float* lse, const real* qkv, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) forward<128, 16>(y, lse, qkv, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128) attention_cell_backward_64x16(
    real* dqkv, const real* dy, const real* qkv, const float* lse, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) backward<64, 16>(dqkv, dy, qkv, lse, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128) attention_cell_backward_64x32(
    real* dqkv, const real* dy, const real* qkv, const float* lse, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) backward<64, 32>(dqkv, dy, qkv, lse, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128) attention_cell_backward_64x64(
    real* dqkv, const real* dy, const real* qkv, const float* lse, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) backward<64, 64>(dqkv, dy, qkv, lse, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(128) attention_cell_backward_128x16(
    real* dqkv, const real* dy, const real* qkv, const float* lse, int items, int n, int heads, float scale) {
    if (TENSOR_CORES) backward<128, 16>(dqkv, dy, qkv, lse, items, n, heads, scale);
}
