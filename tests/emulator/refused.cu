// Planted: faults that end a launch with a message.
//
//   barrier_in_branch     half of the block reaches a barrier, the rest exits    "diverged", "exited", the line
//   two_barriers          the two halves reach barriers at different lines       "diverged", both lines
//   shuffle_in_branch     lanes 0 to 7 shuffle with the full mask                "diverged", "__shfl_xor_sync"
//   mask_without_itself   every lane shuffles with the mask of lanes 0 to 15     "leaves this lane out"
//   reads_outside_mask    lanes 0 to 15 read lanes 16 to 31                      "outside its mask"
//   misaligned_pack       a 16-byte load one element too late                    "no multiple of 16"
//   misaligned_copy       a cp.async from an address one element too far         "no multiple of 16"
//   copy_to_global        a cp.async whose target is not shared memory           "not in shared memory"
//   written_too_early     a row that the warp's ldmatrix has read, no __syncwarp     "before the warp met"
//   nothing_wrong         y[i] = i: the library can still be used after each of these
//   tensors               y [256] f32, at least 16-byte aligned
//   needs                 one block of 64 threads, 4096 bytes of dynamic shared memory
//
// Seen: each but the last is refused under every seed; the message holds the kernel's name and the words on the right.
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(64) barrier_in_branch(float* y) {
    if (threadIdx.x < 32) __syncthreads();
    y[threadIdx.x] = 0.0f;
}

extern "C" __global__ void __launch_bounds__(64) two_barriers(float* y) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    y[threadIdx.x] = 0.0f;
}

extern "C" __global__ void __launch_bounds__(64) shuffle_in_branch(float* y) {
    float x = threadIdx.x;
    if (threadIdx.x < 8) x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
    __syncthreads();
    y[threadIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(64) mask_without_itself(float* y) {
    y[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, 1.0f, 1);
}

extern "C" __global__ void __launch_bounds__(64) reads_outside_mask(float* y) {
    if (lane() < 16) y[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, 1.0f, 16);
}

extern "C" __global__ void __launch_bounds__(64) misaligned_pack(float* y) {
    y[threadIdx.x] = load_pack<4>(y + threadIdx.x * 4 % 64 + 1)[0];
}

extern "C" __global__ void __launch_bounds__(64) misaligned_copy(float* y) {
    SHARED(float, kept);
    cp_async16(kept + threadIdx.x * 4, y + 1);
}

extern "C" __global__ void __launch_bounds__(64) copy_to_global(float* y) {
    cp_async16(y, y + 4);
}

extern "C" __global__ void __launch_bounds__(64) written_too_early(float* y) {
    SHARED(float, kept);
    float* const mine = kept + threadIdx.x * 4;
    uint32_t r[4];
    for (int i = 0; i < 4; i++) mine[i] = 1.0f;
    __syncwarp();
    ldmatrix_x4(r, mine);
    mine[0] = y[0] + __uint_as_float(r[0]) + 1.0f;   // a different number
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(64) nothing_wrong(float* y) {
    y[threadIdx.x] = threadIdx.x;
}
