// libcuda: streams that are captured, and run as one graph.
#pragma once
#include "device.h"
#include "nccl.h"

namespace nvidia {

// The stream keeps what was queued before: it continues after that once the capture ends.
inline void write_down(Stream* stream, Graph* graph) {
    stream->kept = std::move(stream->more), stream->kept.push_back(std::move(stream->last));
    stream->more.clear(), stream->last = nullptr;
    stream->graph = graph, graph->streams.insert(stream);
}

// Adds this work and all works of its graph that it waits for.
inline void collect(const Ref& work, std::set<Work*>& found) {
    if (work && found.insert(work.get()).second)
        for (const Ref& earlier : work->after) collect(earlier, found);
}

inline std::vector<size_t> waits_for(const Graph& graph, size_t i) {
    std::vector<size_t> found;
    for (const Ref& earlier : graph.works[i]->after)
        for (size_t k = 0; k < i; k++)
            if (graph.works[k] == earlier) found.push_back(k);
    return found;
}

inline Graph::Graph(const Graph& other) : works(other.works) { hold(works, 1); }
inline Graph::~Graph() { hold(works, -1); }

}  // namespace nvidia

using namespace nvidia;

extern "C" {

int cuStreamBeginCapture_v2(Stream* stream, int) {
    Lock lock(house);
    if (writes(stream)) return CAPTURE_UNSUPPORTED;
    static uint64_t number = 0;
    Graph* const graph = captures[++number] = new Graph;
    graph->number = number;
    return write_down(stream, graph), SUCCESS;
}

int cuStreamEndCapture(Stream* stream, Graph** made) {
    Lock lock(house);
    if (!writes(stream)) return INVALID_VALUE;
    Graph* graph = stream->graph;
    captures.erase(graph->number);
    std::set<Work*> joined;
    collect(stream->last, joined);
    for (const Ref& event : stream->more) collect(event, joined);
    for (Stream* each : graph->streams) each->graph = nullptr, each->last = nullptr, each->more = std::move(each->kept);
    if (joined.size() < graph->works.size()) return CAPTURE_UNJOINED;
    hold(graph->works, 1);
    return *made = graph, SUCCESS;
}

int cuGraphDestroy(Graph* gone) { Lock lock(house); return delete gone, SUCCESS; }
int cuGraphExecDestroy(Graph* gone) { Lock lock(house); return delete gone, SUCCESS; }
int cuGraphInstantiateWithFlags(Graph** made, Graph* of, unsigned long long) {
    Lock lock(house);
    return *made = new Graph(*of), SUCCESS;
}

// Succeeds if the two have the same form.
int cuGraphExecUpdate_v2(Graph* ready, Graph* to, int* info) {
    Lock lock(house);
    *info = 1;
    if (ready->works.size() != to->works.size()) return UPDATE_FAILED;
    for (size_t i = 0; i < to->works.size(); i++)
        if (ready->works[i]->form != to->works[i]->form || waits_for(*ready, i) != waits_for(*to, i)) return UPDATE_FAILED;
    hold(to->works, 1), hold(ready->works, -1);
    return ready->works = to->works, *info = 0, SUCCESS;
}

int cuGraphLaunch(Graph* graph, Stream* stream) {
    Lock lock(house);
    if (devices[stream->device].failed) return LAUNCH_FAILED;
    if (writes(stream)) return CAPTURE_UNSUPPORTED;
    std::vector<Ref> before = std::move(stream->more), made;
    before.push_back(stream->last), stream->more.clear();
    for (size_t i = 0; i < graph->works.size(); i++) {
        const Ref work = std::make_shared<Work>();
        work->act = graph->works[i]->act;
        std::vector<Ref> after = before;
        for (size_t k : waits_for(*graph, i)) after.push_back(made[k]);
        queue(work, after), made.push_back(work);
    }
    // The stream continues after all of it.
    stream->more = made, stream->last = nullptr;
    static const char form = 0;
    return add(stream, nullptr, &form), SUCCESS;
}

}  // extern "C"
