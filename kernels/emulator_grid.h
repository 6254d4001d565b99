// Grids: runs a kernel's blocks, or its clusters, one after the other; emulator_blocks.h runs each of them.
//
//   order      Blocks, or clusters, run in an order drawn from the launch's seed. The blocks of a cluster run interleaved, as
//              the warps of one block do.
//   clusters   A kernel marked __cluster_dims__(n, 1, 1) runs in clusters of n blocks, neighbours along x. A cluster has at most
//              1024 threads, each block whole warpgroups; dynamic shared memory is each block's own.
//   checked    The grid is a multiple of the cluster. A kernel with clusters writes no `__shared__` array: here all its blocks
//              would share it (not checked with the sanitizer, which hides where it is).
//   poison     Shared memory holds 0xFF bytes (NaN in f32 and bf16) when a block begins. So do the guard bytes around
//              it: a read there gives NaN, and a write there ends the launch.
#pragma once
#include "emulator_blocks.h"
#include <algorithm>
#include <link.h>

namespace emulator __attribute__((visibility("hidden"))) {

constexpr int MAX_BLOCKS = 1 << 24;
constexpr uint32_t MAX_DOWN = 65535;   // blocks along y, or z, as on a device
constexpr size_t MAX_SHARED = 227 << 10;   // the most that a block may ask for on sm_90
#ifdef __SANITIZE_ADDRESS__
constexpr size_t GUARD = 0;   // the sanitizer has its own, right behind the last byte
#else
constexpr size_t GUARD = 64;
#endif

// Blocks per cluster, from the arguments of __cluster_dims__.
static constexpr uint32_t cluster_of(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) { return y == 1 && z == 1 ? x : 0; }

static thread_local char mark;   // makes sure that there is thread-local memory
static char *static_shared, *static_shared_end;

static void find_static_shared() {
#ifndef __SANITIZE_ADDRESS__
    mark = 1;
    dl_iterate_phdr([](dl_phdr_info* library, size_t, void*) {
        for (int i = 0; i < library->dlpi_phnum; i++) {
            char* first = static_cast<char*>(library->dlpi_tls_data);
            char* last = first + library->dlpi_phdr[i].p_memsz;
            if (library->dlpi_phdr[i].p_type == PT_TLS && first <= &mark && &mark < last)
                static_shared = first, static_shared_end = last;
        }
        return 0;
    }, nullptr);
#endif
}

static bool poisoned(const char* first, const char* last) {
    return std::all_of(first, last, [](char byte) { return byte == char(0xFF); });
}

// Refuses a cluster whose blocks have written where they may not.
static void check_memory() {
    for (uint32_t rank = 0; rank < cluster_size && !failed; rank++) {
        const Block& block = blocks[rank];
        const char* const end = block.shared + dynamic_bytes;
        if (!poisoned(block.shared - GUARD, block.shared) || !poisoned(end, end + GUARD))
            refuse("block (%u, %u, %u) wrote outside its %zu bytes of dynamic shared memory",
                   block.index.x, block.index.y, block.index.z, dynamic_bytes);
    }
    if (cluster_size > 1 && !failed && !poisoned(static_shared, static_shared_end))
        refuse("a __shared__ array was written in a kernel of clusters; here its blocks would share it: use SHARED");
}

static int check_shape(const Launch& launch, uint32_t cluster) {
    const uint32_t *b = launch.block, *g = launch.grid;
    const double count = double(b[0]) * b[1] * b[2], blocks = double(g[0]) * g[1] * g[2];   // no product can overflow
    if (count < 1 || count > MAX_THREADS)
        return refuse("%.0f threads in a block, 1 to %d are possible", count, MAX_THREADS);
    if (blocks < 1 || blocks > MAX_BLOCKS)
        return refuse("%.0f blocks, 1 to %d are possible here", blocks, MAX_BLOCKS);
    if (g[1] > MAX_DOWN || g[2] > MAX_DOWN)
        return refuse("%u blocks along y, %u along z, above %u", g[1], g[2], MAX_DOWN);
    if (launch.shared_bytes > MAX_SHARED)
        return refuse("%u bytes of dynamic shared memory, above %zu", launch.shared_bytes, MAX_SHARED);
    if (cluster < 1 || cluster > MAX_CLUSTER) return refuse("clusters are (1, 1, 1) to (%d, 1, 1)", MAX_CLUSTER);
    if (cluster == 1) return 0;
    if (g[0] % cluster) return refuse("%u blocks along x, no multiple of the %u of a cluster", g[0], cluster);
    if (count * cluster > MAX_THREADS || b[0] * b[1] * b[2] % 128)
        return refuse("a cluster of %u blocks of %.0f threads; whole warpgroups, %d in all, are possible here", cluster, count,
                      MAX_THREADS);
    return 0;
}

static int run(const Launch& launch, uint32_t cluster, const std::function<void()>& body) {
    if (check_shape(launch, cluster)) return 1;
    const uint32_t *b = launch.block, *g = launch.grid;
    cluster_size = cluster, block_threads = b[0] * b[1] * b[2], thread_count = cluster * block_threads;
    blockDim = {b[0], b[1], b[2]}, gridDim = {g[0], g[1], g[2]};
    random_state = (launch.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    kernel_body = &body, failed = false;

    std::vector<uint32_t> order(size_t(g[0]) * g[1] * g[2] / cluster);
    for (uint32_t i = 0; i < order.size(); i++) {
        const uint32_t other = draw() % (i + 1);
        order[i] = order[other], order[other] = i;
    }
    find_static_shared();
    dynamic_bytes = launch.shared_bytes;
    for (uint32_t rank = 0; rank < cluster; rank++)
        blocks[rank].shared = static_cast<char*>(malloc(dynamic_bytes + 2 * GUARD)) + GUARD;
    for (size_t i = 0; i < order.size() && !failed; i++) {
        memset(static_shared, 0xFF, static_shared_end - static_shared);
        for (uint32_t rank = 0; rank < cluster; rank++) {
            const uint32_t at = order[i] * cluster + rank;
            blocks[rank].index = {at % g[0], at / g[0] % g[1], at / (g[0] * g[1])};
            memset(blocks[rank].shared - GUARD, 0xFF, dynamic_bytes + 2 * GUARD);
        }
        run_cluster();
        check_memory();
    }
    for (uint32_t rank = 0; rank < cluster; rank++) free(blocks[rank].shared - GUARD);
    return failed;
}

}  // namespace emulator
