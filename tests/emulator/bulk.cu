// Right: y = x through shared memory, fetched by one thread in two pieces. Planted: what bulk_load forbids.
//
//   fault         Seen
//   NONE          y = x under every seed
//   NO_WAIT       NaN under some seed: read before it has landed
//   MORE_BYTES    "diverged", at mbarrier_wait
//   MISALIGNED    "no multiple of 16": a piece that begins at an odd place
//   OUTSIDE       "outside of": beyond the block's shared memory
//
// And back: y = x + 2 x, stored and added to by one thread. Planted:
//
//   fault         Seen
//   NONE          y = 3 x under every seed
//   NO_READ       another y under some seed: what is stored is overwritten before it is read
//   NO_ORDER      "on its way": an addition to what is being stored, without waiting for it
//   NO_END        "on its way": nobody waits for the sum
//   MISALIGNED    "no multiple of 16"
#include "hopper.cuh"

enum Fault { NONE, NO_WAIT, MORE_BYTES, MISALIGNED, OUTSIDE, NO_READ, NO_ORDER, NO_END };

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

extern "C" __global__ void __launch_bounds__(128)
bulk_back(float* y, const float* x, int fault) {
    SHARED(unsigned char, memory);
    float* const here = reinterpret_cast<float*>(memory);
    const auto put = [=](float by) {
        here[threadIdx.x] = by * x[threadIdx.x];
        proxy_fence();
        __syncthreads();
    };
    put(1.0f);
    if (threadIdx.x == 0) {
        bulk_store(fault == MISALIGNED ? y + 1 : y, here, 256);
        bulk_store(y + 64, here + 64, 256);
        if (fault == NO_ORDER) bulk_read<0>();
        else if (fault != NO_READ) bulk_done<0>();
    }
    __syncthreads();
    put(2.0f);
    if (threadIdx.x > 0) return;
    if (fault == NO_READ) bulk_done<0>();
    bulk_add(y, here, 512);
    if (fault != NO_END) bulk_done<0>();
}
