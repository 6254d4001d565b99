// Gated SiLU (Shazeer 2020, eq. 5), gate and value packed side by side, anywhere in a row; next to its output in y, that of the
// row's other branch (SCALE v1, eq. 35).
//
//   forward    y[m]    = [l[m] | silu(a[m,f]) u[m,f]]       a, u = x[m, C + f], x[m, C + F + f]       silu(a) = a s(a)
//   backward   da[m,f] = dy[m,E+f] u[m,f] s (1 + a (1 - s))                s(a) = 1 / (1 + e^-a)      =
//              du[m,f] = dy[m,E+f] silu(a[m,f])                                                       =
//              y as the forward's, if it was not kept                                                 =
//   tensors    x, dx [M, C + 2F]     l [M, E], null if E = 0     y, dy [M, E + F], y null in a backward that need not compute it
//              all real
//   needs      fewer than 2^32 packs of y; 16-byte accesses if C, E and F are whole packs of 16 bytes
//   work       one thread per pack of neighbours of y
//   bound by   memory: forward moves 2 E + 3 F numbers per row, backward 5 F, with y 2 E + 6 F
//   repeatable yes: no sums
//   reference  src/ops/swiglu.rs
#include "common.cuh"

// Where a thread's pack is. Packs are counted in 32 bits: a 64-bit division takes as long as everything else.
template <int N> struct Place {
    uint32_t row;
    int column;   // of y; below E it is of l

    __device__ Place(int width) {
        const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, packs = width / N;
        row = at / packs, column = at % packs * N;
    }
};

template <int N>
__device__ void forward(real* y, const real* left, const real* x, int rows, int first, int beside, int width) {
    const Place<N> at(beside + width);
    if (at.row >= static_cast<uint32_t>(rows)) return;
    const size_t row = at.row;
    real* const to = y + row * (beside + width) + at.column;
    if (at.column < beside) return store_pack(to, load_pack<N>(left + row * beside + at.column));
    const real* const gate = x + row * (first + 2 * width) + first + at.column - beside;
    const Floats<N> a = load_pack<N>(gate), u = load_pack<N>(gate + width);
    Floats<N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = silu(a[i]) * u[i];
    store_pack(to, out);
}

template <int N>
__device__ void backward(real* dx, real* y, const real* dy, const real* left, const real* x, int rows, int first, int beside,
                         int width) {
    // Without y there is nothing to do for l.
    const Place<N> at(y ? beside + width : width);
    if (at.row >= static_cast<uint32_t>(rows)) return;
    const int column = y ? at.column : beside + at.column;
    const size_t row = at.row, out = row * (beside + width) + column;
    if (column < beside) return store_pack(y + out, load_pack<N>(left + row * beside + column));
    const size_t gate = row * (first + 2 * width) + first + column - beside;
    const Floats<N> a = load_pack<N>(x + gate), u = load_pack<N>(x + gate + width), d = load_pack<N>(dy + out);
    Floats<N> da, du, again;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float s = sigmoid(a[i]), gated = a[i] * s;
        da[i] = d[i] * u[i] * s * (1.0f + a[i] * (1.0f - s));
        du[i] = d[i] * gated;
        again[i] = gated * u[i];
    }
    stream_pack(dx + gate, da);
    stream_pack(dx + gate + width, du);
    if (y) stream_pack(y + out, again);
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_forward(real* y, const real* left, const real* x, int rows, int first, int beside, int width, int pack) {
    if (pack == VECTOR) forward<VECTOR>(y, left, x, rows, first, beside, width);
    else forward<1>(y, left, x, rows, first, beside, width);
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_backward(real* dx, real* y, const real* dy, const real* left, const real* x, int rows, int first, int beside, int width,
                int pack) {
    if (pack == VECTOR) backward<VECTOR>(dx, y, dy, left, x, rows, first, beside, width);
    else backward<1>(dx, y, dy, left, x, rows, first, beside, width);
}
