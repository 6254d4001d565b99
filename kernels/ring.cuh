// A ring of slots in shared memory between a fetching thread and the warps that use what it brings. Each slot has two barriers:
// `full` when it has landed, `empty` when all warps are done with it. Blocks of a cluster that fetch for each other advance their
// rings in step: `empty` then counts the warps of all of them, since a slot is filled in all of them at once.
#pragma once
#include "hopper.cuh"

// Slots begin at a multiple of 1024; dynamic shared memory need not.
template <class Slots> __device__ __forceinline__ Slots& place_slots() {
    SHARED(unsigned char, memory);
    return *reinterpret_cast<Slots*>(memory + (0u - shared_address(memory)) % 1024);
}

// The number of this warpgroup, in a warp-uniform register.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(0xFFFFFFFFu, warp() / 4, 0); }

// A position in a ring of N slots and the parity of its barriers there. Whoever fills waits for `phase ^ 1` of `empty`, readers
// wait for `phase` of `full`.
template <int N> struct Turn {
    int slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next() {
        if (++slot == N) slot = 0, phase ^= 1;
    }
};

// One arrival per warp, when all its lanes are done.
__device__ __forceinline__ void arrive_as_warp(uint64_t* b) {
    __syncwarp();
    if (lane() == 0) mbarrier_arrive(b);
}

// The same, at the barrier of each of a cluster's BLOCKS.
template <int BLOCKS> __device__ __forceinline__ void arrive_as_warp_at_all(uint64_t* b) {
    __syncwarp();
    if (lane() < BLOCKS) mbarrier_arrive_at(b, lane());
}
