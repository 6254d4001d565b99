"""What the files of this folder share: one timing rule for every peer, and the turns that ours and theirs take.

The rule is that of `scale-engine bench ops`: on a GPU a time lies between two events in the stream, all timings are queued before
the first is read, and the inputs lie there in so many copies that three times the level-2 cache passes before one is seen again;
random numbers; the median of 100. On a CPU (--smoke) a clock is read instead.

A family runs as A B A B: ours for all its sizes, each peer for all of them, then both once more. A peer's better round counts; of ours
the mean of the two. What cannot run here (a missing module, a size or backend that is refused, no room) is noted as absent,
with the reason. Sizes are told by our own program, so they stand in one place.
"""
import argparse
import gc
import json
import math
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # the twin and its faster blocks

try:
    import torch
except ImportError:  # then every peer is absent
    torch = None

WARM, ROUNDS = 5, 2


class Bench:
    """One family's run: what was asked for, where it is computed, what was found."""

    def __init__(self, about):
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, help="JSON, written anew as rows come")
        parser.add_argument("--program", type=Path, default=ROOT / "target/release/scale-engine")
        parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU")
        parser.add_argument("--seconds", type=float, default=math.inf, help="skip what would begin later")
        parser.add_argument("--turns", type=int)
        parser.add_argument("--preset", action="append", help="of the whole model; may be given again")
        parser.add_argument("--compile", action="store_true", help="of the whole model: fill torch.compile's cache and end")
        self.asked = asked = parser.parse_args()
        self.smoke, self.until = asked.smoke, time.monotonic() + asked.seconds
        self.turns = asked.turns or (3 if asked.smoke else 100)
        self.cuda = not asked.smoke
        self.rows = []
        if torch is not None:
            self.device = torch.device("cuda" if self.cuda else "cpu")
            self.real = torch.bfloat16 if self.cuda else torch.float32
            many_sizes()

    def left(self):
        return self.until - time.monotonic()

    def ours(self, *words):
        """Lines of our program -> list of dicts."""
        device = "cuda" if self.cuda else "cpu"
        command = [str(self.asked.program), "bench", *map(str, words), "--device", device, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def copies(self, size):
        """How many of so many bytes are turned over."""
        if not self.cuda:
            return 1
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return min(1 + math.ceil(3 * cache / max(size, 1)), 1024)

    def numbers(self, *shape, real=None, grad=False):
        x = torch.randn(*shape, device=self.device, dtype=real or self.real)
        return x.requires_grad_() if grad else x

    def save(self):
        if self.asked.out:
            self.asked.out.write_text(json.dumps(self.rows, indent=1))

    def finish(self):
        self.save()
        if not self.asked.out:
            print(json.dumps(self.rows, indent=1))


def many_sizes():
    """A function compiled for each of its sizes, not once for all of them, however many there are."""
    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, 64)


def compiled(f):
    return torch.compile(f, dynamic=False)


def now(cuda):
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def microseconds(begin, end):
    return 1e3 * begin.elapsed_time(end) if hasattr(begin, "elapsed_time") else 1e6 * (end - begin)


def measure(bench, prepare, turns=None):
    """`prepare(i)` gets copy i ready and returns the work that is timed -> median, in microseconds."""
    for i in range(WARM if bench.cuda else 1):
        prepare(i)()
    if bench.cuda:
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)  # clock ticks, about 10 ms: the host queues ahead
    marks = []
    for i in range(turns or bench.turns):
        work = prepare(WARM + i)
        begin = now(bench.cuda)
        kept = work()
        marks.append((begin, now(bench.cuda)))
        del kept, work
    if bench.cuda:
        torch.cuda.synchronize()
    took = sorted(microseconds(*mark) for mark in marks)
    return took[len(took) // 2]


def why(error):
    """A line for the table."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"[:160]


def free(bench):
    gc.collect()
    if torch is not None and bench.cuda:
        torch.cuda.empty_cache()


def directions(forward, inputs, upstream):
    """An op as a function, copies of its inputs, gradients of its value -> {direction: prepare}."""
    copies = len(inputs)

    def ahead(i):
        return lambda: forward(*inputs[i % copies])

    def back(i):
        x = inputs[i % copies]
        y, wanted = forward(*x), [v for v in x if v.requires_grad]
        dy = upstream[i % copies]
        return lambda: torch.autograd.grad(y, wanted, dy)

    return {"forward": ahead, "backward": back}


def family(bench, case, peers):
    """Ours and theirs, A B A B. `peers(**shape)` -> {name: function -> {direction: prepare}}."""
    rows, ready = {}, {}
    for _ in range(ROUNDS):
        free(bench)
        small = ["--small"] if bench.smoke else []
        for told in bench.ours("ops", "--case", case, "--turns", bench.turns, *small):
            key = json.dumps(told["shape"]), told["direction"]
            fresh = {"name": case, **{field: told[field] for field in ("shape", "direction", "bytes", "flops")},
                     "ours_us": [], "peers": {}}
            if key not in rows:
                rows[key] = fresh
                bench.rows.append(fresh)
            rows[key]["ours_us"].append(told["median_us"])
        for shape in dict.fromkeys(shape for shape, _ in rows):
            if shape not in ready:
                made = {"torch": refuse("not installed")} if torch is None else peers(**json.loads(shape))
                ready[shape] = {name: [make] for name, make in made.items()}
            for peer, slot in ready[shape].items():
                for (_, direction), row in ((key, row) for key, row in rows.items() if key[0] == shape):
                    of_peer(bench, slot, peer, direction, row)
            bench.save()


def of_peer(bench, slot, peer, direction, row):
    """One peer, size and direction. `slot` holds what makes it ready, then what that made: compiled once for both rounds."""
    found = row["peers"].setdefault(peer, {"us": []})
    if "absent" in found:
        return
    try:
        if bench.left() < 0:
            raise TimeoutError("no time was left")
        if len(slot) == 1:
            slot.append(slot[0]())
        prepared = slot[1]
        found.update(prepared.get("note", {}))
        found["us"].append(measure(bench, prepared[direction]))
    except Exception as error:  # what a peer cannot do is reported, not fatal
        if not found["us"]:  # timed in the first round, it stays timed
            row["peers"][peer] = {"absent": why(error)}
        free(bench)
    print(row["name"], row["shape"], direction, peer, row["peers"][peer], file=sys.stderr)


def refuse(reason):
    def make():
        raise RuntimeError(reason)
    return make
