// Softmax attention within a set on tensor cores (FlashAttention-2, Dao 2023, alg. 1), with a seed token as initial state
// (SCALE v1, eq. 34-36).
//
//   forward    s[i,j]  = q_i . k_j / sqrt(K)                         j over the N rows and the seed, if given
//              lse[i]  = ln sum_j exp(s[i,j])        y_i = sum_j exp(s[i,j] - lse[i]) v_j
//   tensors    qkv [B, N, R] rows that begin with q | k | v, y [B, N, HK] bf16     seed [B, 2HK] k | v, bf16 or null
//              lse [B, H, N] f32
//   needs      bf16, K = 64 or 128, addresses and rows that are multiples of 16 bytes; any N
//   work       one block per 128 queries of a head, 32 per warp: with fewer, reading the keys would take longer than multiplying
//              by them. Keys come 64 at a time, the next 64 prefetched. The running softmax starts from the seed: its score
//              is the top, its weight 1, its value the sum
//   bound by   compute: 4 N^2 K per head
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
#include "attention.cuh"

constexpr int WARPS = 4, QUERIES = 32 * WARPS, KEYS = 64;

// Weights are exp(score - top), so top may lag behind the greatest score as long as the weights fit f32 and bf16: rescaling
// waits until a score exceeds it by this many powers of two, which hardly ever happens after the first keys.
constexpr float SLACK = 8.0f;

// Running softmax of a warp's 32 rows, in base 2; [m][h] is row 16 m + 8 h + lane / 4.
template <int K> struct Running {
    float sum[2][K / 8][4];    // sum of weights times values
    float weight[2][2];        // sum of weights, over this lane's keys only
    float top[2][2];
};

// Starts empty, or from a seed's key and value. `q` begins with the warp's rows.
template <int K>
__device__ __forceinline__ void start(Running<K>& run, Tile<K> q, const real* key, const real* value, float scale) {
    float score = 0.0f;   // of row `lane`
    for (int c = 0; key && c < K; c += 8) {
        const Floats<8> a = load_pack<8>(q.chunk(lane() & 24, lane() & 7, c)), b = load_pack<8>(key + c);
#pragma unroll
        for (int i = 0; i < 8; i++) score += a[i] * b[i];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float mine = __shfl_sync(0xFFFFFFFFu, score, 8 * i + lane() / 4);
        run.top[i / 2][i % 2] = key ? scale * mine : -INFINITY;
        run.weight[i / 2][i % 2] = key && lane() % 4 == 0 ? 1.0f : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < K / 8; n++) {
        const Floats<2> v = key ? load_pack<2>(value + 8 * n + lane() % 4 * 2) : Floats<2>{};
#pragma unroll
        for (int i = 0; i < 4; i++) run.sum[i / 2][n][i % 2] = run.sum[i / 2][n][2 + i % 2] = v[i % 2];
    }
}

// Turns products into weights. All rows of the warp move to new tops together: deciding per row is not worth a branch.
template <int K> __device__ __forceinline__ void weigh(Running<K>& run, float (&s)[2][KEYS / 8][4], float scale) {
    float high[2][2];
    bool far = false;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            high[m][h] = -INFINITY;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                high[m][h] = fmaxf(high[m][h], fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            high[m][h] = scale * quad_max(high[m][h]);
            far |= high[m][h] > run.top[m][h] + SLACK;
        }
    if (__any_sync(0xFFFFFFFFu, far)) {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float top = fmaxf(run.top[m][h], high[m][h]), shrink = exp2_approx(run.top[m][h] - top);
                run.top[m][h] = top;
                run.weight[m][h] *= shrink;
#pragma unroll
                for (int n = 0; n < K / 8; n++) run.sum[m][n][2 * h] *= shrink, run.sum[m][n][2 * h + 1] *= shrink;
            }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = exp2_approx(scale * s[m][n][i] - run.top[m][i / 2]);
                run.weight[m][i / 2] += s[m][n][i];
            }
}

// Scores of keys from `valid` on become -inf.
__device__ __forceinline__ void hide(float (&s)[2][KEYS / 8][4], int valid) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (8 * n + lane() % 4 * 2 + i % 2 >= valid) s[i / 4][n][i % 4] = -INFINITY;
}

// Writes y and lse of the warp's rows; y goes through `rows`, which only this warp still reads.
template <int K>
__device__ __forceinline__ void finish(real* y, size_t stride, float* lse, int valid, Running<K>& run, Tile<K> rows) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float weight = quad_sum(run.weight[m][h]), share = 1.0f / weight;
            const int row = 16 * m + 8 * h + lane() / 4;
            if (lane() % 4 == 0 && row < valid) lse[row] = LN2 * (run.top[m][h] + log2f(weight));
#pragma unroll
            for (int n = 0; n < K / 8; n++) run.sum[m][n][2 * h] *= share, run.sum[m][n][2 * h + 1] *= share;
        }
    __syncwarp();   // other lanes have read `rows`, which is overwritten now
    put(rows, 0, 0, run.sum);
    __syncwarp();
    store_rows<32>(y, stride, rows, min(valid, 32), lane());
}

template <int K>
__device__ __forceinline__ void forward(real* y, float* lse, const real* qkv, const real* seed, int n, int heads,
                                        size_t stride, float scale) {
    SHARED(real, memory);   // queries, then two buffers of keys and values
    const Tile<K> queries{memory};
    const int blocks = ceil_div(n, QUERIES), head = blockIdx.x / blocks % heads, first = blockIdx.x % blocks * QUERIES;
    const size_t set = blockIdx.x / blocks / heads, part = static_cast<size_t>(heads) * K;
    const real* const q = qkv + set * n * stride + head * K;
    const auto keys = [&](int buffer) { return queries.below(QUERIES + 2 * KEYS * buffer); };
    const auto load_keys = [&](int from, int buffer) {
#pragma unroll 1
        for (int which = 0; which < 2; which++) {   // a loop: with K = 128 the addresses of two calls do not fit the registers
            const real* const rows = q + (1 + which) * part + from * stride;
            load_rows<32 * WARPS>(keys(buffer).below(KEYS * which), rows, stride, KEYS, n - from, threadIdx.x);
        }
        cp_async_commit();
    };
    load_rows<32 * WARPS>(queries, q + first * stride, stride, QUERIES, n - first, threadIdx.x);
    load_keys(0, 0);
    cp_async_wait<0>();
    __syncthreads();

    const Tile<K> mine = queries.below(32 * warp());
    const int valid = n - first - 32 * warp();   // zero or less: the warp only loads
    const real* const token = seed ? seed + set * 2 * part + head * K : nullptr;
    scale *= LOG2E;
    Running<K> run;
    start(run, mine, token, token + part, scale);
    for (int from = 0, buffer = 0; from < n; from += KEYS, buffer ^= 1) {
        cp_async_wait<0>();
        __syncthreads();   // these keys have landed, and nobody reads the previous ones any more
        if (from + KEYS < n) load_keys(from + KEYS, buffer ^ 1);
        if (valid <= 0) continue;
        float s[2][KEYS / 8][4] = {};
        product<AS_IT_LIES, TRANSPOSED, K>(s, mine, 0, keys(buffer), 0);
        if (from + KEYS > n) hide(s, n - from);
        weigh(run, s, scale);
        product(run.sum, s, keys(buffer).below(KEYS));
    }
    if (valid <= 0) return;
    const size_t row = first + 32 * warp();
    finish(y + (set * n + row) * part + head * K, part, lse + (set * heads + head) * n + row, valid, run, mine);
}

extern "C" __global__ void __launch_bounds__(128, 2)
attention_forward_64(real* y, float* lse, const real* qkv, const real* seed, int n, int heads, int row, float scale) {
    if (TENSOR_CORES) forward<64>(y, lse, qkv, seed, n, heads, row, scale);
}

extern "C" __global__ void __launch_bounds__(128, 2)
attention_forward_128(real* y, float* lse, const real* qkv, const real* seed, int n, int heads, int row, float scale) {
    if (TENSOR_CORES) forward<128>(y, lse, qkv, seed, n, heads, row, scale);
}
