// MMD's products on Hopper's tensor cores: sums of 128 rows by 256 columns, to which a step adds 64 numbers of depth.
//
// A block has three warpgroups. Two multiply, 128 columns each, and hold all sums of a tile in registers. One thread of the third
// fetches. A step's boxes are in one slot of a ring: one of rows (LEFT), two of columns, one of which may serve as the left
// operand. The two blocks of a cluster have tiles of the same columns: each fetches its own rows and, for both, half the columns.
//
// Why: at the tensor cores' full rate 128 x 128 sums need 64 bytes per cycle from the level-2 cache; 128 x 256, all that two
// warpgroups can hold, 48; and two such tiles that share their columns 32. While a tile's sums are being used, the ring fills.
#pragma once
#include "hopper.cuh"
#include "ring.cuh"
#include "mmd.cuh"

constexpr int STEP = 64;                          // numbers of depth
constexpr int BOX = SIDE * STEP * 2;              // bytes of 128 rows, or of 128 columns, per step
constexpr int SLOTS = 4, BLOCKS = 2;              // slots of a ring, blocks of a cluster
constexpr int GROUP = 128, MULTIPLIERS = 2 * GROUP, WARPS = MULTIPLIERS / 32;
constexpr int FEW = 40, MANY = 232;               // registers per thread that fetches, that multiplies
static_assert(2 * MANY + FEW <= 3 * 168, "what 384 threads are launched with");

enum Box { LEFT, FIRST, SECOND };                 // boxes of a slot; the columns of warpgroup g are in FIRST + g

struct Slots {
    unsigned char box[SLOTS][3][BOX];
    float columns[2][2][4][SIDE];                 // [warpgroup][turn][warp]: sums down the columns
    uint64_t full[SLOTS], empty[SLOTS], summed[2];
};

__device__ __forceinline__ Slots& open_slots() {
    Slots& slots = place_slots<Slots>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; i++) mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], BLOCKS * WARPS);
        for (int i = 0; i < 2; i++) mbarrier_init(&slots.summed[i], GROUP);
        mbarrier_init_done();
    }
    cluster_barrier();
    return slots;
}

// The filling side of the ring.
struct Filler {
    Slots& slots;
    Turn<SLOTS> ring;

    // The slot for the next step's boxes, once it is free in both blocks; the bytes that come to this one are then expected.
    __device__ __forceinline__ int open(int boxes) {
        const int slot = ring.slot;
        mbarrier_wait(&slots.empty[slot], ring.phase ^ 1);
        mbarrier_expect(&slots.full[slot], boxes * BOX);
        ring.next();
        return slot;
    }
    // Loads a box for this block alone: rows from (x, y) of a map.
    __device__ __forceinline__ void load(int slot, int box, const TensorMap* map, int x, int y) const {
        tma_load(slots.box[slot][box], map, x, y, &slots.full[slot]);
    }
    // Loads part of a box for both blocks, from offset `byte` on.
    __device__ __forceinline__ void share(int slot, int box, int byte, const TensorMap* map, int x, int y) const {
        tma_load(slots.box[slot][box] + byte, map, x, y, &slots.full[slot], (1 << BLOCKS) - 1);
    }
};

// A multiplying warpgroup.
struct Multiplier {
    Slots& slots;
    int group;   // 0 or 1
    Turn<SLOTS> ring;

    // In both blocks, since either fills it.
    __device__ __forceinline__ void give_back(int slot) const { arrive_as_warp_at_all<BLOCKS>(&slots.empty[slot]); }

    // Passes over the steps of a tile in which this warpgroup has nothing to do.
    __device__ __forceinline__ void skip(int steps) {
        for (int step = 0; step < steps; step++, ring.next()) {
            mbarrier_wait(&slots.full[ring.slot], ring.phase);
            give_back(ring.slot);
        }
    }

    // Issues a step: sums[m] = a b, or += if `keep`, 64 rows each.
    template <bool TRANSPOSED> __device__ __forceinline__ void begin(float (&sums)[2][64], int left, bool keep) const {
        mbarrier_wait(&slots.full[ring.slot], ring.phase);
        const uint64_t a = wgmma_matrix(slots.box[ring.slot][left], 1024);
        const uint64_t b = wgmma_matrix(slots.box[ring.slot][FIRST + group], 1024, TRANSPOSED ? BOX / 2 : 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
#pragma unroll
            for (int m = 0; m < 2; m++)
                wgmma_64x128x16<TRANSPOSED>(sums[m], a + (m * (BOX / 2) + 32 * k) / 16,
                                            b + (TRANSPOSED ? 16 * 128 : 32) * k / 16, keep || k > 0);
        wgmma_commit();
    }

    // sums = a b over the steps of a tile. TRANSPOSED: a box of columns is 64 rows of depth, its first 64 columns before the
    // others; otherwise it is 128 rows, one per column. meanwhile(): loads to make while the last step runs. The first step is
    // not in the loop: so the compiler sees that no sums survive from the previous tile, and has their registers in between.
    template <bool TRANSPOSED, class Meanwhile>
    __device__ __forceinline__ void multiply(float (&sums)[2][64], int steps, int left, Meanwhile meanwhile) {
        begin<TRANSPOSED>(sums, left, false);
        int used = ring.slot;
        ring.next();
        for (int step = 1; step < steps; step++) {
            begin<TRANSPOSED>(sums, left, true);
            wgmma_wait<1>();
            give_back(used);
            used = ring.slot;
            ring.next();
        }
        meanwhile();
        wgmma_wait<0>();
        give_back(used);
        wgmma_wait<0>(sums[0]), wgmma_wait<0>(sums[1]);   // naming both keeps the compiler from reading them earlier
    }
};
