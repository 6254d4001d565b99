// Backward of softmax attention within a set on Hopper's tensor cores (FlashAttention-3, Shah 2024, without atomics).
//
//   backward   p[i,j]  = exp(q_i . k_j / sqrt(K) - lse[i])
//              ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//              dq_i    = sum_j ds[i,j] k_j + t_i k_s / sqrt(K)                                       =
//              dk_j    = sum_i ds[i,j] q_i                      dv_j = sum_i p[i,j] dy_i             =
//   tensors    qkv [B * N, R] rows that begin with q | k | v, as maps in boxes of 64 rows (of_q) and of 128 (of_kv)
//              dy [B * N, S] rows that begin with y's HK numbers, as a map in boxes of 64 rows     dqkv [B, N, R]: bf16
//              seed [B, 2HK] k | v, bf16 or null: k_s is its key
//              lse, delta, t [B, H, N] f32, as attention_queries.cu leaves them
//              sums [B, H, ceil(N / 64), 64, K] f32, in the threads' own order; null where N <= 128; as many such for every
//              128 keys where they are apart
//   needs      sm_90a, bf16, K = 128, R and S % 8 == 0, addresses that are multiples of 16 bytes; any N. Finite numbers in
//              qkv and dy: boxes reach beyond a set, and no weight times what lies there must be nothing
//   work       a block a multiprocessor, which takes heads of sets. For each 128 keys it walks over all queries, 64 at a time.
//              One warpgroup fetches; two multiply, 64 keys each, with p and ds transposed, so that they go from one product's
//              sums to the next one's left side in registers. dk and dv grow in registers. dq, of which each warpgroup
//              makes half of the columns, needs ds of both, by way of shared memory; from keys to keys it is in `sums`, where
//              a thread finds what it left there itself
//              apart: a block takes 128 keys of a head, so that few heads are work for all; their dq are left in `sums`, and
//              sum_dq adds them and the seed's in the order of keys, a block 64 queries
//   bound by   compute: 10 N^2 K a head. sum_dq by memory: N^2 K / 128 f32 a head
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
#include "hopper.cuh"
#include "attention_hopper_backward.cuh"

// A multiplying warpgroup: 0 or 1, which 64 keys, and which 64 columns of dq.
template <bool APART> struct Multiplier {
    Slots& slots;
    const Work& work;
    real* dqkv;
    float* sums;
    const real* seed;
    const float* t;
    size_t row;    // of dqkv
    float scale;
    int group;
    Turn<2> kv, q;
    float dk[64], dv[64], dq[32];
    uint32_t p[4][4], ds[4][4];

    // The first of the 16 keys of a warp.
    static __device__ __forceinline__ int warp_key() { return 16 * warp(); }

    // s = a b^T, begun: 64 keys or values by 64 queries or their dy.
    __device__ __forceinline__ void begin_scores(float (&s)[32], const unsigned char* a, const unsigned char* b) const {
        const uint64_t left = wgmma_matrix(a + group * 64 * ROW, 1024), right = wgmma_matrix(b, 1024);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            const int to_left = k / 4 * KEY_BOX + k % 4 * 32, to_right = k / 4 * QUERY_BOX + k % 4 * 32;
            wgmma_64x64x16<false, false>(s, left + to_left / 16, right + to_right / 16, k > 0);
        }
        wgmma_commit();
    }

    // Scores become weights, those of keys that do not exist 0.
    __device__ __forceinline__ void weigh(float (&s)[32], int key) const {
        const int of_lane = anew(lane());
        const float* const lse = slots.lse[q.slot] + of_lane % 4 * 2;
        if (key + KEYS > work.n) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (key + warp_key() + i / 2 % 2 * 8 + of_lane / 4 >= work.n) s[i] = -INFINITY;
        }
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 of = *reinterpret_cast<const float2*>(lse + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; i++) s[4 * n + i] = exp2_approx(scale * LOG2E * s[4 * n + i] - (i % 2 ? of.y : of.x));
        }
    }

    // ds from weights and dy v, to `ds` and to shared memory. The weights are those that dv is made of, rounded: the others
    // would take the registers that there are not.
    __device__ __forceinline__ void slopes(float (&dp)[32]) {
        const int of_lane = anew(lane());
        const float* const delta = slots.delta[q.slot] + of_lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 of = *reinterpret_cast<const float2*>(delta + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t pair = p[n / 2][n % 2 * 2 + i / 2];
                const float weight = __uint_as_float(i % 2 ? pair & 0xFFFF0000u : pair << 16);
                dp[4 * n + i] = weight * (dp[4 * n + i] - (i % 2 ? of.y : of.x));
            }
        }
        round_sums(ds, dp);
        const int low = of_lane / 4;
        unsigned char* const to = slots.ds[q.slot] + (warp_key() + low) * ROW + of_lane % 4 * 4;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *reinterpret_cast<uint32_t*>(to + h * 8 * ROW + (n ^ low) * 16) = ds[n / 2][n % 2 * 2 + h];
        proxy_fence();
    }

    // What the keys before gave dq; first of all, the seed.
    __device__ __forceinline__ void start_dq(const Share<APART>& head, int query, int key) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            if (key == 0) break;
            const float4 before = *place(sums, head.item, work.n, query, n);
            dq[4 * n] = before.x, dq[4 * n + 1] = before.y, dq[4 * n + 2] = before.z, dq[4 * n + 3] = before.w;
        }
        if (key > 0) return;
        start_from_seed(dq, seed, t, head, work, query, group);
    }

    __device__ __forceinline__ void begin_dq() {
        const uint64_t left = wgmma_matrix(slots.ds[q.slot], 1024);
        const uint64_t right = wgmma_matrix(slots.k[kv.slot] + group * KEY_BOX, 1024);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_64x64x16<true, true>(dq, left + k * ROW, right + k * ROW, !APART || k > 0);
        wgmma_commit();
    }

    // Leaves it for the next keys, or for sum_dq; otherwise it goes out after the last ones.
    __device__ __forceinline__ void finish_dq(const Share<APART>& head, int query, int key) const {
        if (!APART && key + KEYS >= work.n) return store_dq(dqkv, row, head, work.n, query, group, dq, scale);
        const int number = APART ? head.number : head.item;
#pragma unroll
        for (int n = 0; n < 8; n++)
            *place(sums, number, work.n, query, n) = make_float4(dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]);
    }

    __device__ __forceinline__ void step(const Share<APART>& head, int query, int key) {
        float s[32], dp[32];
        mbarrier_wait(&slots.q_full[q.slot], q.phase);
        begin_scores(s, slots.k[kv.slot], slots.q[q.slot]);
        begin_scores(dp, slots.v[kv.slot], slots.dy[q.slot]);
        wgmma_wait<1>(s);
        weigh(s, key);
        round_sums(p, s);
        begin_product(dv, p, slots.dy[q.slot], query > 0);
        wgmma_wait<1>(dp);
        slopes(dp);
        arrive_as_warp(&slots.ds_full[q.slot]);
        begin_product(dk, ds, slots.q[q.slot], query > 0);
        if (!APART) start_dq(head, query, key);
        mbarrier_wait(&slots.ds_full[q.slot], q.phase);
        begin_dq();
        // No warp writes this ds again before all have come here: the next one is another, for which all must arrive.
        wgmma_wait<0>(dv, p), wgmma_wait<0>(dk, ds), wgmma_wait<0>(dq);
        arrive_as_warp(&slots.q_empty[q.slot]);
        q.next();
        finish_dq(head, query, key);
    }

    __device__ __forceinline__ void multiply() {
        for (int number = blockIdx.x; number < work.shares<APART>(); number += gridDim.x) {
            const Share<APART> head(number, work);
            for (int key = head.first(); key < head.end(work); key += KEYS) {
                mbarrier_wait(&slots.kv_full[kv.slot], kv.phase);
                for (int query = 0; query < work.n; query += QUERIES) step(head, query, key);
                arrive_as_warp(&slots.kv_empty[kv.slot]);
                kv.next();
                const int first = key + warp_key();
                real* const to = dqkv + static_cast<size_t>(head.row + first) * row + work.part() + head.column;
                store(to, row, work.n - first, reinterpret_cast<const float(&)[1][16][4]>(dk), scale);
                store(to + work.part(), row, work.n - first, reinterpret_cast<const float(&)[1][16][4]>(dv), 1.0f);
            }
        }
    }
};

__device__ __forceinline__ Slots& open_slots() {
    Slots& slots = place_slots<Slots>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&slots.kv_full[i], 1), mbarrier_init(&slots.kv_empty[i], WARPS);
            mbarrier_init(&slots.q_full[i], 2), mbarrier_init(&slots.q_empty[i], WARPS);   // 2: the copies, the numbers
            mbarrier_init(&slots.ds_full[i], WARPS);
        }
        mbarrier_init_done();
    }
    __syncthreads();
    return slots;
}

template <bool APART>
__device__ __forceinline__ void backward(real* dqkv, float* sums, const TensorMap* of_kv, const TensorMap* of_q,
                                         const TensorMap* dy, const real* seed, const float* lse, const float* delta,
                                         const float* t, const Work& work, int row, float scale) {
    if (!TENSOR_CORES) return;
    Slots& slots = open_slots();
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS) fetch<APART>(slots, of_kv, of_q, dy, work);
        if (warp() == WARPS + 1) fetch_numbers<APART>(slots, lse, delta, work);
    } else {
        take_registers<MANY>();
        Multiplier<APART>{slots, work, dqkv, sums, seed, t, static_cast<size_t>(row), scale, warpgroup()}.multiply();
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_hopper_backward(real* dqkv, float* sums, const __grid_constant__ TensorMap of_kv,
                          const __grid_constant__ TensorMap of_q, const __grid_constant__ TensorMap dy, const real* seed,
                          const float* lse, const float* delta, const float* t, int items, int n, int heads, int row,
                          float scale) {
    backward<false>(dqkv, sums, &of_kv, &of_q, &dy, seed, lse, delta, t, Work{items, n, heads}, row, scale);
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_hopper_backward_apart(real* dqkv, float* sums, const __grid_constant__ TensorMap of_kv,
                                const __grid_constant__ TensorMap of_q, const __grid_constant__ TensorMap dy, const real* seed,
                                const float* lse, const float* delta, const float* t, int items, int n, int heads, int row,
                                float scale) {
    backward<true>(dqkv, sums, &of_kv, &of_q, &dy, seed, lse, delta, t, Work{items, n, heads}, row, scale);
}

extern "C" __global__ void __launch_bounds__(256)
attention_hopper_sum_dq(real* dqkv, float* sums, const real* seed, const float* t, int items, int n, int heads, int row,
                        float scale) {
    if (!TENSOR_CORES) return;
    const Work work{items, n, heads};
    const Share<true> head(blockIdx.x, work);
    const int query = blockIdx.y * QUERIES, group = warpgroup();
    float dq[32];
    start_from_seed(dq, seed, t, head, work, query, group);
    for (int number = head.item; number < work.shares<true>(); number += items)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float4 part = *place(sums, number, n, query, i);
            dq[4 * i] += part.x, dq[4 * i + 1] += part.y, dq[4 * i + 2] += part.z, dq[4 * i + 3] += part.w;
        }
    store_dq(dqkv, row, head, n, query, group, dq, scale);
}
