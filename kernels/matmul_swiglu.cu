// A gated MLP's products with the gate in their epilogue (SwiGLU, Shazeer 2020, eq. 5), on Hopper's tensor cores.
//
//   forward    [a | u] = x w^T                     y[m,f] = silu(a[m,f]) u[m,f],  silu(a) = a s(a),  s(a) = 1 / (1 + e^-a)
//   backward   dy      = dh v                      rounded to bf16, as if it were stored
//              da[m,f] = dy u s (1 + a (1 - s))    =
//              du[m,f] = dy silu(a)                =
//              y[m,f]  = silu(a[m,f]) u[m,f]       =   again, the same bits: forward need not keep it
//   tensors    x, dh [M, E]   w [2F, E]   v [E, F]   y [M, F]   gate_up = [a | u], d_gate_up = [da | du] [M, 2F]   all bf16
//   needs      sm_90a, bf16, E % 8 == 0, F % 8 == 0, addresses that are multiples of 16 bytes; any M. gate_up may be null
//              where there is no backward
//   work       as panels.cuh; a forward tile is 128 rows by 64 of a and the same 64 of u, a backward tile 128 rows by 128
//              of dy. A block a multiprocessor
//   bound by   forward: compute, 4 M E F; it moves M E + 3 M F numbers. Backward: memory, M E + 5 M F numbers
//   repeatable yes: no atomics
//   reference  src/ops/matmul_swiglu.rs
#include "hopper.cuh"
#include "panels.cuh"

// Four registers a lane, in a quad: lane t's register i goes to lane i's register t. What wgmma leaves as two columns in each
// of four groups of eight becomes the eight columns of one group.
__device__ __forceinline__ void transpose_quad(uint32_t (&r)[4]) {
#pragma unroll
    for (int flip = 1; flip <= 2; flip++) {
        const bool upper = lane() & flip;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & flip) continue;
            const uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, upper ? r[i] : r[i | flip], flip);
            (upper ? r[i] : r[i | flip]) = got;
        }
    }
}

// Eight numbers of bf16 in four registers.
struct Eight {
    uint32_t word[4];

    // Columns 32 q to 32 q + 31 of a row of sums, this lane's eight of them; `half` 0: row g, 1: row g + 8.
    static __device__ __forceinline__ Eight of_sums(const float* sums, int q, int half) {
        Eight x;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float* const pair = sums + 4 * (4 * q + i) + 2 * half;
            x.word[i] = pack_bf16(pair[0], pair[1]);
        }
        transpose_quad(x.word);
        return x;
    }
    static __device__ __forceinline__ Eight load(const real* from) {
        check_pack<real, 8>(from);
        const uint4 x = *reinterpret_cast<const uint4*>(from);
        return {{x.x, x.y, x.z, x.w}};
    }
    __device__ __forceinline__ void store(real* to) const {
        check_pack<real, 8>(to);
        *reinterpret_cast<uint4*>(to) = make_uint4(word[0], word[1], word[2], word[3]);
    }
    __device__ __forceinline__ float operator[](int i) const {
        return __uint_as_float(i % 2 ? word[i / 2] & 0xFFFF0000u : word[i / 2] << 16);
    }
    static __device__ __forceinline__ Eight pack(const float (&x)[8]) {
        return {{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])}};
    }
};

// Of bf16, and in code that every tile runs through once, an exponential of one instruction: the instruction cache is small.
__device__ __forceinline__ float sigmoid_approx(float x) { return reciprocal(1.0f + exp2_approx(-1.4426950f * x)); }

// Where a lane's eight columns lie: of a tile of WIDTH columns of F, group q of 32, row g or g + 8.
template <int WIDTH> struct Place {
    int m, f;
    bool inside;
    __device__ __forceinline__ Place(const Run& run, int tile, int q, int half, int rows, int width) {
        m = run.panel(tile) * ROWS + warp() * 16 + half * 8 + lane() / 4;
        f = run.column(tile) * WIDTH + q * 32 + lane() % 4 * 8;
        inside = m < rows && f < width;
    }
};

struct Forward {
    real *y, *gate_up;
    int rows, width;
    const Run& run;

    __device__ __forceinline__ void slice(int slice, const float (&sums)[64], int tile) const {
        if (slice % 2) return;
        const int q = slice / 4, half = slice / 2 % 2;
        // Rounded first: what backward reads is what this y is made of.
        const Eight a = Eight::of_sums(sums, q, half), u = Eight::of_sums(sums + 32, q, half);
        const Place<64> at(run, tile, q, half, rows, width);
        if (!at.inside) return;
        float out[8];
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = a[i] * sigmoid_approx(a[i]) * u[i];
        Eight::pack(out).store(y + static_cast<size_t>(at.m) * width + at.f);
        if (!gate_up) return;
        real* const to = gate_up + static_cast<size_t>(at.m) * 2 * width + at.f;
        a.store(to);
        u.store(to + width);
    }
    __device__ __forceinline__ void after(int, int) const {}
};

// Gates are on their way this many slices before they are used: with eight warps 32 KiB, enough to keep the memory busy.
constexpr int AHEAD = 4;

struct Backward {
    real *d_gate_up, *y;
    const real* gate_up;
    int rows, width;
    const Run& run;
    Eight gates[AHEAD], ups[AHEAD];

    __device__ __forceinline__ void slice(int slice, const float (&sums)[64], int tile) {
        const Eight dy = Eight::of_sums(sums, slice / 2, slice % 2);
        const Eight &a = gates[slice % AHEAD], &u = ups[slice % AHEAD];
        const Place<128> at(run, tile, slice / 2, slice % 2, rows, width);
        if (!at.inside) return;
        float da[8], du[8], out[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float s = sigmoid_approx(a[i]), gated = a[i] * s;
            da[i] = dy[i] * u[i] * s * (1.0f + a[i] * (1.0f - s));
            du[i] = dy[i] * gated;
            out[i] = gated * u[i];
        }
        const size_t row = at.m;
        Eight::pack(out).store(y + row * width + at.f);
        Eight::pack(da).store(d_gate_up + row * 2 * width + at.f);
        Eight::pack(du).store(d_gate_up + row * 2 * width + width + at.f);
    }

    // Behind slice i of the tile before `tile`: the gates of its slice i + AHEAD, or of the first slices of `tile`.
    __device__ __forceinline__ void after(int slice, int tile) {
        const int next = (slice + AHEAD) % SLICES, of = slice + AHEAD < SLICES ? tile - 1 : tile;
        if (of < run.first || of >= run.end) return;
        const Place<128> at(run, of, next / 2, next % 2, rows, width);
        if (!at.inside) return;
        const real* const from = gate_up + static_cast<size_t>(at.m) * 2 * width + at.f;
        gates[next % AHEAD] = Eight::load(from);
        ups[next % AHEAD] = Eight::load(from + width);
    }
};

// Registers of a thread that fetches and of one that multiplies: 128 and 256 of them share 64 Ki.
constexpr int FEW = 40, MANY = 232;

__device__ __forceinline__ void forward(real* y, real* gate_up, const TensorMap* x, const TensorMap* w, int rows, int depth,
                                        int width) {
    Slots& slots = open_slots();
    const Run run(rows, ceil_div(width, 64), depth);
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS)
            fetch(slots, run, x, [=](unsigned char* slot, int k, int column, uint64_t* full) {
                tma_load(slot, w, k, column * 64, full);
                tma_load(slot + SLOT / 2, w, k, width + column * 64, full);
            });
    } else {
        take_registers<MANY>();
        Forward use{y, gate_up, rows, width, run};
        Multiplier<false>{slots, run, warp() / 4}.multiply(use);
    }
}

__device__ __forceinline__ void backward(real* d_gate_up, real* y, const real* gate_up, const TensorMap* dh,
                                         const TensorMap* v, int rows, int depth, int width) {
    Slots& slots = open_slots();
    const Run run(rows, ceil_div(width, 128), depth);
    if (threadIdx.x >= MULTIPLIERS) {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS)
            fetch(slots, run, dh, [=](unsigned char* slot, int k, int column, uint64_t* full) {
                tma_load(slot, v, column * 128, k, full);
                tma_load(slot + SLOT / 2, v, column * 128 + 64, k, full);
            });
    } else {
        take_registers<MANY>();
        Backward use{d_gate_up, y, gate_up, rows, width, run};
        Multiplier<true>{slots, run, warp() / 4}.multiply(use);
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
matmul_swiglu_forward(real* y, real* gate_up, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                      int rows, int depth, int width) {
    if (SCALE_BF16) forward(y, gate_up, &x, &w, rows, depth, width);
}

extern "C" __global__ void __launch_bounds__(384, 1)
matmul_swiglu_backward(real* d_gate_up, real* y, const real* gate_up, const __grid_constant__ TensorMap dh,
                       const __grid_constant__ TensorMap v, int rows, int depth, int width) {
    if (SCALE_BF16) backward(d_gate_up, y, gate_up, &dh, &v, rows, depth, width);
}
