// Right: c = a b by clusters of two blocks, each with its own 64 rows of a, sharing b: each fetches half of a slot for both.
// Planted: what clusters forbid.
//
//   forward    c[m,n] = sum_k a[m,k] b[n,k]
//   tensors    a [64 blocks, K], b [128, K] bf16 as maps, in boxes of 64 columns     c [64 blocks, 128] f32
//   needs      256 threads, SHARED bytes of dynamic shared memory; K = 64 steps
//
//   fault                       Seen
//   NONE                        relative error below 1e-6, the same bits under every seed
//   NO_FIRST_MEETING            "not made" under some seed: the other block's barriers are used before they are initialised
//   NO_LAST_MEETING             "which has ended" under some seed: a slot is given back to a block that has exited
//   COPY_OUTLIVES               "on its way to it" under some seed: the other block's copy lands after this one has exited
//   ASKS_ITSELF                 wrong, or refused, under some seed: a slot is filled that the other block still reads
//   WRONG_BLOCK                 "more arrivals", or "diverged" where the other waits: both arrivals go to block 0
//   HALF_EXPECTED               "more than its barrier expects": only the bytes that the block itself fetches are expected
//   TOO_MUCH_EXPECTED           "diverged": the other block's half is expected twice
//   NO_SUCH_BLOCK               "to block 2 of a cluster of 2"
//   MISSED_MEETING              "diverged": one thread does not come to a cluster_barrier
//   SHARED_ARRAY                "a __shared__ array", unless the sanitizer has made it a plain static
//   (a grid that is no multiple) "no multiple of the 2"
#include "hopper.cuh"

enum Fault {
    NONE, NO_FIRST_MEETING, NO_LAST_MEETING, COPY_OUTLIVES, ASKS_ITSELF, WRONG_BLOCK, HALF_EXPECTED, TOO_MUCH_EXPECTED,
    NO_SUCH_BLOCK, MISSED_MEETING, SHARED_ARRAY
};

struct Slots {
    unsigned char a[2][8192], b[2][16384], spare[8192];
    uint64_t full[2], empty[2], more;
};

static __device__ void fetch(Slots& slots, const TensorMap* a, const TensorMap* b, int steps, int fault) {
    const int rank = cluster_rank();
    for (int step = 0; step < steps; step++) {
        const int slot = step % 2;
        mbarrier_wait(&slots.empty[slot], step / 2 % 2 ^ 1);
        const uint32_t others = fault == HALF_EXPECTED ? 0 : fault == TOO_MUCH_EXPECTED ? 16384 : 8192;
        mbarrier_expect(&slots.full[slot], 16384 + others);
        tma_load(slots.a[slot], a, 64 * step, 64 * blockIdx.x, &slots.full[slot]);
        tma_load(slots.b[slot] + 8192 * rank, b, 64 * step, 64 * rank, &slots.full[slot], 3);
    }
    if (fault != COPY_OUTLIVES) return;
    for (int i = 0; i < 2; i++) mbarrier_wait(&slots.empty[i], ((steps + 1 - i) / 2 - 1) % 2);   // nobody else has anything to do
    mbarrier_expect(&slots.more, 8192);
    if (rank == 0) tma_load(slots.spare, b, 0, 0, &slots.more, 3), mbarrier_wait(&slots.more, 0);
}

static __device__ void give_back(uint64_t* empty, int fault) {
    __syncwarp();
    if (fault == ASKS_ITSELF) {
        if (lane() == 0) mbarrier_arrive(empty);
    } else if (lane() < 2) {
        mbarrier_arrive_at(empty, fault == WRONG_BLOCK ? 0 : fault == NO_SUCH_BLOCK ? 2 : lane());
    }
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256)
shared_stream(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps, int fault) {
    SHARED(unsigned char, memory);
    Slots& slots = *reinterpret_cast<Slots*>(memory + (0u - shared_address(memory)) % 1024);
    if (threadIdx.x == 0) {
        const int warps = fault == ASKS_ITSELF ? 4 : 8;
        for (int i = 0; i < 2; i++) mbarrier_init(&slots.full[i], 1), mbarrier_init(&slots.empty[i], warps);
        mbarrier_init(&slots.more, 1);
        mbarrier_init_done();
    }
    if (cluster_rank() == 1) __syncthreads();   // each block has its own barrier
    if (fault == SHARED_ARRAY) {
        __shared__ int array[32];
        array[lane()] = steps;
        if (array[lane() ^ 1] < 0) c[0] = 0.0f;
    }
    if (fault == NO_FIRST_MEETING) __syncthreads();
    else if (fault != MISSED_MEETING || threadIdx.x > 0 || cluster_rank() > 0) cluster_barrier();

    float sums[64];
    if (threadIdx.x == 128) fetch(slots, &a, &b, steps, fault);
    for (int step = 0; threadIdx.x < 128 && step < steps; step++) {
        const int slot = step % 2;
        mbarrier_wait(&slots.full[slot], step / 2 % 2);
        wgmma_fence();
        for (int k = 0; k < 4; k++)
            wgmma_64x128x16<false>(sums, wgmma_matrix(slots.a[slot] + 32 * k, 1024), wgmma_matrix(slots.b[slot] + 32 * k, 1024),
                                   step + k > 0);
        wgmma_commit();
        wgmma_wait<0>(sums);
        give_back(&slots.empty[slot], fault);
    }
    for (int i = 0; threadIdx.x < 128 && i < 64; i++) {
        const int row = 64 * blockIdx.x + 16 * warp() + lane() / 4 + i / 2 % 2 * 8;
        c[row * 128 + i / 4 * 8 + lane() % 4 * 2 + i % 2] = sums[i];
    }
    if (fault != NO_LAST_MEETING) cluster_barrier();
}
