// The words of hopper.cuh on the CPU: what the copy engine and wgmma do by themselves happens late, and what may not be
// touched meanwhile is watched.
//
//   tma_load     The target is poison from the call on. The box lands, swizzled, at a drawn moment: while others run, or as
//                late as when nothing else can. Bytes beyond those expected end the launch; bytes that are missing leave
//                their waiters stuck, which is reported.
//   mbarrier     lives in its 8 bytes of shared memory; used before mbarrier_init, or arrived at too often, it is refused.
//   wgmma        reads shared memory through its descriptors, swizzle and all, at the call and once more when it is waited
//                for: what changed in between was given free too early. Sums lie beside the registers, which hold poison,
//                until the wait that covers them. Registers that hold an operand must be the same then.
//   not seen     what a missing proxy fence does; a warpgroup that parts; how many registers there are
#pragma once

#define __grid_constant__

// What the driver's tensor map stands for: rows of bf16, `stride` bytes apart, of which boxes are copied.
struct TensorMap { uint64_t base, width, height, stride; uint32_t box_width, box_height; };

namespace emulator __attribute__((visibility("hidden"))) {

// Where dynamic shared memory begins. On the device too it need not be a multiple of 1024.
constexpr uint32_t SHARED_BASE = 0x410;

static inline uint32_t address_of(const void* at) {
    return SHARED_BASE + static_cast<uint32_t>(static_cast<const char*>(at) - dynamic_shared);
}

static inline char* in_block(uint32_t address, size_t bytes, const char* word) {
    const size_t at = address - size_t(SHARED_BASE);
    if (address < SHARED_BASE || at + bytes > dynamic_bytes)
        fail("%s at address %u, outside of %zu bytes of shared memory", word, address, dynamic_bytes);
    return dynamic_shared + at;
}

// ---- barriers: `phase` is the parity of the one under way

struct Barrier { uint8_t made, phase, count, pending; int32_t bytes; };
constexpr uint8_t MADE = 0xB5;
static const Barrier* waits_on[MAX_THREADS];

static Barrier& barrier_at(uint64_t* b, const char* word) {
    Barrier& barrier = *reinterpret_cast<Barrier*>(b);
    in_block(address_of(b), 8, word);
    if (barrier.made != MADE) fail("%s on a barrier that was not made", word);
    return barrier;
}

// Barriers are where warps overtake each other.
static void maybe_turn() {
    if (!(draw() & patience)) draw_a_warp();
}

static void settle(Barrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.phase ^= 1, barrier.pending = barrier.count;
    for (uint32_t i = 0; i < thread_count; i++)
        if (waits_on[i] == &barrier) waits_on[i] = nullptr, warps[i / 32].ready |= threads[i].bit, awake |= 1u << i / 32;
}

static void arrive_at(uint64_t* b, uint32_t bytes, const char* word) {
    Barrier& barrier = barrier_at(b, word);
    if (!barrier.pending) fail("%s: more arrivals in a phase than the %d it was made for", word, barrier.count);
    barrier.pending--, barrier.bytes += bytes;
    settle(barrier);
    maybe_turn();
}

// ---- copies on their way

struct Flight { uint64_t block; char* to; Barrier* barrier; std::vector<char> box; };
static std::vector<Flight> flights;

// One of them lands; false if there is none.
static bool land_a_flight() {
    for (size_t i = flights.size(); i-- > 0;)
        if (flights[i].block != block_count) flights.erase(flights.begin() + i);   // of a launch that failed
    if (flights.empty()) return false;
    if (!live) {
        refuse("block (%u, %u, %u) ended with a tma_load on its way", blockIdx.x, blockIdx.y, blockIdx.z);
        flights.clear();
        return false;
    }
    Flight& flight = flights[draw() % flights.size()];
    Barrier& barrier = *flight.barrier;
    memcpy(flight.to, flight.box.data(), flight.box.size());
    barrier.bytes -= static_cast<int32_t>(flight.box.size());
    std::swap(flight, flights.back());
    flights.pop_back();
    if (barrier.bytes < 0) fail("a tma_load brings %d bytes more than its barrier expects", -barrier.bytes);
    settle(barrier);
    return true;
}

static void maybe_land() {
    arrivals = land_a_flight;
    if (draw() % 4 == 0) land_a_flight();
}

static void load_box(void* to, const TensorMap* map, int x, int y, uint64_t* b) {
    Barrier& barrier = barrier_at(b, "tma_load");
    const uint32_t address = address_of(to), bytes = map->box_width * 2 * map->box_height;
    if (address % 1024) fail("tma_load to address %u, no multiple of 1024", address);
    if (map->box_width != 64) fail("tma_load of rows of %u numbers; swizzled rows have 64", map->box_width);
    in_block(address, bytes, "tma_load");
    Flight flight{block_count, static_cast<char*>(to), &barrier, std::vector<char>(bytes)};
    for (uint32_t row = 0; row < map->box_height; row++)
        for (uint32_t column = 0; column < map->box_width; column++) {
            const uint64_t i = uint64_t(int64_t(y) + row), j = uint64_t(int64_t(x) + column);   // negative: far outside
            if (i >= map->height || j >= map->width) continue;
            const uint32_t at = row * 128 + column * 2;
            memcpy(&flight.box[at ^ (at >> 7 & 7) << 4], reinterpret_cast<const char*>(map->base + i * map->stride) + 2 * j, 2);
        }
    memset(to, 0xFF, bytes);
    flights.push_back(std::move(flight));
    maybe_land();
}

// ---- wgmma

struct Sum { float* d; uint32_t group; float values[64]; };
struct Operands { uint64_t a, b; bool in_registers, transposed; uint32_t group; uint64_t seen; };   // `seen`: what was read, hashed
struct Held { const uint32_t* a; uint32_t group, was[4]; };   // an operand in registers

// Of a thread: what it has begun and not yet waited for. The operands are those of its warp.
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

// Element (row, k) of an operand, as the PTX manual lays its core matrices: rows of k, or rows of `row` if transposed.
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

// What lies in shared memory, hashed.
static uint64_t read_operands(Read& read, const Operands& o, uint32_t warp) {
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t k = 0; k < 16; k++) read.a[row][k] = o.in_registers ? 0.0f : element(o.a, false, 16 * warp + row, k);
    for (uint32_t n = 0; n < 128; n++)
        for (uint32_t k = 0; k < 16; k++) read.b[k][n] = element(o.b, o.transposed, n, k);
    uint64_t hash = 0;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(&read);
    for (size_t i = 0; i < sizeof read / 4; i++) hash = (hash ^ words[i]) * 0x100000001B3ull;
    return hash;
}

struct Multiply { float* d; const uint32_t* registers; uint64_t a, b; bool keep, transposed; };

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
    Operands operands{one.a, one.b, one.registers != nullptr, one.transposed, matrix_of(threads[first]).groups, 0};
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
            m.sums.push_back({mine.d, 0, {}});
            memcpy(m.sums[at].values, mine.d, sizeof m.sums[at].values);
            memset(mine.d, 0xFF, sizeof m.sums[at].values);
        }
        Sum& sum = m.sums[at];
        sum.group = m.groups;
        for (int i = 0; i < 64; i++) {
            const float product = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
            sum.values[i] = mine.keep ? sum.values[i] + product : product;
        }
    }
}

static void wgmma_begin(Multiply offer, Site site) {
    if (!matrix_of(*current).fenced) fail("wgmma (%s:%d) without a wgmma_fence in its group", site.file, site.line);
    together(~0u, "wgmma", wgmma_act, &offer, site);
}

// `newest` groups may stay on their way.
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
            memcpy(m.sums[i].d, m.sums[i].values, sizeof m.sums[i].values);
            m.sums.erase(m.sums.begin() + i);
        }
}

}  // namespace emulator

static inline uint32_t shared_address(const void* at) { return emulator::address_of(at); }

static inline void mbarrier_init(uint64_t* b, uint32_t count) {
    emulator::in_block(emulator::address_of(b), 8, "mbarrier_init");
    emulator::require_aligned(b, 8, "mbarrier_init");
    for (const emulator::Barrier*& waited : emulator::waits_on)
        if (reinterpret_cast<uint64_t*>(const_cast<emulator::Barrier*>(waited)) == b) waited = nullptr;   // in a launch that failed
    *reinterpret_cast<emulator::Barrier*>(b) = {emulator::MADE, 0, uint8_t(count), uint8_t(count), 0};
}
static inline void mbarrier_init_done() {}
static inline void mbarrier_arrive(uint64_t* b) { emulator::arrive_at(b, 0, "mbarrier_arrive"); }
static inline void mbarrier_expect(uint64_t* b, uint32_t bytes) { emulator::arrive_at(b, bytes, "mbarrier_expect"); }
static inline void mbarrier_wait(uint64_t* b, uint32_t parity, EMULATOR_SITE) {
    using namespace emulator;
    maybe_land();
    for (const Barrier& barrier = barrier_at(b, "mbarrier_wait"); barrier.phase == parity;) {
        current->word = "mbarrier_wait", current->site = site, current->mask = 0;
        waits_on[current->number] = &barrier;
        sleep(*current);
    }
    maybe_turn();
}
static inline void tma_load(void* to, const TensorMap* map, int x, int y, uint64_t* b) {
    emulator::load_box(to, map, x, y, b);
}

static inline void wgmma_fence() { emulator::matrix_of(*emulator::current).fenced = true; }
static inline void wgmma_commit() {
    emulator::Matrix& m = emulator::matrix_of(*emulator::current);
    m.groups++, m.fenced = false;
}
template <int N> static inline void wgmma_wait() { emulator::wgmma_land(N); }
template <int N> static inline void wgmma_wait(float (&)[64]) { emulator::wgmma_land(N); }
template <int N, int M> static inline void wgmma_wait(float (&)[64], uint32_t (&)[M][4]) { emulator::wgmma_land(N); }
template <bool TRANSPOSED>
static inline void wgmma_64x128x16(float (&d)[64], uint64_t a, uint64_t b, bool keep, EMULATOR_SITE) {
    emulator::wgmma_begin({d, nullptr, a, b, keep, TRANSPOSED}, site);
}
template <bool TRANSPOSED>
static inline void wgmma_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool keep, EMULATOR_SITE) {
    emulator::wgmma_begin({d, a, 0, b, keep, TRANSPOSED}, site);
}
template <int N> static inline void give_registers() {}
template <int N> static inline void take_registers() {}
