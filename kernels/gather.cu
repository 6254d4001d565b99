// Sparse cells to dense rows on the network's scale.
//
//   formula    y[r,g]  = by ln(1 + v / scale[r])     for counts
//              y[r,g]  = by v                        for log values
//              y[r,g]  = 0                           where the row stores nothing for gene g
//   tensors    y [R, G] real     genes [Z] u16, ascending inside a row     counts [Z] u16 or values [Z] f32, the other null
//              spans [R]: a row's first entry in these, its number of entries, its scale
//   needs      genes, counts, values 16-byte aligned
//   work       one warp per row: zeros in shared memory, values scattered over them, the line written out; wide lines by tiles
//   bound by   memory, and instructions nearly as much: writes R G numbers, reads 4 bytes (6 with values) per stored entry, at
//              0.75 of a copy's rate on an H200
//   repeatable yes: no sums
//   reference  src/ops/gather.rs, held to the path of the host in src/data/shard/scale.rs
#include "common.cuh"

struct alignas(16) Span { uint64_t begin; uint32_t count; float scale; };

// Rows; genes per row of y, per tile; numbers of shared memory per line.
struct Sizes { int rows, width, tile, room; };

// Entries begin..end of one row, counted from the pack that holds the first; `stored`: how many the arrays hold from there on.
template <class T> struct Row {
    const uint16_t* genes;
    const T* values;
    int begin, end, stored;
};

constexpr int ENTRIES = 8;   // per lane at once: 16 bytes of genes

template <class T> __device__ __forceinline__ void load_entries(Pack<T, ENTRIES>& pack, const T* from, int at, int stored) {
    constexpr int STEP = 16 / sizeof(T);
    if (at + ENTRIES <= stored) {
#pragma unroll
        for (int i = 0; i < ENTRIES; i += STEP)
            *reinterpret_cast<Pack<T, STEP>*>(pack.at + i) = *reinterpret_cast<const Pack<T, STEP>*>(from + at + i);
    } else {
#pragma unroll
        for (int i = 0; i < ENTRIES; i++) pack.at[i] = at + i < stored ? from[at + i] : T();
    }
}

// A logarithm costs more than the rest of an entry, and nearly all counts are small: lane i holds the result for count i.
struct Counts {
    float per, by, own;
    __device__ Counts(float per, float by, int) : per(per), by(by), own(log1pf(lane() * per) * by) {}
    __device__ __forceinline__ float operator()(uint16_t count) const {   // by the whole warp
        const float small = __shfl_sync(0xFFFFFFFFu, own, count % 32);
        return count < 32 ? small : log1pf(count * per) * by;
    }
};

struct Values {
    float per, by;
    int log;
    __device__ Values(float per, float by, int log) : per(per), by(by), log(log) {}
    __device__ __forceinline__ float operator()(float v) const { return log ? log1pf(v * per) * by : v * by; }
};

// Scatters a row's genes first.., `count` of them, into their line, from entry `at` on; returns where the next tile must begin.
template <class T, class Scaled>
__device__ __forceinline__ int scatter(real* line, const Row<T>& row, int at, int first, int count, const Scaled& scaled) {
    for (; at < row.end; at += 32 * ENTRIES) {
        const int mine = at + lane() * ENTRIES;
        Pack<uint16_t, ENTRIES> genes{};
        Pack<T, ENTRIES> values{};
        if (mine < row.end) {
            load_entries(genes, row.genes, mine, row.stored);
            load_entries(values, row.values, mine, row.stored);
        }
        bool beyond = false;
#pragma unroll
        for (int i = 0; i < ENTRIES; i++) {
            const float x = scaled(values.at[i]);
            const int to = genes.at[i] - first;
            const bool own = mine + i >= row.begin && mine + i < row.end;
            if (own && to >= 0 && to < count) line[to] = to_real(x);
            beyond |= own && to >= count;
        }
        if (__any_sync(0xFFFFFFFFu, beyond)) break;
    }
    return at;
}

// Writes `count` numbers of a line, from its number `shift` on; `to`, 16-byte aligned, is where its number 0 would go.
__device__ __forceinline__ void write_out(real* to, const real* line, int shift, int count) {
    for (int i = lane() * VECTOR; i < shift + count; i += 32 * VECTOR) {
        if (i >= shift && i + VECTOR <= shift + count) {
            *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(line + i);
            continue;
        }
#pragma unroll 1
        for (int j = max(i, shift); j < min(i + VECTOR, shift + count); j++) to[j] = line[j];
    }
}

template <class Scaled, class T>
__device__ __forceinline__ void gather(real* y, const uint16_t* genes, const T* values, const Span* spans, uint64_t stored,
                                       Sizes sizes, int log, float by) {
    SHARED(real, lines);
    real* const line = lines + warp() * sizes.room;
    const int r = blockIdx.x * (blockDim.x / 32) + warp();
    if (r >= sizes.rows) return;
    const Span span = spans[r];
    // Packs are aligned; entries of the row before are skipped.
    const uint64_t pack = span.begin / ENTRIES * ENTRIES;
    // A row has at most 65,536 genes; the bound leaves an int room for what a warp skips at a time.
    const uint64_t left = min(stored > pack ? stored - pack : 0, static_cast<uint64_t>(1) << 30), begin = span.begin - pack;
    const uint64_t end = min(begin + span.count, left);
    const Row<T> row{genes + pack, values + pack, static_cast<int>(begin), static_cast<int>(end), static_cast<int>(left)};
    const Scaled scaled(1.0f / span.scale, by, log);
    for (int first = 0, at = 0; first < sizes.width; first += sizes.tile) {
        const int count = min(sizes.tile, sizes.width - first);
        const size_t start = static_cast<size_t>(r) * sizes.width + first;
        const int shift = static_cast<int>(start % VECTOR);   // the line has the same 16-byte alignment as its place in y
        for (int i = lane() * VECTOR; i < shift + count; i += 32 * VECTOR) store_pack(line + i, Floats<VECTOR>{});
        __syncwarp();
        at = scatter(line + shift, row, at, first, count, scaled);
        __syncwarp();
        write_out(y + (start - shift), line, shift, count);
        __syncwarp();
    }
}

extern "C" __global__ void __launch_bounds__(256)
gather_rows(real* y, const uint16_t* genes, const uint16_t* counts, const float* values, const Span* spans, uint64_t stored,
            int rows, int width, int tile, int room, int log, float by) {
    const Sizes sizes{rows, width, tile, room};
    if (values) gather<Values>(y, genes, values, spans, stored, sizes, log, by);
    else gather<Counts>(y, genes, counts, spans, stored, sizes, log, by);
}
