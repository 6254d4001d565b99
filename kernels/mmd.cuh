// What MMD's kernels share: the rows of a set, its sides of 128 rows, and the discrepancy's kernel.
#pragma once
#include "flat.cuh"
#include "ptx.cuh"

constexpr int SIDE = 128;   // rows, and columns, of a tile of pairs

// The rows of a set: y, then x.
struct Set {
    const real *y, *x;
    int rows, width;

    __device__ __forceinline__ Set(const real* all_y, const real* all_x, int set, int rows, int width)
        : rows(rows), width(width) {
        const size_t first = static_cast<size_t>(set) * rows * width;
        y = all_y + first, x = all_x + first;
    }
    __device__ __forceinline__ const real* row(int i) const {
        return i < rows ? y + static_cast<size_t>(i) * width : x + static_cast<size_t>(i - rows) * width;
    }
};

// Up to 128 rows of y, or of x: no tile holds both.
struct Side {
    int tile, first, count;
    bool of_y;

    __device__ __forceinline__ Side(int tile, int rows) : tile(tile) {
        const int tiles = ceil_div(rows, SIDE), within = tile % tiles * SIDE;
        of_y = tile < tiles;
        first = (of_y ? 0 : rows) + within;
        count = min(SIDE, rows - within);
    }
};

// k, and a factor times k', at a squared distance.
struct Kernel {
    bool energy;
    float v, rate, factor;

    __device__ __forceinline__ Kernel(bool energy, float v, float by)
        : energy(energy), v(v), rate(-0.125f * 1.44269504f / v), factor(energy ? -0.5f * by : -0.1f / v * by) {}

    __device__ __forceinline__ void energy_at(float d2, float& value, float& slope) const {
        const float inverse = rsqrtf(d2 + 1e-12f);
        value = -(d2 + 1e-12f) * inverse;
        // Equal rows pull nowhere; their huge slope would only add the noise of two sums that cancel.
        slope = d2 == 0.0f ? 0.0f : factor * inverse;
    }
    __device__ __forceinline__ void gaussian_at(float d2, float& value, float& slope) const {
        // e^(z/4), and from it by squaring e^(z/2), e^z, e^(2z), e^(4z): the scales 4, 2, 1, 1/2, 1/4.
        const float e4 = exp2_approx(d2 * rate), e2 = e4 * e4, e1 = e2 * e2, half = e1 * e1, quarter = half * half;
        value = 0.2f * (e4 + e2 + e1 + half + quarter);
        slope = factor * (0.25f * e4 + 0.5f * e2 + e1 + 2.0f * half + 4.0f * quarter);
    }
    __device__ __forceinline__ void at(float d2, float& value, float& slope) const {
        if (energy) energy_at(d2, value, slope);
        else gaussian_at(d2, value, slope);
    }
};

// Called by a whole warp.
__device__ __forceinline__ float squared_distance(const real* a, const real* b, int width) {
    float sum = 0.0f;
    for (int g = 8 * lane(); g < width; g += 8 * 32) {
        const Floats<8> p = load_eight(a + g, width - g), q = load_eight(b + g, width - g);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(p[i] - q[i], p[i] - q[i], sum);
    }
    return warp_sum(sum);
}
