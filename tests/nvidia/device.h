// What every call of libcuda begins with: its return codes, the thread's current device, whether a stream is being captured.
#pragma once
#include "memory.h"
#include "queue.h"

namespace nvidia {

enum : int { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
             INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
             CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURED_EVENT = 907, UPDATE_FAILED = 910, NO_BINARY = 209 };

inline thread_local int current = -1;
inline int device_count() { return int(setting("STAND_IN_DEVICES", 1)); }

inline int capability() { return int(setting("STAND_IN_CAPABILITY", 90)); }

// Bytes of shared memory that a block may ask for: CUDA C++ Programming Guide, technical specifications per compute capability.
inline int most_shared() {
    switch (capability()) {
        case 80: case 87: return 163 << 10;
        case 86: case 89: case 120: return 99 << 10;
        default: return 227 << 10;
    }
}

inline bool writes(const Stream* stream) { return stream->graph; }

}  // namespace nvidia
