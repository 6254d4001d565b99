// Products whose sums go from the tensor cores to other warps: sums = x w, 128 x 128 at a time, rounded to bf16.
//
//   sums[m, n] = sum_k x[m,k] w[n,k]        or w[k,n] if W_TRANSPOSED; by wgmma, w from shared memory filled by TMA, x mostly
//                                           from registers
//
// Each block takes a contiguous run of tiles, which go along a panel of 128 rows before they go down. (Two blocks of a cluster
// that shared the stream of w were no faster: NOTES.md.) Its warpgroups:
//
//   0, 1   multiply, 64 rows each. A panel of x of up to STEPS * 64 numbers per row is fetched once and stays, the first
//          IN_REGISTERS steps in registers, the others in slots; w streams by. (If rows are longer, x streams too, STEPS steps
//          at a time.) They write finished sums to a hand, a buffer for handing over, and begin the next tile. STEPS is 8 or 12
//   2      uses the sums piece by piece, 64 rows of a tile each (`receive`)
//   3      fetches, by one thread
//
// w, and x on its way to registers, come through one ring of slots: `full` when a box has landed, `empty` when the eight
// multiplying warps are done with it; likewise `there` and `left` for the slots where x stays.
// Each multiplying warpgroup has two hands, with 12 steps one: `held` when it has written one, `taken` when warpgroup 2 has read
// it. There every lane arrives: racecheck credits an arrival to its own lane only, and these are two of some twenty arrivals per
// tile.
//
// Why x is in registers: as an operand in shared memory it would take 32 of the 128 bytes per cycle that it delivers, of which w,
// written once and read twice, needs 96; and it would take the room that lets enough of w be in flight. Two steps of eight are
// not in registers, so that receivers have enough to work on several numbers at once; six of twelve, which with the hands makes
// 123 of the 128 bytes. Why one set of sums is enough: while one multiplying warpgroup hands its sums over, the other's wgmma fill
// the tensor cores; whichever waits for them falls behind, so that the two get out of step and stay so.
#pragma once
#include "hopper.cuh"
#include "ring.cuh"

constexpr int ROWS = 128, DEPTH = 64;                      // rows of a tile; numbers of k per step
constexpr int IN_REGISTERS = 6;                            // steps of x in registers
constexpr int SLOT = 128 * DEPTH * 2;                      // bytes of a step of x, of a step of w, and of half a tile of sums
constexpr int SLOTS = 14;
constexpr int MULTIPLIERS = 256, RECEIVERS = 128;

// Registers per thread that multiplies, receives, fetches: 256, 128 and 128 of these threads share 64 Ki.
constexpr int MANY = 192, SOME = 104, FEW = 24;
static_assert(2 * MANY + SOME + FEW == 512, "all registers, and no more");

// First the slots where x stays, then the hands, then the ring; slots beyond RING belong to the receivers.
template <int STEPS> struct Slots {
    static constexpr int STAYS = STEPS - IN_REGISTERS, HANDS = STEPS > 8 ? 2 : 4, RING_MOST = SLOTS - STAYS - HANDS;
    unsigned char stay[STAYS][SLOT], hand[HANDS][SLOT], ring[RING_MOST][SLOT];
    uint64_t there[STAYS], left[STAYS], held[HANDS], taken[HANDS], full[RING_MOST], empty[RING_MOST];
};
constexpr int SHARED_BYTES = SLOTS * SLOT + 2 * SLOTS * 8;   // two barriers per slot, however both are used
static_assert(sizeof(Slots<8>) == SHARED_BYTES && sizeof(Slots<12>) == SHARED_BYTES, "what the launch asks for");

struct Tile { int number, panel, column; };

// A block's work: tiles `first` to `end`, `across` of them per panel, each of `steps` steps of k. Only start() divides.
struct Run {
    int first, end, across, steps;
    __device__ __forceinline__ Run(int rows, int across, int depth) : across(across), steps(ceil_div(depth, DEPTH)) {
        const long long tiles = static_cast<long long>(ceil_div(rows, ROWS)) * across;
        first = static_cast<int>(tiles * blockIdx.x / gridDim.x);
        end = static_cast<int>(tiles * (blockIdx.x + 1) / gridDim.x);
    }
    __device__ __forceinline__ Tile start() const { return {first, first / across, first % across}; }
    __device__ __forceinline__ void next(Tile& tile) const {
        tile.number++;
        if (++tile.column == across) tile.column = 0, tile.panel++;
    }
    // Whether x must be fetched for a tile, and whether the tile is the last to use it.
    template <int STEPS> __device__ __forceinline__ bool begins(const Tile& tile) const {
        return steps > STEPS || tile.number == first || tile.column == 0;
    }
    template <int STEPS> __device__ __forceinline__ bool ends(const Tile& tile) const {
        return steps > STEPS || tile.number + 1 == end || tile.column + 1 == across;
    }
};

template <int STEPS> __device__ __forceinline__ Slots<STEPS>& open_slots() {
    using All = Slots<STEPS>;
    All& slots = place_slots<All>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < All::STAYS; i++) mbarrier_init(&slots.there[i], 1), mbarrier_init(&slots.left[i], MULTIPLIERS / 32);
        for (int i = 0; i < All::RING_MOST; i++)
            mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], MULTIPLIERS / 32);
        for (int i = 0; i < All::HANDS; i++) mbarrier_init(&slots.held[i], 128), mbarrier_init(&slots.taken[i], RECEIVERS);
        mbarrier_init_done();
    }
    __syncthreads();
    return slots;
}

// Where chunk c of row r is in a box of 64 rows or more and 64 columns of bf16; a slot of sums is two boxes, the first 64
// columns before the others.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * 128 + ((chunk ^ row % 8) << 4); }

// By one thread. A slot of w is two boxes; `box(k, column, half)` is the first element of one.
template <int RING, int STEPS, class Box>
__device__ __forceinline__ void fetch(Slots<STEPS>& slots, const Run& run, const TensorMap* x, const TensorMap* w, Box box) {
    Turn<RING> ring;
    uint32_t stays = 0;   // one bit per slot: the phase of its barriers
    for (Tile tile = run.start(); tile.number < run.end; run.next(tile))
        for (int first = 0; first < run.steps; first += STEPS) {
            const int steps = min(STEPS, run.steps - first), row = tile.panel * ROWS;
            const bool begins = run.begins<STEPS>(tile);
            // Before all of w: x for registers. What stays, just before its step: its slots are free when the old panel is done.
            const int before = begins ? min(steps, IN_REGISTERS) : 0;
#pragma unroll 1
            for (int i = -before; i < steps; i++, ring.next()) {
                const int k = (first + i) * DEPTH;
                if (begins && i >= IN_REGISTERS) {
                    const int s = i - IN_REGISTERS;
                    mbarrier_wait(&slots.left[s], (stays >> s & 1) ^ 1);
                    mbarrier_expect(&slots.there[s], SLOT);
                    tma_load(slots.stay[s], x, k, row, &slots.there[s]);
                    stays ^= 1 << s;
                }
                uint64_t* const full = &slots.full[ring.slot];
                mbarrier_wait(&slots.empty[ring.slot], ring.phase ^ 1);
                mbarrier_expect(full, SLOT);
                unsigned char* const slot = slots.ring[ring.slot];
                if (i < 0) {
                    tma_load(slot, x, k + before * DEPTH, row, full);
                } else {
                    for (int half = 0; half < 2; half++) {
                        const int2 at = box(k, tile.column, half);
                        tma_load(slot + half * (SLOT / 2), w, at.x, at.y, full);
                    }
                }
            }
        }
}

// A multiplying warpgroup. W_TRANSPOSED: a slot of w is 64 rows of k, the first 64 columns before the others; otherwise it is
// 128 rows, one per column.
template <int STEPS, int RING, bool W_TRANSPOSED> struct Multiplier {
    Slots<STEPS>& slots;
    const Run& run;
    const int group;                 // 0 or 1: which 64 rows
    Turn<RING> ring;
    Turn<Slots<STEPS>::HANDS / 2> hand;
    uint32_t stays = 0;              // as in fetch

    __device__ __forceinline__ void read_x(uint32_t (&x)[IN_REGISTERS][DEPTH / 16][4], int steps) {
        const int row = 64 * group + warp() % 4 * 16 + lane() % 16;
#pragma unroll
        for (int i = 0; i < IN_REGISTERS; i++) {
            if (i >= steps) break;
            mbarrier_wait(&slots.full[ring.slot], ring.phase);
#pragma unroll
            for (int k = 0; k < DEPTH / 16; k++) ldmatrix_x4(x[i][k], slots.ring[ring.slot] + swizzled(row, 2 * k + lane() / 16));
            arrive_as_warp(&slots.empty[ring.slot]);
            ring.next();
        }
    }

    // Issues sums += 64 numbers of k; then waits for the previous step and gives its slot back. left(k): the operand of 16 of x.
    template <class Left> __device__ __forceinline__ void step(float (&sums)[64], Left left, bool keep, int& used) {
        mbarrier_wait(&slots.full[ring.slot], ring.phase);
        const unsigned char* const w = slots.ring[ring.slot];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            const uint64_t right = W_TRANSPOSED ? wgmma_matrix(w + 16 * 128 * k, 1024, SLOT / 2) : wgmma_matrix(w + 32 * k, 1024);
            wgmma_64x128x16<W_TRANSPOSED>(sums, left(k), right, keep || k > 0);
        }
        wgmma_commit();
        if (used >= 0) {
            wgmma_wait<1>();
            arrive_as_warp(&slots.empty[used]);
        }
        used = ring.slot;
        ring.next();
    }

    // Conflict-free: lanes of a quad write neighbouring words; rows are a full turn of the banks apart, and write different chunks.
    __device__ __forceinline__ void hand_over(const float (&sums)[64]) {
        const int at = 2 * hand.slot + group, row = warp() % 4 * 16 + lane() / 4;
        unsigned char* const to = slots.hand[at] + lane() % 4 * 4;
        mbarrier_wait(&slots.taken[at], hand.phase ^ 1);
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<uint32_t*>(to + j / 8 * (SLOT / 2) + half * 8 * 128 + swizzled(row, j % 8)) =
                    pack_bf16(sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]);
        mbarrier_arrive(&slots.held[at]);
        hand.next();
    }

    __device__ __forceinline__ void multiply() {
        uint32_t x[IN_REGISTERS][DEPTH / 16][4];
        float sums[64];
        for (Tile tile = run.start(); tile.number < run.end; run.next(tile)) {
            const bool begins = run.begins<STEPS>(tile), ends = run.ends<STEPS>(tile);
            for (int first = 0; first < run.steps; first += STEPS) {
                const int steps = min(STEPS, run.steps - first);
                if (begins) read_x(x, steps);
                int used = -1;
#pragma unroll
                for (int i = 0; i < IN_REGISTERS; i++)
                    if (i == 0 || i < steps)
                        step(sums, [&](int k) -> const uint32_t (&)[4] { return x[i][k]; }, i > 0 || first > 0, used);
#pragma unroll
                for (int s = 0; s < Slots<STEPS>::STAYS; s++) {
                    if (IN_REGISTERS + s >= steps) break;
                    if (begins) mbarrier_wait(&slots.there[s], stays >> s & 1), stays ^= 1 << s;
                    const unsigned char* const rows = slots.stay[s] + group * (SLOT / 2);
                    step(sums, [=](int k) { return wgmma_matrix(rows + 32 * k, 1024); }, true, used);
                }
                wgmma_wait<0>(sums);
                arrive_as_warp(&slots.empty[used]);
                for (int s = 0; ends && s < steps - IN_REGISTERS; s++) arrive_as_warp(&slots.left[s]);
            }
            hand_over(sums);
        }
    }
};

// The receiving warpgroup: use(piece, tile, group) for the 64 rows of each multiplying warpgroup, of each tile.
template <int STEPS, class Use> __device__ __forceinline__ void receive(Slots<STEPS>& slots, const Run& run, Use use) {
    Turn<Slots<STEPS>::HANDS / 2> hand;
    for (Tile tile = run.start(); tile.number < run.end; run.next(tile), hand.next())
        for (int group = 0; group < 2; group++) {
            const int at = 2 * hand.slot + group;
            mbarrier_wait(&slots.held[at], hand.phase);
            use(slots.hand[at], tile, group);
            mbarrier_arrive(&slots.taken[at]);
        }
}
