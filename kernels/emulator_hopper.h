// The functions of hopper.cuh on the CPU: what TMA and wgmma do asynchronously happens late, and what must not be touched
// meanwhile is watched.
//
//   tma_load     The target is poison from the call on. The box lands, swizzled, at a random moment: while others run, or at
//                the latest when nothing else can; at a moment of its own in each block of a cluster that it goes to. Bytes
//                beyond those expected end the launch; those that another block fetches may land early, while an arrival is
//                still due. Missing bytes leave their waiters stuck, which is reported. bulk_load does the same with plain
//                bytes, which are read when they land, no sooner.
//   bulk_store   Its source is read at a random moment, and lands, or is added (bulk_add), at a later one, in any order; at the
//                latest when bulk_read or bulk_done asks. Refused: one to a place where another that nobody has waited for
//                may still be in flight; a thread that exits without having waited for all.
//   mbarrier     is kept in its 8 bytes of shared memory; use before mbarrier_init and surplus arrivals are refused.
//   clusters     Whatever is sent to a block that has exited is refused: a copy when it lands, an arrival when it is made.
//   wgmma        see emulator_wgmma.h
//   not seen     a missing proxy fence, release or acquire: an arrival is visible at once, in another block too, with all that
//                was written before it; a warpgroup that diverges; register limits
#pragma once

#define __grid_constant__

// What the driver's tensor map describes: rows of bf16, `stride` bytes apart, of which boxes are copied.
struct TensorMap { uint64_t base, width, height, stride; uint32_t box_width, box_height; };

namespace emulator __attribute__((visibility("hidden"))) {

// Where dynamic shared memory begins. On a device it need not be a multiple of 1024 either.
constexpr uint32_t SHARED_BASE = 0x410;

static inline uint32_t address_of(const void* at) {
    return SHARED_BASE + static_cast<uint32_t>(static_cast<const char*>(at) - dynamic_shared);
}

static inline char* in_block(uint32_t address, size_t bytes, const char* word, const Block& block = *current->block) {
    const size_t at = address - size_t(SHARED_BASE);
    if (address < SHARED_BASE || at + bytes > dynamic_bytes)
        fail("%s at address %u, outside of %zu bytes of shared memory", word, address, dynamic_bytes);
    return block.shared + at;
}

// A block of the cluster that something is sent to.
static Block& block_of(uint32_t rank, const char* word) {
    if (rank >= cluster_size) fail("%s to block %u of a cluster of %u", word, rank, cluster_size);
    if (!blocks[rank].live) fail("%s to block %u of the cluster, which has ended", word, rank);
    return blocks[rank];
}

// ---- barriers: `phase` is the parity of the current phase

struct Barrier { uint8_t made, phase, count, pending; int32_t bytes; };
constexpr uint8_t MADE = 0xB5;
static const Barrier* waits_on[MAX_THREADS];

// The barrier in `block` that is at b's place.
static Barrier& barrier_at(uint64_t* b, const char* word, const Block& block = *current->block) {
    Barrier& barrier = *reinterpret_cast<Barrier*>(in_block(address_of(b), 8, word, block));
    if (barrier.made != MADE) fail("%s on a barrier that was not made", word);
    return barrier;
}

// Barriers are where warps overtake each other.
static void maybe_turn() {
    if (!(draw() & patience)) draw_a_warp();
}

// `early`: bytes may land before they are expected.
static void settle(Barrier& barrier, bool early = true) {
    if (barrier.bytes < 0 && !(early && barrier.pending))
        fail("a tma_load brings %d bytes more than its barrier expects", -barrier.bytes);
    if (barrier.pending || barrier.bytes) return;
    barrier.phase ^= 1, barrier.pending = barrier.count;
    for (uint32_t i = 0; i < thread_count; i++)
        if (waits_on[i] == &barrier) waits_on[i] = nullptr, warps[i / 32].ready |= threads[i].bit, awake |= 1u << i / 32;
}

static void arrive_at(uint64_t* b, uint32_t bytes, const char* word, const Block& block = *current->block) {
    Barrier& barrier = barrier_at(b, word, block);
    if (!barrier.pending) fail("%s: more arrivals in a phase than the %d it was made for", word, barrier.count);
    barrier.pending--, barrier.bytes += bytes;
    settle(barrier);
    maybe_turn();
}

// ---- copies in flight

struct Flight {
    uint64_t begun;
    const Block *from, *block;
    char* to;
    Barrier* barrier;
    std::vector<char> box;
    const char* source = nullptr;   // of plain bytes, which are still to be read
};
static std::vector<Flight> flights;

// One of them lands; false if there is none.
static bool land_a_flight() {
    for (size_t i = flights.size(); i-- > 0;)
        if (flights[i].begun != block_count) flights.erase(flights.begin() + i);   // of a launch that failed
    if (flights.empty()) return false;
    for (const Flight& flight : flights)
        if (const uint3 at = flight.block->index; !flight.block->live) {
            refuse("block (%u, %u, %u) ended with a tma_load on its way to it", at.x, at.y, at.z);
            stop();
        }
    Flight& flight = flights[draw() % flights.size()];
    Barrier& barrier = *flight.barrier;
    const bool early = flight.from != flight.block;
    memcpy(flight.to, flight.source ? flight.source : flight.box.data(), flight.box.size());
    barrier.bytes -= static_cast<int32_t>(flight.box.size());
    std::swap(flight, flights.back());
    flights.pop_back();
    settle(barrier, early);
    return true;
}

// ---- copies back to global memory

// TMA takes denormals for 0.
static float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f * x : x; }

struct Parting {
    uint64_t begun;
    const Thread* of;
    float* to;
    const float* from;
    size_t count;
    bool adds, landed;
    std::vector<float> read;

    void leave() {
        if (read.empty()) read.assign(from, from + count);
    }
    void land() {
        if (landed) return;
        leave();
        for (size_t i = 0; i < count; i++) to[i] = adds ? flushed(flushed(to[i]) + flushed(read[i])) : read[i];
        landed = true;
    }
};
static std::vector<Parting> partings;   // all not waited for yet; each thread's in the order in which it started them

static void forget_failed() {
    for (size_t i = partings.size(); i-- > 0;)
        if (partings[i].begun != block_count) partings.erase(partings.begin() + i);
}

static void maybe_land() {
    arrivals = land_a_flight;
    if (draw() % 4 == 0) land_a_flight();
    forget_failed();
    if (partings.empty() || draw() % 4) return;
    Parting& one = partings[draw() % partings.size()];
    one.read.empty() ? one.leave() : one.land();
}

static void refuse_partings() {
    forget_failed();
    for (const Parting& x : partings)
        if (x.of == current) fail("a thread ends, and its bulk_store or bulk_add may be on its way");
}

static void part(float* to, const float* from, uint32_t bytes, bool adds, const char* word) {
    const uint32_t address = address_of(from);
    if ((address | reinterpret_cast<uintptr_t>(to) | bytes) % 16)
        fail("%s of %u bytes from address %u, no multiple of 16", word, bytes, address);
    in_block(address, bytes, word);
    leaving = refuse_partings;
    forget_failed();
    const size_t count = bytes / sizeof(float);
    for (const Parting& x : partings)
        if (to < x.to + x.count && x.to < to + count) fail("%s to where another may be on its way", word);
    partings.push_back({block_count, current, to, from, count, adds, false, {}});
    maybe_land();
}

// All but the `newest` that this thread has started are read, or land too.
static void finish_partings(size_t newest, bool land) {
    maybe_land();
    std::vector<Parting*> mine;
    for (Parting& x : partings)
        if (x.of == current) mine.push_back(&x);
    const size_t asked = mine.size() > newest ? mine.size() - newest : 0;
    std::vector<Parting*> rest(mine.begin(), mine.begin() + asked);
    for (size_t left = asked; left > 0; left--) {
        Parting*& one = rest[draw() % left];
        land ? one->land() : one->leave();
        one = rest[left - 1];
    }
    if (land)
        for (size_t i = asked; i-- > 0;) partings.erase(partings.begin() + (mine[i] - partings.data()));
}

static void depart(Flight flight) {
    memset(flight.to, 0xFF, flight.box.size());
    flights.push_back(std::move(flight));
}

// To the same place in each block of `mask`.
static void load_box(void* to, const TensorMap* map, int x, int y, uint64_t* b, uint32_t mask) {
    const uint32_t address = address_of(to), bytes = map->box_width * 2 * map->box_height;
    if (address % 1024) fail("tma_load to address %u, no multiple of 1024", address);
    if (map->box_width != 64) fail("tma_load of rows of %u numbers; swizzled rows have 64", map->box_width);
    for (uint32_t rest = mask; rest; rest &= rest - 1) {   // nothing may fail once the box is allocated
        const Block& block = block_of(__builtin_ctz(rest), "tma_load");
        in_block(address, bytes, "tma_load", block), barrier_at(b, "tma_load", block);
    }
    std::vector<char> box(bytes);
    for (uint32_t row = 0; row < map->box_height; row++)
        for (uint32_t column = 0; column < map->box_width; column++) {
            const uint64_t i = uint64_t(int64_t(y) + row), j = uint64_t(int64_t(x) + column);   // negative: far outside
            if (i >= map->height || j >= map->width) continue;
            const uint32_t at = row * 128 + column * 2;
            memcpy(&box[at ^ (at >> 7 & 7) << 4], reinterpret_cast<const char*>(map->base + i * map->stride) + 2 * j, 2);
        }
    for (; mask; mask &= mask - 1) {
        const Block& block = blocks[__builtin_ctz(mask)];
        char* const there = in_block(address, bytes, "tma_load", block);
        depart({block_count, current->block, &block, there, &barrier_at(b, "tma_load", block), box});
    }
    maybe_land();
}

static void load_bytes(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    const Block& block = *current->block;
    Barrier& barrier = barrier_at(b, "bulk_load");
    const uint32_t address = address_of(to);
    if ((address | reinterpret_cast<uintptr_t>(from) | bytes) % 16)
        fail("bulk_load of %u bytes to address %u, no multiple of 16", bytes, address);
    in_block(address, bytes, "bulk_load");
    const char* const source = static_cast<const char*>(from);
    depart({block_count, &block, &block, static_cast<char*>(to), &barrier, std::vector<char>(bytes), source});
    maybe_land();
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
static inline void mbarrier_arrive_at(uint64_t* b, uint32_t rank) {
    emulator::arrive_at(b, 0, "mbarrier_arrive_at", emulator::block_of(rank, "mbarrier_arrive_at"));
}
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
    emulator::load_box(to, map, x, y, b, 1u << emulator::current->block->rank);
}
static inline void tma_load(void* to, const TensorMap* map, int x, int y, uint64_t* b, uint16_t blocks) {
    emulator::load_box(to, map, x, y, b, blocks);
}

static inline uint32_t cluster_rank() { return emulator::current->block->rank; }
static inline void cluster_barrier(EMULATOR_SITE) {
    emulator::meet_at_barrier();
    emulator::barrier(emulator::at_barrier, 0, emulator::thread_count, "cluster_barrier", site);
}
static inline void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    emulator::load_bytes(to, from, bytes, b);
}

static inline void bulk_store(float* to, const float* from, uint32_t bytes) {
    emulator::part(to, from, bytes, false, "bulk_store");
}
static inline void bulk_add(float* to, const float* from, uint32_t bytes) {
    emulator::part(to, from, bytes, true, "bulk_add");
}
template <int N> static inline void bulk_read() { emulator::finish_partings(N, false); }
template <int N> static inline void bulk_done() { emulator::finish_partings(N, true); }

static inline void proxy_fence() {}
template <int N> static inline void give_registers() {}
template <int N> static inline void take_registers() {}

#include "emulator_wgmma.h"
