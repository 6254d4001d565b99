// The only inline PTX apart from Hopper's (hopper.cuh), as named functions; below, the same functions for the emulator.
//
//   cp_async16(to, from)     16 bytes from global to shared memory, bypassing registers; has landed after a cp_async_wait
//   cp_async16_or_zero(to, from, ok)   the same; unless ok, 16 zeros, and `from` is not read
//   cp_async_commit()        closes a group of this thread's copies
//   cp_async_wait<N>()       waits until at most the N newest groups are in flight. Other threads may read after a barrier
//   ldmatrix_x4(r, row)      four 8x8 matrices of bf16: lane l gives the address of row l % 8 of matrix l / 8, and gets
//                            in r[i] elements t, t + 1 of row g of matrix i; ldmatrix_x4_trans: of its transpose
//   transpose_8x8(x)         transposes an 8x8 matrix of bf16 of which each lane holds elements t, t + 1 of row g, before and after
//   mma_16x8x16(d, a, b)     d += a b, bf16 in, f32 sums:
//                            a [16, 16]   a[0] = (g, t)   a[1] = (g + 8, t)   a[2] = (g, t + 8)   a[3] = (g + 8, t + 8)
//                            b [16, 8]    b[0] = (t, g)   b[1] = (t + 8, g)
//                            d [16, 8]    d[0], d[1] = (g, t), (g, t + 1)     d[2], d[3] = (g + 8, t), (g + 8, t + 1)
//   computed_here(d)         keeps the mma that makes d in front of a branch that only some lanes take
//   pack_bf16(low, high)     two f32 rounded into one register, as mma takes them
//   exp2_approx(x)           2^x in one instruction, to 2 ulp; zero below 2^-126
//   anew(x)                  x, hidden from the optimiser: what a loop computes from it is recomputed each time, and takes no
//                            registers in between
//
// where g = lane / 4 and t = 2 (lane % 4). A register of a holds the named element and, in its upper half, the next in its
// row; a register of b, the next in its column. So ldmatrix_x4 of a row-major a gives one a; ldmatrix_x4_trans of a row-major
// b, or ldmatrix_x4 of a row-major transpose of b, gives two b.
//
// ldmatrix to mma are called by the whole warp. Shared addresses are multiples of 16 bytes. Needs sm_80.
#pragma once
#include "common.cuh"

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

// .cg bypasses L1, which would only keep a second copy of what shared memory holds.
__device__ __forceinline__ void cp_async16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void cp_async16_or_zero(void* to, const void* from, bool ok) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(shared_address(to)), "l"(from), "r"(ok ? 16 : 0) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// Not volatile: it reads and writes registers alone, so the compiler may move it.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void computed_here(float (&d)[4]) { asm volatile("" : "+f"(d[0])); }

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// exp2f spends three more instructions on results below 2^-126.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ int anew(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

#else
#include "emulator_ptx.h"
#endif

// Of 16 neighbours of a row a lane holds two registers, in the layout of mma_16x8x16's a. It swaps with the lane next to it for
// eight contiguous bytes: four lanes then fill a 32-byte sector of memory. Where a lane's own four numbers begin:
__device__ __forceinline__ int own_four() { return lane() % 2 * 8 + lane() % 4 / 2 * 4; }

__device__ __forceinline__ uint2 swap_out(uint32_t left, uint32_t right) {
    const bool odd = lane() % 2;
    const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, odd ? left : right, 1);
    return odd ? make_uint2(other, right) : make_uint2(left, other);
}

// And back: x is the left register, y the right one.
__device__ __forceinline__ uint2 swap_in(uint2 own) {
    const bool odd = lane() % 2;
    const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, odd ? own.x : own.y, 1);
    return odd ? make_uint2(other, own.y) : make_uint2(own.x, other);
}
