// Sums over rows: a block takes up to COLUMNS columns that lie side by side, its warps take the rows in turns.
//
//   repeatable  yes: a warp adds its rows in order, then the warps are added in order
#pragma once
#include "common.cuh"

constexpr int COLUMNS = 32 * VECTOR;

// Adds every row of this lane's pack of columns that is this warp's, or its square.
template <class T>
__device__ __forceinline__ void sum_packs(Floats<VECTOR>& sum, const T* x, int rows, size_t stride, bool squared) {
    const auto add = [&](const Floats<VECTOR>& values) {
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sum[i] = squared ? fmaf(values[i], values[i], sum[i]) : sum[i] + values[i];
    };
    constexpr int AT_ONCE = 4;   // loads that are on their way before the first is added
    const int warps = blockDim.x / 32;
    int row = warp();
    for (; row + (AT_ONCE - 1) * warps < rows; row += AT_ONCE * warps) {
        Floats<VECTOR> values[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) values[k] = load_pack(x + (row + k * warps) * stride);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) add(values[k]);
    }
    for (; row < rows; row += warps) add(load_pack(x + row * stride));
}

// The sum of column threadIdx.x, or of its squares, over `rows` rows, for the first `columns` threads; x begins at the first
// column. The block has at least COLUMNS threads, and all of them call.
template <class T>
static __device__ float sum_rows(const T* x, int rows, size_t stride, int columns, bool squared = false) {
    __shared__ __align__(16) float partial[1024 * VECTOR];
    const int first = lane() * VECTOR, warps = blockDim.x / 32;
    Floats<VECTOR> sum{};
    if (columns % VECTOR == 0 && stride % VECTOR == 0 && aligned16(x)) {
        if (first < columns) sum_packs(sum, x + first, rows, stride, squared);
    } else {
        for (int row = warp(); row < rows; row += warps) {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                if (first + i >= columns) continue;
                const float value = to_float(x[row * stride + first + i]);
                sum[i] = squared ? fmaf(value, value, sum[i]) : sum[i] + value;
            }
        }
    }
    store_pack(partial + threadIdx.x * VECTOR, sum);
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x < COLUMNS)
        for (int w = 0; w < warps; w++) total += partial[w * COLUMNS + threadIdx.x];
    return total;
}
