// Right: y = x by way of shared memory, fetched by one thread in two pieces. Planted: what bulk_load forbids.
//
//   fault         Seen
//   NONE          y = x under every seed
//   NO_WAIT       NaN under some seed: read before it is there
//   MORE_BYTES    "diverged", at mbarrier_wait
//   MISALIGNED    "no multiple of 16": a piece that begins at an odd place
//   OUTSIDE       "outside of": more than the block's shared memory holds
#include "hopper.cuh"

enum Fault { NONE, NO_WAIT, MORE_BYTES, MISALIGNED, OUTSIDE };

extern "C" __global__ void __launch_bounds__(128)
bulk(float* y, const float* x, int fault) {
    SHARED(unsigned char, memory);
    float* const there = reinterpret_cast<float*>(memory);
    uint64_t* const full = reinterpret_cast<uint64_t*>(memory + 512);
    if (threadIdx.x == 0) mbarrier_init(full, 1), mbarrier_init_done();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(full, fault == MORE_BYTES ? 528 : 512);
        bulk_load(there, x, 256, full);
        bulk_load(fault == OUTSIDE ? there + 512 : there + 64, x + (fault == MISALIGNED ? 63 : 64), 256, full);
    }
    if (fault != NO_WAIT) mbarrier_wait(full, 0);
    y[threadIdx.x] = there[threadIdx.x];
    if (fault == NO_WAIT) mbarrier_wait(full, 0);
}
