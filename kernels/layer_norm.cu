// Layer normalisation over the last axis (Ba, Kiros & Hinton 2016, eq. 4).
//
//   forward    mean[m]  = mean_d x[m,d]       rstd[m] = 1 / sqrt(mean_d (x[m,d] - mean[m])^2 + eps)
//              n[m,d]   = (x[m,d] - mean[m]) rstd[m]
//              y[m,d]   = n[m,d] w[d] + b[d]
//   backward   g        = dy w
//              dx[m,d]  = rstd[m] (g[m,d] - mean_d g - n[m,d] mean_d(g n))            =
//              dw[d]    = sum_m dy[m,d] n[m,d]      db[d] = sum_m dy[m,d]             =, parts[p]: both over the rows of block p
//   tensors    x, y, dx, dy [M, D] real     w, b [D] real     moments [M, 2] f32: mean, rstd     parts [P, 2, D] f32
//   needs      nothing; rows of up to 1280 numbers forward and 768 backward, if D (in bytes) is a multiple of 16, are read once
//              and held in registers
//   work       one warp per row; other rows are read more than once: forward by a warp, backward by a block.
//              dw, db: a warp keeps its columns' sums in registers over its rows; column_sums adds the blocks' parts
//   bound by   memory: forward moves 2 M D, backward 3 M D numbers
//   repeatable yes: no atomics, fixed order
//   reference  src/ops/layer_norm.rs
#include "rows.cuh"

constexpr int PACKS = 40 / VECTOR;
constexpr int BACK = 24 / VECTOR;   // two sums per column leave no room for more

// Both return mean and rstd.
__device__ __forceinline__ float2 forward(real* y, const real* x, const real* w, const real* b, int width, float eps) {
    Row<PACKS> row;
    row.load(x, width);
    float sum = 0.0f, square = 0.0f;
    each_pack<PACKS>(width, [&](int p, int) {
        const Floats<VECTOR> v = row[p];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sum += v[i];
    });
    const float mean = warp_sum(sum) / width;
    each_pack<PACKS>(width, [&](int p, int) {
        const Floats<VECTOR> v = row[p];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) square = fmaf(v[i] - mean, v[i] - mean, square);
    });
    const float rstd = rsqrtf(warp_sum(square) / width + eps);
    each_pack<PACKS>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], gain = load_pack(w + column), bias = load_pack(b + column);
        Floats<VECTOR> out;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) out[i] = fmaf((v[i] - mean) * rstd, gain[i], bias[i]);
        store_pack(y + column, out);
    });
    return make_float2(mean, rstd);
}

__device__ __forceinline__ float2 forward_reading_again(real* y, const real* x, const real* w, const real* b, int width,
                                                        float eps) {
    float sum = 0.0f, square = 0.0f;
    for (int d = lane(); d < width; d += 32) sum += to_float(x[d]);
    const float mean = warp_sum(sum) / width;
    for (int d = lane(); d < width; d += 32) square = fmaf(to_float(x[d]) - mean, to_float(x[d]) - mean, square);
    const float rstd = rsqrtf(warp_sum(square) / width + eps);
    for (int d = lane(); d < width; d += 32)
        y[d] = to_real(fmaf((to_float(x[d]) - mean) * rstd, to_float(w[d]), to_float(b[d])));
    return make_float2(mean, rstd);
}

extern "C" __global__ void __launch_bounds__(256)
layer_norm_forward(real* y, float* moments, const real* x, const real* w, const real* b, int rows, int width, float eps) {
    const int row = blockIdx.x * 8 + warp();
    if (row >= rows) return;
    const size_t first = static_cast<size_t>(row) * width;
    const float2 found = fits<PACKS>(width, y, x, w, b) ? forward(y + first, x + first, w, b, width, eps)
                                                        : forward_reading_again(y + first, x + first, w, b, width, eps);
    if (lane() > 0) return;
    moments[2 * static_cast<size_t>(row)] = found.x;
    moments[2 * static_cast<size_t>(row) + 1] = found.y;
}

// dx of a row; adds its share to dw and db.
__device__ __forceinline__ void backward(real* dx, Columns<BACK>& dw, Columns<BACK>& db, const real* dy, const real* x,
                                         const real* w, float mean, float rstd, int width) {
    Row<BACK> row, slope;
    row.load(x, width);
    slope.load(dy, width);
    float level = 0.0f, tilt = 0.0f;
    each_pack<BACK>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], d = slope[p], gain = load_pack(w + column);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            level = fmaf(d[i], gain[i], level);
            tilt = fmaf(d[i] * gain[i], (v[i] - mean) * rstd, tilt);
        }
    });
    level = warp_sum(level) / width;
    tilt = warp_sum(tilt) / width;
    each_pack<BACK>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], d = slope[p], gain = load_pack(w + column);
        Floats<VECTOR> out;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            const float n = (v[i] - mean) * rstd;
            out[i] = rstd * (fmaf(d[i], gain[i], -level) - n * tilt);
            dw[p][i] = fmaf(d[i], n, dw[p][i]);
            db[p][i] += d[i];
        }
        store_pack(dx + column, out);
    });
}

// By the whole block; a thread adds to the parts of its own columns, which it initialised at the block's first row.
__device__ __forceinline__ void backward_reading_again(real* dx, float* parts, const real* dy, const real* x, const real* w,
                                                       float mean, float rstd, int width, bool first_row) {
    float level = 0.0f, tilt = 0.0f;
    for (int d = threadIdx.x; d < width; d += blockDim.x) {
        const float g = to_float(dy[d]) * to_float(w[d]);
        level += g;
        tilt = fmaf(g, (to_float(x[d]) - mean) * rstd, tilt);
    }
    level = block_sum(level) / width;
    tilt = block_sum(tilt) / width;
    for (int d = threadIdx.x; d < width; d += blockDim.x) {
        const float n = (to_float(x[d]) - mean) * rstd, slope = to_float(dy[d]);
        dx[d] = to_real(rstd * (fmaf(slope, to_float(w[d]), -level) - n * tilt));
        parts[d] = fmaf(slope, n, first_row ? 0.0f : parts[d]);
        parts[width + d] = slope + (first_row ? 0.0f : parts[width + d]);
    }
}

// f32 rows take twice the registers.
extern "C" __global__ void __launch_bounds__(256, SCALE_BF16 ? 2 : 1)
layer_norm_backward(real* dx, float* parts, const real* dy, const real* x, const real* w, const float* moments, int rows,
                    int width) {
    parts += static_cast<size_t>(blockIdx.x) * 2 * width;
    if (fits<BACK>(width, dx, dy, x, w)) {
        Columns<BACK> dw{}, db{};
        for (int row = blockIdx.x * 8 + warp(); row < rows; row += gridDim.x * 8) {
            const size_t first = static_cast<size_t>(row) * width;
            const float* of_row = moments + 2 * static_cast<size_t>(row);
            backward(dx + first, dw, db, dy + first, x + first, w, of_row[0], of_row[1], width);
        }
        write_parts<BACK>(parts, dw, width);
        write_parts<BACK>(parts + width, db, width);
        return;
    }
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const size_t first = static_cast<size_t>(row) * width;
        const float* of_row = moments + 2 * static_cast<size_t>(row);
        backward_reading_again(dx + first, parts, dy + first, x + first, w, of_row[0], of_row[1], width, row < gridDim.x);
    }
}
