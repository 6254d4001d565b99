// Softmax attention within a set on Hopper's tensor cores (FlashAttention-3, Shah 2024, alg. 2), with a seed token as start
// state (SCALE v1, eq. 34-36).
//
//   forward    s[i,j]  = q_i . k_j / sqrt(K)                         j over the N rows and, where given, the seed
//              lse[i]  = ln sum_j exp(s[i,j])        y_i = sum_j exp(s[i,j] - lse[i]) v_j
//   tensors    qkv [B * N, R] rows that begin with q | k | v, as a map in boxes of 128 rows     y [B, N, HK] bf16
//              seed [B, 2HK] k | v, bf16 or null     lse [B, H, N] f32
//   needs      sm_90a, bf16, K = 128, R % 8 == 0, addresses that are multiples of 16 bytes; any N. Finite numbers in qkv: boxes
//              reach beyond a set, and no weight times what lies there must be nothing
//   work       a block a multiprocessor, which takes tiles of 128 queries of a head. One warpgroup fetches, by one thread; two
//              multiply, 64 queries each, 128 keys a step, their scores and weights in registers
//   bound by   compute: 4 N^2 K a head
//   repeatable yes: no atomics
//   reference  src/ops/attention/reference.rs
//
// A warpgroup begins scores of the next keys and then the product of weights and values of these; while the second runs it
// makes weights of the first. It goes on so from tile to tile, whose sums it writes while the next one's first scores
// are there already. The two warpgroups begin their products by turns, so that one has the tensor cores while the other has
// its exponentials.
#include "hopper.cuh"
#include "attention_hopper.cuh"

constexpr int QUERIES = 128, KEYS = 128;
constexpr int BOX = 128 * ROW, TILE = 2 * BOX;   // bytes: 128 rows of 64 columns, and of K
constexpr int SLOTS = 5;                         // of keys or values
constexpr int FEW = 40, MANY = 232;              // registers of a thread that fetches, and of one that multiplies

// As in attention.cu: top may lag behind the greatest score by this many powers of two.
constexpr float SLACK = 8.0f;

struct Slots {
    unsigned char q[2][TILE], kv[SLOTS][TILE];
    uint64_t q_full[2], q_empty[2], full[SLOTS], empty[SLOTS];
    uint64_t turn[2];   // of a warpgroup, given by the other
};

// What there is to do: tiles blockIdx.x, blockIdx.x + gridDim.x and so on; neighbours share their keys.
struct Work {
    int tiles, n, heads;
    __device__ __forceinline__ int steps() const { return ceil_div(n, KEYS); }
    __device__ __forceinline__ int part() const { return heads * K; }   // from q to k, from k to v
    __device__ __forceinline__ int first(int tile) const { return tile % ceil_div(n, QUERIES) * QUERIES; }
    __device__ __forceinline__ int item(int tile) const { return tile / ceil_div(n, QUERIES); }   // set and head
    __device__ __forceinline__ int set(int tile) const { return item(tile) / heads; }
    __device__ __forceinline__ int column(int tile) const { return item(tile) % heads * K; }
};

// One thread. Keys of a step come before values of the step before, as they are used.
__device__ __forceinline__ void fetch(Slots& slots, const TensorMap* qkv, const Work& work) {
    Turn<2> q;
    Turn<SLOTS> kv;
    const auto load = [&](unsigned char* to, int column, int row, uint64_t* full) {
        mbarrier_expect(full, TILE);
        tma_load(to, qkv, column, row, full);
        tma_load(to + BOX, qkv, column + 64, row, full);
    };
    const auto load_next = [&](int column, int row) {
        mbarrier_wait(&slots.empty[kv.slot], kv.phase ^ 1);
        load(slots.kv[kv.slot], column, row, &slots.full[kv.slot]);
        kv.next();
    };
    int value_column = 0, value_row = -1;
    for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
        const int row = work.set(tile) * work.n, column = work.column(tile);
        mbarrier_wait(&slots.q_empty[q.slot], q.phase ^ 1);
        load(slots.q[q.slot], column, row + work.first(tile), &slots.q_full[q.slot]);
        q.next();
        for (int key = 0; key < work.n; key += KEYS) {
            load_next(work.part() + column, row + key);
            if (value_row >= 0) load_next(value_column, value_row);
            value_column = 2 * work.part() + column, value_row = row + key;
        }
    }
    load_next(value_column, value_row);
}

// Softmax of a thread's two rows so far, in base 2; [h] is row 8 h + lane / 4 of its warp's 16.
struct Running {
    float top[2], weight[2];   // weight: of this lane's keys alone, and without the seed
    float seed[2];             // its score

    // From nothing, or from a seed's key. `q` is the warp's 16 rows of the tile: two lanes a row, a box each.
    __device__ __forceinline__ void start(const unsigned char* q, const real* key, float scale) {
        float score = 0.0f;
        const int row = lane() / 2, box = lane() % 2;
        const real* const mine = reinterpret_cast<const real*>(q + box * BOX + row * 128);
#pragma unroll 2
        for (int i = 0; key && i < 8; i++) {
            const int c = i ^ box * 4;   // the two boxes lie in the same banks
            const Floats<8> a = load_pack<8>(mine + (c ^ row % 8) * 8), b = load_pack<8>(key + box * 64 + c * 8);
#pragma unroll
            for (int j = 0; j < 8; j++) score += a[j] * b[j];
        }
        score += __shfl_xor_sync(0xFFFFFFFFu, score, 1);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float of_row = __shfl_sync(0xFFFFFFFFu, score, 2 * (8 * h + lane() / 4));
            top[h] = seed[h] = key ? scale * of_row : -INFINITY;
            weight[h] = 0.0f;
        }
    }

    // Turns scores into weights. True if the warp's rows have moved to new tops, and sums before are to shrink.
    __device__ __forceinline__ bool weigh(float (&s)[64], float scale, float (&shrink)[2]) {
        float high[2];
        bool far = false;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int j = 0; j < 16; j++) most[j % 2] = fmaxf(most[j % 2], fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
            high[h] = scale * quad_max(fmaxf(most[0], most[1]));
            far |= high[h] > top[h] + SLACK;
        }
        far = __any_sync(0xFFFFFFFFu, far);
        if (far) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float to = fmaxf(top[h], high[h]);
                shrink[h] = exp2_approx(top[h] - to);
                top[h] = to, weight[h] *= shrink[h];
            }
        }
#pragma unroll
        for (int i = 0; i < 64; i++) {
            s[i] = exp2_approx(scale * s[i] - top[i / 2 % 2]);
            weight[i / 2 % 2] += s[i];
        }
        return far;
    }
};

// Scores of keys from `valid` on become -inf.
__device__ __forceinline__ void hide(float (&s)[64], int valid) {
#pragma unroll
    for (int i = 0; i < 64; i++)
        if (i / 4 * 8 + lane() % 4 * 2 + i % 2 >= valid) s[i] = -INFINITY;
}

// A multiplying warpgroup: 64 queries of a tile.
struct Multiplier {
    Slots& slots;
    const Work& work;
    real* y;
    float* lse;
    const real* seed;
    float scale;   // in base 2
    int group;
    Turn<2> q;
    Turn<SLOTS> kv;
    uint32_t round = 0;

    // Waits for the next slot of the ring.
    __device__ __forceinline__ Turn<SLOTS> take() {
        const Turn<SLOTS> taken = kv;
        wait(taken);
        kv.next();
        return taken;
    }
    __device__ __forceinline__ void wait(const Turn<SLOTS>& at) const { mbarrier_wait(&slots.full[at.slot], at.phase); }

    // s = q k^T, begun.
    __device__ __forceinline__ void begin_scores(float (&s)[64], int slot) const {
        const uint64_t left = wgmma_matrix(slots.q[q.slot] + group * (BOX / 2), 1024);
        const uint64_t right = wgmma_matrix(slots.kv[slot], 1024);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            const int at = (k / 4 * BOX + k % 4 * 32) / 16;
            wgmma_64x128x16<false>(s, left + at, right + at, k > 0);
        }
        wgmma_commit();
    }

    __device__ __forceinline__ const real* token(int tile) const {
        return seed ? seed + static_cast<size_t>(work.set(tile)) * 2 * work.part() + work.column(tile) : nullptr;
    }

    // Waits for a tile's queries.
    __device__ __forceinline__ void start(Running& run, int tile) const {
        run.start(slots.q[q.slot] + warp() * 16 * 128, token(tile), scale);
    }

    // Scores of keys from `key` on have come: the keys are read no more, and after the last ones the queries.
    __device__ __forceinline__ void came(float (&s)[64], int slot, int key) const {
        arrive_as_warp(&slots.empty[slot]);
        if (key + KEYS >= work.n) arrive_as_warp(&slots.q_empty[q.slot]);
        if (key + KEYS > work.n) hide(s, work.n - key);
    }

    // y and lse of a tile, with the seed's part.
    __device__ __forceinline__ void finish(const float (&sum)[64], const Running& run, int tile) const {
        const int row = work.first(tile) + warp() * 16, part = work.part();
        const real* const values = seed ? token(tile) + part + lane() % 4 * 2 : nullptr;
        float share[2], of_seed[2], out[1][16][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float more = exp2_approx(run.seed[h] - run.top[h]), weight = quad_sum(run.weight[h]) + more;
            const int mine = row + 8 * h + lane() / 4;
            share[h] = reciprocal(weight), of_seed[h] = more * share[h];
            if (lane() % 4 == 0 && mine < work.n)
                lse[static_cast<size_t>(work.item(tile)) * work.n + mine] = LN2 * (run.top[h] + log2f(weight));
        }
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const Floats<2> v = seed ? load_pack<2>(values + 8 * j) : Floats<2>{};
#pragma unroll
            for (int i = 0; i < 4; i++) out[0][j][i] = share[i / 2] * sum[4 * j + i] + of_seed[i / 2] * v[i % 2];
        }
        real* const to = y + (static_cast<size_t>(work.set(tile)) * work.n + row) * part + work.column(tile);
        store(to, part, work.n - row, out, 1.0f);
    }

    __device__ __forceinline__ void multiply() {
        float s[64], sum[64], shrink[2];
        uint32_t p[8][4];
        Running run;
        int tile = blockIdx.x, key = 0;
        mbarrier_wait(&slots.q_full[q.slot], q.phase);
        const int first = take().slot;
        begin_scores(s, first);
        start(run, tile);
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
            const Turn<SLOTS> values = take();
            mbarrier_wait(&slots.turn[group], (round ^ group ^ 1) & 1);
            begin_scores(s, keys);
            begin_product(sum, p, slots.kv[values.slot], key > 0);
            arrive_as_warp(&slots.turn[group ^ 1]);
            round++;
            const Running before = run;
            if (last) start(run, next);
            wgmma_wait<1>(s);
            came(s, keys, next_key);
            const bool far = run.weigh(s, scale, shrink);
            wait(values);   // they are there: a loop, which the compiler moves no exponentials across, to behind the product
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
        begin_product(sum, p, slots.kv[take().slot], key > 0);
        wgmma_wait<0>(sum, p);
        finish(sum, run, tile);
    }
};

__device__ __forceinline__ Slots& open_slots() {
    Slots& slots = place_slots<Slots>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&slots.q_full[i], 1), mbarrier_init(&slots.q_empty[i], WARPS);
            mbarrier_init(&slots.turn[i], WARPS / 2);
        }
        for (int i = 0; i < SLOTS; i++) mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], WARPS);
        mbarrier_init_done();
    }
    __syncthreads();
    return slots;
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_hopper_forward(real* y, float* lse, const __grid_constant__ TensorMap qkv, const real* seed, int tiles, int n,
                         int heads, float scale) {
    if (!TENSOR_CORES) return;
    Slots& slots = open_slots();
    const Work work{tiles, n, heads};
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS) fetch(slots, &qkv, work);
    } else {
        take_registers<MANY>();
        Multiplier{slots, work, y, lse, seed, scale * LOG2E, warpgroup()}.multiply();
    }
}
