// Planted: a cp.async whose wait, commit or barrier is missing; each next to the right kernel.
//
//   forward    y[i] = x[(i + 4) % 1024] through shared memory; every thread reads what its neighbour copied
//   tensors    x, y [1024] f32
//   needs      one block of 256 threads, 4096 bytes of dynamic shared memory
//
// Seen: copies is right under every seed. Without the wait, or the commit, each y is NaN. Without the barrier some are
// NaN. With one group in flight, waiting for all but one is like not waiting. copies_or_zero: odd threads copy zeros.
#include "ptx.cuh"

enum Plant { NOTHING, NO_WAIT, NO_COMMIT, NO_BARRIER, ALL_BUT_ONE };

template <Plant PLANT> static __device__ void copy(float* y, const float* x) {
    SHARED(float, kept);
    const int i = threadIdx.x * 4;
    cp_async16(kept + i, x + i);
    if (PLANT != NO_COMMIT) cp_async_commit();
    if (PLANT == ALL_BUT_ONE) cp_async_wait<1>();
    else if (PLANT != NO_WAIT) cp_async_wait<0>();
    if (PLANT != NO_BARRIER) __syncthreads();
    store_pack(y + i, load_pack<4>(kept + (i + 4) % 1024));
}

extern "C" __global__ void __launch_bounds__(256) copies(float* y, const float* x) {
    copy<NOTHING>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_without_wait(float* y, const float* x) {
    copy<NO_WAIT>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_without_commit(float* y, const float* x) {
    copy<NO_COMMIT>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_without_barrier(float* y, const float* x) {
    copy<NO_BARRIER>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) copies_but_one(float* y, const float* x) {
    copy<ALL_BUT_ONE>(y, x);
}

extern "C" __global__ void __launch_bounds__(256) copies_or_zero(float* y, const float* x) {
    SHARED(float, kept);
    const int i = threadIdx.x * 4;
    cp_async16_or_zero(kept + i, x + i, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<0>();
    store_pack(y + i, load_pack<4>(kept + i));   // its own copy: no barrier is needed
}
