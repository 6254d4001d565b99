// Cells as the encoder sees them: standardised, or moved by their set's mean effect. They are data: there is no backward.
//
//   forward    standardize   y[m,g]   = (x[m,g] - mean[g]) scale[g]
//              shifted       y[b,i,g] = max(x[b,i,g] + e[b,g], 0)
//   tensors    x, y [M, G] or [B, N, G] real     mean, scale [G] f32     e [B, G] real
//   needs      nothing; 16-byte accesses if G (in bytes) and all addresses are multiples of 16
//   work       one thread per pack of neighbours; rows along x
//   bound by   memory: 2 numbers per element
//   repeatable yes: no sums
//   reference  src/ops/cells.rs
#include "common.cuh"

template <int N> __device__ __forceinline__ void standardize(real* y, const real* x, const float* mean, const float* scale) {
    Floats<N> values = load_pack<N>(x);
    const Floats<N> m = load_pack<N>(mean), s = load_pack<N>(scale);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = (values[i] - m[i]) * s[i];
    store_pack(y, values);
}

extern "C" __global__ void __launch_bounds__(256)
cells_standardize(real* y, const real* x, const float* mean, const float* scale, int genes) {
    const int gene = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    y += static_cast<size_t>(blockIdx.x) * genes;
    x += static_cast<size_t>(blockIdx.x) * genes;
    if (gene + VECTOR <= genes && aligned16(y, x, mean, scale))
        return standardize<VECTOR>(y + gene, x + gene, mean + gene, scale + gene);
    for (int i = gene; i < gene + VECTOR && i < genes; i++) standardize<1>(y + i, x + i, mean + i, scale + i);
}

template <int N> __device__ __forceinline__ void shift(real* y, const real* x, const real* effect) {
    Floats<N> values = load_pack<N>(x);
    const Floats<N> e = load_pack<N>(effect);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = fmaxf(values[i] + e[i], 0.0f);
    store_pack(y, values);
}

extern "C" __global__ void __launch_bounds__(256)
cells_shifted(real* y, const real* x, const real* effect, int cells, int genes) {
    const int gene = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    y += static_cast<size_t>(blockIdx.x) * genes;
    x += static_cast<size_t>(blockIdx.x) * genes;
    effect += static_cast<size_t>(blockIdx.x / cells) * genes;
    if (gene + VECTOR <= genes && aligned16(y, x, effect)) return shift<VECTOR>(y + gene, x + gene, effect + gene);
    for (int i = gene; i < gene + VECTOR && i < genes; i++) shift<1>(y + i, x + i, effect + i);
}
