// Right: shuffles, votes and sums, in blocks of 1 to 32 warps.
//
//   shuffles   y[0, i] from lane 5      y[1, i] from lane ^ 3   y[2, i] from lane - 2   y[3, i] from lane + 2
//              y[4 .. 7, i] in segments of 8 lanes: from the segment's lane 3, lane ^ 1, lane - 2, lane + 2. Each lane
//              offers i; a lane whose source is beyond its segment keeps its own
//   votes      y[0] = ballot of lane % 3 == 0   y[1] = is it so for all?   y[2] = is any lane 7?   y[3] = are all below 32?
//   sums       y[0] = warp sum   y[1] = warp maximum   y[2] = block sum   y[3] = block sum (2 x)
//   halves     y[i] = sum of i over the half warp that i is in, each half by itself
//   transposes y[i] = the register that transpose_8x8 gives for x[i], one 8x8 matrix per warp
//   tensors    transposes: y, x [T] u32     shuffles, sums: y [8 or 4, T], x [T] f32     votes: y [4] u32     halves: y [T] f32
//   needs      one block of T threads, T % 32 == 0
//
// Seen: all right for T = 32, 96, 256, 1024, under every seed.
#include "ptx.cuh"

constexpr uint32_t ALL = 0xFFFFFFFFu;

extern "C" __global__ void __launch_bounds__(1024) shuffles(float* y) {
    const int t = blockDim.x, i = threadIdx.x;
    const float x = i;
    y[0 * t + i] = __shfl_sync(ALL, x, 5);
    y[1 * t + i] = __shfl_xor_sync(ALL, x, 3);
    y[2 * t + i] = __shfl_up_sync(ALL, x, 2);
    y[3 * t + i] = __shfl_down_sync(ALL, x, 2);
    y[4 * t + i] = __shfl_sync(ALL, x, 3, 8);
    y[5 * t + i] = __shfl_xor_sync(ALL, x, 1, 8);
    y[6 * t + i] = __shfl_up_sync(ALL, x, 2, 8);
    y[7 * t + i] = __shfl_down_sync(ALL, x, 2, 8);
}

extern "C" __global__ void __launch_bounds__(1024) votes(uint32_t* y) {
    const uint32_t ballot = __ballot_sync(ALL, lane() % 3 == 0);
    const uint32_t all = __all_sync(ALL, lane() % 3 == 0);
    const uint32_t any = __any_sync(ALL, lane() == 7);
    const uint32_t below = __all_sync(ALL, lane() < 32);
    if (threadIdx.x == blockDim.x - 1) y[0] = ballot, y[1] = all, y[2] = any, y[3] = below;
}

extern "C" __global__ void __launch_bounds__(1024) sums(float* y, const float* x) {
    const int t = blockDim.x, i = threadIdx.x;
    y[0 * t + i] = warp_sum(x[i]);
    y[1 * t + i] = warp_max(x[i]);
    y[2 * t + i] = block_sum(x[i]);
    y[3 * t + i] = block_sum(2.0f * x[i]);   // right after the other: the two share an array
}

extern "C" __global__ void __launch_bounds__(1024) halves(float* y) {
    const uint32_t mask = lane() < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    float x = threadIdx.x;
    if (lane() >= 16) x += 0.0f * __shfl_xor_sync(mask, x, 1);   // the upper half meets once more, alone
    for (int flip = 8; flip > 0; flip /= 2) x += __shfl_xor_sync(mask, x, flip);
    y[threadIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(1024) transposes(uint32_t* y, const uint32_t* x) {
    y[threadIdx.x] = transpose_8x8(x[threadIdx.x]);
}
