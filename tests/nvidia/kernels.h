// libcuda: the program's kernels, run by the emulator.
#pragma once
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include "device.h"

namespace nvidia {

// As in the kernels' emulator.
struct Launch { uint32_t grid[3], block[3], shared, reserved; uint64_t seed; };
struct Argument { uint32_t kind, reserved; uint64_t bits; };
struct TensorMap { uint64_t base, width, height, stride; uint32_t box_width, box_height; };
using Emulate = int (*)(const Launch*, const Argument*, int, char*, size_t);
using Describe = int (*)(uint32_t*, int);

struct Function { std::string name; Emulate emulate; std::vector<uint32_t> kinds; uint32_t shared = 48 << 10; };

// At which launch a device fails: STAND_IN_FAILS, for the device with the greatest number.
inline int fails_at(const Device& on) {
    static const int at = int(setting("STAND_IN_FAILS", 0));
    return &on == &devices[device_count() - 1] ? at : 0;
}

// A kernel's arguments, as they were when it was queued.
struct Packed { std::vector<Argument> arguments; std::vector<TensorMap> maps; };

inline Packed pack(const Function& function, void** parameters) {
    Packed packed;
    packed.maps.reserve(function.kinds.size());
    for (size_t i = 0; i < function.kinds.size(); i++) {
        const uint32_t kind = function.kinds[i];
        uint64_t bits = 0;
        if (kind == 6) packed.maps.push_back(*static_cast<TensorMap*>(parameters[i]));
        else memcpy(&bits, parameters[i], kind == 1 || kind == 2 || kind == 5 ? 4 : 8);
        packed.arguments.push_back({kind, uint32_t(packed.maps.size()), bits});
    }
    return packed;
}

inline void run(const Function& function, Launch shape, const Packed& packed, Device& on) {
    std::vector<Argument> arguments = packed.arguments;
    for (Argument& each : arguments)
        if (each.kind == 6) each.bits = reinterpret_cast<uint64_t>(&packed.maps[each.reserved - 1]), each.reserved = 0;
    shape.seed = draw();
    char message[2048] = "";
    if (on.failed) return;
    if (int(++on.launches) == fails_at(on)) snprintf(message, sizeof message, "it fails because it is told to");
    else if (!function.emulate(&shape, arguments.data(), int(arguments.size()), message, sizeof message)) return;
    fprintf(stderr, "stand-in for the driver: %s: %s\n", function.name.c_str(), message);
    on.failed = LAUNCH_FAILED;
}

}  // namespace nvidia

using namespace nvidia;

extern "C" {

int cuModuleLoadData(void** made, const char* image) {
    Lock lock(house);
    // The program's own fatbins, each with the library that g++ made of the same file: FILE,LIBRARY per line.
    std::ifstream table(getenv("STAND_IN_KERNELS"));
    for (std::string fatbin, library; std::getline(table, fatbin, ',') && std::getline(table, library);) {
        std::ifstream file(fatbin, std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), {}};
        uint16_t head; uint64_t body;
        memcpy(&head, image + 6, sizeof head), memcpy(&body, image + 8, sizeof body);
        if (bytes.size() != head + body || memcmp(bytes.data(), image, bytes.size()) != 0) continue;
        *made = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!*made) misused("%s", dlerror());
        return SUCCESS;
    }
    return NO_BINARY;
}

int cuModuleGetFunction(Function** made, void* module, const char* name) {
    Lock lock(house);
    const auto emulate = reinterpret_cast<Emulate>(dlsym(module, (std::string("emulate_") + name).c_str()));
    const auto describe = reinterpret_cast<Describe>(dlsym(module, (std::string("describe_") + name).c_str()));
    if (!emulate || !describe) return NOT_FOUND;
    *made = new Function{name, emulate, std::vector<uint32_t>(64)};
    (*made)->kinds.resize(describe((*made)->kinds.data(), 64));
    return SUCCESS;
}

int cuFuncSetAttribute(Function* function, int, int value) {
    Lock lock(house);
    return value > most_shared() ? INVALID_VALUE : (function->shared = value, SUCCESS);
}

int cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, Stream* stream, void** parameters, void**) {
    Lock lock(house);
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    if (stream->device != current) return INVALID_CONTEXT;
    if (shared > function->shared || tx * ty * tz > 1024 || y > 65535 || z > 65535) return INVALID_VALUE;
    const Launch shape{{x, y, z}, {tx, ty, tz}, shared, 0, 0};
    Device& on = devices[stream->device];
    add_plain(stream, function, [=, &on, packed = pack(*function, parameters)] { run(*function, shape, packed, on); });
    return SUCCESS;
}

int cuTensorMapEncodeTiled(TensorMap* map, int, uint32_t axes, char* base, const uint64_t* size, const uint64_t* strides,
                           const uint32_t* box, const uint32_t*, int, int, int, int) {
    const bool fits = axes == 2 && uint64_t(base) % 16 == 0 && strides[0] % 16 == 0 && box[0] * 2 <= 128 && box[1] <= 256 &&
                      size[0] > 0 && size[1] > 0;
    if (!fits) return INVALID_VALUE;
    memset(static_cast<void*>(map), 0, 128);
    return *map = {uint64_t(base), size[0], size[1], strides[0], box[0], box[1]}, SUCCESS;
}

}  // extern "C"
