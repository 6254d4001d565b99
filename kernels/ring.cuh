// A ring of slots in shared memory between a thread that fetches and warps that use what it brings. Each slot has two barriers:
// `full` when it has landed, `empty` when all warps are done with it. Blocks of a cluster that fetch for each other walk their
// rings in step: `empty` then counts the warps of all of them, for a slot is filled in all of them at once.
#pragma once
#include "hopper.cuh"

// Slots begin at a multiple of 1024, which dynamic shared memory need not.
template <class Slots> __device__ __forceinline__ Slots& place_slots() {
    SHARED(unsigned char, memory);
    return *reinterpret_cast<Slots*>(memory + (0u - shared_address(memory)) % 1024);
}

// Which four warps these are, in a register that the warp shares.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(0xFFFFFFFFu, warp() / 4, 0); }

// A place in a ring of N slots and the parity of its barriers there. Who fills waits for `phase ^ 1` of `empty`, who reads for
// `phase` of `full`.
template <int N> struct Turn {
    int slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next() {
        if (++slot == N) slot = 0, phase ^= 1;
    }
};

// One arrival of a warp, when all its lanes are done.
__device__ __forceinline__ void arrive_as_warp(uint64_t* b) {
    __syncwarp();
    if (lane() == 0) mbarrier_arrive(b);
}

// The same at the barriers of each of a cluster's BLOCKS.
template <int BLOCKS> __device__ __forceinline__ void arrive_as_warp_at_all(uint64_t* b) {
    __syncwarp();
    if (lane() < BLOCKS) mbarrier_arrive_at(b, lane());
}
