// Right: c = a b by TMA and wgmma, with two slots of a and b in turn. Planted: what Hopper's functions forbid.
//
//   forward    c[m,n] = sum_k a[m,k] b[n,k]        product_transposed: b[k,n]; product_registers: likewise, a through registers;
//              product_columns: likewise, a[k,m], and 64 of n at a time
//   tensors    a [64, K] or [K, 64], b [128, K] or [K, 128] bf16 as maps, in boxes of 64 columns     c [64, 128] f32
//   needs      160 threads, SHARED bytes of dynamic shared memory; K = 64 steps
//
//   fault                       Seen
//   NONE                        relative error below 1e-6, the same bits under every seed
//   NO_WAIT                     wrong, or refused: the data is read before it has landed, and its slot given back
//   FEWER_BYTES                 "more than its barrier expects"
//   MORE_BYTES                  "diverged", at mbarrier_wait: bytes that never come
//   NO_SWIZZLE, WRONG_STEP      wrong numbers, or "outside": descriptors that do not match the layout of the data
//   GIVEN_BACK_EARLY            "changed while a wgmma read it" under some seed: the step is still in flight
//   NOT_ASKED                   wrong, or refused, under some seed: a slot is filled without waiting for `empty`
//   SUMS_TOO_EARLY              NaN: registers are read before wgmma_wait
//   NO_FENCE                    "without a wgmma_fence"
//   ON_ITS_WAY                  "ended with a tma_load on its way" under some seed
//   NOT_MADE                    "not made"
//   TWO_ARRIVALS                refused: phases that end too early, and then one that never does
//   MISALIGNED                  "no multiple of 1024"
//   REGISTERS_CHANGED           "registers changed": an operand is written before wgmma_wait, in product_registers
#include "hopper.cuh"

enum Fault {
    NONE, NO_WAIT, FEWER_BYTES, MORE_BYTES, NO_SWIZZLE, WRONG_STEP, GIVEN_BACK_EARLY, NOT_ASKED, SUMS_TOO_EARLY, NO_FENCE,
    ON_ITS_WAY, NOT_MADE, TWO_ARRIVALS, MISALIGNED, REGISTERS_CHANGED
};

struct Slots {
    unsigned char a[2][8192], b[2][16384], spare[16384];
    uint64_t full[2], empty[2], more;
};

enum Way { ROWS, TRANSPOSED, REGISTERS, COLUMNS };

template <Way WAY>
static __device__ void fetch(Slots& slots, const TensorMap* a, const TensorMap* b, int steps, int fault) {
    for (int step = 0; step < steps; step++) {
        const int slot = step % 2;
        if (fault != NOT_ASKED) mbarrier_wait(&slots.empty[slot], step / 2 % 2 ^ 1);
        const uint32_t bytes = fault == FEWER_BYTES ? 16384 : fault == MORE_BYTES ? 24592 : 24576;
        mbarrier_expect(&slots.full[slot], bytes);
        tma_load(slots.a[slot] + (fault == MISALIGNED ? 512 : 0), a, WAY == COLUMNS ? 0 : 64 * step,
                 WAY == COLUMNS ? 64 * step : 0, &slots.full[slot]);
        for (int half = 0; half < 2; half++)
            tma_load(slots.b[slot] + 8192 * half, b, WAY == ROWS ? 64 * step : 64 * half, WAY == ROWS ? 64 * half : 64 * step,
                     &slots.full[slot]);
    }
    if (fault != ON_ITS_WAY) return;
    mbarrier_expect(&slots.more, 8192);
    tma_load(slots.spare, a, 0, 0, &slots.more);
}

// 16 columns of a slot of a as an operand in registers.
static __device__ void read_left(uint32_t (&left)[4], const unsigned char* a, int k) {
    for (int i = 0; i < 4; i++) {
        const int row = 16 * warp() + lane() / 4 + i % 2 * 8, column = 16 * k + lane() % 4 * 2 + i / 2 * 8;
        left[i] = *reinterpret_cast<const uint32_t*>(a + row * 128 + (column * 2 ^ row % 8 * 16));
    }
}

template <Way WAY>
static __device__ void product(float* c, const TensorMap* a, const TensorMap* b, int steps, int fault) {
    SHARED(unsigned char, memory);
    Slots& slots = *reinterpret_cast<Slots*>(memory + (0u - shared_address(memory)) % 1024);
    if (threadIdx.x == 0 && fault != NOT_MADE) {
        for (int i = 0; i < 2; i++) mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], 4);
        mbarrier_init(&slots.more, 1);
        mbarrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128) fetch<WAY>(slots, a, b, steps, fault);
        return;
    }
    float sums[64];
    uint32_t held[4][4];
    const uint32_t eights = fault == WRONG_STEP ? 2048 : 1024;
    const uint64_t swizzle = fault == NO_SWIZZLE ? 1ull << 62 : 0;
    for (int step = 0; step < steps; step++) {
        const int slot = step % 2;
        if (fault != NO_WAIT) mbarrier_wait(&slots.full[slot], step / 2 % 2);
        for (int k = 0; k < 4 && WAY == REGISTERS; k++) read_left(held[k], slots.a[slot], k);
        if (fault != NO_FENCE) wgmma_fence();
        for (int k = 0; k < 4; k++) {
            const uint64_t left = wgmma_matrix(slots.a[slot] + 32 * k, eights) ^ swizzle;
            const uint64_t right = WAY == ROWS ? wgmma_matrix(slots.b[slot] + 32 * k, 1024)
                                               : wgmma_matrix(slots.b[slot] + 2048 * k, 1024, 8192);
            const bool keep = step + k > 0;
            if (WAY == REGISTERS) wgmma_64x128x16<true>(sums, held[k], right, keep);
            else if (WAY != COLUMNS) wgmma_64x128x16<WAY == TRANSPOSED>(sums, left, right, keep);
            for (int half = 0; half < 2 && WAY == COLUMNS; half++)
                wgmma_64x64x16<true, true>(*reinterpret_cast<float(*)[32]>(sums + 32 * half),
                                           wgmma_matrix(slots.a[slot] + 2048 * k, 1024),
                                           wgmma_matrix(slots.b[slot] + 8192 * half + 2048 * k, 1024), keep);
        }
        wgmma_commit();
        if (fault == REGISTERS_CHANGED) held[3][3]++;
        const bool last = step + 1 == steps;
        if (fault == GIVEN_BACK_EARLY && !last) wgmma_wait<1>();
        else if (fault != SUMS_TOO_EARLY || !last) wgmma_wait<0>(sums, held);
        __syncwarp();
        if (lane() == 0) mbarrier_arrive(&slots.empty[slot]);
        if (lane() == 0 && fault == TWO_ARRIVALS) mbarrier_arrive(&slots.empty[slot]);
    }
    for (int i = 0; i < 64; i++)
        c[(16 * warp() + lane() / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane() % 4 * 2 + i % 2] = sums[i];
    if (fault == SUMS_TOO_EARLY) wgmma_wait<0>(sums);
}

extern "C" __global__ void __launch_bounds__(160)
product_rows(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps, int fault) {
    product<ROWS>(c, &a, &b, steps, fault);
}

extern "C" __global__ void __launch_bounds__(160)
product_transposed(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps, int fault) {
    product<TRANSPOSED>(c, &a, &b, steps, fault);
}

extern "C" __global__ void __launch_bounds__(160)
product_registers(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps, int fault) {
    product<REGISTERS>(c, &a, &b, steps, fault);
}

extern "C" __global__ void __launch_bounds__(160)
product_columns(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps, int fault) {
    product<COLUMNS>(c, &a, &b, steps, fault);
}
