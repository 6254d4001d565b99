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
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(256)
cells_standardize(real* y, const real* x, const float* mean, const float* scale, int genes) {
    const int gene = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    y += static_cast<size_t>(blockIdx.x) * genes;
    x += static_cast<size_t>(blockIdx.x) * genes;
    const auto standard = [](float u, float m, float s) { return (u - m) * s; };
    if (gene + VECTOR <= genes && aligned(y, x, mean, scale))
        return each_of<VECTOR>(y + gene, standard, x + gene, mean + gene, scale + gene);
    for (int i = gene; i < gene + VECTOR && i < genes; i++) each_of<1>(y + i, standard, x + i, mean + i, scale + i);
}

extern "C" __global__ void __launch_bounds__(256)
cells_shifted(real* y, const real* x, const real* effect, int cells, int genes) {
    const int gene = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    y += static_cast<size_t>(blockIdx.x) * genes;
    x += static_cast<size_t>(blockIdx.x) * genes;
    effect += static_cast<size_t>(blockIdx.x / cells) * genes;
    const auto shifted = [](float u, float e) { return fmaxf(u + e, 0.0f); };
    if (gene + VECTOR <= genes && aligned(y, x, effect)) return each_of<VECTOR>(y + gene, shifted, x + gene, effect + gene);
    for (int i = gene; i < gene + VECTOR && i < genes; i++) each_of<1>(y + i, shifted, x + i, effect + i);
}
