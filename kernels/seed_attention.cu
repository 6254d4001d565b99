// One learned query over a few tokens: condition tokens to a seed (SCALE v1, eq. 32-33), patch tokens to a cell.
//
//   forward    p[b,t]  = softmax_t(q . k[b,t] / sqrt(K))        y[b] = sum_t p[b,t] v[b,t]            per head
//   backward   dp[b,t] = dy[b] . v[b,t]                         ds[b,t] = p (dp - sum_t p dp) / sqrt(K)
//              dk[b,t] = ds[b,t] q                              dv[b,t] = p[b,t] dy[b]                =
//              dq      = sum_{b,t} ds[b,t] k[b,t]                                                     =
//   tensors    q [HK] real     kv, dkv [B, T, 2HK] real, packed k | v     y, dy [B, HK] real     p, ds [B, H, T] f32
//              partial [S, HK] f32: what each of S slots adds to dq; column_sums.cu adds them up
//   needs      sets x heads x 32 lanes < 2^31; 16-byte accesses if K (in bytes) is a multiple of 16
//   work       one group of 1 to 32 lanes per (set, head), neighbours on a head's columns; backward: a group takes every S-th set
//   bound by   memory: forward reads kv once, backward reads it once and writes dkv
//   repeatable yes: dq is summed over a slot's sets, then over slots, in order
//   reference  src/ops/seed_attention.rs
#include "common.cuh"

constexpr int TOKENS = 4;   // rows of k or v in flight at once

struct Sizes {
    int sets, tokens, heads, width;
    float scale;   // 1 / sqrt(width)

    __device__ __forceinline__ int columns() const { return heads * width; }
    // First number of a set's tokens in kv; from token to token.
    __device__ __forceinline__ size_t set(int b) const { return static_cast<size_t>(b) * tokens * step(); }
    __device__ __forceinline__ size_t step() const { return 2 * columns(); }
};

// `lanes` neighbours, a power of two, that share a head and a slot. Groups beyond the last repeat it and write nothing.
struct Group {
    int slot, head, lane, lanes;
    bool live;

    __device__ __forceinline__ Group(int slots, int heads, int lanes) : lanes(lanes) {
        const int thread = blockIdx.x * blockDim.x + threadIdx.x, last = slots * heads - 1, number = min(thread / lanes, last);
        slot = number / heads, head = number % heads;
        lane = thread % lanes, live = thread / lanes <= last;
    }

    // By the whole warp, as all shuffles.
    template <int N> __device__ __forceinline__ void sum(float (&x)[N]) const {
#pragma unroll 1
        for (int flip = lanes / 2; flip > 0; flip /= 2)
#pragma unroll
            for (int i = 0; i < N; i++) x[i] += __shfl_xor_sync(0xFFFFFFFFu, x[i], flip);
    }
};

// N columns of TOKENS rows of k or v, from token t on; rows beyond the last repeat it.
template <int N> struct Rows {
    Floats<N> row[TOKENS];
    __device__ __forceinline__ Rows(const real* first, int t, const Sizes& z) {
#pragma unroll
        for (int i = 0; i < TOKENS; i++) row[i] = load_pack<N>(first + min(t + i, z.tokens - 1) * z.step());
    }
};

// x[i] = a . rows[t + i], over the columns of a head.
template <int N>
__device__ __forceinline__ void products(float (&x)[TOKENS], const real* a, const real* rows, int t, const Sizes& z,
                                         const Group& g) {
#pragma unroll
    for (int i = 0; i < TOKENS; i++) x[i] = 0.0f;
#pragma unroll 1
    for (int c = g.lane * N; c < z.width; c += g.lanes * N) {
        const Floats<N> as = load_pack<N>(a + c);
        const Rows<N> bs(rows + c, t, z);
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
#pragma unroll
            for (int j = 0; j < N; j++) x[i] += as[j] * bs.row[i][j];
    }
    g.sum(x);
}

// p of one set. T is unbounded: a lane keeps the score of every `lanes`-th token in p itself until all are known.
template <int N>
__device__ __forceinline__ void softmax(float* p, const real* q, const real* k, const Sizes& z, const Group& g) {
    float top = -INFINITY;
#pragma unroll 1
    for (int t = 0; t < z.tokens; t += TOKENS) {
        float s[TOKENS];
        products<N>(s, q, k, t, z, g);
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            s[i] *= z.scale;
            top = fmaxf(top, s[i]);
            if (g.live && t + i < z.tokens && (t + i) % g.lanes == g.lane) p[t + i] = s[i];
        }
    }
    const int own = g.live ? g.lane : z.tokens;
    float total[1] = {0.0f};
#pragma unroll 1
    for (int t = own; t < z.tokens; t += g.lanes) total[0] += p[t] = expf(p[t] - top);
    g.sum(total);
    const float share = 1.0f / total[0];
#pragma unroll 1
    for (int t = own; t < z.tokens; t += g.lanes) p[t] *= share;
}

template <int N>
__device__ __forceinline__ void forward(real* y, float* p, const real* q, const real* kv, const Sizes& z, const Group& g) {
    const int b = g.slot, first = g.head * z.width;
    const real* const k = kv + z.set(b) + first;
    const real* const v = k + z.columns();
    p += (static_cast<size_t>(b) * z.heads + g.head) * z.tokens;
    softmax<N>(p, q + first, k, z, g);
    __syncwarp();
    if (!g.live) return;
#pragma unroll 1
    for (int c = g.lane * N; c < z.width; c += g.lanes * N) {
        Floats<N> sum{};
#pragma unroll 1
        for (int t = 0; t < z.tokens; t += TOKENS) {
            const Rows<N> vs(v + c, t, z);
#pragma unroll
            for (int i = 0; i < TOKENS; i++) {
                const float weight = t + i < z.tokens ? p[t + i] : 0.0f;
#pragma unroll
                for (int j = 0; j < N; j++) sum[j] += weight * vs.row[i][j];
            }
        }
        store_pack(y + static_cast<size_t>(b) * z.columns() + first + c, sum);
    }
}

// ds of one set; it holds dp until the mean of dp is known.
template <int N>
__device__ __forceinline__ void by_scores(float* ds, const real* dy, const real* v, const float* p, const Sizes& z,
                                          const Group& g, bool live) {
    float mean = 0.0f;
#pragma unroll 1
    for (int t = 0; t < z.tokens; t += TOKENS) {
        float dp[TOKENS];
        products<N>(dp, dy, v, t, z, g);
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            if (t + i >= z.tokens) continue;
            mean += p[t + i] * dp[i];
            if (live && (t + i) % g.lanes == g.lane) ds[t + i] = dp[i];
        }
    }
#pragma unroll 1
    for (int t = live ? g.lane : z.tokens; t < z.tokens; t += g.lanes) ds[t] = p[t] * (ds[t] - mean) * z.scale;
}

// dk and dv of one set, at N columns; adds its part of dq. k and dkv begin at those columns.
template <int N>
__device__ __forceinline__ void by_rows(real* dkv, Floats<N>& dq, const float* ds, const Floats<N>& dy, const Floats<N>& q,
                                        const real* k, const float* p, const Sizes& z) {
#pragma unroll 1
    for (int t = 0; t < z.tokens; t += TOKENS) {
        const Rows<N> ks(k, t, z);
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            if (t + i >= z.tokens) continue;
            const float score = ds[t + i], weight = p[t + i];
            Floats<N> dk, dv;
#pragma unroll
            for (int j = 0; j < N; j++) {
                dq[j] += score * ks.row[i][j];
                dk[j] = score * q[j];
                dv[j] = weight * dy[j];
            }
            real* const row = dkv + (t + i) * z.step();
            store_pack(row, dk);
            store_pack(row + z.columns(), dv);
        }
    }
}

template <int N>
__device__ __forceinline__ void backward(real* dkv, float* partial, float* ds, const real* dy, const real* q, const real* kv,
                                         const float* p, int slots, const Sizes& z, const Group& g) {
    const int first = g.head * z.width;
    // Where a set's part of the head begins in p and ds; in dy.
    const auto of_tokens = [&](int b) { return (static_cast<size_t>(b) * z.heads + g.head) * z.tokens; };
    const auto of_columns = [&](int b) { return (static_cast<size_t>(b) * z.heads + g.head) * z.width; };
#pragma unroll 1
    for (int round = 0; round < z.sets; round += slots) {   // the same number of rounds for every lane: they shuffle
        const int b = min(round + g.slot, z.sets - 1);
        const bool live = g.live && round + g.slot < z.sets;
        const real* const v = kv + z.set(b) + z.columns() + first;
        by_scores<N>(ds + of_tokens(b), dy + of_columns(b), v, p + of_tokens(b), z, g, live);
    }
    __syncwarp();
    if (!g.live) return;
#pragma unroll 1
    for (int c = g.lane * N; c < z.width; c += g.lanes * N) {
        const Floats<N> qs = load_pack<N>(q + first + c);
        Floats<N> dq{};
#pragma unroll 1
        for (int b = g.slot; b < z.sets; b += slots) {
            const size_t rows = z.set(b) + first + c;
            const Floats<N> dys = load_pack<N>(dy + of_columns(b) + c);
            by_rows(dkv + rows, dq, ds + of_tokens(b), dys, qs, kv + rows, p + of_tokens(b), z);
        }
        store_pack(partial + static_cast<size_t>(g.slot) * z.columns() + first + c, dq);
    }
}

extern "C" __global__ void __launch_bounds__(256, 4)
seed_attention_forward(real* y, float* p, const real* q, const real* kv, int sets, int tokens, int heads, int width, int lanes,
                       float scale) {
    const Sizes z{sets, tokens, heads, width, scale};
    const Group g(sets, heads, lanes);
    if (width % VECTOR == 0 && aligned(q, kv)) forward<VECTOR>(y, p, q, kv, z, g);
    else forward<1>(y, p, q, kv, z, g);
}

// Three blocks per multiprocessor: in the registers of four it would spill.
extern "C" __global__ void __launch_bounds__(256, 3)
seed_attention_backward(real* dkv, float* partial, float* ds, const real* dy, const real* q, const real* kv, const float* p,
                        int sets, int tokens, int heads, int width, int lanes, int slots, float scale) {
    const Sizes z{sets, tokens, heads, width, scale};
    const Group g(slots, heads, lanes);
    if (width % VECTOR == 0 && aligned(dy, q, kv)) backward<VECTOR>(dkv, partial, ds, dy, q, kv, p, slots, z, g);
    else backward<1>(dkv, partial, ds, dy, q, kv, p, slots, z, g);
}
