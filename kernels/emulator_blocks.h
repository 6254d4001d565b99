// Blocks: runs the threads of a block, or of a cluster of blocks, on the CPU, each thread a fiber. emulator_grid.h runs a grid.
//
//   order      A warp, drawn at random, runs until it waits; at each barrier, and at some of the warp operations, another warp is
//              drawn, from any block of the cluster. So a missing __syncthreads gives a wrong result under some seeds, and the
//              same seed always gives the same run.
//   checked    A barrier must be reached by every thread of the block (or cluster) at one source line, a warp operation by
//              every lane of its mask at one source line. A deadlock is reported: who waits where, who has exited.
//   not seen   races within a warp between two of its operations (but see emulator_ptx.h), bank conflicts, memory order, speed
//
// All state is static, so each library has its own, and a library runs one launch at a time.
#pragma once
#include "emulator_fibers.h"
#include <cstdarg>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

struct uint3 { uint32_t x, y, z; };
typedef uint3 dim3;
static dim3 blockDim, gridDim;
#define threadIdx (emulator::current->index)
#define blockIdx (emulator::current->block->index)
#define dynamic_shared (emulator::current->block->shared)   // used by SHARED in common.cuh

// As the host passes them. Kinds: 0 pointer, 1 int32, 2 uint32, 3 int64, 4 uint64, 5 float (low 32 bits), 6 address of a map.
struct Launch { uint32_t grid[3], block[3], shared_bytes, reserved; uint64_t seed; };
struct Argument { uint32_t kind, reserved; uint64_t bits; };

// `__shared__` arrays are thread-local, for one reason: the library's thread-local memory holds nothing else, so it can be
// found and poisoned as a whole. (A section would do, but g++ puts no static of a template in one.) The sanitizer guards no
// thread-local array, so with it they are plain statics, and not poisoned. The blocks of a cluster would all share one array,
// so a kernel with clusters writes none (emulator_grid.h).
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

namespace emulator __attribute__((visibility("hidden"))) {

constexpr int MAX_THREADS = 1024, MAX_CLUSTER = 8;   // threads of a cluster; on a device the limit is per block

// Where in a kernel a function is called. As a default argument it yields the caller's line.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    // A file's name is one string in the library: pointers suffice.
    bool operator==(const Site& other) const { return line == other.line && file == other.file; }
};

// What the last lane to arrive does for all lanes of `mask`; offers[lane] is what that lane brought.
typedef void (*Act)(void** offers, uint32_t mask);

struct Copy { char* to; uint32_t group; unsigned char bytes[16]; };   // a cp.async in flight

struct Block {
    uint3 index;
    uint32_t rank, first;           // in its cluster; the number of its first thread
    uint32_t live, at_barrier;
    char* shared;                   // its dynamic shared memory
};

struct Thread : Fiber {
    Block* block;
    uint3 index;
    uint32_t number, bit;           // in the cluster, block after block; 1 << lane
    bool exited;
    const char* word;               // what it waits at, if it waits
    Site site;
    uint32_t mask;
    Act act;
    std::vector<Copy> copies;
    uint32_t groups;                // of copies, committed so far
};

struct Warp { uint32_t ready, waiting; void* offers[32]; };

static Block blocks[MAX_CLUSTER];   // of the cluster that runs; a single block counts as one
static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static Thread* current;             // the thread that runs
static Fiber launcher;              // the launch, on the caller's stack
static uint32_t cluster_size, block_threads, thread_count;   // the last counts a cluster's
static uint32_t live, at_barrier;                            // of the cluster
static uint32_t awake;              // warps that have a ready lane, one bit each
static uint32_t turn;               // the lane at which the drawn warp begins to look for a ready one
static uint32_t patience;           // a warp operation draws another warp if draw() & patience is 0
static bool entered, failed;
static uint64_t random_state, block_count;   // clusters begun, over all launches
static bool (*arrivals)();          // lands something still in flight, if there is anything (emulator_hopper.h)
static void (*leaving)();           // refuses a thread that exits with something in flight (emulator_hopper.h)
static const std::function<void()>* kernel_body;
static const char* kernel_name;
static char* message;
static size_t message_capacity, dynamic_bytes;

static inline uint32_t draw() {   // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return static_cast<uint32_t>((random_state * 0x2545F4914F6CDD1Dull) >> 32);
}

// The first set bit at or after a place, wrapping around.
static inline int bit_from(uint32_t bits, uint32_t place) {
    place &= 31;
    const uint32_t turned = place ? bits >> place | bits << (32 - place) : bits;
    return (__builtin_ctz(turned) + place) & 31;
}

__attribute__((format(printf, 1, 2))) static int refuse(const char* format, ...) {
    failed = true;
    int used = snprintf(message, message_capacity, "%s: ", kernel_name);
    if (used < 0 || static_cast<size_t>(used) >= message_capacity) return 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, message_capacity - used, format, arguments);
    va_end(arguments);
    return 1;
}

// Ends the launch from inside a kernel: its fibers are abandoned, and the next launch begins them anew. So nothing here may own
// memory: no destructor runs.
__attribute__((noreturn)) static void stop() {
    current->go_to(launcher);
    abort();
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char* format, ...) {
    char what[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const Block& block = *current->block;
    refuse("block (%u, %u, %u), thread %u: %s", block.index.x, block.index.y, block.index.z, current->number - block.first, what);
    stop();
}

static std::string state(const Thread& thread) {
    if (thread.exited) return "exited";
    char mask[32] = "";
    if (thread.mask) snprintf(mask, sizeof mask, " with mask %08x", thread.mask);
    const std::string line = std::to_string(thread.site.line);
    return std::string("wait at ") + thread.word + " (" + thread.site.file + ":" + line + ")" + mask;
}

// Nothing can run, yet threads are left: says who waits where, with neighbours in the same state as one group.
static void report_stuck() {
    std::string text;
    for (uint32_t first = 0, next; first < thread_count; first = next) {
        const Block& block = *threads[first].block;
        const std::string what = state(threads[first]);
        for (next = first + 1; next < block.first + block_threads && state(threads[next]) == what;) next++;
        char who[100];
        const uint3 at = block.index;
        if (first == block.first) {
            snprintf(who, sizeof who, "%sblock (%u, %u, %u) diverged: ", first ? "; " : "", at.x, at.y, at.z);
            text += who;
        }
        const char* const comma = first > block.first ? "; " : "";
        snprintf(who, sizeof who, "%sthreads %u-%u ", comma, first - block.first, next - 1 - block.first);
        text += who + what;
    }
    refuse("%s", text.c_str());
}

static inline void resume(int warp) {
    Thread& self = *current;
    current = &threads[warp * 32 + bit_from(warps[warp].ready, turn)];
    if (current != &self) self.go_to(*current);
}

static void draw_a_warp() {
    while (!awake && arrivals && arrivals()) {}
    if (!awake) {
        if (live) report_stuck();
        current->go_to(launcher);
    }
    turn = draw();
    resume(bit_from(awake, draw()));
}

// Sleeps until another thread makes this one ready. A warp keeps running until none of its lanes can.
static void sleep(Thread& self) {
    const int number = self.number / 32;
    warps[number].ready &= ~self.bit;
    if (warps[number].ready) return resume(number);
    awake &= ~(1u << number);
    draw_a_warp();
}

// All threads from `first` to `end` meet; `came` counts those that have arrived.
static void barrier(uint32_t& came, uint32_t first, uint32_t end, const char* word, Site site) {
    Thread& self = *current;
    self.word = word, self.site = site, self.mask = 0;
    if (++came < end - first) return sleep(self);
    for (uint32_t i = first; i < end; i++)
        if (!(threads[i].site == site)) return sleep(self);   // none is woken, so all are reported
    came = 0;
    for (uint32_t i = first; i < end; i += 32) {
        warps[i / 32].ready = end - i < 32 ? (1u << (end - i)) - 1 : ~0u;
        awake |= 1u << i / 32;
    }
    // Between two barriers warps run either far apart or finely interleaved: each finds races that the other does not.
    patience = (1u << draw() % 8) - 1;
    draw_a_warp();
}

// All lanes of `mask` meet; the last one acts for all.
static void together(uint32_t mask, const char* word, Act act, void* offer, Site site) {
    Thread& self = *current;
    Warp& warp = warps[self.number / 32];
    if (!(mask & self.bit))
        fail("%s (%s:%d) with mask %08x, which leaves this lane out", word, site.file, site.line, mask);
    self.word = word, self.site = site, self.mask = mask, self.act = act;
    warp.offers[self.number % 32] = offer;
    warp.waiting |= self.bit;
    if ((warp.waiting & mask) != mask) return sleep(self);
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const Thread& other = threads[self.number / 32 * 32 + __builtin_ctz(rest)];
        if (other.mask != mask || other.act != act || !(other.site == site))
            return sleep(self);   // never woken, so reported
    }
    act(warp.offers, mask);
    warp.waiting &= ~mask;
    warp.ready |= mask;
    if (!(draw() & patience)) draw_a_warp();
}

static void thread_entry() {
    arrive(launcher, !std::exchange(entered, true));
    (*kernel_body)();
    if (leaving) leaving();
    Thread& self = *current;
    self.exited = true;
    live--, self.block->live--;
    sleep(self);
    abort();   // a thread that has exited is never ready
}

// Expects blocks[] to hold each block's index and the address of its shared memory.
static void run_cluster() {
    for (uint32_t i = 0; i < thread_count; i++) {
        Thread& thread = threads[i];
        const uint32_t rank = i / block_threads, at = i % block_threads;
        Block& block = *(thread.block = &blocks[rank]);
        if (at == 0) block.rank = rank, block.first = i, block.live = block_threads, block.at_barrier = 0;
        thread.index = {at % blockDim.x, at / blockDim.x % blockDim.y, at / (blockDim.x * blockDim.y)};
        thread.number = i, thread.bit = 1u << i % 32, thread.exited = false;
        thread.copies.clear(), thread.groups = 0;
        thread.begin(stacks(MAX_THREADS) + i * STACK, i, thread_entry);
        Warp& warp = warps[i / 32];
        warp.ready = i % 32 ? warp.ready | thread.bit : 1, warp.waiting = 0;
    }
    live = thread_count, at_barrier = 0, entered = false, block_count++;
    awake = ~0u >> (31 - (thread_count - 1) / 32);
    patience = (1u << draw() % 8) - 1, turn = draw();
    current = &threads[bit_from(awake, draw()) * 32];
    launcher.go_to(*current);
}

}  // namespace emulator
