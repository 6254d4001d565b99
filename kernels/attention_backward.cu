// Backward of softmax attention within a set on tensor cores (FlashAttention-2, Dao 2023, alg. 2, without atomics).
//
//   backward   p[i,j]  = exp(q_i . k_j / sqrt(K) - lse[i])
//              ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//              dq_i    = sum_j ds[i,j] k_j + t_i k_s / sqrt(K)                                       =
//              dk_j    = sum_i ds[i,j] q_i                      dv_j = sum_i p[i,j] dy_i             =
//   tensors    qkv, dqkv [B, N, R] rows that begin with q | k | v, dy [B, N, S] rows that begin with y's HK numbers: bf16
//              seed [B, 2HK] k | v, bf16 or null: k_s is its key
//              lse, delta, t [B, H, N] f32, as attention_queries.cu writes them
//              sums [B, H, ceil(N / 64), 64, K] f32, in the threads' own order; null if N <= 128 (small: 64)
//   needs      bf16, K = 64 or 128, addresses and rows that are multiples of 16 bytes; any N
//   work       one block per head of a set. For each 128 keys it walks over all queries, 64 at a time, the next 64
//              prefetched. At K = 128 that takes 160 KiB of shared memory; where a block may have only 99 (small), it takes
//              64 keys at a time and does not prefetch queries. dk and dv accumulate in registers, dq in `sums` across
//              tiles of keys; each thread reads there only what it wrote itself: no atomics, no barrier. That is 10 N^2 K
//              per head; one pass for dk and dv and another for dq would compute p and ds twice and take 14. Filling the
//              GPU takes one head of a set per multiprocessor
//   bound by   compute, and shared memory about equally: 64 x 128 scores at K = 128 take 2,560 warp-wide mma, which read
//              576 KiB of shared memory
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
#include "attention.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, QUERIES = 64;

// A block's shared memory, with one or two buffers for queries and their dy.
template <int K, int KEYS, int BUFFERS> struct Shared {
    Tile<K> k, v, q, dy;
    Tile<KEYS> p, ds;

    __device__ __forceinline__ explicit Shared(real* memory) : k{memory} {
        v = k.below(KEYS), q = v.below(KEYS), dy = q.below(BUFFERS * QUERIES);
        p = Tile<KEYS>{dy.below(BUFFERS * QUERIES).at}, ds = p.below(QUERIES);
    }
};

// A head of a set. Apart from sums and seed_key, pointers are the kernel's own, and the head begins at one of three offsets
// into them: that takes fewer registers than a pointer each.
template <int K> struct Head {
    real* dqkv;
    float* sums;
    const real *dy, *qkv, *seed_key;
    const float *lse, *delta, *t;
    size_t packed, plain, token;   // offsets into qkv, into dy, into lse
    size_t part;                   // from q to k, from k to v
    size_t row, slope;             // from row to row of qkv; of dy
    int n;
    float scale;

    // The block's; the arguments are the kernels' own, in their order.
    __device__ __forceinline__ Head(real* dqkv, float* all_sums, const real* dy, const real* qkv, const real* seed,
                                    const float* lse, const float* delta, const float* t, int n, int heads, size_t row,
                                    size_t slope, float scale)
        : dqkv(dqkv), dy(dy), qkv(qkv), lse(lse), delta(delta), t(t), row(row), slope(slope), n(n), scale(scale) {
        const size_t set = blockIdx.x / heads, column = blockIdx.x % heads * K;
        part = static_cast<size_t>(heads) * K;
        packed = set * n * row + column, plain = set * n * slope + column, token = static_cast<size_t>(blockIdx.x) * n;
        sums = all_sums + static_cast<size_t>(blockIdx.x) * ceil_div(n, QUERIES) * QUERIES * K;
        seed_key = seed ? seed + set * 2 * part + column : nullptr;
    }

    // Loads `keys` keys (part 1) or values (part 2).
    __device__ __forceinline__ void load_keys(Tile<K> to, int which, int from, int keys) const {
        load_rows<THREADS>(to, qkv + packed + which * part + from * row, row, keys, n - from, threadIdx.x);
        cp_async_commit();
    }
    template <class Shared> __device__ __forceinline__ void load_queries(const Shared& to, int from, int buffer) const {
        const Tile<K> to_q = to.q.below(QUERIES * buffer), to_dy = to.dy.below(QUERIES * buffer);
        load_rows<THREADS>(to_q, qkv + packed + from * row, row, QUERIES, n - from, threadIdx.x);
        load_rows<THREADS>(to_dy, dy + plain + from * slope, slope, QUERIES, n - from, threadIdx.x);
        cp_async_commit();
    }
};

// One number for each of this thread's four rows: [m][h] is for row 16 m + 8 h + lane / 4 from `row` on.
__device__ __forceinline__ void load_of_rows(float (&to)[2][2], const float* from, int row, int rows, float none) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int mine = row + 8 * i + lane() / 4;
        to[i / 2][i % 2] = mine < rows ? from[mine] : none;
    }
}

// p and ds of 64 queries by KEYS keys, per warp 32 rows by a quarter of the keys; 0 for queries and keys that do not exist.
template <int K, int KEYS, int BUFFERS>
__device__ __forceinline__ void weights(const Shared<K, KEYS, BUFFERS>& in, const Head<K>& head, int query, int key, int buffer) {
    constexpr int TILES = KEYS / 32;
    const int row = warp() / 4 * 32, column = warp() % 4 * (KEYS / 4), keys = head.n - key - column - lane() % 4 * 2;
    float p[2][TILES][4] = {}, ds[2][TILES][4] = {}, lse[2][2], delta[2][2];
    load_of_rows(lse, head.lse + head.token, query + row, head.n, INFINITY);
    product<AS_IT_LIES, TRANSPOSED, K>(p, in.q.below(QUERIES * buffer), row, in.k, column);
#pragma unroll
    for (int i = 0; i < 8 * TILES; i++) {
        const int m = i / (4 * TILES), n = i / 4 % TILES, at = i % 4;
        const float found = exp2_approx(head.scale * LOG2E * p[m][n][at] - LOG2E * lse[m][at / 2]);
        p[m][n][at] = 8 * n + at % 2 < keys ? found : 0.0f;
    }
    put(in.p, row, column, p);
    load_of_rows(delta, head.delta + head.token, query + row, head.n, 0.0f);
    product<AS_IT_LIES, TRANSPOSED, K>(ds, in.dy.below(QUERIES * buffer), row, in.v, column);
#pragma unroll
    for (int i = 0; i < 8 * TILES; i++) {
        const int m = i / (4 * TILES), n = i / 4 % TILES, at = i % 4;
        ds[m][n][at] = p[m][n][at] * (ds[m][n][at] - delta[m][at / 2]);
    }
    put(in.ds, row, column, ds);
}

// dq of 64 queries, per warp 32 rows by K / 4 columns.
template <int K> struct QueryGradient {
    float sum[2][K / 32][4];

    static __device__ __forceinline__ int row() { return warp() / 4 * 32; }
    static __device__ __forceinline__ int column() { return warp() % 4 * (K / 4); }
    // Where this thread keeps its numbers between tiles of keys.
    static __device__ __forceinline__ float4* place(const Head<K>& head, int query, int i) {
        return reinterpret_cast<float4*>(head.sums + static_cast<size_t>(query) * K) + i * THREADS + threadIdx.x;
    }

    // Starts with what the keys before gave; at first, with the seed.
    __device__ __forceinline__ void start(const Head<K>& head, int query, int key) {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < K / 32; n++) {
                if (key > 0) {
                    const float4 before = *place(head, query, m * (K / 32) + n);
                    sum[m][n][0] = before.x, sum[m][n][1] = before.y, sum[m][n][2] = before.z, sum[m][n][3] = before.w;
                    continue;
                }
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int mine = query + row() + 16 * m + 8 * h + lane() / 4;
                    const bool seeded = head.seed_key && mine < head.n;
                    const float t = seeded ? head.t[head.token + mine] : 0.0f;
                    Floats<2> k = {};
                    if (seeded) k = load_pack<2>(head.seed_key + column() + 8 * n + lane() % 4 * 2);
                    sum[m][n][2 * h] = t * k[0], sum[m][n][2 * h + 1] = t * k[1];
                }
            }
    }

    // Leaves the sum for the next keys; after the last ones, writes dq.
    __device__ __forceinline__ void finish(const Head<K>& head, int query, bool last) const {
        if (last) {
            const int first = query + row();
            real* const to = head.dqkv + head.packed + first * head.row + column();
            return store(to, head.row, head.n - first, sum, head.scale);
        }
#pragma unroll
        for (int i = 0; i < K / 16; i++) {
            const float(&d)[4] = sum[i / (K / 32)][i % (K / 32)];
            *place(head, query, i) = make_float4(d[0], d[1], d[2], d[3]);
        }
    }
};

template <int K, int KEYS, int BUFFERS> __device__ __forceinline__ void backward(const Head<K>& head) {
    SHARED(real, memory);
    const Shared<K, KEYS, BUFFERS> in(memory);
    constexpr int ACROSS = WARPS * 32 / KEYS, WIDTH = K / ACROSS;   // a warp's part of dk and dv: 32 keys by WIDTH of K columns
    const int row = warp() / ACROSS * 32, column = warp() % ACROSS * WIDTH;
    head.load_keys(in.k, 1, 0, KEYS);
    head.load_keys(in.v, 2, 0, KEYS);
    head.load_queries(in, 0, 0);
    int buffer = 0;
    for (int key = 0; key < head.n; key += KEYS) {
        const bool more = key + KEYS < head.n;
        float dk[2][WIDTH / 8][4] = {}, dv[2][WIDTH / 8][4] = {};
        for (int query = 0; query < head.n; query += QUERIES, buffer ^= BUFFERS - 1) {
            const bool last = query + QUERIES >= head.n, others = !last || more;
            const int next = last ? 0 : query + QUERIES;
            cp_async_wait<0>();
            __syncthreads();   // all copies have landed; the other buffer, p and ds are no longer read
            if (BUFFERS > 1 && others) head.load_queries(in, next, buffer ^ 1);
            weights(in, head, query, key, buffer);
            QueryGradient<K> dq;
            dq.start(head, query, key);
            __syncthreads();   // p and ds are complete; v is no longer read
            if (last && more) head.load_keys(in.v, 2, key + KEYS, KEYS);
            product<TRANSPOSED, AS_IT_LIES, QUERIES>(dv, in.p, row, in.dy.below(QUERIES * buffer), column);
            product<TRANSPOSED, AS_IT_LIES, QUERIES>(dk, in.ds, row, in.q.below(QUERIES * buffer), column);
            product<AS_IT_LIES, AS_IT_LIES, KEYS>(dq.sum, in.ds, dq.row(), in.k, dq.column());
            dq.finish(head, query, !more);
            if (BUFFERS > 1 || !others) continue;
            __syncthreads();   // the single buffer is no longer read
            head.load_queries(in, next, 0);
        }
        __syncthreads();   // k is no longer read
        if (more) head.load_keys(in.k, 1, key + KEYS, KEYS);
        const int first = key + row;
        real* const to = head.dqkv + head.packed + first * head.row + column;
        store(to + head.part, head.row, head.n - first, dk, head.scale);
        store(to + 2 * head.part, head.row, head.n - first, dv, 1.0f);
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
attention_backward_64(real* dqkv, float* sums, const real* dy, const real* qkv, const real* seed, const float* lse,
                      const float* delta, const float* t, int n, int heads, int row, int slope, float scale) {
    if (TENSOR_CORES) backward<64, 128, 2>(Head<64>(dqkv, sums, dy, qkv, seed, lse, delta, t, n, heads, row, slope, scale));
}

extern "C" __global__ void __launch_bounds__(256, 1)
attention_backward_128(real* dqkv, float* sums, const real* dy, const real* qkv, const real* seed, const float* lse,
                       const float* delta, const float* t, int n, int heads, int row, int slope, float scale) {
    if (TENSOR_CORES) backward<128, 128, 2>(Head<128>(dqkv, sums, dy, qkv, seed, lse, delta, t, n, heads, row, slope, scale));
}

extern "C" __global__ void __launch_bounds__(256, 1)
attention_backward_128_small(real* dqkv, float* sums, const real* dy, const real* qkv, const real* seed, const float* lse,
                             const float* delta, const float* t, int n, int heads, int row, int slope, float scale) {
    if (TENSOR_CORES) backward<128, 64, 1>(Head<128>(dqkv, sums, dy, qkv, seed, lse, delta, t, n, heads, row, slope, scale));
}
