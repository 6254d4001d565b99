// Sinusoidal features of the flow's time (Vaswani et al. 2017, section 3.5, with time in place of position).
//
//   forward    y[b] = [cos(1000 t_b f_i), sin(1000 t_b f_i)],  f_i = 10^(-4 i / 128),  i < 128
//   tensors    y [B, 256] real     t [B] f32
//   needs      nothing
//   work       one thread per frequency, 128 threads per set, in f64 like the reference: the argument reaches 1000, where f32
//              has lost four digits of the angle
//   bound by   f64 arithmetic: a few thousand angles per step
//   repeatable yes: no sums
//   reference  src/ops/time.rs
#include "common.cuh"

constexpr int FREQUENCIES = 128;

extern "C" __global__ void __launch_bounds__(FREQUENCIES) time_forward(real* y, const float* times) {
    const int i = threadIdx.x;
    const double angle = 1000.0 * times[blockIdx.x] * pow(10.0, -4.0 * i / FREQUENCIES);
    y += static_cast<size_t>(blockIdx.x) * 2 * FREQUENCIES;
    y[i] = to_real(static_cast<float>(cos(angle)));
    y[FREQUENCIES + i] = to_real(static_cast<float>(sin(angle)));
}
