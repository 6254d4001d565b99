// Sums over rows: a block takes up to 32 adjacent packs of columns, its warps take the rows in turn.
//
//   repeatable  yes: a warp adds its rows in order, then the warps are added in order
#pragma once
#include "common.cuh"

constexpr int COLUMNS = 32 * VECTOR;

// Adds this warp's rows of this lane's pack of columns, or their squares.
template <int N, class T>
__device__ __forceinline__ void sum_packs(Floats<N>& sum, const T* x, int rows, size_t stride, bool squared) {
    const auto add = [&](const Floats<N>& values) {
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] = squared ? fmaf(values[i], values[i], sum[i]) : sum[i] + values[i];
    };
    constexpr int AT_ONCE = 4;   // loads in flight before the first is added
    const int warps = blockDim.x / 32;
    int row = warp();
    for (; row + (AT_ONCE - 1) * warps < rows; row += AT_ONCE * warps) {
        Floats<N> values[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) values[k] = load_pack<N>(x + (row + k * warps) * stride);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) add(values[k]);
    }
    for (; row < rows; row += warps) add(load_pack<N>(x + row * stride));
}

// The sum of column threadIdx.x, or of its squares, over `rows` rows, for the first `columns` threads; x begins at the first
// column. The block has at least 32 N threads, and all of them call.
template <int N = VECTOR, class T>
static __device__ float sum_rows(const T* x, int rows, size_t stride, int columns, bool squared = false) {
    __shared__ __align__(16) float partial[1024 * N];
    const int first = lane() * N, warps = blockDim.x / 32;
    Floats<N> sum{};
    if (columns % N == 0 && stride % N == 0 && (N == 1 || aligned(x))) {
        if (first < columns) sum_packs<N>(sum, x + first, rows, stride, squared);
    } else {
        for (int row = warp(); row < rows; row += warps) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                if (first + i >= columns) continue;
                const float value = to_float(x[row * stride + first + i]);
                sum[i] = squared ? fmaf(value, value, sum[i]) : sum[i] + value;
            }
        }
    }
    store_pack<N>(partial + threadIdx.x * N, sum);
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x < 32 * N)
        for (int w = 0; w < warps; w++) total += partial[w * 32 * N + threadIdx.x];
    return total;
}
