// Products whose results do not leave the registers: sums = x w, 128 x 128 at a time, for kernels that make something of them.
//
//   sums[m, n] = sum_k x[m,k] w[n,k]        or w[k,n] where it is TRANSPOSED; by wgmma, from shared memory that the copy
//                                           engine fills
//
// Block b of the grid takes a contiguous run of tiles, which go along a panel of 128 rows before they go down: a panel of up
// to X_SLOTS * 64 numbers a row is fetched once and stays, w streams by. (Of longer rows x streams too.)
//
// One warpgroup fetches, by one thread; two multiply, 64 rows each. The two rings of slots between them are barriers: `full`
// when a box has landed, `empty` when the eight multiplying warps are done with it. While the sums of one tile grow, those of
// the tile before are made use of in slices, one a step, so that the tensor cores never wait for stores and exponentials.
#pragma once
#include "hopper.cuh"
#include "ring.cuh"

constexpr int ROWS = 128, COLUMNS = 128, DEPTH = 64;       // of a tile; columns of `sums`, numbers of k a step
constexpr int SLOT = 128 * DEPTH * 2;                      // bytes, of x and of w
constexpr int X_SLOTS = 8, W_SLOTS = 6;
constexpr int SLICES = 8;
constexpr int MULTIPLIERS = 256;

struct Slots {
    unsigned char x[X_SLOTS][SLOT], w[W_SLOTS][SLOT];
    uint64_t x_full[X_SLOTS], x_empty[X_SLOTS], w_full[W_SLOTS], w_empty[W_SLOTS];
};
// Slots begin at a multiple of 1024, which dynamic shared memory need not.
constexpr int SHARED_BYTES = sizeof(Slots) + 1024 - 16;

// What a block has to do: tiles `first` to `end`, `across` of them in a panel, `steps` of k each.
struct Run {
    int first, end, across, steps;
    __device__ __forceinline__ Run(int rows, int across, int depth) : across(across), steps(ceil_div(depth, DEPTH)) {
        const long long tiles = static_cast<long long>(ceil_div(rows, ROWS)) * across;
        first = static_cast<int>(tiles * blockIdx.x / gridDim.x);
        end = static_cast<int>(tiles * (blockIdx.x + 1) / gridDim.x);
    }
    __device__ __forceinline__ int panel(int tile) const { return tile / across; }
    __device__ __forceinline__ int column(int tile) const { return tile % across; }
    __device__ __forceinline__ bool stays() const { return steps <= X_SLOTS; }
    // Whether x must be fetched for a tile, and whether it is used no more after it.
    __device__ __forceinline__ bool begins(int tile) const { return !stays() || tile == first || column(tile) == 0; }
    __device__ __forceinline__ bool ends(int tile) const { return !stays() || tile + 1 == end || column(tile + 1) == 0; }
};

__device__ __forceinline__ Slots& open_slots() {
    SHARED(unsigned char, memory);
    Slots& slots = *reinterpret_cast<Slots*>(memory + (0u - shared_address(memory)) % 1024);
    if (threadIdx.x == 0) {
        for (int i = 0; i < X_SLOTS; i++) mbarrier_init(&slots.x_full[i], 1), mbarrier_init(&slots.x_empty[i], MULTIPLIERS / 32);
        for (int i = 0; i < W_SLOTS; i++) mbarrier_init(&slots.w_full[i], 1), mbarrier_init(&slots.w_empty[i], MULTIPLIERS / 32);
        mbarrier_init_done();
    }
    __syncthreads();
    return slots;
}

// One thread. `load_w(slot, k, column, full)` starts the copies that fill a slot of w: SLOT bytes.
template <class Load>
__device__ __forceinline__ void fetch(Slots& slots, const Run& run, const TensorMap* x_map, Load load_w) {
    Turn<X_SLOTS> x;
    Turn<W_SLOTS> w;
    for (int tile = run.first; tile < run.end; tile++)
        for (int step = 0; step < run.steps; step++) {
            if (run.begins(tile)) {
                mbarrier_wait(&slots.x_empty[x.slot], x.phase ^ 1);
                mbarrier_expect(&slots.x_full[x.slot], SLOT);
                tma_load(slots.x[x.slot], x_map, step * DEPTH, run.panel(tile) * ROWS, &slots.x_full[x.slot]);
                x.next();
            }
            mbarrier_wait(&slots.w_empty[w.slot], w.phase ^ 1);
            mbarrier_expect(&slots.w_full[w.slot], SLOT);
            load_w(slots.w[w.slot], step * DEPTH, run.column(tile), &slots.w_full[w.slot]);
            w.next();
        }
}

// A multiplying warpgroup. W_TRANSPOSED: a slot of w is 64 rows of k, the first 64 columns before the others; else it is 128
// rows of columns.
template <bool W_TRANSPOSED> struct Multiplier {
    Slots& slots;
    const Run& run;
    const int group;                 // 0 or 1: which 64 rows
    Turn<X_SLOTS> panel, x;          // where x's panel begins, where it is read next
    Turn<W_SLOTS> w;
    int used_w = -1, used_x = -1;    // slots to give back when the step that reads them is done; -1 for none

    __device__ __forceinline__ void give_back() {
        __syncwarp();
        if (lane() == 0 && used_w >= 0) mbarrier_arrive(&slots.w_empty[used_w]);
        if (lane() == 0 && used_x >= 0) mbarrier_arrive(&slots.x_empty[used_x]);
        used_w = used_x = -1;
    }

    // sums += 64 numbers of k, begun; what was begun before is done.
    __device__ __forceinline__ void step(float (&sums)[64], bool keep, bool x_ends) {
        mbarrier_wait(&slots.x_full[x.slot], x.phase);
        mbarrier_wait(&slots.w_full[w.slot], w.phase);
        const unsigned char *const a = slots.x[x.slot] + group * (SLOT / 2), *const b = slots.w[w.slot];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            const uint64_t left = wgmma_matrix(a + 32 * k, 1024);
            const uint64_t right = W_TRANSPOSED ? wgmma_matrix(b + 16 * 128 * k, 1024, SLOT / 2) : wgmma_matrix(b + 32 * k, 1024);
            wgmma_64x128x16<W_TRANSPOSED>(sums, left, right, keep || k > 0);
        }
        wgmma_commit();
        wgmma_wait<1>();
        give_back();
        used_w = w.slot, used_x = x_ends ? x.slot : -1;
        x.next(), w.next();
    }

    // The sums of `tile` grow; those of the tile before, where there is one, are handed out meanwhile.
    template <bool FIRST, class Use>
    __device__ __forceinline__ void pass(float (&sums)[64], float (&before)[64], int tile, Use& use) {
        const bool ends = run.ends(tile);
        if (run.begins(tile)) panel = x;
        x = panel;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (slice == 0 || slice < run.steps) step(sums, slice > 0, ends);
            if (slice == 0 && !FIRST) wgmma_wait<1>(before);
            if (!FIRST) use.slice(slice, before, tile - 1);
            use.after(slice, tile);
        }
        for (int i = SLICES; i < run.steps; i++) step(sums, true, ends);
    }

    template <class Use> __device__ __forceinline__ void drain(float (&sums)[64], Use& use) {
        wgmma_wait<0>(sums);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            use.slice(slice, sums, run.end - 1);
            use.after(slice, run.end);
        }
    }

    // All tiles. use.slice(i, sums, tile): slice i of SLICES, with a constant i. use.after(i, tile): behind it, `tile` the next.
    template <class Use> __device__ __forceinline__ void multiply(Use& use) {
        if (run.first == run.end) return;
        float one[64], two[64];
        int tile = run.first;
        pass<true>(one, two, tile, use);
        while (true) {
            if (++tile == run.end) return drain(one, use);
            pass<false>(two, one, tile, use);
            if (++tile == run.end) return drain(two, use);
            pass<false>(one, two, tile, use);
        }
    }
};
