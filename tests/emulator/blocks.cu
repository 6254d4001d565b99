// Right: indices, the order of blocks, shared memory fresh for each block.
//
//   places     y[linear place of the thread in the grid] = its block's linear index * 10000 + its own in the block
//   order      y[block] = how many blocks ran before; counter [1] u32 begins at 0
//   leftover   y[block] = the number of threads that find bytes other than 0xFF in shared memory when the block begins
//   tensors    places: y [grid, block] i32     order, leftover: y [grid] i32
//   needs      places: any shape     leftover: 64 threads, 256 bytes of dynamic shared memory
//
// Seen: places is right for a grid (2, 3, 2) of blocks (4, 2, 5). order is a permutation, the same under the same seed,
// different under others. leftover is 0 everywhere (not so on a device: it tests the emulator alone).
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(1024) places(int* y) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 10000 + thread;
}

extern "C" __global__ void __launch_bounds__(32) order(int* y, unsigned* counter) {
    if (threadIdx.x == 0) y[blockIdx.x] = atomicAdd(counter, 1u);
}

extern "C" __global__ void __launch_bounds__(64) leftover(int* y) {
    __shared__ uint32_t fixed[64];
    SHARED(uint32_t, asked);
    const bool found = fixed[threadIdx.x] != 0xFFFFFFFFu || asked[threadIdx.x] != 0xFFFFFFFFu;
    const float count = block_sum(found ? 1.0f : 0.0f);
    fixed[threadIdx.x] = asked[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = static_cast<int>(count) + (fixed[63] != asked[63]);
}
