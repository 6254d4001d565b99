// A gated MLP's products with the gate in their epilogue (SwiGLU, Shazeer 2020, eq. 5), on Hopper's tensor cores.
//
//   forward    [a | u] = x w^T                     y[m,f] = silu(a[m,f]) u[m,f],  silu(a) = a s(a),  s(a) = 1 / (1 + e^-a)
//   backward   dy      = dh v                      rounded to bf16, as if it were stored
//              da[m,f] = dy u s (1 + a (1 - s))    =
//              du[m,f] = dy silu(a)                =
//              y[m,f]  = silu(a[m,f]) u[m,f]       =   recomputed, the same bits: forward need not keep it
//   tensors    x, dh [M, E]   w [2F, E]   v [E, F]   y [M, F]   gate_up = [a | u], d_gate_up = [da | du] [M, 2F]   all bf16
//   needs      sm_90a, bf16, E % 8 == 0, F % 8 == 0, addresses that are multiples of 16 bytes; any M. gate_up may be null
//              if there is no backward
//   work       as in panels.cuh, one block per multiprocessor; a forward tile is 128 rows by 64 of a and the same 64 of u, a
//              backward tile 128 rows by 128 of dy. One warpgroup of a block does all that is not a product. Rows of x and dh
//              are read once if E <= 512, in the `_wide` ones if E <= 768; otherwise once per tile
//   bound by   forward: compute, 4 M E F; it moves M E + 3 M F numbers. Backward: memory, M E + 5 M F numbers
//   repeatable yes: no atomics
//   reference  src/ops/matmul_swiglu.rs
#include "hopper.cuh"
#include "panels.cuh"

// Eight bf16 numbers in four registers.
struct Eight {
    uint32_t word[4];

    static __device__ __forceinline__ Eight load(const unsigned char* from) {
        const uint4 x = *reinterpret_cast<const uint4*>(from);
        return {{x.x, x.y, x.z, x.w}};
    }
    __device__ __forceinline__ void store(real* to) const {
        check_pack<real, 8>(to);
        __stcs(reinterpret_cast<uint4*>(to), make_uint4(word[0], word[1], word[2], word[3]));
    }
    __device__ __forceinline__ float operator[](int i) const { return half_of(word[i / 2], i); }
    static __device__ __forceinline__ Eight pack(const float (&x)[8]) {
        return {{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])}};
    }
};

// The values are bf16, and every tile runs through this code: a one-instruction exponential, as the instruction cache is small.
__device__ __forceinline__ float sigmoid_approx(float x) { return reciprocal(1.0f + exp2_approx(-1.4426950f * x)); }

struct Forward {
    real *y, *gate_up;
    int rows, width;
    const Run& run;

    // A warp takes 16 rows, four at a time: 128 bytes each of a, of u and of y.
    __device__ __forceinline__ void operator()(const unsigned char* piece, const Tile& tile, int group) const {
        const int row = warp() % 4 * 16 + lane() / 8, chunk = lane() % 8;
        const int m = tile.panel * ROWS + group * 64 + row, f = tile.column * 64 + chunk * 8;
        const size_t line = static_cast<size_t>(m) * width;
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
            const unsigned char* const both = piece + swizzled(row + i, chunk);
            const Eight a = Eight::load(both), u = Eight::load(both + SLOT / 2);
            float out[8];
#pragma unroll
            for (int j = 0; j < 8; j++) out[j] = a[j] * sigmoid_approx(a[j]) * u[j];
            if (m + i >= rows || f >= width) continue;
            const size_t at = line + static_cast<size_t>(i) * width;
            Eight::pack(out).store(y + at + f);
            if (!gate_up) continue;
            a.store(gate_up + 2 * at + f);
            u.store(gate_up + 2 * at + width + f);
        }
    }
};

// Where a thread's eights of a piece are: a warp takes 16 rows, two at a time, 256 bytes each.
struct Place {
    int m, end;   // the first row, and where rows end
    size_t f, line;
    __device__ __forceinline__ Place(const Tile& tile, int group, int rows, int width) {
        m = tile.panel * ROWS + group * 64 + warp() % 4 * 16 + lane() / 16;
        const int column = tile.column * 128 + lane() % 16 * 8;
        f = column, line = static_cast<size_t>(m) * width;
        end = column < width ? rows : 0;
    }
};

struct Backward {
    real *d_gate_up, *y;
    const real* gate_up;
    int rows, width;
    const Run& run;
    // This thread's eights of a and u, EIGHTS of each, copied one piece ahead: 32 KiB per block, enough to keep memory busy.
    unsigned char* ahead;
    static constexpr int EIGHTS = 8, LINE = RECEIVERS * 16, UPS = EIGHTS * LINE;

    // Starts copying eight i of a and u; `from` is its a.
    __device__ __forceinline__ void copy(const real* from, int i, bool any) const {
        if (any) cp_async16(ahead + i * LINE, from), cp_async16(ahead + i * LINE + UPS, from + width);
        cp_async_commit();
    }
    __device__ __forceinline__ void begin() const {
        const Place at(run.start(), 0, rows, width);
        const real* from = gate_up + 2 * at.line + at.f;
        for (int i = 0; i < EIGHTS; i++, from += 4 * static_cast<size_t>(width)) copy(from, i, at.m + 2 * i < at.end);
    }

    __device__ __forceinline__ void operator()(const unsigned char* piece, const Tile& tile, int group) const {
        Tile then = tile;
        if (group == 1) run.next(then);
        const Place at(tile, group, rows, width), next(then, group ^ 1, then.number < run.end ? rows : 0, width);
        const int row = at.m % 64;
        const unsigned char* const sums = piece + lane() / 8 % 2 * (SLOT / 2);
        const size_t down = 2 * static_cast<size_t>(width);
        const real* from = gate_up + 2 * next.line + next.f;
        real *to = d_gate_up + 2 * at.line + at.f, *to_y = y + at.line + at.f;
        // Two at a time: a warp is alone on its scheduler, so one's exponentials are in flight while the other's are used.
#pragma unroll 1
        for (int i = 0; i < EIGHTS; i += 2) {
            cp_async_wait<EIGHTS - 2>();
            Eight dy[2], a[2], u[2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                dy[j] = Eight::load(sums + swizzled(row + 2 * (i + j), lane() % 8));
                a[j] = Eight::load(ahead + (i + j) * LINE), u[j] = Eight::load(ahead + (i + j) * LINE + UPS);
            }
#pragma unroll
            for (int j = 0; j < 2; j++, from += 2 * down) copy(from, i + j, next.m + 2 * (i + j) < next.end);
            Eight da[2], du[2], out[2];
#pragma unroll
            for (int j = 0; j < 2; j++) gate(da[j], du[j], out[j], dy[j], a[j], u[j]);
#pragma unroll
            for (int j = 0; j < 2; j++, to += 2 * down, to_y += down) {
                if (at.m + 2 * (i + j) >= at.end) continue;
                out[j].store(to_y);
                da[j].store(to);
                du[j].store(to + width);
            }
        }
    }

    static __device__ __forceinline__ void gate(Eight& da, Eight& du, Eight& y, const Eight& dy, const Eight& a, const Eight& u) {
        float by_a[8], by_u[8], out[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float s = sigmoid_approx(a[j]), gated = a[j] * s;
            by_a[j] = dy[j] * u[j] * (s + gated * (1.0f - s));
            by_u[j] = dy[j] * gated;
            out[j] = gated * u[j];
        }
        da = Eight::pack(by_a), du = Eight::pack(by_u), y = Eight::pack(out);
    }
};

template <int STEPS>
__device__ __forceinline__ void forward(real* y, real* gate_up, const TensorMap* x, const TensorMap* w, int rows, int depth,
                                        int width) {
    constexpr int RING = Slots<STEPS>::RING_MOST;
    Slots<STEPS>& slots = open_slots<STEPS>();
    const Run run(rows, ceil_div(width, 64), depth);
    if (threadIdx.x < MULTIPLIERS) {
        take_registers<MANY>();
        Multiplier<STEPS, RING, false>{slots, run, warp() / 4}.multiply();
    } else if (threadIdx.x < MULTIPLIERS + RECEIVERS) {
        give_registers<SOME>();
        receive(slots, run, Forward{y, gate_up, rows, width, run});
    } else {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS + RECEIVERS)
            fetch<RING>(slots, run, x, w, [=](int k, int column, int half) {
                return make_int2(k, half * width + column * 64);
            });
    }
}

template <int STEPS>
__device__ __forceinline__ void backward(real* d_gate_up, real* y, const real* gate_up, const TensorMap* dh,
                                         const TensorMap* v, int rows, int depth, int width) {
    constexpr int RING = Slots<STEPS>::RING_MOST - 2;   // two slots hold gates
    Slots<STEPS>& slots = open_slots<STEPS>();
    const Run run(rows, ceil_div(width, 128), depth);
    if (threadIdx.x < MULTIPLIERS) {
        take_registers<MANY>();
        Multiplier<STEPS, RING, true>{slots, run, warp() / 4}.multiply();
    } else if (threadIdx.x < MULTIPLIERS + RECEIVERS) {
        give_registers<SOME>();
        const Backward use{d_gate_up, y, gate_up, rows, width, run, slots.ring[RING] + threadIdx.x % RECEIVERS * 16};
        use.begin();
        receive(slots, run, use);
        cp_async_wait<0>();
    } else {
        give_registers<FEW>();
        if (threadIdx.x == MULTIPLIERS + RECEIVERS)
            fetch<RING>(slots, run, dh, v, [=](int k, int column, int half) {
                return make_int2(column * 128 + half * 64, k);
            });
    }
}

extern "C" __global__ void __launch_bounds__(512, 1)
matmul_swiglu_forward(real* y, real* gate_up, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                      int rows, int depth, int width) {
    if (SCALE_BF16) forward<8>(y, gate_up, &x, &w, rows, depth, width);
}

extern "C" __global__ void __launch_bounds__(512, 1)
matmul_swiglu_forward_wide(real* y, real* gate_up, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                           int rows, int depth, int width) {
    if (SCALE_BF16) forward<12>(y, gate_up, &x, &w, rows, depth, width);
}

extern "C" __global__ void __launch_bounds__(512, 1)
matmul_swiglu_backward(real* d_gate_up, real* y, const real* gate_up, const __grid_constant__ TensorMap dh,
                       const __grid_constant__ TensorMap v, int rows, int depth, int width) {
    if (SCALE_BF16) backward<8>(d_gate_up, y, gate_up, &dh, &v, rows, depth, width);
}

extern "C" __global__ void __launch_bounds__(512, 1)
matmul_swiglu_backward_wide(real* d_gate_up, real* y, const real* gate_up, const __grid_constant__ TensorMap dh,
                            const __grid_constant__ TensorMap v, int rows, int depth, int width) {
    if (SCALE_BF16) backward<12>(d_gate_up, y, gate_up, &dh, &v, rows, depth, width);
}
