// Backward of softmax attention within a set on Hopper's tensor cores (FlashAttention-3, Shah 2024, with sums in a fixed order).
//
//   backward   p[i,j]  = exp(q_i . k_j / sqrt(K) - lse[i])
//              ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//              dq_i    = sum_j ds[i,j] k_j + t_i k_s / sqrt(K)                                       =
//              dk_j    = sum_i ds[i,j] q_i                      dv_j = sum_i p[i,j] dy_i             =
//   tensors    qkv [B * N, R] rows that begin with q | k | v, as maps in boxes of 64 rows (of_q) and of 128 (of_kv)
//              dy [B * N, S] rows that begin with y's HK numbers, as a map in boxes of 64 rows     dqkv [B, N, R]: bf16
//              seed [B, 2HK] k | v, bf16 or null: k_s is its key
//              lse, delta, t [B, H, N] f32, as attention_queries.cu writes them
//              sums [blocks, ceil(N / 64), 64, K] f32, in the threads' own order; null if N <= 128; apart:
//              [ceil(N / 128), B, H, ..]
//   needs      sm_90a, bf16, K = 128, R and S % 8 == 0, addresses that are multiples of 16 bytes; any N. qkv and dy must be
//              finite: boxes reach beyond a set, and weight 0 times what they find there must be 0
//   work       one block per multiprocessor, which takes heads of sets. For each 128 keys it walks over all queries, 64 at a
//              time. One warpgroup fetches; two multiply, 64 keys each, with p and ds transposed, so that they pass in
//              registers from one product's sums to the next one's left operand. dk and dv accumulate in registers. dq, of
//              which each warpgroup computes half the columns, needs ds of both, through shared memory; TMA adds it up in
//              `sums` across tiles of keys, and loads it back for the last one. A block uses one place for all its heads.
//              Every other tile of keys walks its queries backwards: q, dy and sums of all blocks are more than the level-2
//              cache holds, and what it read last is what it still has
//              apart: a block takes 128 keys of a head, so that a few heads keep all blocks busy; their parts of dq stay in
//              `sums`, and sum_dq adds them to the seed's in the order of keys, one block per 64 queries
//   bound by   compute: 10 N^2 K per head; as measured, from N = 512 by what passes level 2 (NOTES.md). sum_dq by memory:
//              N^2 K / 128 f32 per head
//   repeatable yes: all that is added to a number of `sums` comes from one thread, which waits for each before the next
//   reference  src/ops/attention/reference.rs
#include "hopper.cuh"
#include "attention_hopper_backward.cuh"

// A multiplying warpgroup; `group` (0 or 1) selects its 64 keys and its 64 columns of dq.
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
    Turn<2> k, q;
    Turn<1> v, back;   // of values, and of dq loaded back
    float dk[64], dv[64], dq[32];
    uint32_t p[4][4], ds[4][4];

    // The first of the 16 keys of a warp.
    static __device__ __forceinline__ int warp_key() { return 16 * warp(); }

    // Issues s = a b^T: 64 keys by 64 queries, or 64 values by their dy.
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

    // Turns scores into weights, 0 for keys that do not exist.
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

    // ds from weights and dy v, to `ds` and to shared memory. It uses the rounded weights that dv is computed from: there are
    // no registers left to keep the others.
    __device__ __forceinline__ void slopes(float (&dp)[32]) {
        const int of_lane = anew(lane());
        const float* const delta = slots.delta[q.slot] + of_lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 of = *reinterpret_cast<const float2*>(delta + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float weight = half_of(p[n / 2][n % 2 * 2 + i / 2], i);
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

    // For the first keys dq starts from the seed's part, for others from zero. (Not by a product with keep = false: then the
    // compiler would hold on to the previous dq.)
    __device__ __forceinline__ void start_dq(const Share<APART>& head, int query, int key) {
        if (key == 0) return start_from_seed(dq, seed, t, head, work, query, group);
#pragma unroll
        for (int i = 0; i < 32; i++) dq[i] = 0.0f;
    }

    __device__ __forceinline__ void begin_dq() {
        const uint64_t left = wgmma_matrix(slots.ds[q.slot], 1024);
        const uint64_t right = wgmma_matrix(slots.k[k.slot] + group * KEY_BOX, 1024);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) wgmma_64x64x16<true, true>(dq, left + i * ROW, right + i * ROW, !APART || i > 0);
        wgmma_commit();
    }

    // The part of `sums` for this head or share and these queries.
    __device__ __forceinline__ float* of_sums(const Share<APART>& head, int query) const {
        return place(sums, APART ? head.number : blockIdx.x, work.n, query);
    }

    // With the last keys dq is written, including what the keys before gave it: ask_back loads that before it is needed.
    __device__ __forceinline__ bool last(int key) const { return !APART && key + KEYS >= work.n; }

    __device__ __forceinline__ void ask_back(const Share<APART>& head, int query, bool begins) const {
        if (lane() > 0) return;
        uint64_t* const full = &slots.dq_full[warp()];
        if (begins) bulk_done<0>();   // the keys before have added; the last ones do not
        mbarrier_expect(full, sizeof slots.dq[0]);
        bulk_load(slots.dq[warp()], of_sums(head, query), sizeof slots.dq[0], full);
    }

    __device__ __forceinline__ void finish_dq(const Share<APART>& head, int query, int key, bool begins) {
        float* const part = slots.dq[warp()];
        if (last(key)) {
            if (key > 0) {
                mbarrier_wait(&slots.dq_full[warp()], back.phase);
                add_part(dq, part);
                __syncwarp();
                back.next();
            }
            return store_dq(dqkv, row, head, work.n, query, group, dq, scale);
        }
        const bool first = APART || key == 0;
        if (lane() == 0) {
            if (!begins) bulk_read<0>();
            else bulk_done<0>();   // all that was added for the keys before has landed before anything is added now
        }
        __syncwarp();
#pragma unroll
        for (int n = 0; n < 8; n++) own(part, n) = make_float4(dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]);
        proxy_fence();
        __syncwarp();
        if (lane() > 0) return;
        if (first) bulk_store(of_sums(head, query), part, sizeof slots.dq[0]);
        else bulk_add(of_sums(head, query), part, sizeof slots.dq[0]);
    }

    __device__ __forceinline__ void step(const Share<APART>& head, int step, int key) {
        const int query = query_of(step, key, work.n);
        float s[32], dp[32];
        if (last(key) && key > 0) ask_back(head, query, step == 0);
        mbarrier_wait(&slots.q_full[q.slot], q.phase);
        begin_scores(s, slots.k[k.slot], slots.q[q.slot]);
        if (step == 0) mbarrier_wait(&slots.v_full, v.phase);
        begin_scores(dp, slots.v, slots.dy[q.slot]);
        wgmma_wait<1>(s);
        weigh(s, key);
        round_sums(p, s);
        begin_product(dv, p, slots.dy[q.slot], step > 0);
        wgmma_wait<1>(dp);
        if ((step + 1) * QUERIES >= work.n) arrive_as_warp(&slots.v_empty), v.next();
        slopes(dp);
        arrive_as_warp(&slots.ds_full[q.slot]);
        begin_product(dk, ds, slots.q[q.slot], step > 0);
        if (!APART) start_dq(head, query, key);
        mbarrier_wait(&slots.ds_full[q.slot], q.phase);
        begin_dq();
        // No warp overwrites this ds before all have come here: the next step fills the other one, and waits for all warps.
        wgmma_wait<0>(dv, p), wgmma_wait<0>(dk, ds), wgmma_wait<0>(dq);
        arrive_as_warp(&slots.q_empty[q.slot]);
        q.next();
        finish_dq(head, query, key, step == 0);
    }

    __device__ __forceinline__ void multiply() {
        for (int number = blockIdx.x; number < work.shares<APART>(); number += gridDim.x) {
            const Share<APART> head(number, work);
            for (int key = head.first(); key < head.end(work); key += KEYS) {
                mbarrier_wait(&slots.k_full[k.slot], k.phase);
                for (int at = 0; at * QUERIES < work.n; at++) step(head, at, key);
                arrive_as_warp(&slots.k_empty[k.slot]);
                k.next();
                const int first = key + warp_key();
                real* const to = dqkv + static_cast<size_t>(head.row + first) * row + work.part() + head.column;
                store(to, row, work.n - first, reinterpret_cast<const float(&)[1][16][4]>(dk), scale);
                store(to + work.part(), row, work.n - first, reinterpret_cast<const float(&)[1][16][4]>(dv), 1.0f);
            }
        }
        if (lane() == 0) bulk_done<0>();
    }
};

__device__ __forceinline__ Slots& open_slots() {
    Slots& slots = place_slots<Slots>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&slots.k_full[i], 1), mbarrier_init(&slots.k_empty[i], WARPS);
            mbarrier_init(&slots.q_full[i], 2), mbarrier_init(&slots.q_empty[i], WARPS);   // 2: the copies; lse and delta
            mbarrier_init(&slots.ds_full[i], WARPS);
        }
        mbarrier_init(&slots.v_full, 1), mbarrier_init(&slots.v_empty, WARPS);
        for (int i = 0; i < WARPS; i++) mbarrier_init(&slots.dq_full[i], 1);
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
    for (int number = head.item; number < work.shares<true>(); number += items) add_part(dq, place(sums, number, n, query));
    store_dq(dqkv, row, head, n, query, group, dq, scale);
}
