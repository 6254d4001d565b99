// wgmma on the CPU; included by emulator_hopper.h.
//
//   operands     Shared memory is read through its descriptors, swizzle and all, at the call and once more at the wait: what
//                changed in between was given free too early. Registers that hold an operand must be unchanged then, too.
//   sums         are kept aside, and their registers hold poison, until the wait that covers them
#pragma once

namespace emulator __attribute__((visibility("hidden"))) {

struct Sum { float* d; uint32_t group, count; float values[64]; };   // `count` of them
// `seen`: what was read, hashed.
struct Operands { uint64_t a, b; bool in_registers, a_transposed, transposed; int columns; uint32_t group; uint64_t seen; };
struct Held { const uint32_t* a; uint32_t group, was[4]; };   // an operand in registers

// What a thread has begun and not yet waited for. The operands are those of its warp.
struct Matrix {
    uint64_t block;
    bool fenced;
    uint32_t groups;
    std::vector<Sum> sums;
    std::vector<Operands> operands;
    std::vector<Held> held;
};
static Matrix matrices[MAX_THREADS];

static Matrix& matrix_of(const Thread& thread) {
    Matrix& m = matrices[thread.number];
    if (m.block == block_count) return m;
    m.block = block_count, m.fenced = false, m.groups = 0, m.sums.clear(), m.operands.clear(), m.held.clear();
    return m;
}

// Element (row, k) of an operand, as the PTX manual lays out core matrices: k contiguous, or `row` if transposed.
static float element(uint64_t matrix, bool transposed, uint32_t row, uint32_t k) {
    const uint32_t start = (matrix & 0x3FFF) << 4, leading = (matrix >> 16 & 0x3FFF) << 4, stride = (matrix >> 32 & 0x3FFF) << 4;
    const uint32_t mode = matrix >> 62, bits = mode ? 4 - mode : 0, width = 16 << bits;   // 0: none, 1: 128, 2: 64, 3: 32 bytes
    uint32_t at = start;
    if (transposed) {
        at += row % (width / 2) * 2 + k % 8 * width;
        at += row / (width / 2) * (bits ? leading : stride) + k / 8 * (bits ? stride : leading);
    } else {
        at += row % 8 * width + row / 8 * stride + (bits ? k * 2 : k % 8 * 2 + k / 8 * leading);
    }
    at ^= (at >> 7 & ((1u << bits) - 1)) << 4;
    uint16_t value;
    memcpy(&value, in_block(at, 2, "wgmma"), 2);
    return low_half(value);
}

struct Read { float a[16][16], b[16][128]; };

// Returns a hash of what it reads in shared memory.
static uint64_t read_operands(Read& read, const Operands& o, uint32_t warp) {
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t k = 0; k < 16; k++) read.a[row][k] = o.in_registers ? 0.0f : element(o.a, o.a_transposed, 16 * warp + row, k);
    for (int n = 0; n < 128; n++)
        for (uint32_t k = 0; k < 16; k++) read.b[k][n] = n < o.columns ? element(o.b, o.transposed, n, k) : 0.0f;
    uint64_t hash = 0;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(&read);
    for (size_t i = 0; i < sizeof read / 4; i++) hash = (hash ^ words[i]) * 0x100000001B3ull;
    return hash;
}

struct Multiply { float* d; int columns; const uint32_t* registers; uint64_t a, b; bool keep, a_transposed, transposed; };

// The warp's rows of a, from its lanes' registers.
static void hold_registers(Read& read, void** offers, uint32_t first) {
    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t* const a = static_cast<Multiply*>(offers[lane])->registers;
        Matrix& m = matrix_of(threads[first + lane]);
        m.held.push_back({a, m.groups, {a[0], a[1], a[2], a[3]}});
        for (uint32_t i = 0; i < 4; i++) {
            float* const pair = &read.a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8];
            pair[0] = low_half(a[i]), pair[1] = high_half(a[i]);
        }
    }
}

static void wgmma_act(void** offers, uint32_t) {
    const uint32_t first = current->number / 32 * 32, warp = current->number / 32 % 4;
    const Multiply& one = *static_cast<Multiply*>(offers[0]);
    Operands operands{one.a, one.b, one.registers != nullptr, one.a_transposed, one.transposed, one.columns,
                      matrix_of(threads[first]).groups, 0};
    static Read read;
    operands.seen = read_operands(read, operands, warp);
    matrix_of(threads[first]).operands.push_back(operands);
    if (operands.in_registers) hold_registers(read, offers, first);
    static float d[16][128];
    memset(d, 0, sizeof d);
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 128; n++) d[row][n] += read.a[row][k] * read.b[k][n];
    for (uint32_t lane = 0; lane < 32; lane++) {
        const Multiply& mine = *static_cast<Multiply*>(offers[lane]);
        if (mine.a != one.a || mine.b != one.b || mine.keep != one.keep) fail("wgmma: the lanes name different operands");
        Matrix& m = matrix_of(threads[first + lane]);
        size_t at = 0;
        while (at < m.sums.size() && m.sums[at].d != mine.d) at++;
        if (at == m.sums.size()) {
            m.sums.push_back({mine.d, 0, uint32_t(mine.columns) / 2, {}});
            memcpy(m.sums[at].values, mine.d, 4 * m.sums[at].count);
            memset(mine.d, 0xFF, 4 * m.sums[at].count);
        }
        Sum& sum = m.sums[at];
        sum.group = m.groups;
        for (uint32_t i = 0; i < sum.count; i++) {
            const float product = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
            sum.values[i] = mine.keep ? sum.values[i] + product : product;
        }
    }
}

static void wgmma_begin(Multiply offer, Site site) {
    if (!matrix_of(*current).fenced) fail("wgmma (%s:%d) without a wgmma_fence in its group", site.file, site.line);
    together(~0u, "wgmma", wgmma_act, &offer, site);
}

// `newest` groups may stay in flight.
static void wgmma_land(uint32_t newest) {
    Matrix& m = matrix_of(*current);
    static Read read;
    while (!m.operands.empty() && m.operands[0].group + newest < m.groups) {
        if (read_operands(read, m.operands[0], current->number / 32 % 4) != m.operands[0].seen)
            fail("shared memory changed while a wgmma read it: it was given free before its wgmma_wait");
        m.operands.erase(m.operands.begin());
    }
    while (!m.held.empty() && m.held[0].group + newest < m.groups) {
        if (memcmp(m.held[0].a, m.held[0].was, sizeof m.held[0].was))
            fail("registers changed while a wgmma read them: they were written before its wgmma_wait");
        m.held.erase(m.held.begin());
    }
    for (size_t i = m.sums.size(); i-- > 0;)
        if (m.sums[i].group + newest < m.groups) {
            memcpy(m.sums[i].d, m.sums[i].values, 4 * m.sums[i].count);
            m.sums.erase(m.sums.begin() + i);
        }
}

}  // namespace emulator

static inline void wgmma_fence() { emulator::matrix_of(*emulator::current).fenced = true; }
static inline void wgmma_commit() {
    emulator::Matrix& m = emulator::matrix_of(*emulator::current);
    m.groups++, m.fenced = false;
}
template <int N> static inline void wgmma_wait() { emulator::wgmma_land(N); }
template <int N, int D> static inline void wgmma_wait(float (&)[D]) { emulator::wgmma_land(N); }
template <int N, int D, int M> static inline void wgmma_wait(float (&)[D], uint32_t (&)[M][4]) { emulator::wgmma_land(N); }
template <bool TRANSPOSED>
static inline void wgmma_64x128x16(float (&d)[64], uint64_t a, uint64_t b, bool keep, EMULATOR_SITE) {
    emulator::wgmma_begin({d, 128, nullptr, a, b, keep, false, TRANSPOSED}, site);
}
template <bool TRANSPOSED>
static inline void wgmma_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool keep, EMULATOR_SITE) {
    emulator::wgmma_begin({d, 128, a, 0, b, keep, false, TRANSPOSED}, site);
}
template <bool A_TRANSPOSED, bool TRANSPOSED>
static inline void wgmma_64x64x16(float (&d)[32], uint64_t a, uint64_t b, bool keep, EMULATOR_SITE) {
    emulator::wgmma_begin({d, 64, nullptr, a, b, keep, A_TRANSPOSED, TRANSPOSED}, site);
}
