// Planted: writes beyond the end of shared memory.
//
//   static_overrun     one float beyond a `__shared__` array of 32
//   dynamic_overrun    one float beyond the dynamic shared memory, whatever its size
//   tensors            y [32] f32
//   needs              one block of 32 threads; dynamic_overrun: bytes is the launch's dynamic size
//
// Seen: with by = 0 both are right. With by = 1 AddressSanitizer ends the process: for static_overrun it names `narrow`,
// for dynamic_overrun it says "heap-buffer-overflow". Without it dynamic_overrun is refused with a message that says
// "wrote outside", and static_overrun is not seen.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(32) static_overrun(float* y, int by) {
    __shared__ float narrow[32];
    narrow[threadIdx.x + by] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = narrow[31 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) dynamic_overrun(float* y, int bytes, int by) {
    SHARED(float, all);
    if (threadIdx.x == 0) all[bytes / 4 - 1 + by] = 1.0f;
    y[threadIdx.x] = 0.0f;
}
