// Softmax attention within a set on Hopper's tensor cores (FlashAttention-3, Shah 2024, alg. 2), with a seed token as initial
// state (SCALE v1, eq. 34-36).
//
//   forward    s[i,j]  = q_i . k_j / sqrt(K)                         j over the N rows and the seed, if given
//              lse[i]  = ln sum_j exp(s[i,j])        y_i = sum_j exp(s[i,j] - lse[i]) v_j
//   tensors    qkv [B * N, R] rows that begin with q | k | v, as a map in boxes of 128 rows (pairs: 64)     y [B, N, HK] bf16
//              seed [B, 2HK] k | v, bf16 or null     lse [B, H, N] f32
//   needs      sm_90a, bf16, K = 128, R % 8 == 0, addresses that are multiples of 16 bytes; any N, pairs: up to 64. qkv must be
//              finite: boxes reach beyond a set, and weight 0 times what they find there must be 0
//   work       one block per multiprocessor, which takes tiles of 128 queries of a head, or (pairs) of two heads, 64 each. One
//              thread of one warpgroup fetches; two warpgroups multiply, 64 queries each, 128 keys per step (pairs: the 64 of
//              their head), with scores and weights in registers
//   bound by   compute: 4 N^2 K per head; below N = 256 memory: 4 N K numbers per head
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
//
// A warpgroup issues the scores of the next keys, then the product of the current weights and values; while the latter runs, it
// turns the new scores into weights. The pipeline continues across tiles: a tile's sums are written once the first scores of
// the next one are done. The two warpgroups take turns issuing their products, so that one has the tensor cores while
// the other computes exponentials.
#include "hopper.cuh"
#include "attention_hopper_softmax.cuh"

constexpr int QUERIES = 128, SHARE = BOX / 2;    // queries of a tile; a warpgroup's share of a box, in bytes
constexpr int TILE = 2 * BOX;                    // bytes of 128 rows of K numbers
constexpr int TOKEN = 2 * K;                     // bytes of a seed's key, or value
constexpr int FEW = 40, MANY = 232;              // registers per thread that fetches, that multiplies

// HEADS: heads of a tile. A tile's queries come with its seed's key. The seed's value is read only when the next tile's queries
// have already landed, and those of the one after may be in flight: hence four slots for it.
template <int HEADS> struct Slots {
    static constexpr int RING = HEADS == 1 ? 5 : 4;   // slots of keys or values
    unsigned char q[2][TILE], kv[RING][TILE];
    real seed_key[2][HEADS][K], seed_value[4][HEADS][K];
    uint64_t q_full[2], q_empty[2], full[RING], empty[RING];
    uint64_t turn[2];   // of each warpgroup, passed to it by the other
};

// A block's work: tiles blockIdx.x, blockIdx.x + gridDim.x and so on; neighbouring tiles share their keys. An item is a head of
// a set. The last pair may lack its second item: the first takes its place, and is not written twice.
template <int HEADS> struct Work {
    static constexpr int KEYS = 128 / HEADS;   // keys of a step
    int tiles, items, n, heads;
    __device__ __forceinline__ int part() const { return heads * K; }   // from q to k, from k to v
    __device__ __forceinline__ int blocks() const { return HEADS == 1 ? ceil_div(n, QUERIES) : 1; }
    __device__ __forceinline__ int first(int tile) const { return tile % blocks() * QUERIES; }
    __device__ __forceinline__ int item(int tile, int group) const {
        return HEADS == 1 ? tile / blocks() : min(HEADS * tile + group, items - 1);
    }
    __device__ __forceinline__ bool written(int tile, int group) const { return HEADS == 1 || HEADS * tile + group < items; }
    __device__ __forceinline__ int set(int item) const { return item / heads; }
    __device__ __forceinline__ int column(int item) const { return item % heads * K; }
};

// The fetching thread.
template <int HEADS> struct Fetcher {
    Slots<HEADS>& slots;
    const Work<HEADS>& work;
    const TensorMap* qkv;
    const real* seed;
    Turn<2> q;
    Turn<4> value;
    Turn<Slots<HEADS>::RING> kv;

    // For each head of the tile: rows from `row` on, columns from `left` on.
    __device__ __forceinline__ void load(unsigned char* to, int tile, int left, int row, uint64_t* full) const {
        for (int head = 0; head < HEADS; head++) {
            const int item = work.item(tile, head), x = left + work.column(item), y = work.set(item) * work.n + row;
            tma_load(to + head * SHARE, qkv, x, y, full);
            tma_load(to + head * SHARE + BOX, qkv, x + 64, y, full);
        }
    }
    __device__ __forceinline__ void load_next(int tile, int left, int row) {
        uint64_t* const full = &slots.full[kv.slot];
        mbarrier_wait(&slots.empty[kv.slot], kv.phase ^ 1);
        mbarrier_expect(full, TILE);
        load(slots.kv[kv.slot], tile, left, row, full);
        kv.next();
    }
    __device__ __forceinline__ void load_queries(int tile) {
        uint64_t* const full = &slots.q_full[q.slot];
        mbarrier_wait(&slots.q_empty[q.slot], q.phase ^ 1);
        mbarrier_expect(full, TILE + (seed ? HEADS * 2 * TOKEN : 0));
        load(slots.q[q.slot], tile, 0, work.first(tile), full);
        for (int head = 0; seed && head < HEADS; head++) {
            const int item = work.item(tile, head);
            const real* const token = seed + static_cast<size_t>(work.set(item)) * 2 * work.part() + work.column(item);
            bulk_load(slots.seed_key[q.slot][head], token, TOKEN, full);
            bulk_load(slots.seed_value[value.slot][head], token + work.part(), TOKEN, full);
        }
        q.next(), value.next();
    }

    // Keys of a step come before values of the previous one: the order in which they are used.
    __device__ __forceinline__ void fetch() {
        int before = -1, row = 0;   // the tile and first key of the values to fetch next
        for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
            load_queries(tile);
            for (int key = 0; key < work.n; key += work.KEYS) {
                load_next(tile, work.part(), key);
                if (before >= 0) load_next(before, 2 * work.part(), row);
                before = tile, row = key;
            }
        }
        load_next(before, 2 * work.part(), row);
    }
};

// A multiplying warpgroup: 64 queries of a tile.
template <int HEADS> struct Multiplier {
    static constexpr int KEYS = Work<HEADS>::KEYS;
    using Ring = Turn<Slots<HEADS>::RING>;
    Slots<HEADS>& slots;
    const Work<HEADS>& work;
    real* y;
    float* lse;
    bool seeded;
    float scale;   // in base 2
    int group;
    Turn<2> q;
    Turn<4> value;
    Ring kv;
    uint32_t round = 0;

    __device__ __forceinline__ int head() const { return HEADS == 1 ? 0 : group; }   // of the tile

    // Waits for the next slot of the ring.
    __device__ __forceinline__ Ring take() {
        const Ring taken = kv;
        wait(taken);
        kv.next();
        return taken;
    }
    __device__ __forceinline__ void wait(const Ring& at) const { mbarrier_wait(&slots.full[at.slot], at.phase); }

    // Issues s = q k^T.
    __device__ __forceinline__ void begin_scores(float (&s)[KEYS / 2], int slot) const {
        const uint64_t left = wgmma_matrix(slots.q[q.slot] + group * SHARE, 1024);
        const uint64_t right = wgmma_matrix(slots.kv[slot] + head() * SHARE, 1024);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            const int at = (k / 4 * BOX + k % 4 * 32) / 16;
            if constexpr (HEADS == 1) wgmma_64x128x16<false>(s, left + at, right + at, k > 0);
            else wgmma_64x64x16<false, false>(s, left + at, right + at, k > 0);
        }
        wgmma_commit();
    }

    // Issues sum += p v; without `more`, sum = p v.
    __device__ __forceinline__ void begin_values(float (&sum)[64], const uint32_t (&p)[KEYS / 16][4], int slot, bool more) const {
        begin_product(sum, p, slots.kv[slot] + head() * SHARE, more, BOX);
    }

    // Starts from a tile's queries, which have landed.
    __device__ __forceinline__ void start(Running& run) const {
        const real* const key = seeded ? slots.seed_key[q.slot][head()] : nullptr;
        run.start(slots.q[q.slot] + warp() * 16 * ROW, key, scale);
    }

    // The scores of the keys from `key` on are done: gives back the keys and, after the tile's last ones, the queries.
    __device__ __forceinline__ void came(float (&s)[KEYS / 2], int slot, int key) const {
        arrive_as_warp(&slots.empty[slot]);
        if (key + KEYS >= work.n) arrive_as_warp(&slots.q_empty[q.slot]);
        if (key + KEYS > work.n) hide(s, work.n - key);
    }

    // Writes y and lse of a tile, with the seed's part.
    __device__ __forceinline__ void finish(const float (&sum)[64], const Running& run, int tile) {
        const int item = work.item(tile, group), row = work.first(tile) + (HEADS == 1 ? warp() : warp() % 4) * 16;
        const int end = work.written(tile, group) ? work.n : 0;
        const real* const values = slots.seed_value[value.slot][head()] + lane() % 4 * 2;
        float share[2], of_seed[2], out[1][16][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float more = exp2_approx(run.seed[h] - run.top[h]), weight = quad_sum(run.weight[h]) + more;
            const int mine = row + 8 * h + lane() / 4;
            share[h] = reciprocal(weight), of_seed[h] = more * share[h];
            if (lane() % 4 == 0 && mine < end)
                lse[static_cast<size_t>(item) * work.n + mine] = LN2 * (run.top[h] + log2f(weight));
        }
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const Floats<2> v = seeded ? load_pack<2>(values + 8 * j) : Floats<2>{};
#pragma unroll
            for (int i = 0; i < 4; i++) out[0][j][i] = share[i / 2] * sum[4 * j + i] + of_seed[i / 2] * v[i % 2];
        }
        real* const to = y + (static_cast<size_t>(work.set(item)) * work.n + row) * work.part() + work.column(item);
        store(to, work.part(), end - row, out, 1.0f);
        value.next();
    }

    __device__ __forceinline__ void multiply() {
        float s[KEYS / 2], sum[64], shrink[2];
        uint32_t p[KEYS / 16][4];
        Running run;
        int tile = blockIdx.x, key = 0;
        mbarrier_wait(&slots.q_full[q.slot], q.phase);
        const int first = take().slot;
        begin_scores(s, first);
        start(run);
        wgmma_wait<0>(s);
        came(s, first, key);
        run.weigh(s, scale, shrink);
        round_sums(p, s);
        while (true) {
            const bool last = key + KEYS >= work.n;
            const int next = last ? tile + gridDim.x : tile, next_key = last ? 0 : key + KEYS;
            if (next >= work.tiles) break;
            if (last) q.next(), mbarrier_wait(&slots.q_full[q.slot], q.phase);
            const int keys = take().slot;
            const Ring values = take();
            mbarrier_wait(&slots.turn[group], (round ^ group ^ 1) & 1);
            begin_scores(s, keys);
            begin_values(sum, p, values.slot, key > 0);
            arrive_as_warp(&slots.turn[group ^ 1]);
            round++;
            const Running before = run;
            if (last) start(run);
            wgmma_wait<1>(s);
            came(s, keys, next_key);
            const bool far = run.weigh(s, scale, shrink);
            wait(values);   // already there: this loop keeps the compiler from moving exponentials to behind the product
            wgmma_wait<0>(sum, p);
            arrive_as_warp(&slots.empty[values.slot]);
            if (last) {
                finish(sum, before, tile);
            } else if (far) {
#pragma unroll
                for (int i = 0; i < 64; i++) sum[i] *= shrink[i / 2 % 2];
            }
            round_sums(p, s);
            tile = next, key = next_key;
        }
        begin_values(sum, p, take().slot, key > 0);
        wgmma_wait<0>(sum, p);
        finish(sum, run, tile);
    }
};

template <int HEADS> __device__ __forceinline__ Slots<HEADS>& open_slots() {
    auto& slots = place_slots<Slots<HEADS>>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&slots.q_full[i], 1), mbarrier_init(&slots.q_empty[i], WARPS);
            mbarrier_init(&slots.turn[i], WARPS / 2);
        }
        for (int i = 0; i < slots.RING; i++) mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], WARPS);
        mbarrier_init_done();
    }
    __syncthreads();
    return slots;
}

template <int HEADS>
__device__ __forceinline__ void forward(real* y, float* lse, const TensorMap* qkv, const real* seed, int items, int n, int heads,
                                        float scale) {
    auto& slots = open_slots<HEADS>();
    Work<HEADS> work{0, items, n, heads};
    work.tiles = HEADS == 1 ? items * work.blocks() : ceil_div(items, HEADS);
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS) Fetcher<HEADS>{slots, work, qkv, seed}.fetch();
    } else {
        take_registers<MANY>();
        Multiplier<HEADS>{slots, work, y, lse, seed != nullptr, scale * LOG2E, warpgroup()}.multiply();
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_hopper_forward(real* y, float* lse, const __grid_constant__ TensorMap qkv, const real* seed, int items, int n,
                         int heads, float scale) {
    if (TENSOR_CORES) forward<1>(y, lse, &qkv, seed, items, n, heads, scale);
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_hopper_forward_pairs(real* y, float* lse, const __grid_constant__ TensorMap qkv, const real* seed, int items, int n,
                               int heads, float scale) {
    if (TENSOR_CORES) forward<2>(y, lse, &qkv, seed, items, n, heads, scale);
}
