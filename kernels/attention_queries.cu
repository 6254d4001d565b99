// What each query brings to attention's backward, and the whole backward of a seed token: sums along rows, either storage.
//
//   backward   delta_i = dy_i . y_i
//              t_i     = p_i (dy_i . v_s - delta_i)          p_i  = exp(q_i . k_s / sqrt(K) - lse[i]), the seed's
//              dk_s    = sum_i t_i q_i / sqrt(K)             dv_s = sum_i p_i dy_i                                      =
//   tensors    qkv [B, N, R] rows that begin with q | k | v, y [B, N, HK], dy [B, N, S] rows that begin with y's HK numbers,
//              seed, dseed [B, 2HK] k | v or null: all real
//              lse, delta, t [B, H, N] f32, t null without a seed
//   needs      nothing; packs of four where K, R, S and all addresses are multiples of them
//   work       a block a head of a set and 128 columns of dseed (32 without packs), with up to 32 warps: a warp takes two
//              rows at a time, and reads them once where a head has no more columns than the block
//   bound by   memory: 2 N K numbers a head, with a seed 3 N K
//   repeatable yes: a warp's rows in order, then the warps' sums in order
//   reference  src/ops/attention/reference.rs
#include "common.cuh"

constexpr int WARPS = 32, ROWS = 2;   // warps of a block at the most, rows of a warp at a time

// A head of a set, and the seed's key and value for it, or null.
struct Head {
    const real *q, *dy, *y, *key, *value;
    size_t packed, slope, plain;   // from row to row of q, of dy, of y
    int n, width;
};

// N columns of ROWS rows, as they are stored: the values would take twice the registers. Rows that do not exist are taken as the
// last one.
template <int N> struct Rows {
    Pack<real, N> at[ROWS];
    __device__ __forceinline__ void load(const real* from, size_t stride, int row, int n) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const real* const first = from + min(row + r, n - 1) * stride;
            check_pack<real, N>(first);
            at[r] = *reinterpret_cast<const Pack<real, N>*>(first);
        }
    }
    __device__ __forceinline__ float operator()(int r, int j) const { return to_float(at[r].at[j]); }
};

// Sums along ROWS rows: dy y, q k_s, dy v_s. ONE: q and dy are all there is of them.
template <int N, bool ONE>
__device__ __forceinline__ void dots(float (&delta)[ROWS], float (&score)[ROWS], float (&slope)[ROWS], Rows<N>& q,
                                     Rows<N>& dy, const Head& head, int row) {
    for (int c = lane() * N; c < head.width; c += 32 * N) {
        Rows<N> y;
        Floats<N> k = {}, v = {};
        dy.load(head.dy + c, head.slope, row, head.n);
        y.load(head.y + c, head.plain, row, head.n);
        if (head.key) {
            q.load(head.q + c, head.packed, row, head.n);
            k = load_pack<N>(head.key + c), v = load_pack<N>(head.value + c);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                delta[r] += dy(r, j) * y(r, j);
                if (head.key) score[r] += q(r, j) * k[j], slope[r] += dy(r, j) * v[j];
            }
        if (ONE) break;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        delta[r] = warp_sum(delta[r]);
        if (head.key) score[r] = warp_sum(score[r]), slope[r] = warp_sum(slope[r]);
    }
}

// `lse`, `delta` and `t` begin with the head's first row, `dseed` with its k part; v lies `part` further.
template <int N, bool ONE>
static __device__ void queries(float* delta, float* t, real* dseed, const float* lse, const Head& head, size_t part,
                               float scale, float* partial) {
    const int column = (blockIdx.y * 32 + lane()) * N, warps = blockDim.x / 32;
    const bool writes = blockIdx.y == 0 && lane() == 0;
    Floats<N> dk = {}, dv = {};
    for (int row = warp() * ROWS; row < head.n; row += warps * ROWS) {
        Rows<N> q = {}, dy = {};
        float sum[ROWS] = {}, score[ROWS] = {}, slope[ROWS] = {};
        dots<N, ONE>(sum, score, slope, q, dy, head, row);
        if (!ONE && head.key && column < head.width) {
            q.load(head.q + column, head.packed, row, head.n);
            dy.load(head.dy + column, head.slope, row, head.n);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row + r >= head.n) break;
            const size_t i = row + r;
            if (writes) delta[i] = sum[r];
            if (!head.key) continue;
            const float p = expf(scale * score[r] - lse[i]), mine = p * (slope[r] - sum[r]);
            if (writes) t[i] = mine;
#pragma unroll
            for (int j = 0; j < N; j++) dk[j] += mine * q(r, j), dv[j] += p * dy(r, j);
        }
    }
    if (!head.key) return;
    constexpr int WIDTH = 32 * N;
    float* const mine = partial + warp() * 2 * WIDTH + lane() * N;
#pragma unroll
    for (int j = 0; j < N; j++) mine[j] = scale * dk[j], mine[WIDTH + j] = dv[j];
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * WIDTH; i += blockDim.x) {
        const int at = blockIdx.y * WIDTH + i % WIDTH;
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += partial[w * 2 * WIDTH + i];
        if (at < head.width) dseed[i / WIDTH * part + at] = to_real(sum);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
attention_queries(float* delta, float* t, real* dseed, const real* dy, const real* y, const real* qkv, const real* seed,
                  const float* lse, int n, int heads, int width, int of_qkv, int of_dy, int pack, float scale) {
    __shared__ float partial[WARPS * 2 * 32 * 4];
    const size_t set = blockIdx.x / heads, column = static_cast<size_t>(blockIdx.x % heads) * width;
    const size_t part = static_cast<size_t>(heads) * width, packed = of_qkv, slope = of_dy;
    const size_t row = static_cast<size_t>(blockIdx.x) * n, token = set * 2 * part + column;
    const real* const key = seed ? seed + token : nullptr;
    const Head head{qkv + set * n * packed + column, dy + set * n * slope + column, y + set * n * part + column, key,
                    key + part, packed, slope, part, n, width};
    if (pack == 4 && width <= 32 * 4) queries<4, true>(delta + row, t + row, dseed + token, lse + row, head, part, scale, partial);
    else if (pack == 4) queries<4, false>(delta + row, t + row, dseed + token, lse + row, head, part, scale, partial);
    else queries<1, false>(delta + row, t + row, dseed + token, lse + row, head, part, scale, partial);
}
