// Primitives of Hopper (sm_90a): with ptx.cuh the only inline PTX; below, the same functions for the emulator. A file that
// includes this one is compiled for sm_90a alone.
//
//   mbarrier_init(b, count)       a barrier whose phase ends after `count` arrivals, once all expected bytes have landed
//   mbarrier_init_done()          by the thread that initialised the barriers, before a __syncthreads
//   mbarrier_arrive(b)            one arrival
//   mbarrier_expect(b, bytes)     one arrival, and `bytes` more are expected in this phase
//   mbarrier_wait(b, parity)      waits until the phase of that parity has ended; on a fresh barrier that of parity 1 has
//   tma_load(to, map, x, y, b)    starts the copy of the box whose first element is (x, y), x along the row; outside the
//                                 tensor are zeros. Its bytes are counted on b. `to` is a multiple of 1024: there the box is in
//                                 rows of 128 bytes whose 16-byte chunks are swizzled (chunk c of row r at c ^ r % 8)
//   bulk_load(to, from, bytes, b)   the same for plain bytes; all three are multiples of 16
//   bulk_store(to, from, bytes), bulk_add(to, from, bytes)   start the way back: f32 in shared memory, whose writers have
//                                 called proxy_fence, are copied to global memory or added to it (each number by one atomic
//                                 step, denormals as 0); multiples of 16 again. They are unordered: before a second one to
//                                 the same place, wait for the first
//   bulk_read<N>(), bulk_done<N>()   wait until all but the N newest that this thread has started have been read from shared
//                                 memory, or have landed. A thread that has started any ends with bulk_done<0>
//   cluster_rank()                which block of its cluster this one is
//   cluster_barrier()             all threads of the cluster meet: what was written before is visible to its blocks after. A
//                                 cluster begins with one, once its barriers are initialised, and ends with one: nothing may
//                                 be sent to a block that has exited
//   mbarrier_arrive_at(b, rank)   one arrival at the barrier in block `rank` that is at b's place. It gives back what this
//                                 thread has read; it does not make this thread's writes visible to that block
//   tma_load(to, map, x, y, b, blocks)   the box lands at the same place in each block of the mask, its bytes counting on that
//                                 block's b. So each block expects all bytes that come to it, whichever block fetches them;
//                                 they may land before they are expected
//   wgmma_matrix(at, eights, columns)   descriptor of such rows as an operand: bytes from eight rows to the next eight, and
//                                 from 64 columns to the next 64 if it is wider than a row
//   wgmma_64x128x16<T>(d, a, b, keep)   d = a b, or d += a b if keep: a [64, 16] and b [128, 16] with k contiguous, or
//                                 b [16, 128] with n contiguous if T; bf16 in, f32 sums. a may be four registers as
//                                 mma_16x8x16 takes them, each warp holding its 16 rows; they must not change until the
//                                 wait that names them
//   wgmma_64x64x16<A_T, T>(d, a, b, keep)   the same with b [64, 16]; a is [16, 64] with m contiguous if A_T
//   proxy_fence()                 after a barrier, wgmma and TMA may read what this thread has written to shared memory
//   wgmma_fence()                 before the first wgmma of a group, which then sees registers and shared memory as written
//   wgmma_commit()                closes a group
//   wgmma_wait<N>(), wgmma_wait<N>(d), wgmma_wait<N>(d, a)   wait until at most the N newest groups are in flight; then d may
//                                 be read, and a written
//   give_registers<N>(), take_registers<N>()   lower or raise a warpgroup to N registers per thread
//
// Of d [64, 128], warp w of the warpgroup holds rows 16 w to 16 w + 15: d[4 j + i] is row g + 8 (i / 2), column
// 8 j + t + i % 2, where g = lane / 4 and t = 2 (lane % 4).
//
// The wgmma functions are called by four warps together, from a warp whose number is a multiple of four.
#pragma once
#include "ptx.cuh"

#ifdef __CUDACC__

// As the driver encodes it; a kernel takes it as `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap { uint64_t opaque[16]; };

__device__ __forceinline__ void mbarrier_init(uint64_t* b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}

// TMA accesses shared memory through another proxy than the threads do.
__device__ __forceinline__ void mbarrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

__device__ __forceinline__ void mbarrier_expect(uint64_t* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(uint64_t* b, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

__device__ __forceinline__ void tma_load(void* to, const TensorMap* map, int x, int y, uint64_t* b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(b)) : "memory");
}

__device__ __forceinline__ void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}

__device__ __forceinline__ void bulk_store(float* to, const float* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
                 "cp.async.bulk.commit_group;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void bulk_add(float* to, const float* from, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;\n"
                 "cp.async.bulk.commit_group;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}

template <int N> __device__ __forceinline__ void bulk_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

template <int N> __device__ __forceinline__ void bulk_done() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void tma_load(void* to, const TensorMap* map, int x, int y, uint64_t* b, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(b)), "h"(blocks) : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_barrier() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Without `.release.cluster`, which is a GPU-wide MEMBAR at each arrival, and without its counterpart at the wait, which
// empties the L1 cache: what was read is in registers, or was read by a wgmma that was waited for, and the waiter starts a copy.
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* b, uint32_t rank) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}" ::"r"(shared_address(b)), "r"(rank) : "memory");
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The compiler does not know that the wait writes d: the empty asm keeps it from moving reads of d above the wait.
template <int N, int D> __device__ __forceinline__ void wgmma_wait(float (&d)[D]) {
    wgmma_wait<N>();
#pragma unroll
    for (int i = 0; i < D; i++) asm volatile("" : "+f"(d[i])::"memory");
}

template <int N, int D, int M> __device__ __forceinline__ void wgmma_wait(float (&d)[D], uint32_t (&a)[M][4]) {
    wgmma_wait<N>(d);
#pragma unroll
    for (int i = 0; i < 4 * M; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

#define EIGHT(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                    "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define ALL(d) EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24), EIGHT(d, 32), EIGHT(d, 40), EIGHT(d, 48), EIGHT(d, 56)
#define SUMS "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

template <bool TRANSPOSED>
__device__ __forceinline__ void wgmma_64x128x16(float (&d)[64], uint64_t a, uint64_t b, bool keep) {
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 SUMS ", "
                 "%64, %65, keep, 1, 1, 0, %67;\n"
                 "}"
                 : ALL(d)
                 : "l"(a), "l"(b), "r"(static_cast<int>(keep)), "n"(static_cast<int>(TRANSPOSED)));
}

template <bool TRANSPOSED>
__device__ __forceinline__ void wgmma_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool keep) {
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 SUMS ", "
                 "{%64, %65, %66, %67}, %68, keep, 1, 1, %70;\n"
                 "}"
                 : ALL(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)),
                   "n"(static_cast<int>(TRANSPOSED)));
}

template <bool A_TRANSPOSED, bool TRANSPOSED>
__device__ __forceinline__ void wgmma_64x64x16(float (&d)[32], uint64_t a, uint64_t b, bool keep) {
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, keep, 1, 1, %35, %36;\n"
                 "}"
                 : EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24)
                 : "l"(a), "l"(b), "r"(static_cast<int>(keep)), "n"(static_cast<int>(A_TRANSPOSED)),
                   "n"(static_cast<int>(TRANSPOSED)));
}
#undef SUMS
#undef ALL
#undef EIGHT

template <int N> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#else
#include "emulator_hopper.h"
#endif

// Bits 0 to 13: the address; 16 to 29 and 32 to 45: the two strides; all in units of 16 bytes. Bit 62: 128-byte swizzle.
__device__ __forceinline__ uint64_t wgmma_matrix(const void* at, uint32_t eights, uint32_t columns = 16) {
    return (shared_address(at) >> 4 & 0x3FFF) | static_cast<uint64_t>(columns >> 4) << 16 |
           static_cast<uint64_t>(eights >> 4) << 32 | 1ull << 62;
}
