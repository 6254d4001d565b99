// What each query brings to attention's backward, and the whole backward of a seed token: sums along rows, either storage.
//
//   backward   delta_i = dy_i . y_i
//              t_i     = p_i (dy_i . v_s - delta_i)          p_i  = exp(q_i . k_s / sqrt(K) - lse[i]), the seed's
//              dk_s    = sum_i t_i q_i / sqrt(K)             dv_s = sum_i p_i dy_i                                      =
//   tensors    qkv [B, N, R] rows that begin with q | k | v, y [B, N, HK], dy [B, N, S] rows that begin with y's HK numbers,
//              seed, dseed [B, 2HK] k | v or null: all real
//              lse, delta, t [B, H, N] f32, t null without a seed
//   needs      nothing; packs of four where K, R, S and all addresses are multiples of them
//   work       a block a head of a set and 128 columns of dseed (32 without packs); a warp four rows at a time, so that
//              enough loads are on their way
//   bound by   memory: 2 N K numbers a head, with a seed 3 N K
//   repeatable yes: a warp's rows in order, then the warps' sums in order
//   reference  src/ops/attention/reference.rs
#include "common.cuh"

constexpr int WARPS = 8, ROWS = 4;

// A head of a set, and the seed's key and value for it, or null.
struct Head {
    const real *q, *dy, *y, *key, *value;
    size_t packed, slope, plain;   // from row to row of q, of dy, of y
    int n, width;
};

// Sums along ROWS rows: dy y, q k_s, dy v_s. Rows that do not exist are taken as the last one.
template <int N>
__device__ __forceinline__ void dots(float (&delta)[ROWS], float (&score)[ROWS], float (&slope)[ROWS], const Head& head,
                                     int row) {
    for (int c = lane() * N; c < head.width; c += 32 * N) {
        Floats<N> k = {}, v = {};
        if (head.key) k = load_pack<N>(head.key + c), v = load_pack<N>(head.value + c);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const size_t i = min(row + r, head.n - 1);
            const Floats<N> dy = load_pack<N>(head.dy + i * head.slope + c), y = load_pack<N>(head.y + i * head.plain + c);
#pragma unroll
            for (int j = 0; j < N; j++) delta[r] += dy[j] * y[j], slope[r] += dy[j] * v[j];
            if (!head.key) continue;
            const Floats<N> q = load_pack<N>(head.q + i * head.packed + c);
#pragma unroll
            for (int j = 0; j < N; j++) score[r] += q[j] * k[j];
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        delta[r] = warp_sum(delta[r]);
        if (head.key) score[r] = warp_sum(score[r]), slope[r] = warp_sum(slope[r]);
    }
}

// `lse`, `delta` and `t` begin with the head's first row, `dseed` with its k part; v lies `part` further.
template <int N>
static __device__ void queries(float* delta, float* t, real* dseed, const float* lse, const Head& head, size_t part,
                               float scale) {
    __shared__ float partial[WARPS][2][32 * N];
    const int column = (blockIdx.y * 32 + lane()) * N;
    const bool writes = blockIdx.y == 0 && lane() == 0;
    Floats<N> dk = {}, dv = {};
    for (int row = warp() * ROWS; row < head.n; row += WARPS * ROWS) {
        float sum[ROWS] = {}, score[ROWS] = {}, slope[ROWS] = {};
        dots<N>(sum, score, slope, head, row);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row + r >= head.n) break;
            const size_t i = row + r;
            if (writes) delta[i] = sum[r];
            if (!head.key) continue;
            const float p = expf(scale * score[r] - lse[i]), mine = p * (slope[r] - sum[r]);
            if (writes) t[i] = mine;
            if (column >= head.width) continue;
            const Floats<N> q = load_pack<N>(head.q + i * head.packed + column);
            const Floats<N> dy = load_pack<N>(head.dy + i * head.slope + column);
#pragma unroll
            for (int j = 0; j < N; j++) dk[j] += mine * q[j], dv[j] += p * dy[j];
        }
    }
    if (!head.key) return;
#pragma unroll
    for (int j = 0; j < N; j++) {
        partial[warp()][0][lane() * N + j] = scale * dk[j];
        partial[warp()][1][lane() * N + j] = dv[j];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * 32 * N; i += blockDim.x) {
        const int which = i / (32 * N), c = i % (32 * N), at = blockIdx.y * 32 * N + c;
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += partial[w][which][c];
        if (at < head.width) dseed[which * part + at] = to_real(sum);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
attention_queries(float* delta, float* t, real* dseed, const real* dy, const real* y, const real* qkv, const real* seed,
                  const float* lse, int n, int heads, int width, int of_qkv, int of_dy, int pack, float scale) {
    const size_t set = blockIdx.x / heads, column = static_cast<size_t>(blockIdx.x % heads) * width;
    const size_t part = static_cast<size_t>(heads) * width, packed = of_qkv, slope = of_dy;
    const size_t row = static_cast<size_t>(blockIdx.x) * n, token = set * 2 * part + column;
    const real* const key = seed ? seed + token : nullptr;
    const Head head{qkv + set * n * packed + column, dy + set * n * slope + column, y + set * n * part + column, key,
                    key + part, packed, slope, part, n, width};
    if (pack == 4) queries<4>(delta + row, t + row, dseed + token, lse + row, head, part, scale);
    else queries<1>(delta + row, t + row, dseed + token, lse + row, head, part, scale);
}
