// Squared error, summed over genes, mean over cells (SCALE v1, eq. 14).
//
//   forward    L     = 1/M sum_i (y[i] - x[i])^2                over all M G numbers
//   backward   dy[i] = dL 2/M (y[i] - x[i])         dx = -dy                          =
//   tensors    y, x, dy, dx [M G] real     L, dL [1] f32     parts [blocks] f64
//   needs      nothing; 16-byte accesses if a tensor's address is 16-byte aligned
//   work       forward: blocks stride over the numbers, a thread sums in f32 and a block in f64; loss.cu adds the blocks' sums.
//              backward: one thread per eight neighbours, and either gradient alone if only one is wanted
//   bound by   memory: forward moves 2 M G numbers, backward 3 M G, or 4 M G for both gradients
//   repeatable yes: sums have one fixed order
//   reference  src/ops/squared_error.rs
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(256, 6)
squared_error_forward(double* parts, const real* y, const real* x, uint64_t count) {
    float sum = 0.0f;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x * 8;
    for (size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8; at < count; at += stride) {
        const Floats<8> a = load_eight(y + at, count - at), b = load_eight(x + at, count - at);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(a[i] - b[i], a[i] - b[i], sum);
    }
    const double of_block = block_total(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = of_block;
}

extern "C" __global__ void __launch_bounds__(256)
squared_error_backward(real* dy, real* dx, const float* d, const real* y, const real* x, float scale, uint64_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at >= count) return;
    const Floats<8> a = load_eight(y + at, count - at), b = load_eight(x + at, count - at);
    const float slope = *d * scale;
    Floats<8> by_y, by_x;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        by_y[i] = slope * (a[i] - b[i]);
        by_x[i] = -by_y[i];
    }
    if (dy) store_eight(dy + at, by_y, count - at);
    if (dx) store_eight(dx + at, by_x, count - at);
}
