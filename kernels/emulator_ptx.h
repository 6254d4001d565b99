// The functions of ptx.cuh on the CPU, with the fragment layouts that the PTX manual gives.
//
// A copy lands at the wait that covers it and no sooner; until then its 16 bytes are poison, so that a missing wait or
// commit gives NaN, as does a buffer that is refilled while others still read it.
//
// What ldmatrix reads for a lane is addressed by another lane. Until the warp meets at a __syncwarp or a __syncthreads, that read
// is unordered with what the lanes write: rows that have changed by then were written too early.
#pragma once

namespace emulator __attribute__((visibility("hidden"))) {

static inline void require_shared(const void* at, const char* word) {
    require_aligned(at, 16, word);
    if (!in_shared(at, 16)) fail("%s at %p, which is not in shared memory", word, at);
}

static void copy_async(void* to, const void* from, bool ok) {
    require_shared(to, "cp.async to");
    require_aligned(from, 16, "cp.async from");
    Copy copy{static_cast<char*>(to), current->groups, {}};
    if (ok) memcpy(copy.bytes, from, 16);
    memset(to, 0xFF, 16);
    current->copies.push_back(copy);
}

static void land(uint32_t newest) {
    Thread& thread = *current;
    size_t landed = 0;
    for (; landed < thread.copies.size() && thread.copies[landed].group + newest < thread.groups; landed++)
        memcpy(thread.copies[landed].to, thread.copies[landed].bytes, 16);
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + landed);
}

// A row that a warp's ldmatrix has read since the warp last met, and what was there.
struct Seen { const void* row; char bytes[16]; Site site; };
static std::vector<Seen> seen[MAX_THREADS / 32];
static uint64_t seen_in[MAX_THREADS / 32];   // the block that read them

static void require_unchanged(uint32_t warp) {
    for (const Seen& one : seen[warp])
        if (seen_in[warp] == block_count && memcmp(one.row, one.bytes, 16))
            fail("a row that ldmatrix (%s:%d) reads was written before the warp met", one.site.file, one.site.line);
    seen[warp].clear();
}

struct Rows { const void* row; uint32_t* registers; };

template <int COUNT, bool TRANS> static void ldmatrix_act(void** offers, uint32_t) {
    const uint16_t* rows[8 * COUNT];
    for (int i = 0; i < 8 * COUNT; i++) {
        rows[i] = static_cast<const uint16_t*>(static_cast<Rows*>(offers[i])->row);
        require_shared(rows[i], "ldmatrix");
    }
    const uint32_t warp = current->number / 32;
    if (seen_in[warp] != block_count) seen[warp].clear(), seen_in[warp] = block_count;
    meetings = require_unchanged;
    for (const uint16_t* row : rows) {
        seen[warp].push_back({row, {}, current->site});
        memcpy(seen[warp].back().bytes, row, 16);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < COUNT; i++) {
            const int row = lane / 4, column = lane % 4 * 2;
            const uint16_t low = TRANS ? rows[8 * i + column][row] : rows[8 * i + row][column];
            const uint16_t high = TRANS ? rows[8 * i + column + 1][row] : rows[8 * i + row][column + 1];
            static_cast<Rows*>(offers[lane])->registers[i] = low | uint32_t(high) << 16;
        }
}

struct Fragments { float* d; const uint32_t *a, *b; };

static inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
static inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

static void mma_act(void** offers, uint32_t) {
    typedef float Four __attribute__((vector_size(16)));   // half a row of d, in vector code even at -O1
    float a[16][16];
    union { float at[16][8]; Four half[16][2]; } b;
    for (int lane = 0; lane < 32; lane++) {
        const Fragments& f = *static_cast<Fragments*>(offers[lane]);
        const int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = low_half(f.a[i]), a[row][column + 1] = high_half(f.a[i]);
        }
        for (int i = 0; i < 2; i++) {
            const int row = t + i * 8;
            b.at[row][g] = low_half(f.b[i]), b.at[row + 1][g] = high_half(f.b[i]);
        }
    }
    for (int row = 0; row < 16; row++) {
        union { Four half[2]; float at[8]; } d = {};
        for (int k = 0; k < 16; k++) d.half[0] += a[row][k] * b.half[k][0], d.half[1] += a[row][k] * b.half[k][1];
        for (int t = 0; t < 4; t++) {
            float* to = static_cast<Fragments*>(offers[row % 8 * 4 + t])->d + row / 8 * 2;
            to[0] += d.at[2 * t], to[1] += d.at[2 * t + 1];
        }
    }
}

template <int COUNT, bool TRANS> static inline void ldmatrix(uint32_t (&r)[COUNT], const void* row, Site site) {
    Rows offer{row, r};
    together(~0u, "ldmatrix", ldmatrix_act<COUNT, TRANS>, &offer, site);
}

}  // namespace emulator

static inline void cp_async16(void* to, const void* from) { emulator::copy_async(to, from, true); }
static inline void cp_async16_or_zero(void* to, const void* from, bool ok) { emulator::copy_async(to, from, ok); }
static inline void cp_async_commit() { emulator::current->groups++; }
template <int N> static inline void cp_async_wait() { emulator::land(N); }

static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMULATOR_SITE) {
    emulator::ldmatrix<4, false>(r, row, site);
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMULATOR_SITE) {
    emulator::ldmatrix<4, true>(r, row, site);
}

static inline uint32_t transpose_8x8(uint32_t x, EMULATOR_SITE) {
    const int lane = emulator::current->number % 32, from = lane % 4 * 8 + lane / 8, half = lane / 4 % 2 * 16;
    const uint32_t low = __shfl_sync(~0u, x, from, 32, site), high = __shfl_sync(~0u, x, from + 4, 32, site);
    return (low >> half & 0xFFFF) | high >> half << 16;
}

static inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMULATOR_SITE) {
    emulator::Fragments offer{d, a, b};
    emulator::together(~0u, "mma", emulator::mma_act, &offer, site);
}

static inline void computed_here(float (&)[4]) {}

static inline uint32_t pack_bf16(float low, float high) {
    return __nv_bfloat16(low).bits | uint32_t(__nv_bfloat16(high).bits) << 16;
}

static inline float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

static inline int anew(int x) { return x; }
