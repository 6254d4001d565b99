// CUDA's functions on the CPU: g++ compiles the same .cu text, and every CUDA thread is a fiber (emulator_blocks.h).
//
//   g++ -std=c++17 -O1 -g -fPIC -shared -I kernels -DSCALE_BF16=0 -x c++ wrapper.cpp -o swiglu_f32.so
//   wrapper.cpp: #include "swiglu.cu", then EMULATED(name) for each kernel of it, or EMULATED(name, 2, 1, 1) for one with
//   __cluster_dims__(2, 1, 1)
//
// EMULATED defines `int emulate_<name>(const Launch*, const Argument*, int count, char* message, size_t capacity)`, which
// returns 0, or 1 and a message that says what was wrong. After a failed launch the library can still be used.
//
// With -fsanitize=address the sanitizer names a `__shared__` array that is overrun.
//
// How a kernel is written: `extern "C" __global__ void __launch_bounds__(n) name(plain arguments)`, `__cluster_dims__` before the
// bounds; PTX through ptx.cuh and hopper.cuh, dynamic shared memory through SHARED, 16-byte accesses through packs. A device
// function that holds a `__shared__` array is `static`, so that the array belongs to this library alone. Not offered, on purpose:
// fast-math intrinsics (their results cannot be promised), __activemask, cooperative groups, <<<>>>.
//
// Only a device detects: a `__shared__` array without __align__(16) under 16-byte accesses (here it is aligned anyway), more
// threads than __launch_bounds__ says, waiting for another block.
#pragma once
#include <cmath>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include "emulator_grid.h"

#define __global__
#define __device__ __attribute__((unused))
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
// The sanitizer leaves arrays with a greater alignment unguarded; the CPU needs none.
#define __align__(n) __attribute__((aligned((n) < 16 ? (n) : 16)))
constexpr int warpSize = 32;

struct float2 { float x, y; };
struct uint2 { uint32_t x, y; };
struct int2 { int x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

static inline uint32_t __float_as_uint(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
static inline float __int_as_float(int bits) { return __uint_as_float(static_cast<uint32_t>(bits)); }

// The upper half of an f32, rounded to nearest even; a NaN becomes CUDA's canonical NaN.
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) {
        const uint32_t u = __float_as_uint(x);
        bits = x != x ? 0x7FFF : static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16);
    }
    operator float() const { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
static inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }

static inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<uint32_t>(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline uint32_t __umulhi(uint32_t x, uint32_t y) { return static_cast<uint32_t>(uint64_t(x) * y >> 32); }
template <class T> static inline T __ldg(const T* from) { return *from; }
template <class T> static inline T __ldcs(const T* from) { return *from; }
template <class T> static inline void __stcs(T* to, T value) { *to = value; }

// Both are converted to one type; as in CUDA, NaN loses.
template <class A, class B, class T = std::common_type_t<A, B>> static inline T min(A x, B y) {
    if constexpr (std::is_floating_point_v<T>) return std::fmin(x, y);
    return static_cast<T>(y) < static_cast<T>(x) ? y : x;
}
template <class A, class B, class T = std::common_type_t<A, B>> static inline T max(A x, B y) {
    if constexpr (std::is_floating_point_v<T>) return std::fmax(x, y);
    return static_cast<T>(x) < static_cast<T>(y) ? y : x;
}

// One thread runs at a time, so an atomic is a plain update. Their order is drawn at random; on the device it is undefined.
template <class T, class F> static inline T update(T* at, F change) {
    const T old = *at;
    *at = change(old);
    return old;
}
template <class T> using Same = std::common_type_t<T>;   // takes no part in deducing T
template <class T> static inline T atomicAdd(T* at, Same<T> by) { return update(at, [=](T x) { return x + by; }); }
template <class T> static inline T atomicMax(T* at, Same<T> by) { return update(at, [=](T x) { return max(x, by); }); }
template <class T> static inline T atomicMin(T* at, Same<T> by) { return update(at, [=](T x) { return min(x, by); }); }
template <class T> static inline T atomicExch(T* at, Same<T> to) { return update(at, [=](T) { return to; }); }
template <class T> static inline T atomicCAS(T* at, Same<T> was, Same<T> to) {
    return update(at, [=](T x) { return x == was ? to : x; });
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// The source line of a call in the kernel, as its last argument.
#define EMULATOR_SITE emulator::Site site = emulator::Site::here()

namespace emulator __attribute__((visibility("hidden"))) {

static inline bool in_shared(const void* at, size_t bytes) {
    const char* first = static_cast<const char*>(at);
    const char* last = first + bytes;
#ifdef __SANITIZE_ADDRESS__
    if (first < dynamic_shared || first > dynamic_shared + dynamic_bytes) return true;   // cannot tell: statics may be anywhere
#endif
    return (first >= dynamic_shared && last <= dynamic_shared + dynamic_bytes) ||
           (first >= static_shared && last <= static_shared_end);
}

static inline void require_aligned(const void* at, size_t bytes, const char* word) {
    if (reinterpret_cast<uintptr_t>(at) % bytes) fail("%s at %p, which is no multiple of %zu", word, at, bytes);
}

template <class T> struct Shuffle { T value, result; int source; };

template <class T> static void shuffle_act(void** offers, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        Shuffle<T>& mine = *static_cast<Shuffle<T>*>(offers[lane]);
        if (!(mask >> mine.source & 1))
            fail("lane %d of a shuffle reads lane %d, outside its mask %08x", lane, mine.source, mask);
        mine.result = static_cast<Shuffle<T>*>(offers[mine.source])->value;
    }
}

// A lane whose source is not from `first` to `last` keeps its own value.
template <class T>
static T shuffle(uint32_t mask, T value, int source, int first, int last, const char* word, Site site) {
    const int lane = current->number % 32;
    Shuffle<T> offer{value, value, source < first || source > last ? lane : source};
    together(mask, word, shuffle_act<T>, &offer, site);
    return offer.result;
}

struct Vote { bool value; uint32_t ballot; };

static void vote_act(void** offers, uint32_t mask) {
    uint32_t ballot = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        if (static_cast<Vote*>(offers[__builtin_ctz(rest)])->value) ballot |= rest & -rest;
    for (uint32_t rest = mask; rest; rest &= rest - 1) static_cast<Vote*>(offers[__builtin_ctz(rest)])->ballot = ballot;
}

static inline uint32_t vote(uint32_t mask, bool value, const char* word, Site site) {
    Vote offer{value, 0};
    together(mask, word, vote_act, &offer, site);
    return offer.ballot;
}

// What is checked of a warp when all its lanes meet (emulator_ptx.h).
static void (*meetings)(uint32_t warp);

static void meet(void**, uint32_t mask) {
    if (meetings && mask == ~0u) meetings(current->number / 32);
}

// At a barrier a warp meets when its last lane arrives; no thread continues until all warps have arrived.
static void meet_at_barrier() {
    static uint64_t block;
    static uint32_t came[MAX_THREADS / 32];
    if (block != block_count) block = block_count, memset(came, 0, sizeof came);
    const uint32_t warp = current->number / 32;
    if (++came[warp] % 32 == 0 && meetings) meetings(warp);
}

}  // namespace emulator

static inline void __syncthreads(EMULATOR_SITE) {
    emulator::Block& block = *emulator::current->block;
    emulator::meet_at_barrier();
    emulator::barrier(block.at_barrier, block.first, block.first + emulator::block_threads, "__syncthreads", site);
}
static inline void __syncwarp(uint32_t mask = ~0u, EMULATOR_SITE) {
    emulator::together(mask, "__syncwarp", emulator::meet, nullptr, site);
}
static inline uint32_t __ballot_sync(uint32_t mask, bool value, EMULATOR_SITE) {
    return emulator::vote(mask, value, "__ballot_sync", site);
}
static inline int __all_sync(uint32_t mask, bool value, EMULATOR_SITE) {
    return emulator::vote(mask, value, "__all_sync", site) == mask;
}
static inline int __any_sync(uint32_t mask, bool value, EMULATOR_SITE) {
    return emulator::vote(mask, value, "__any_sync", site) != 0;
}

// `width` divides a warp into segments; xor may read an earlier segment but no later one, as on the hardware.
template <class T> static T __shfl_sync(uint32_t mask, T value, int source, int width = 32, EMULATOR_SITE) {
    const int first = emulator::current->number % 32 & -width, last = first + width - 1;
    return emulator::shuffle(mask, value, first + (source & (width - 1)), first, last, "__shfl_sync", site);
}
template <class T> static T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32, EMULATOR_SITE) {
    const int lane = emulator::current->number % 32, last = lane | (width - 1);
    return emulator::shuffle(mask, value, lane ^ flip, 0, last, "__shfl_xor_sync", site);
}
template <class T> static T __shfl_down_sync(uint32_t mask, T value, int by, int width = 32, EMULATOR_SITE) {
    const int lane = emulator::current->number % 32, last = lane | (width - 1);
    return emulator::shuffle(mask, value, lane + by, lane, last, "__shfl_down_sync", site);
}
template <class T> static T __shfl_up_sync(uint32_t mask, T value, int by, int width = 32, EMULATOR_SITE) {
    const int lane = emulator::current->number % 32, first = lane & -width;
    return emulator::shuffle(mask, value, lane - by, first, lane, "__shfl_up_sync", site);
}

namespace emulator __attribute__((visibility("hidden"))) {

static std::mutex one_at_a_time;
static const char* const KINDS[] = {"pointer", "int32", "uint32", "int64", "uint64", "float", "tensor map"};

template <class T> constexpr uint32_t kind_of() {
    if (std::is_class_v<T>) return 6;   // the only class that kernels take
    static_assert(std::is_class_v<T> || std::is_pointer_v<T> || std::is_same_v<T, float> ||
                      (std::is_integral_v<T> && sizeof(T) >= 4),
                  "a kernel's arguments are pointers, integers of 32 or 64 bits, floats, and tensor maps");
    if (std::is_pointer_v<T>) return 0;
    if (std::is_same_v<T, float>) return 5;
    return (sizeof(T) == 8 ? 3 : 1) + std::is_unsigned_v<T>;
}

template <class T> static T unpack(const Argument& from) {
    T value;
    const void* const bits = std::is_class_v<T> ? reinterpret_cast<const void*>(from.bits) : &from.bits;
    memcpy(&value, bits, sizeof(T));
    return value;
}

template <class... P, size_t... I>
static int checked(void (*kernel)(P...), uint32_t cluster, const Launch& shape, const Argument* from, int count,
                   std::index_sequence<I...>) {
    constexpr uint32_t wanted[] = {kind_of<P>()..., 0};
    if (count != sizeof...(P)) return refuse("%d arguments, it has %zu", count, sizeof...(P));
    for (int i = 0; i < count; i++)
        if (from[i].kind != wanted[i])
            return refuse("argument %d is of kind %u, it wants %u (%s)", i, from[i].kind, wanted[i], KINDS[wanted[i]]);
    return run(shape, cluster, [&] { kernel(unpack<P>(from[I])...); });
}

template <class... P>
static int launch(const char* name, void (*kernel)(P...), uint32_t cluster, const Launch* shape, const Argument* from,
                  int count, char* text, size_t capacity) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    kernel_name = name, message = text, message_capacity = capacity;
    return checked(kernel, cluster, *shape, from, count, std::index_sequence_for<P...>());
}

template <class... P> static int describe(void (*)(P...), uint32_t* kinds, int room) {
    const uint32_t own[] = {kind_of<P>()..., 0};
    for (int i = 0; i < static_cast<int>(sizeof...(P)) && i < room; i++) kinds[i] = own[i];
    return sizeof...(P);
}

}  // namespace emulator

// After the name: the arguments of the kernel's __cluster_dims__, if it has them.
#define EMULATED(name, ...)                                                                                           \
    extern "C" __attribute__((visibility("default"))) int emulate_##name(                                             \
        const Launch* shape, const Argument* arguments, int count, char* message, size_t capacity) {                  \
        constexpr uint32_t cluster = emulator::cluster_of(__VA_ARGS__);                                               \
        return emulator::launch(#name, name, cluster, shape, arguments, count, message, capacity);                    \
    }                                                                                                                 \
    extern "C" __attribute__((visibility("default"))) int describe_##name(uint32_t* kinds, int room) {                \
        return emulator::describe(name, kinds, room);                                                                 \
    }

// From here on only the launchers are visible outside the library, so that two libraries of one kernel file share no array.
#pragma GCC visibility push(hidden)
