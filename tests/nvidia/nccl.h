// libnccl: sums between devices. A sum is done when all ranks have arrived at it.
#pragma once
#include <cstring>
#include <fstream>
#include <iterator>
#include <unistd.h>
#include "memory.h"

namespace nvidia {

enum : int { NCCL_SUCCESS = 0, NCCL_CUDA = 1, NCCL_INVALID = 4, FLOAT32 = 7, BFLOAT16 = 9 };
struct NcclId { char bytes[128]; };

// One rank of a group, whose members meet in a folder: threads of one process, or processes.
struct Communicator {
    std::string folder;
    int rank, ranks;
    uint64_t sums = 0;                      // begun on the device
    int held = 0;                           // by graphs
    bool aborted = false;
};

inline bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

inline std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Appears whole or not at all.
inline void leave(const std::string& path, const char* bytes, size_t count) {
    const std::string aside = path + "~";
    std::ofstream(aside, std::ios::binary).write(bytes, std::streamsize(count));
    if (rename(aside.c_str(), path.c_str())) misused("%s cannot be written", path.c_str());
}

inline void hold(const std::vector<Ref>& works, int by) {
    for (const Ref& work : works)
        if (work->sums) work->sums->held += by;
    changed.notify_all();
}

inline float get(const char* at, size_t i, int type) {
    if (type == FLOAT32) return reinterpret_cast<const float*>(at)[i];
    const uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(at)[i]) << 16;
    float x;
    return memcpy(&x, &bits, 4), x;
}

inline void put(char* at, size_t i, int type, float x) {
    if (type == FLOAT32) { reinterpret_cast<float*>(at)[i] = x; return; }
    uint32_t u;
    memcpy(&u, &x, 4);
    reinterpret_cast<uint16_t*>(at)[i] = x != x ? 0x7FFF : uint16_t((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

// One rank's result from all ranks' numbers: means of all or of its part, or all of them one after the other.
inline void combine(const std::string& call, const std::vector<std::string>& all, int rank, char* to, size_t count, int type) {
    const size_t bytes = count * (type == FLOAT32 ? 4 : 2);
    if (call == "ncclAllGather") {
        for (size_t i = 0; i < all.size(); i++) memcpy(to + i * bytes, all[i].data(), bytes);
        return;
    }
    const size_t first = call == "ncclReduceScatter" ? rank * count : 0;
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (const std::string& part : all) sum += get(part.data(), first + i, type);
        put(to, i, type, sum / float(all.size()));
    }
}

// Queues this rank's part: it is left in the folder, and the work is done when all others have left theirs.
inline int meet(const std::string& call, const char* from, char* to, size_t count, int type, Communicator* own, Stream* stream) {
    Lock lock(house);
    if (type != FLOAT32 && type != BFLOAT16) return NCCL_INVALID;
    const Device& on = devices[stream->device];
    if (on.failed) return NCCL_CUDA;
    const std::string what = call + " of " + std::to_string(count) + " numbers of type " + std::to_string(type) + "\n";
    const size_t numbers = call == "ncclReduceScatter" ? count * own->ranks : count;
    const size_t bytes = numbers * (type == FLOAT32 ? 4 : 2), made = call == "ncclAllGather" ? own->ranks * bytes : bytes;
    auto come = [=, &on](const Ref& work) {
        // A failed device contributes nothing, and the others wait.
        if (own->aborted || on.failed) return finish(work);
        need(from, bytes, call.c_str()), need(to, call == "ncclReduceScatter" ? bytes / own->ranks : made, call.c_str());
        const std::string place = own->folder + "/" + std::to_string(own->sums++) + ".";
        const std::string part = what + std::string(from, bytes);
        leave(place + std::to_string(own->rank), part.data(), part.size());
        watched.push_back([=] {
            if (own->aborted) return finish(work), true;
            std::vector<std::string> all;
            for (int rank = 0; rank < own->ranks; rank++) {
                if (!exists(place + std::to_string(rank))) return false;
                all.push_back(slurp(place + std::to_string(rank)));
                if (all.back().compare(0, what.size(), what) != 0)
                    misused("rank %d comes with %s where rank %d has %s", rank, all.back().substr(0, all.back().find('\n')).c_str(),
                            own->rank, what.c_str());
                all.back().erase(0, what.size());
            }
            return combine(call, all, own->rank, to, count, type), finish(work), true;
        });
    };
    static const char form = 0;
    add(stream, come, &form, own);
    return NCCL_SUCCESS;
}

}  // namespace nvidia

using namespace nvidia;

extern "C" {

int ncclGetUniqueId(NcclId* id) {
    memset(id, 0, sizeof *id);
    const int length = snprintf(id->bytes, sizeof id->bytes, "%s/XXXXXX", getenv("STAND_IN_MEETINGS"));
    if (length >= int(sizeof id->bytes) || !mkdtemp(id->bytes)) misused("%s cannot be made", id->bytes);
    return NCCL_SUCCESS;
}

int ncclCommInitRank(Communicator** made, int ranks, NcclId id, int rank) {
    const std::string folder = id.bytes;
    while (setting("STAND_IN_STUCK", 0)) usleep(1000);
    leave(folder + "/joined." + std::to_string(rank), "", 0);
    for (int other = 0; other < ranks; other++)
        while (!exists(folder + "/joined." + std::to_string(other))) usleep(1000);
    return *made = new Communicator{folder, rank, ranks}, NCCL_SUCCESS;
}

// As from version 2.26 on: ends what waits, then waits until no graph holds a sum.
int ncclCommAbort(Communicator* own) {
    Lock lock(house);
    own->aborted = true;
    wait_until(lock, [&] { return own->held == 0; });
    return NCCL_SUCCESS;
}

int ncclAllReduce(const char* from, char* to, size_t count, int type, int, Communicator* own, Stream* stream) {
    return meet("ncclAllReduce", from, to, count, type, own, stream);
}
int ncclReduceScatter(const char* from, char* to, size_t count, int type, int, Communicator* own, Stream* stream) {
    return meet("ncclReduceScatter", from, to, count, type, own, stream);
}
int ncclAllGather(const char* from, char* to, size_t count, int type, Communicator* own, Stream* stream) {
    return meet("ncclAllGather", from, to, count, type, own, stream);
}

}  // extern "C"
