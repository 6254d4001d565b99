// Gated SiLU (Shazeer 2020, eq. 5), gate and value packed side by side.
//
//   forward    y[m,f]  = silu(a[m,f]) u[m,f]           [a | u] = x[m],  silu(a) = a s(a),  s(a) = 1 / (1 + e^-a)
//   backward   da[m,f] = dy[m,f] u[m,f] s (1 + a (1 - s))                       =
//              du[m,f] = dy[m,f] silu(a[m,f])                                   =
//   tensors    x, dx [M, 2F]     y, dy [M, F]     all real
//   needs      nothing; 16-byte moves where F is a multiple of them
//   work       one thread a pack of neighbours
//   bound by   memory: forward moves 3 M F, backward 5 M F numbers
//   repeatable yes: no sums
//   reference  src/ops/swiglu.rs
#include "common.cuh"

template <int N> __device__ void forward(real* y, const real* x, size_t rows, int width) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (at >= rows * width) return;
    const real* gate = x + at / width * 2 * width + at % width;
    const Floats<N> a = load_pack<N>(gate), u = load_pack<N>(gate + width);
    Floats<N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = silu(a[i]) * u[i];
    store_pack(y + at, out);
}

template <int N> __device__ void backward(real* dx, const real* dy, const real* x, size_t rows, int width) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (at >= rows * width) return;
    const size_t first = at / width * 2 * width + at % width;
    const Floats<N> a = load_pack<N>(x + first), u = load_pack<N>(x + first + width), d = load_pack<N>(dy + at);
    Floats<N> da, du;
#pragma unroll
    for (int i = 0; i < N; i++) {
        da[i] = d[i] * u[i] * silu_derivative(a[i]);
        du[i] = d[i] * silu(a[i]);
    }
    store_pack(dx + first, da);
    store_pack(dx + first + width, du);
}

extern "C" __global__ void __launch_bounds__(256) swiglu_forward(real* y, const real* x, int rows, int width) {
    if (width % VECTOR == 0) forward<VECTOR>(y, x, rows, width);
    else forward<1>(y, x, rows, width);
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_backward(real* dx, const real* dy, const real* x, int rows, int width) {
    if (width % VECTOR == 0) backward<VECTOR>(dx, dy, x, rows, width);
    else backward<1>(dx, dy, x, rows, width);
}
