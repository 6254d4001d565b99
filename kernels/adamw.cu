// Clip and AdamW over flat buffers (Loshchilov & Hutter 2019, alg. 2), with averaged weights.
//
//   norm       n       = sqrt(sum_i g[i]^2)          c = min(1, limit / (n + 1e-6))
//   update     g       = c g[i]
//              m[i]    = b1 m[i] + (1 - b1) g        v[i] = b2 v[i] + (1 - b2) g^2
//              w[i]    = shrink w[i] - step m[i] / (sqrt(v[i]) root + eps)          shrink is 1 where there is no decay
//              a[i]    = keep a[i] + (1 - keep) w[i]                                the average
//   tensors    w, a, m, v, g [L] f32     clip [2] f32: n, c     decay [L / 8] bytes     rounded [L] real, or none: w rounded
//   needs      L % 8 == 0
//   work       norm: blocks stride over the buffer, one partial sum each, added by one block; update: one thread a pack of 4
//   bound by   memory: norm moves 4 L bytes, update 36 L and 2 L for the rounded copy
//   repeatable yes: the number of partial sums and the order in which they are added know L alone
//   reference  src/ops/adamw.rs
#include "common.cuh"

constexpr int THREADS = 256;

// Sum over the block, in one order; every thread gets it.
static __device__ double block_sum(double x) {
    __shared__ double part[THREADS];
    part[threadIdx.x] = x;
    for (uint32_t half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    return part[0];
}

// In double, which costs nothing beside the memory and cannot overflow where a gradient explodes.
extern "C" __global__ void __launch_bounds__(THREADS) adamw_norm(double* partial, const float* g, uint64_t count) {
    constexpr int LOADS = 4;   // on their way at once
    constexpr int CHUNK = LOADS * THREADS * 4;
    double sum = 0;
    for (size_t first = static_cast<size_t>(blockIdx.x) * CHUNK; first < count; first += static_cast<size_t>(gridDim.x) * CHUNK) {
        Floats<4> x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            const size_t at = first + (j * THREADS + threadIdx.x) * 4;
            x[j] = at < count ? load_pack<4>(g + at) : Floats<4>{};
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum += static_cast<double>(x[j][i]) * x[j][i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw_clip(float* clip, const double* partial, int partials, float limit) {
    double sum = 0;
    for (int i = threadIdx.x; i < partials; i += THREADS) sum += partial[i];
    const double norm = sqrt(block_sum(sum));
    if (threadIdx.x > 0) return;
    clip[0] = static_cast<float>(norm);
    clip[1] = static_cast<float>(fmin(1.0, limit / (norm + 1e-6)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_update(float* w, real* rounded, float* m, float* v, float* average, const float* g, const uint8_t* decay, const float* clip,
             uint64_t count, float b1, float b2, float step, float root, float eps, float shrink, float keep) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (at >= count) return;
    Floats<4> ws = load_pack<4>(w + at), ms = load_pack<4>(m + at), vs = load_pack<4>(v + at);
    Floats<4> averages = load_pack<4>(average + at);
    const Floats<4> gs = load_pack<4>(g + at);
    const float factor = clip[1], shrunk = decay[at / 8] ? shrink : 1.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float d = gs[i] * factor;
        ms[i] = b1 * ms[i] + (1.0f - b1) * d;
        vs[i] = b2 * vs[i] + (1.0f - b2) * d * d;
        ws[i] = shrunk * ws[i] - step * ms[i] / (sqrtf(vs[i]) * root + eps);
        averages[i] = keep * averages[i] + (1.0f - keep) * ws[i];
    }
    store_pack(w + at, ws);
    store_pack(m + at, ms);
    store_pack(v + at, vs);
    store_pack(average + at, averages);
    if (rounded) store_pack(rounded + at, ws);
}
