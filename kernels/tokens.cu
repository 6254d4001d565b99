// Tokens of a set side by side: stacked, picked out, joined by a learned one (SCALE v1, eq. 31).
//
//   forward    y[r y_step + d] = x[r x_step + d],  r < R, d < W: so tokens moves each part, token one of T, prepend w and x
//   backward   the same in the other direction; dw[d] = sum_b dy[b step + d] for the w of prepend              =
//   tensors    x, y, dy real     dw [D] f32
//   needs      nothing; 16-byte accesses if W, the steps and the addresses are multiples of them
//   work       copy: one thread per pack of neighbours, rows along x. dw: a block takes 512 bytes of each row, its warps take
//              the rows in turn
//   bound by   launches: a few rows per set
//   repeatable yes: a warp adds its rows in order, a block its warps
//   reference  src/ops/tokens.rs
#include "columns.cuh"

extern "C" __global__ void __launch_bounds__(256)
tokens_copy(real* y, const real* x, int width, uint64_t y_step, uint64_t x_step) {
    const uint32_t at = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    y += blockIdx.x * y_step;
    x += blockIdx.x * x_step;
    if (at + VECTOR <= width && aligned(y, x)) return store_pack(y + at, load_pack(x + at));
    for (uint32_t i = at; i < at + VECTOR && i < width; i++) y[i] = x[i];
}

extern "C" __global__ void __launch_bounds__(256) tokens_sum(float* dw, const real* dy, int rows, int width, uint64_t step) {
    const int first = blockIdx.x * COLUMNS, columns = min(COLUMNS, width - first);
    const float sum = sum_rows(dy + first, rows, step, columns);
    if (threadIdx.x < columns) dw[first + threadIdx.x] = sum;
}
