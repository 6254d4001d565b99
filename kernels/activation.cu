// Element-wise non-linearities.
//
//   forward    y  = f(x)        relu max(x, 0) . softplus ln(1 + e^x) . silu x s(x), s(x) = 1 / (1 + e^-x)
//                               gelu x Phi(x), Phi the standard normal distribution (exact, Hendrycks & Gimpel 2016)
//   backward   dx = dy f'(x)                                                          =
//   tensors    x, y, dx, dy [..] real
//   needs      nothing; 16-byte accesses if all addresses are 16-byte aligned
//   work       one thread per eight neighbours
//   bound by   memory: forward moves 2 numbers per element, backward 3
//   repeatable yes: no sums
//   reference  src/ops/activation.rs
#include "flat.cuh"

// Numbered as in src/ops/activation.rs.
enum Kind { RELU, SOFTPLUS, SILU, GELU };

template <Kind KIND> __device__ __forceinline__ float value(float x) {
    if (KIND == RELU) return x < 0.0f ? 0.0f : x;   // a NaN stays NaN
    if (KIND == SOFTPLUS) return softplus(x);
    return KIND == SILU ? silu(x) : gelu(x);
}

template <Kind KIND> __device__ __forceinline__ float slope(float x) {
    if (KIND == RELU) return x > 0.0f ? 1.0f : 0.0f;
    if (KIND == SOFTPLUS) return sigmoid(x);
    return KIND == SILU ? silu_derivative(x) : gelu_derivative(x);
}

template <Kind KIND> __device__ __forceinline__ void forward(real* y, const real* x, size_t count) {
    each_eight(y, count, [](float u) { return value<KIND>(u); }, x);
}

template <Kind KIND> __device__ __forceinline__ void backward(real* dx, const real* dy, const real* x, size_t count) {
    each_eight(dx, count, [](float d, float u) { return d * slope<KIND>(u); }, dy, x);
}

extern "C" __global__ void __launch_bounds__(256) activation_forward(real* y, const real* x, int kind, uint64_t count) {
    switch (kind) {
        case RELU: return forward<RELU>(y, x, count);
        case SOFTPLUS: return forward<SOFTPLUS>(y, x, count);
        case SILU: return forward<SILU>(y, x, count);
        case GELU: return forward<GELU>(y, x, count);
    }
}

extern "C" __global__ void __launch_bounds__(256)
activation_backward(real* dx, const real* dy, const real* x, int kind, uint64_t count) {
    switch (kind) {
        case RELU: return backward<RELU>(dx, dy, x, count);
        case SOFTPLUS: return backward<SOFTPLUS>(dx, dy, x, count);
        case SILU: return backward<SILU>(dx, dy, x, count);
        case GELU: return backward<GELU>(dx, dy, x, count);
    }
}
