// RMS normalisation over the last axis (Zhang & Sennrich 2019, eq. 4).
//
//   forward    rstd[m]  = 1 / sqrt(mean_d x[m,d]^2 + eps)
//              y[m,d]   = x[m,d] rstd[m] w[d]                                         w = 1 if no gain is given
//   backward   g        = dy w
//              dx[m,d]  = rstd[m] (g[m,d] - x[m,d] rstd[m]^2 mean_d(g x))             =, or + before[m,d]
//              dw[d]    = sum_m dy[m,d] x[m,d] rstd[m]                                =, parts[p,d]: over the rows of block p
//              y as the forward's, if it was not kept                                 =
//   tensors    x, y, dx, dy [M, D] real; in a backward y is null if not wanted     before [M, D] real, null, or dx itself
//              w [D] real or null     rstd [M] f32
//              parts [P, D] f32, null without w
//   needs      nothing; rows of up to 1280 numbers, if D (in bytes) is a multiple of 16, are read once and held in registers
//   work       one warp per row; other rows are read more than once: forward by a warp, backward by a block.
//              dw: a warp keeps its columns' sums in registers over its rows; column_sums adds the blocks' parts.
//              backward_narrow: rows of up to 1024 bytes, which leave registers for one more block; backward_middle: of up
//              to 1536, which leave enough to read `before` early
//   bound by   memory: forward moves 2 M D, backward 3 M D numbers, M D more with y or before
//   repeatable yes: no atomics, fixed order
//   reference  src/ops/rms_norm.rs
#include "rows.cuh"

constexpr int WIDE = 40 / VECTOR, NARROW = 2, MIDDLE = 3;   // packs per lane

__device__ __forceinline__ Floats<VECTOR> gain(const real* w, int column) {
    if (w) return load_pack(w + column);
    Floats<VECTOR> ones;
#pragma unroll
    for (int i = 0; i < VECTOR; i++) ones[i] = 1.0f;
    return ones;
}

// Returns rstd.
__device__ __forceinline__ float forward(real* y, const real* x, const real* w, int width, float eps) {
    Row<WIDE> row;
    row.load(x, width);
    float square = 0.0f;
    each_pack<WIDE>(width, [&](int p, int) {
        const Floats<VECTOR> v = row[p];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) square = fmaf(v[i], v[i], square);
    });
    const float rstd = rsqrtf(warp_sum(square) / width + eps);
    each_pack<WIDE>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], g = gain(w, column);
        Floats<VECTOR> out;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) out[i] = v[i] * rstd * g[i];
        store_pack(y + column, out);
    });
    return rstd;
}

__device__ __forceinline__ float forward_reading_again(real* y, const real* x, const real* w, int width, float eps) {
    float square = 0.0f;
    for (int d = lane(); d < width; d += 32) square = fmaf(to_float(x[d]), to_float(x[d]), square);
    const float rstd = rsqrtf(warp_sum(square) / width + eps);
    for (int d = lane(); d < width; d += 32) y[d] = to_real(to_float(x[d]) * rstd * (w ? to_float(w[d]) : 1.0f));
    return rstd;
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_forward(real* y, float* rstd, const real* x, const real* w, int rows, int width, float eps) {
    const int row = blockIdx.x * 8 + warp();
    if (row >= rows) return;
    const size_t first = static_cast<size_t>(row) * width;
    const float r = fits<WIDE>(width, y, x, w) ? forward(y + first, x + first, w, width, eps)
                                                : forward_reading_again(y + first, x + first, w, width, eps);
    if (lane() == 0) rstd[row] = r;
}

// What a backward writes and reads; y, before and w may be null.
struct Tensors {
    real *dx, *y;
    const real *before, *dy, *x, *w;

    // Those of the row that begins with element `first`.
    __device__ __forceinline__ Tensors at(size_t first) const {
        return {dx + first, y ? y + first : nullptr, before ? before + first : nullptr, dy + first, x + first, w};
    }
};

// dx of a row, and y; adds its share to dw if there is a gain. All of x, dy and (EARLY) before is in flight before any is used.
template <int PACKS>
__device__ __forceinline__ void backward(Columns<PACKS>& dw, const Tensors& of, float rstd, int width) {
    constexpr bool EARLY = PACKS < WIDE;   // wide rows leave no registers for `before`
    Row<PACKS> row, slope, sum;
    row.load(of.x, width);
    slope.load(of.dy, width);
    if (EARLY && of.before) sum.load(of.before, width);
    float dot = 0.0f;
    each_pack<PACKS>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], d = slope[p], g = gain(of.w, column);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) dot = fmaf(d[i] * g[i], v[i], dot);
    });
    const float shift = rstd * rstd * (warp_sum(dot) / width);
    each_pack<PACKS>(width, [&](int p, int column) {
        const Floats<VECTOR> v = row[p], d = slope[p], g = gain(of.w, column);
        Floats<VECTOR> out;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            out[i] = rstd * fmaf(-shift, v[i], d[i] * g[i]);
            if (of.w) dw[p][i] = fmaf(d[i] * rstd, v[i], dw[p][i]);
        }
        if (of.before) {
            const Floats<VECTOR> more = EARLY ? sum[p] : load_pack(of.before + column);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) out[i] += more[i];
        }
        store_pack(of.dx + column, out);
        if (!of.y) return;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) out[i] = v[i] * rstd * g[i];
        store_pack(of.y + column, out);
    });
}

// The rows of a block; `parts` are its own.
template <int PACKS>
__device__ __forceinline__ void backward_rows(float* parts, const Tensors& of, const float* rstd, int rows, int width) {
    Columns<PACKS> dw{};
    for (int row = blockIdx.x * 8 + warp(); row < rows; row += gridDim.x * 8)
        backward<PACKS>(dw, of.at(static_cast<size_t>(row) * width), rstd[row], width);
    if (of.w) write_parts<PACKS>(parts, dw, width);
}

// By the whole block; a thread adds to the parts of its own columns, which it initialised at the block's first row.
__device__ __forceinline__ void backward_reading_again(float* parts, const Tensors& of, float rstd, int width, bool first_row) {
    float dot = 0.0f;
    for (int d = threadIdx.x; d < width; d += blockDim.x)
        dot = fmaf(to_float(of.dy[d]) * (of.w ? to_float(of.w[d]) : 1.0f), to_float(of.x[d]), dot);
    const float shift = rstd * rstd * (block_sum(dot) / width);
    for (int d = threadIdx.x; d < width; d += blockDim.x) {
        const float v = to_float(of.x[d]), slope = to_float(of.dy[d]);
        const float sum = of.before ? to_float(of.before[d]) : 0.0f;
        of.dx[d] = to_real(sum + rstd * fmaf(-shift, v, slope * (of.w ? to_float(of.w[d]) : 1.0f)));
        if (of.w) parts[d] = fmaf(slope * rstd, v, first_row ? 0.0f : parts[d]);
        if (of.y) of.y[d] = to_real(v * rstd * (of.w ? to_float(of.w[d]) : 1.0f));
    }
}

// f32 rows take twice the registers.
extern "C" __global__ void __launch_bounds__(256, SCALE_BF16 ? 2 : 1)
rms_norm_backward(real* dx, float* parts, real* y, const real* before, const real* dy, const real* x, const real* w,
                  const float* rstd, int rows, int width) {
    if (parts) parts += static_cast<size_t>(blockIdx.x) * width;
    const Tensors of{dx, y, before, dy, x, w};
    if (fits<WIDE>(width, dx, y, before, dy, x, w))
        return backward_rows<WIDE>(parts, of, rstd, rows, width);
    for (int row = blockIdx.x; row < rows; row += gridDim.x)
        backward_reading_again(parts, of.at(static_cast<size_t>(row) * width), rstd[row], width, row < gridDim.x);
}

// These two for rows that fit.
extern "C" __global__ void __launch_bounds__(256, SCALE_BF16 ? 3 : 2)
rms_norm_backward_narrow(real* dx, float* parts, real* y, const real* before, const real* dy, const real* x, const real* w,
                         const float* rstd, int rows, int width) {
    if (parts) parts += static_cast<size_t>(blockIdx.x) * width;
    backward_rows<NARROW>(parts, {dx, y, before, dy, x, w}, rstd, rows, width);
}

extern "C" __global__ void __launch_bounds__(256, 2)
rms_norm_backward_middle(real* dx, float* parts, real* y, const real* before, const real* dy, const real* x, const real* w,
                         const float* rstd, int rows, int width) {
    if (parts) parts += static_cast<size_t>(blockIdx.x) * width;
    backward_rows<MIDDLE>(parts, {dx, y, before, dy, x, w}, rstd, rows, width);
}
