// Work that is queued and done later: in any order that streams and events allow, drawn from a seed.
//
// Nothing runs until somebody waits or the draw says so. So memory that the host reuses too early, a missing wait between two
// streams, or a buffer that is given back too early shows up as wrong data here, however rare that would be on a device.
#pragma once
#include <cstdarg>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace nvidia {

inline uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

// What no caller may do: ends the process with a message.
[[noreturn]] inline void misused(const char* format, ...) {
    va_list words;
    va_start(words, format);
    fprintf(stderr, "stand-in for the driver: ");
    vfprintf(stderr, format, words);
    fprintf(stderr, "\n");
    va_end(words);
    abort();
}

inline std::mutex house;                    // over everything below
inline std::condition_variable changed;
using Lock = std::unique_lock<std::mutex>;

inline uint64_t draw() {
    static uint64_t state = (setting("STAND_IN_SEED", 1) + 1) * 0x9E3779B97F4A7C15ull;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 16;
}

struct Work;
using Ref = std::shared_ptr<Work>;
struct Communicator;

// One piece of work, queued or captured.
struct Work {
    std::function<void(const Ref&)> act;    // empty: a point in a stream. It calls `finish`, at once or later
    const void* form = nullptr;             // its kind, for graphs that are updated
    Communicator* sums = nullptr;           // of a sum with other devices
    std::vector<Ref> after;                 // captured: what it waits for
    std::vector<Ref> before;                // queued: what waits for it
    size_t waits_for = 0;
    bool is_done = false;
    std::chrono::steady_clock::time_point when;
};

inline std::vector<Ref> ready;

inline void finish(const Ref& work) {
    work->is_done = true, work->when = std::chrono::steady_clock::now(), work->act = nullptr;
    for (Ref& next : work->before)
        if (--next->waits_for == 0) ready.push_back(std::move(next));
    work->before.clear();
    changed.notify_all();
}

inline void queue(const Ref& work, const std::vector<Ref>& after) {
    for (const Ref& earlier : after)
        if (earlier && !earlier->is_done) earlier->before.push_back(work), work->waits_for++;
    if (work->waits_for == 0) ready.push_back(work), changed.notify_all();
}

// Work that waits for something outside this process: each is polled, and returns true once it is done.
inline std::vector<std::function<bool()>> watched;

// Does one piece of work, if any is ready.
inline bool step() {
    if (ready.empty()) {
        const size_t before = watched.size();
        for (size_t i = 0; i < watched.size();)
            if (watched[i]()) watched.erase(watched.begin() + long(i)); else i++;
        return watched.size() < before;
    }
    std::swap(ready[draw() % ready.size()], ready.back());
    const Ref work = std::move(ready.back());
    ready.pop_back();
    if (work->act) work->act(work); else finish(work);
    return true;
}

template <class Holds> void wait_until(Lock& lock, Holds holds) {
    while (!holds())
        if (!step()) changed.wait_for(lock, std::chrono::milliseconds(1));
}

// Does some of what is ready, at any call.
inline void go_on() {
    if (draw() % 4 == 0)
        for (uint64_t n = draw() % 8; n > 0 && step(); n--) {}
}

// A captured stream, and those that wait for it.
struct Graph {
    std::vector<Ref> works;                 // each after those it waits for
    std::set<struct Stream*> streams;
    uint64_t number = 0;                    // of its capture
    ~Graph();
    Graph() = default;
    Graph(const Graph& other);
};

struct Stream {
    int device = 0;
    Ref last = nullptr;
    std::vector<Ref> more = {};             // events waited for since
    std::vector<Ref> kept = {};             // what it continues after once the capture ends
    Graph* graph = nullptr;                 // the capture it is in
};

struct Event {
    bool times;
    Ref point;
    uint64_t capture = 0;                   // the capture that recorded it
    int device = 0;
};

inline std::unordered_map<uint64_t, Graph*> captures;   // those that have not ended, by number

inline Ref add(Stream* stream, std::function<void(const Ref&)> act, const void* form, Communicator* sums = nullptr) {
    Ref work = std::make_shared<Work>();
    work->act = std::move(act), work->form = form, work->sums = sums;
    std::vector<Ref> after = std::move(stream->more);
    stream->more.clear();
    if (stream->last) after.push_back(stream->last);
    if (stream->graph)
        work->after = std::move(after), stream->graph->works.push_back(work);
    else
        queue(work, after);
    stream->last = work;
    go_on();
    return work;
}

// Work that is done once it has been called.
template <class Act> Ref add_plain(Stream* stream, const void* form, Act act) {
    return add(stream, [act](const Ref& work) { act(), finish(work); }, form);
}

}  // namespace nvidia
