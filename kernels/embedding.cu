// Rows of a table by number: one-hot times matrix (SCALE v1, eq. 31).
//
//   forward    y[b,c]      = table[id[b], c]
//   backward   dtable[v,c] = sum over b with id[b] = v of dy[b,c]         =, zero if there is none
//   tensors    table [V, C] real     y, dy [B, C] real     id [B] u32, each below V     dtable [V, C] f32
//   needs      nothing
//   work       one thread per column, columns along y. Forward: rows b along x. Backward: rows v along x; a warp searches 32
//              ids at once for v
//   bound by   memory: forward moves 2 B C numbers, backward writes V C
//   repeatable yes: rows are added in the order of b
//   reference  src/ops/embedding.rs
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
embedding_forward(real* y, const real* table, const uint32_t* ids, int width) {
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    const size_t to = blockIdx.x, from = ids[blockIdx.x];
    if (column < width) y[to * width + column] = table[from * width + column];
}

extern "C" __global__ void __launch_bounds__(256)
embedding_backward(float* dtable, const real* dy, const uint32_t* ids, int count, int width) {
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    for (int first = 0; first < count; first += 32) {
        const bool here = first + lane() < count && ids[first + lane()] == blockIdx.x;
        for (uint32_t found = __ballot_sync(0xFFFFFFFFu, here); found; found &= found - 1)
            if (column < width) sum += to_float(dy[static_cast<size_t>(first + __ffs(found) - 1) * width + column]);
    }
    if (column < width) dtable[static_cast<size_t>(blockIdx.x) * width + column] = sum;
}
