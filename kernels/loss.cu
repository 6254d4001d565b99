// The last pass of a loss: one number from the sums of the previous pass's blocks.
//
//   forward    L = scale sum_p parts[p]
//   tensors    parts [P] f64     L [1] f32
//   needs      nothing
//   work       one block
//   bound by   its launch, and by how many parts a thread adds: MMD leaves 10,240 of 64 sets of 512 cells
//   repeatable yes: a thread adds its parts in order, the block its threads
//   reference  src/ops/loss.rs
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(1024) loss_total(float* loss, const double* parts, int count, float scale) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_total(sum);
    if (threadIdx.x == 0) *loss = static_cast<float>(sum * scale);
}
