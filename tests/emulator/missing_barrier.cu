// Planted: a missing __syncthreads, in two ways; each next to the right kernel.
//
//   reverse    y[i] = x[n - 1 - i] through shared memory
//   rounds     y[i] = sum over r of x[r, the next thread], round by round through one array
//   tensors    reverse: x, y [256] f32     rounds: x [R, 256], y [256] f32
//   needs      one block of 256 threads
//
// Seen: reverse and rounds are right under every seed. reverse_broken reads what is not yet written: NaN. rounds_broken
// overwrites what others have still to read: a wrong sum. Each under at least one of 8 seeds.
#include "common.cuh"

template <bool BROKEN> static __device__ void reverse_by_block(float* y, const float* x) {
    __shared__ float kept[256];
    kept[threadIdx.x] = x[threadIdx.x];
    if (!BROKEN) __syncthreads();
    y[threadIdx.x] = kept[255 - threadIdx.x];
}

template <bool BROKEN> static __device__ void sum_of_rounds(float* y, const float* x, int rounds) {
    __shared__ float kept[256];
    float sum = 0.0f;
    for (int r = 0; r < rounds; r++) {
        kept[threadIdx.x] = x[r * 256 + threadIdx.x];
        __syncthreads();
        sum += kept[(threadIdx.x + 1) % 256];
        if (!BROKEN) __syncthreads();
    }
    y[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) reverse(float* y, const float* x) {
    reverse_by_block<false>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) reverse_broken(float* y, const float* x) {
    reverse_by_block<true>(y, x);
}
extern "C" __global__ void __launch_bounds__(256) rounds(float* y, const float* x, int rounds) {
    sum_of_rounds<false>(y, x, rounds);
}
extern "C" __global__ void __launch_bounds__(256) rounds_broken(float* y, const float* x, int rounds) {
    sum_of_rounds<true>(y, x, rounds);
}
