// Data movement in attention's backward on Hopper: what is fetched for the multiplying warpgroups, and dq, of which a warp holds
// 16 of 64 queries and a warpgroup 64 of K columns.
#pragma once
#include "attention_hopper.cuh"

constexpr int QUERIES = 64, KEYS = 128;
constexpr int KEY_BOX = KEYS * ROW, QUERY_BOX = QUERIES * ROW;   // bytes of 64 columns of keys or values, of queries or dy
constexpr int PART = QUERIES * K / WARPS;   // numbers of dq per warp
constexpr int FEW = 24, MANY = 240;   // registers per thread that fetches, that multiplies

struct Slots {
    unsigned char k[2][2 * KEY_BOX], v[2 * KEY_BOX], q[2][2 * QUERY_BOX], dy[2][2 * QUERY_BOX];
    unsigned char ds[2][KEYS * ROW];                   // a row per key, 64 queries each, swizzled like a box
    float dq[WARPS][PART];                             // staging, to `sums` or back
    float lse[2][QUERIES], delta[2][QUERIES];          // lse in base 2, and inf for queries that do not exist
    uint64_t k_full[2], k_empty[2], v_full, v_empty, q_full[2], q_empty[2], ds_full[2], dq_full[WARPS];
};

struct Work {
    int items, n, heads;
    __device__ __forceinline__ int part() const { return heads * K; }   // from q to k, from k to v
    template <bool APART> __device__ __forceinline__ int shares() const { return APART ? items * ceil_div(n, KEYS) : items; }
};

// What a block takes at a time: a head of a set, with all of its keys or (APART) 128. Its first row and column, of [B * N] and HK.
template <bool APART> struct Share {
    int number, item, set, row, column;
    __device__ __forceinline__ Share(int number, const Work& work)
        : number(number), item(APART ? number % work.items : number), set(item / work.heads), row(set * work.n),
          column(item % work.heads * K), pass(APART ? number / work.items : 0) {}
    __device__ __forceinline__ int first() const { return pass * KEYS; }
    __device__ __forceinline__ int end(const Work& work) const { return APART ? first() + 1 : work.n; }

private:
    int pass;
};

// The first query of a step. Every other tile of keys walks backwards: it begins with the q, dy and sums that were read last.
__device__ __forceinline__ int query_of(int step, int key, int n) {
    return QUERIES * (key / KEYS % 2 ? ceil_div(n, QUERIES) - 1 - step : step);
}

// By one thread. The next values are fetched once the last queries have been multiplied with these; keys are needed a little
// longer, so they have two slots.
template <bool APART>
__device__ __forceinline__ void fetch(Slots& slots, const TensorMap* of_kv, const TensorMap* of_q, const TensorMap* dy,
                                      const Work& work) {
    Turn<2> k, q;
    Turn<1> v;
    for (int number = blockIdx.x; number < work.shares<APART>(); number += gridDim.x) {
        const Share<APART> head(number, work);
        const int row = head.row, column = head.column;
        for (int key = head.first(); key < head.end(work); key += KEYS) {
            mbarrier_wait(&slots.k_empty[k.slot], k.phase ^ 1);
            mbarrier_expect(&slots.k_full[k.slot], 2 * KEY_BOX);
#pragma unroll 1
            for (int box = 0; box < 2; box++)
                tma_load(slots.k[k.slot] + box * KEY_BOX, of_kv, work.part() + column + 64 * box, row + key,
                         &slots.k_full[k.slot]);
            k.next();
            for (int step = 0; step * QUERIES < work.n; step++) {
                const int query = query_of(step, key, work.n);
                uint64_t* const here = &slots.q_full[q.slot];
                mbarrier_wait(&slots.q_empty[q.slot], q.phase ^ 1);
                mbarrier_expect(here, 4 * QUERY_BOX);
#pragma unroll 1
                for (int box = 0; box < 2; box++) {
                    tma_load(slots.q[q.slot] + box * QUERY_BOX, of_q, column + 64 * box, row + query, here);
                    tma_load(slots.dy[q.slot] + box * QUERY_BOX, dy, column + 64 * box, row + query, here);
                }
                q.next();
                if (step > 0) continue;
                mbarrier_wait(&slots.v_empty, v.phase ^ 1);
                mbarrier_expect(&slots.v_full, 2 * KEY_BOX);
#pragma unroll 1
                for (int box = 0; box < 2; box++)
                    tma_load(slots.v + box * KEY_BOX, of_kv, 2 * work.part() + column + 64 * box, row + key, &slots.v_full);
                v.next();
            }
        }
    }
}

// By one warp: lse and delta of the queries.
template <bool APART>
__device__ __forceinline__ void fetch_numbers(Slots& slots, const float* lse, const float* delta, const Work& work) {
    Turn<2> q;
    for (int number = blockIdx.x; number < work.shares<APART>(); number += gridDim.x) {
        const Share<APART> head(number, work);
        for (int key = head.first(); key < head.end(work); key += KEYS)
            for (int step = 0; step * QUERIES < work.n; step++) {
                const int query = query_of(step, key, work.n) + lane();
                mbarrier_wait(&slots.q_empty[q.slot], q.phase ^ 1);
#pragma unroll
                for (int i = 0; i < QUERIES; i += 32) {
                    const bool exists = query + i < work.n;
                    const int at = anew(head.item * work.n + query) + i;   // recomputed: running pointers would take registers
                    slots.lse[q.slot][lane() + i] = exists ? LOG2E * lse[at] : INFINITY;
                    slots.delta[q.slot][lane() + i] = exists ? delta[at] : 0.0f;
                }
                arrive_as_warp(&slots.q_full[q.slot]);
                q.next();
            }
    }
}

// Where a warp's part of dq is kept: `number` is the block, which takes one head after the other, or the share. Four numbers of
// each lane follow four of the lane before.
__device__ __forceinline__ float* place(float* sums, int number, int n, int query) {
    const size_t block = static_cast<size_t>(number) * ceil_div(n, QUERIES) + query / QUERIES;
    return sums + (block * WARPS + warp()) * PART;
}
__device__ __forceinline__ float4& own(float* part, int i) {
    return reinterpret_cast<float4*>(part)[i * 32 + anew(lane())];
}

__device__ __forceinline__ void add_part(float (&dq)[32], float* part) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float4 of = own(part, i);
        dq[4 * i] += of.x, dq[4 * i + 1] += of.y, dq[4 * i + 2] += of.z, dq[4 * i + 3] += of.w;
    }
}

// The seed's part of dq, 0 without a seed.
template <bool APART>
__device__ __forceinline__ void start_from_seed(float (&dq)[32], const real* seed, const float* t, const Share<APART>& head,
                                                const Work& work, int query, int group) {
    const int first = query + warp() % 4 * 16 + anew(lane()) / 4;
    const real* const k = seed + static_cast<size_t>(head.set) * 2 * work.part() + anew(head.column) + group * 64;
    float mine[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        mine[h] = seed && first + 8 * h < work.n ? t[static_cast<size_t>(head.item) * work.n + first + 8 * h] : 0.0f;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const Floats<2> of = seed ? load_pack<2>(k + 8 * n + anew(lane()) % 4 * 2) : Floats<2>{};
#pragma unroll
        for (int i = 0; i < 4; i++) dq[4 * n + i] = mine[i / 2] * of[i % 2];
    }
}

template <bool APART>
__device__ __forceinline__ void store_dq(real* dqkv, size_t row, const Share<APART>& head, int n, int query,
                                         int group, const float (&dq)[32], float scale) {
    const int first = query + warp() % 4 * 16;
    real* const to = dqkv + static_cast<size_t>(head.row + first) * row + head.column + group * 64;
    store(to, row, n - first, reinterpret_cast<const float(&)[1][8][4]>(dq), scale);
}
