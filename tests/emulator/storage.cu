// Right: packs and rounding of the storage type, and the activation functions.
//
//   scale      y = s x, VECTOR elements per thread, the last threads of the grid idle
//   mixed      y = x + w, x and y real, w f32: eight elements per thread
//   curves     y[0] = silu, [1] = its derivative, [2] = gelu, [3] = its derivative, [4] = softplus, [5] = sigmoid, f32
//   tensors    scale, mixed: x, y [M] real, w [M] f32     curves: y [6, M], x [M] f32
//   needs      M % 8 == 0, 256 threads
//
// Seen: bf16 results have the bits of round-to-nearest-even (ties, subnormals, infinities, NaN). curves differ from f64
// by less than 1e-6 (1 + |y|).
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) scale(real* y, const real* x, int m, float s) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR;
    if (i >= m) return;
    Floats<VECTOR> v = load_pack(x + i);
    for (int j = 0; j < VECTOR; j++) v[j] *= s;
    store_pack(y + i, v);
}

extern "C" __global__ void __launch_bounds__(256) mixed(real* y, const real* x, const float* w, int m) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= m) return;
    Floats<8> v = load_pack<8>(x + i);
    const Floats<8> added = load_pack<8>(w + i);
    for (int j = 0; j < 8; j++) v[j] += added[j];
    store_pack(y + i, v);
}

extern "C" __global__ void __launch_bounds__(256) curves(float* y, const float* x, int m) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m) return;
    y[0 * m + i] = silu(x[i]);
    y[1 * m + i] = silu_derivative(x[i]);
    y[2 * m + i] = gelu(x[i]);
    y[3 * m + i] = gelu_derivative(x[i]);
    y[4 * m + i] = softplus(x[i]);
    y[5 * m + i] = sigmoid(x[i]);
}
