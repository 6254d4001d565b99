// libcuda: devices, memory, copies, streams, events. Only what the program calls.
#pragma once
#include "device.h"
#include "graphs.h"

using namespace nvidia;

extern "C" {

int cuInit(unsigned) { return device_count() > 0 ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int* version) { return *version = int(setting("STAND_IN_VERSION", 13000)), SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = device_count(), SUCCESS; }
int cuDeviceGet(int* device, int index) { return *device = index, index < device_count() ? SUCCESS : INVALID_DEVICE; }
int cuDeviceGetName(char* name, int room, int) { return snprintf(name, room, "a GPU of no silicon"), SUCCESS; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &devices[device], SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* context) { return current = int(static_cast<Device*>(context) - devices), SUCCESS; }
int cuCtxGetCurrent(void** context) { return *context = current < 0 ? nullptr : &devices[current], SUCCESS; }

int cuDeviceGetAttribute(int* value, int attribute, int) {
    const std::map<int, int> known = {{16, 5}, {38, 50 << 20}, {75, capability() / 10}, {76, capability() % 10},
                                      {97, most_shared()},
                                      {115, 1}};
    const auto found = known.find(attribute);
    return found == known.end() ? INVALID_VALUE : (*value = found->second, SUCCESS);
}

int cuGetErrorString(int error, const char** text) {
    const std::map<int, const char*> known = {{OUT_OF_MEMORY, "out of memory"}, {LAUNCH_FAILED, "a kernel failed"},
        {CAPTURE_UNSUPPORTED, "not while a stream is captured"}, {CAPTURE_UNJOINED, "a captured stream was not joined"}};
    const auto found = known.find(error);
    return *text = found == known.end() ? "an error" : found->second, SUCCESS;
}
int cuGetErrorName(int error, const char** text) { return cuGetErrorString(error, text); }

int cuMemGetInfo_v2(size_t* left, size_t* total) {
    Lock lock(house);
    return *total = memory(), *left = std::min(*total - devices[current].used, setting("STAND_IN_LEFT", *total)), SUCCESS;
}
int cuDeviceGetDefaultMemPool(void** pool, int device) { return *pool = &devices[device], SUCCESS; }
int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
int cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }
int cuMemPoolGetAttribute(Device* pool, int, uint64_t* value) {
    Lock lock(house);
    return *value = pool->most, SUCCESS;
}

int cuMemAllocAsync(char** made, size_t bytes, Stream* stream) {
    Lock lock(house);
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    if (writes(stream)) return CAPTURE_UNSUPPORTED;
    return (*made = allocate(stream->device, bytes)) ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFreeAsync(char* at, Stream* stream) {
    Lock lock(house);
    if (writes(stream)) return CAPTURE_UNSUPPORTED;
    if (!give_back(at)) misused("cuMemFreeAsync: %p was given back before, or never made", at);
    static const char form = 0;
    return add_plain(stream, &form, [at] { release(at); }), SUCCESS;
}

int cuMemHostAlloc(char** made, size_t bytes, unsigned) {
    Lock lock(house);
    *made = static_cast<char*>(aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
    return pinned[*made] = bytes, SUCCESS;
}

int cuMemFreeHost(char* at) {
    Lock lock(house);
    const auto found = pinned.find(at);
    if (found == pinned.end()) misused("cuMemFreeHost: %p was given back before, or never made", at);
    // Anyone who still reads it reads NaN.
    memset(at, 0xFF, found->second), discard(at, found->second);
    return pinned.erase(found), SUCCESS;
}

// Which sides of a copy are on a device.
enum : int { FROM = 1, TO = 2 };

static int copy(const char* call, char* to, const char* from, size_t bytes, Stream* stream, int sides) {
    static const char form[4] = {};
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    if (stream->device != current) return INVALID_CONTEXT;
    const auto check = [=](bool at_call) {
        if (sides & FROM) need(from, bytes, call, at_call);
        if (sides & TO) need(to, bytes, call, at_call);
    };
    check(true);
    return add_plain(stream, &form[sides], [=] { check(false), memcpy(to, from, bytes); }), SUCCESS;
}

int cuMemcpyHtoDAsync_v2(char* to, const char* from, size_t bytes, Stream* stream) {
    Lock lock(house);
    const char* const call = "cuMemcpyHtoDAsync";
    if (is_pinned(from) || writes(stream)) return copy(call, to, from, bytes, stream, TO);
    // Memory that is not pinned is read before the call returns.
    static const char form = 0;
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    need(to, bytes, call, true);
    const std::string kept(from, bytes);
    return add_plain(stream, &form, [=] { need(to, bytes, call), memcpy(to, kept.data(), bytes); }), SUCCESS;
}

int cuMemcpyDtoHAsync_v2(char* to, const char* from, size_t bytes, Stream* stream) {
    Lock lock(house);
    return copy("cuMemcpyDtoHAsync", to, from, bytes, stream, FROM);
}

int cuMemcpyDtoDAsync_v2(char* to, const char* from, size_t bytes, Stream* stream) {
    Lock lock(house);
    return copy("cuMemcpyDtoDAsync", to, from, bytes, stream, FROM | TO);
}

int cuMemsetD8Async(char* at, unsigned char byte, size_t bytes, Stream* stream) {
    Lock lock(house);
    const char* const call = "cuMemsetD8Async";
    static const char form = 0;
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    need(at, bytes, call, true);
    return add_plain(stream, &form, [=] { need(at, bytes, call), fill(at, byte, bytes); }), SUCCESS;
}

int cuStreamCreate(Stream** made, unsigned) { return *made = new Stream{current}, SUCCESS; }
int cuStreamCreateWithPriority(Stream** made, unsigned flags, int) { return cuStreamCreate(made, flags); }
int cuCtxGetStreamPriorityRange(int* last, int* first) { return *last = 0, *first = -5, SUCCESS; }
int cuProfilerStart() { return SUCCESS; }
int cuProfilerStop() { return SUCCESS; }
int cuStreamDestroy_v2(Stream*) { return SUCCESS; }

int cuStreamSynchronize(Stream* stream) {
    Lock lock(house);
    if (writes(stream)) return CAPTURE_UNSUPPORTED;
    std::vector<Ref> all = stream->more;
    all.push_back(stream->last);
    for (const Ref& last : all) wait_until(lock, [&] { return !last || last->is_done; });
    return devices[stream->device].failed;
}

int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    Lock lock(house);
    if (!event->point) return SUCCESS;
    const auto found = captures.find(event->capture);
    if (event->capture && found == captures.end()) return CAPTURED_EVENT;
    if (stream->graph && (!event->capture || found->second != stream->graph)) return CAPTURE_ISOLATION;
    // From here on that stream is captured too.
    if (event->capture && !stream->graph) write_down(stream, found->second);
    static const bool forgets = setting("STAND_IN_FORGETS", 0);
    if (!forgets || stream->graph) stream->more.push_back(event->point);
    return SUCCESS;
}

int cuEventCreate(Event** made, unsigned flags) { return *made = new Event{(flags & 2) == 0, nullptr}, SUCCESS; }
int cuEventDestroy_v2(Event* gone) { return delete gone, SUCCESS; }

int cuEventRecord(Event* event, Stream* stream) {
    Lock lock(house);
    static const char form = 0;
    event->point = add(stream, nullptr, &form);
    event->device = stream->device;
    event->capture = stream->graph ? stream->graph->number : 0;
    return devices[stream->device].failed;
}

int cuEventSynchronize(Event* event) {
    Lock lock(house);
    if (event->capture) return CAPTURED_EVENT;
    wait_until(lock, [&] { return !event->point || event->point->is_done; });
    return devices[event->device].failed;
}

int cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    Lock lock(house);
    if (!from->times || !to->times || !from->point || !to->point) return INVALID_HANDLE;
    if (!from->point->is_done || !to->point->is_done) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to->point->when - from->point->when).count();
    return SUCCESS;
}

}  // extern "C"
