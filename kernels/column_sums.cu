// Sums over the rows of a matrix, in two passes: the gradient of a bias; of a gain, or a query, from its parts.
//
//   forward    parts[p,j] = sum of x[m,j], or of its square, over the p-th `height` rows
//              y[j]       = sum_p parts[p,j]
//   tensors    x [M, J] real     parts [P, J] f32     y [J] f32
//   needs      nothing; 16-byte accesses if J (in bytes) and the address are multiples of 16
//   work       a block takes COLUMNS columns, 512 bytes, of x, or 32 of parts, which have few rows; its warps take the rows in
//              turn; each block along y makes one of parts
//   bound by   memory: reads M J numbers
//   repeatable yes: a warp adds its rows in order, a block its warps, the total the parts
//   reference  src/ops/column_sums.rs
#include "columns.cuh"

extern "C" __global__ void __launch_bounds__(512, 2)
column_sums_parts(float* parts, const real* x, int rows, int width, int height, int squared) {
    const int first = blockIdx.x * COLUMNS, row = blockIdx.y * height, columns = min(COLUMNS, width - first);
    const float sum =
        sum_rows(x + static_cast<size_t>(row) * width + first, min(height, rows - row), width, columns, squared);
    if (threadIdx.x < columns) parts[static_cast<size_t>(blockIdx.y) * width + first + threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(1024, 1) column_sums_total(float* y, const float* parts, int count, int width) {
    const int first = blockIdx.x * 32, columns = min(32, width - first);
    const float sum = sum_rows<1>(parts + first, count, width, columns);
    if (threadIdx.x < columns) y[first + threadIdx.x] = sum;
}
