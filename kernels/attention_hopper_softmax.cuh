// The running softmax of attention_hopper.cu, in base 2, of the two rows of a tile that a thread has a share of: [h] is row
// 8 h + lane / 4 of its warp's 16. hopper.cuh says which of a warpgroup's scores s [64, 2 D] a thread holds.
#pragma once
#include "attention_hopper.cuh"

// As in attention.cu: top may lag behind the greatest score by this many powers of two.
constexpr float SLACK = 8.0f;

struct Running {
    float top[2], weight[2];   // weight: over this lane's keys only, without the seed
    float seed[2];             // the seed's score

    // Starts empty, or from a seed's key in shared memory. `q`: the warp's 16 rows of the tile, two lanes per row, a box each.
    __device__ __forceinline__ void start(const unsigned char* q, const real* key, float scale) {
        float score = 0.0f;
        const int row = lane() / 2, box = lane() % 2;
        const real* const mine = reinterpret_cast<const real*>(q + box * BOX + row * ROW);
#pragma unroll 2
        for (int i = 0; key && i < 8; i++) {
            const int c = i ^ box * 4;   // the two boxes share the same banks
            const Floats<8> a = load_pack<8>(mine + (c ^ row % 8) * 8), b = load_pack<8>(key + box * 64 + c * 8);
#pragma unroll
            for (int j = 0; j < 8; j++) score += a[j] * b[j];
        }
        score += __shfl_xor_sync(0xFFFFFFFFu, score, 1);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float of_row = __shfl_sync(0xFFFFFFFFu, score, 2 * (8 * h + lane() / 4));
            top[h] = seed[h] = key ? scale * of_row : -INFINITY;
            weight[h] = 0.0f;
        }
    }

    // Turns scores into weights. True if the warp's rows have moved to new tops: earlier sums must then be scaled by `shrink`.
    template <int D> __device__ __forceinline__ bool weigh(float (&s)[D], float scale, float (&shrink)[2]) {
        float high[2];
        bool far = false;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int j = 0; j < D / 4; j++) most[j % 2] = fmaxf(most[j % 2], fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
            high[h] = scale * quad_max(fmaxf(most[0], most[1]));
            far |= high[h] > top[h] + SLACK;
        }
        far = __any_sync(0xFFFFFFFFu, far);
        if (far) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float to = fmaxf(top[h], high[h]);
                shrink[h] = exp2_approx(top[h] - to);
                top[h] = to, weight[h] *= shrink[h];
            }
        }
#pragma unroll
        for (int i = 0; i < D; i++) {
            s[i] = exp2_approx(scale * s[i] - top[i / 2 % 2]);
            weight[i / 2 % 2] += s[i];
        }
        return far;
    }
};

// Scores of keys from `valid` on become -inf.
template <int D> __device__ __forceinline__ void hide(float (&s)[D], int valid) {
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i / 4 * 8 + lane() % 4 * 2 + i % 2 >= valid) s[i] = -INFINITY;
}
