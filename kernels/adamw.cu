// Clip and AdamW over flat buffers (Loshchilov & Hutter 2019, alg. 2), with averaged weights.
//
//   norm       n       = sqrt(sum_i g[i]^2)          c = min(1, limit / (n + 1e-6))
//   update     g       = c g[i]
//              m[i]    = b1 m[i] + (1 - b1) g        v[i] = b2 v[i] + (1 - b2) g^2
//              w[i]    = shrink w[i] - step m[i] / (sqrt(v[i]) root + eps)          shrink is 1 without weight decay
//              a[i]    = keep a[i] + (1 - keep) w[i]                                the average
//   split      rounded = w to the nearest bf16, ties away from zero                  low = the lower 16 bits of w
//   join       w       = rounded + low, read as a signed 16-bit integer: exactly the bits that were split
//   tensors    w, a, m, v, g [L] f32     clip [2] f32: n, c     decay [L / 8] bytes     rounded [L] bf16, low [L] 16 bits: an
//              update takes either w or these two     stretches [P, 2] 64 bits: first index in g, count
//   needs      L % 8 == 0, and the same for stretches
//   work       norm: a row of blocks strides over each stretch, one partial sum per block; one block adds these.
//              update: one thread per pack of 4
//   bound by   memory: norm moves 4 L bytes, update 36 L
//   repeatable yes: the number and order of the partial sums depend only on L, ranks and pieces
//   reference  src/ops/adamw.rs
#include "common.cuh"

constexpr int THREADS = 256;

// Sum over the block by halving; every thread gets it. Not in block_total's order: a resumed run must reproduce the same bits.
static __device__ double tree_sum(double x) {
    __shared__ double part[THREADS];
    part[threadIdx.x] = x;
    for (uint32_t half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    return part[0];
}

// In double: free next to the memory traffic, and exploding gradients cannot overflow it.
extern "C" __global__ void __launch_bounds__(THREADS) adamw_norm(double* partial, const float* g, const uint64_t* stretches) {
    constexpr int LOADS = 4;   // in flight at once
    constexpr int CHUNK = LOADS * THREADS * 4;
    g += stretches[2 * blockIdx.y];
    const uint64_t count = stretches[2 * blockIdx.y + 1];
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
    sum = tree_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw_clip(float* clip, const double* partial, int partials, float limit) {
    double sum = 0;
    for (int i = threadIdx.x; i < partials; i += THREADS) sum += partial[i];
    const double norm = sqrt(tree_sum(sum));
    if (threadIdx.x > 0) return;
    clip[0] = static_cast<float>(norm);
    clip[1] = static_cast<float>(fmin(1.0, limit / (norm + 1e-6)));
}

// Four weights, of which matrix products read the upper halves. `low`, as a signed number, takes back what rounding up has added;
// ties round up, so that its sign says so and nothing is lost. A NaN becomes the canonical one, whose upper half is a NaN too.
struct Halves { uint2 rounded, low; };

__device__ __forceinline__ Floats<4> join(const Halves& halves) {
    const uint32_t high[2] = {halves.rounded.x, halves.rounded.y}, low[2] = {halves.low.x, halves.low.y};
    Floats<4> w;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t upper = __float_as_uint(half_of(high[i / 2], i));
        const uint32_t lower = i % 2 ? low[i / 2] >> 16 : low[i / 2] & 0xFFFFu;
        w[i] = __uint_as_float(upper + lower - (lower >> 15 << 16));
    }
    return w;
}

__device__ __forceinline__ Halves split(const Floats<4>& w) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = w[i] == w[i] ? __float_as_uint(w[i]) : 0x7FC00000u;
        high[i] = (bits + 0x8000u) >> 16, low[i] = bits & 0xFFFFu;
    }
    return {make_uint2(high[0] | high[1] << 16, high[2] | high[3] << 16), make_uint2(low[0] | low[1] << 16, low[2] | low[3] << 16)};
}

__device__ __forceinline__ Halves load_halves(const uint16_t* rounded, const uint16_t* low, size_t at) {
    return {*reinterpret_cast<const uint2*>(rounded + at), *reinterpret_cast<const uint2*>(low + at)};
}

__device__ __forceinline__ void store_halves(uint16_t* rounded, uint16_t* low, size_t at, const Halves& halves) {
    *reinterpret_cast<uint2*>(rounded + at) = halves.rounded;
    *reinterpret_cast<uint2*>(low + at) = halves.low;
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_split(uint16_t* rounded, uint16_t* low, const float* w, uint64_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (at < count) store_halves(rounded, low, at, split(load_pack<4>(w + at)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_join(float* w, const uint16_t* rounded, const uint16_t* low, uint64_t count) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (at < count) store_pack(w + at, join(load_halves(rounded, low, at)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_update(float* w, uint16_t* rounded, uint16_t* low, float* m, float* v, float* average, const float* g,
             const uint8_t* decay, const float* clip, uint64_t count, float b1, float b2, float step, float root, float eps,
             float shrink, float keep) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (at >= count) return;
    Floats<4> ws = w ? load_pack<4>(w + at) : join(load_halves(rounded, low, at)),
              ms = load_pack<4>(m + at), vs = load_pack<4>(v + at);
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
    if (w) store_pack(w + at, ws);
    else store_halves(rounded, low, at, split(ws));
    store_pack(m + at, ms);
    store_pack(v + at, vs);
    store_pack(average + at, averages);
}
