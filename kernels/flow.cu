// The flow between populations: its start, sums of tensors weighted by one factor per set, the squared error (SCALE v1, eq. 18-30).
//
//   forward    start    y[b,i] = share z[b,i] + e, or 0 where u < mask         e ~ N(0, 1) if noisy, u uniform: numbers
//                                                                              first[b] + i of the set's two streams
//              combine  y[b,i] = f[b] p[b,i] + g[b] q[b,i]                     path, endpoint, and gradients through them
//              loss     L = 1/(B I) sum e[b,i]^2,  e[b,i] = sum_k f_k[b] x_k[b,i] over those of three that are given
//   backward   start    dz[b,i]   = share dy[b,i], or 0 where u < mask: the start without its noise                 =
//              loss     dx_k[b,i] = dL 2/(B I) g_k[b] e[b,i]                                                        =
//   tensors    p, q, x_k, y, z and their gradients [B, I = N D] real     f, g [B] f32     streams [B, 4]     L, dL [1] f32
//              parts [blocks] f64
//   needs      nothing; 16-byte accesses if a set's address is 16-byte aligned
//   work       each set has its own blocks; one thread per eight neighbours (start: per four that share a block of random words).
//              The loss: blocks stride over their set, a thread sums in f32 and a block in f64; loss.cu adds the blocks' sums.
//              The backward recomputes e: that costs about as much as loading it, and e is neither stored nor rounded
//   bound by   memory: the loss moves at most 3 numbers per element forward, 6 backward; a noisy start by arithmetic
//   repeatable yes: sums have one fixed order, random numbers depend only on their position
//   reference  src/ops/flow.rs
#include "flat.cuh"

constexpr int TERMS = 3;

// Four words per set: the seed, the addresses of the noise's and of the mask's stream, the index of the set's first number.
extern "C" __global__ void __launch_bounds__(256)
flow_start(real* y, const real* z, const uint64_t* streams, float share, int noisy, float mask, int sets, int size) {
    const OfSet of(sets);
    if (of.missing) return;
    const uint64_t* of_set = streams + 4 * static_cast<size_t>(of.set);
    const uint64_t first = of_set[3], counter = first / 4 + static_cast<uint64_t>(of.block) * blockDim.x + threadIdx.x;
    const int64_t at = static_cast<int64_t>(4 * counter - first);   // negative if the set begins inside a block of random words
    if (at >= size) return;
    z += static_cast<size_t>(of.set) * size;
    y += static_cast<size_t>(of.set) * size;
    const bool whole = at >= 0 && at + 4 <= size && aligned<4 * sizeof(real)>(z + at, y + at);
    Floats<4> values;
    if (whole) values = load_pack<4>(z + at);
    else
        for (int i = 0; i < 4; i++) values[i] = at + i >= 0 && at + i < size ? to_float(z[at + i]) : 0.0f;
    if (share != 1.0f)
        for (int i = 0; i < 4; i++) values[i] *= share;
    if (noisy) {
        const uint4 noise = make_stream(of_set[0], of_set[1]).block(counter);
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] += Stream::normal(noise, i);
    }
    if (mask > 0.0f) {
        const uint4 holes = make_stream(of_set[0], of_set[2]).block(counter);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (Stream::uniform(holes, i) < mask) values[i] = 0.0f;
    }
    if (whole) return store_pack(y + at, values);
    for (int i = 0; i < 4; i++)
        if (at + i >= 0 && at + i < size) y[at + i] = to_real(values[i]);
}

// Adds eight neighbours times their factor, if the tensor is given.
__device__ __forceinline__ void add(Floats<8>& sum, const real* x, size_t at, size_t left, float factor) {
    if (!x) return;
    const Floats<8> values = load_eight(x + at, left);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = fmaf(factor, values[i], sum[i]);
}

extern "C" __global__ void __launch_bounds__(256)
flow_combine(real* y, const real* p, const float* by_p, const real* q, const float* by_q, int sets, int size) {
    const OfSet of(sets);
    if (of.missing) return;
    const size_t in_set = (static_cast<size_t>(of.block) * blockDim.x + threadIdx.x) * 8;
    if (in_set >= size) return;
    const size_t left = size - in_set, at = static_cast<size_t>(of.set) * size + in_set;
    Floats<8> sum{};
    add(sum, p, at, left, by_p[of.set]);
    if (q) add(sum, q, at, left, by_q[of.set]);
    store_eight(y + at, sum, left);
}

// factors [2, 3, B]: f, then g.
extern "C" __global__ void __launch_bounds__(256, 5)
flow_loss_forward(double* parts, const real* a, const real* b, const real* c, const float* factors, int sets, int size) {
    const OfSet of(sets);
    if (of.missing) return;
    const real* const from[TERMS] = {a, b, c};
    float sum = 0.0f;
    const size_t set = of.set, stride = static_cast<size_t>(gridDim.x) * blockDim.x * 8;
    for (size_t at = (static_cast<size_t>(of.block) * blockDim.x + threadIdx.x) * 8; at < size; at += stride) {
        Floats<8> error{};
#pragma unroll
        for (int k = 0; k < TERMS; k++)
            add(error, from[k], set * size + at, size - at, factors[static_cast<size_t>(k) * sets + set]);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(error[i], error[i], sum);
    }
    const double of_block = block_total(sum);
    if (threadIdx.x == 0) parts[of.number()] = of_block;
}

extern "C" __global__ void __launch_bounds__(256)
flow_loss_backward(real* da, real* db, real* dc, const float* d, const real* a, const real* b, const real* c,
                   const float* factors, float scale, int sets, int size) {
    const OfSet of(sets);
    if (of.missing) return;
    const size_t in_set = (static_cast<size_t>(of.block) * blockDim.x + threadIdx.x) * 8;
    if (in_set >= size) return;
    const size_t set = of.set, left = size - in_set, at = set * size + in_set;
    const real* const from[TERMS] = {a, b, c};
    real* const to[TERMS] = {da, db, dc};
    Floats<8> error{};
#pragma unroll
    for (int k = 0; k < TERMS; k++) add(error, from[k], at, left, factors[static_cast<size_t>(k) * sets + set]);
#pragma unroll
    for (int k = 0; k < TERMS; k++) {
        if (!to[k]) continue;
        const float slope = *d * scale * factors[static_cast<size_t>(TERMS + k) * sets + set];
        Floats<8> out;
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = slope * error[i];
        store_eight(to[k] + at, out, left);
    }
}
