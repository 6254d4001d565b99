// Right: the random numbers of common.cuh are those of src/rng.rs.
//
//   words      y[4 i ..] = block(counter + i) of the stream (key, address)
//   draws      u[i] = uniform(i), n[i] = normal(i)
//   tensors    words: y [4 T] u32     draws: u, n [T] f32
//   needs      one block of T threads
//
// Seen: the known-answer tests of Random123. Key, address and counter 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8; all bits
// one: 408f276d 41c83b0e a20bc7c6 6d5451fd. uniform has the bits of Rng::uniform, normal is within 2e-6 of Rng::normal.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) words(uint32_t* y, uint64_t key, uint64_t address, uint64_t counter) {
    const uint4 x = make_stream(key, address).block(counter + threadIdx.x);
    const int i = threadIdx.x * 4;
    y[i] = x.x, y[i + 1] = x.y, y[i + 2] = x.z, y[i + 3] = x.w;
}

extern "C" __global__ void __launch_bounds__(256) draws(float* u, float* n, uint64_t key, uint64_t address) {
    const Stream stream = make_stream(key, address);
    u[threadIdx.x] = stream.uniform(threadIdx.x);
    n[threadIdx.x] = stream.normal(threadIdx.x);
}
