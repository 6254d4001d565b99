// From the cells of a set to the set and back: their mean, and one row added to each of them (SCALE v1, eq. 7-9).
//
//   forward    pool        y[b,d]    = scale sum_i x[b,i,d]        scale = 1/N
//              add_to_set  y[b,i,d]  = x[b,i,d] + s[b,d]
//   backward   pool        dx[b,i,d] = scale dy[b,d]                                  =
//              add_to_set  dx = dy,  ds = pool of dy with scale = 1                   =
//   tensors    pool: x, dx [B, N, D], y, dy [B, D]     add_to_set: x, y [B, N, D], s [B, D]     all real
//   needs      N x D < 2^32 in a set; 16-byte accesses if D (in bytes) and all addresses are multiples of 16
//   work       sums: a block takes 512 bytes of each of a set's rows, its warps take the rows in turn. Else: one thread per
//              pack of neighbours in a set
//   bound by   memory: pool moves B N D numbers either way, add_to_set 2 B N D
//   repeatable yes: a warp adds its rows in order, a block its warps
//   reference  src/ops/pool.rs
#include "columns.cuh"
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(1024, 1) pool_forward(real* y, const real* x, int rows, int width, float scale) {
    const size_t set = blockIdx.x;
    const int first = blockIdx.y * COLUMNS, columns = min(COLUMNS, width - first);
    const float sum = sum_rows(x + set * rows * width + first, rows, width, columns);
    if (threadIdx.x < columns) y[set * width + first + threadIdx.x] = to_real(scale * sum);
}

extern "C" __global__ void __launch_bounds__(256)
pool_backward(real* dx, const real* dy, int sets, int rows, int width, float scale) {
    const OfSet of(sets);
    if (of.missing) return;
    const uint32_t size = static_cast<uint32_t>(rows) * width, at = (of.block * blockDim.x + threadIdx.x) * VECTOR;
    dx += static_cast<size_t>(of.set) * size;
    dy += static_cast<size_t>(of.set) * width;
    const auto spread = [&](float d) { return scale * d; };
    if (at < size && width % VECTOR == 0 && aligned(dx, dy)) return each_of<VECTOR>(dx + at, spread, dy + at % width);
    for (uint32_t i = at; i < at + VECTOR && i < size; i++) each_of<1>(dx + i, spread, dy + i % width);
}

extern "C" __global__ void __launch_bounds__(256)
add_to_set_forward(real* y, const real* x, const real* s, int sets, int rows, int width) {
    const OfSet of(sets);
    if (of.missing) return;
    const uint32_t size = static_cast<uint32_t>(rows) * width, at = (of.block * blockDim.x + threadIdx.x) * VECTOR;
    const size_t first = static_cast<size_t>(of.set) * size;
    s += static_cast<size_t>(of.set) * width;
    y += first;
    x += first;
    const auto add = [](float u, float v) { return u + v; };
    if (at < size && width % VECTOR == 0 && aligned(y, x, s)) return each_of<VECTOR>(y + at, add, x + at, s + at % width);
    for (uint32_t i = at; i < at + VECTOR && i < size; i++) each_of<1>(y + i, add, x + i, s + i % width);
}
