// Device memory: the host's, counted per device, full of NaN before it is written and after it has been given back.
#pragma once
#include <cstring>
#include <deque>
#include <map>
#include <sys/mman.h>
#include "queue.h"

namespace nvidia {

constexpr size_t ALIGN = 256;
constexpr size_t KEPT = size_t(256) << 20;   // of what was given back, so that anyone who reads it still reads NaN

struct Device {
    size_t used = 0, most = 0, launches = 0;
    int failed = 0;                          // nothing succeeds after a kernel that failed
};
struct Live { size_t bytes; int device; bool given_back; };

inline size_t memory() { return setting("STAND_IN_MEMORY", uint64_t(1) << 36); }
inline Device devices[16];
inline std::map<char*, Live> live;           // by first byte
inline std::map<char*, size_t> pinned;
inline std::deque<std::pair<char*, size_t>> gone;
inline size_t gone_bytes = 0;

// Ends the process unless all of these bytes are memory of a device. Work may use them until they are released in stream order; a
// call, until they are given back.
inline void need(const void* at, size_t bytes, const char* what, bool at_call = false) {
    const char* first = static_cast<const char*>(at);
    auto found = live.upper_bound(const_cast<char*>(first));
    if (found == live.begin() || (--found, first + bytes > found->first + found->second.bytes))
        misused("%s: %zu bytes at %p are not memory of a device", what, bytes, at);
    if (at_call && found->second.given_back) misused("%s: %p was given back before", what, at);
}

inline bool is_pinned(const void* at) {
    auto found = pinned.upper_bound(static_cast<char*>(const_cast<void*>(at)));
    return found != pinned.begin() && (--found, at < found->first + found->second);
}

inline char* allocate(int device, size_t bytes) {
    Device& on = devices[device];
    // What was given back is free again once the device has got that far.
    while (on.used + bytes > memory() && step()) {}
    if (bytes == 0 || on.used + bytes > memory()) return nullptr;
    char* made = static_cast<char*>(aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN));
    memset(made, 0xFF, bytes);
    live[made] = {bytes, device, false};
    on.used += bytes, on.most = std::max(on.most, on.used);
    return made;
}

// Whole pages are zeroed by giving them back to the system: the program fills its workspace only to keep a device busy, and here
// nobody should wait for that.
inline void fill(char* at, unsigned char byte, size_t bytes) {
    constexpr uintptr_t PAGE = 4096, FEW = 256 * PAGE;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
    const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
    if (byte || last < first + FEW || madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED)) {
        memset(at, byte, bytes);
    } else {
        memset(at, 0, first - begin), memset(reinterpret_cast<void*>(last), 0, end - last);
    }
}

// False if it was given back before.
inline bool give_back(char* at) {
    const auto found = live.find(at);
    if (found == live.end() || found->second.given_back) return false;
    return found->second.given_back = true;
}

inline void discard(char* at, size_t bytes) {
    gone.push_back({at, bytes}), gone_bytes += bytes;
    for (; gone_bytes > KEPT; gone.pop_front()) gone_bytes -= gone.front().second, free(gone.front().first);
}

inline void release(char* at) {
    const Live was = live[at];
    live.erase(at);
    devices[was.device].used -= was.bytes;
    memset(at, 0xFF, was.bytes), discard(at, was.bytes);
}

}  // namespace nvidia
