"""What the files of this folder share: one timing rule for every peer, and the turns that ours and theirs take.

The rule is that of `scale-engine bench ops`: on a GPU a time lies between two events in the stream, all timings are queued before
the first is read, and the inputs lie there in so many copies that three times the level-2 cache passes before one is seen again;
random numbers; the median of 100, of fewer where those would take more than a second. On a CPU (--smoke) a clock is read instead.
Where the device had nothing left to do in more than half of the turns, the row says `host_bound`: the time is then the host's.

A family runs as A B A B: ours for all its sizes, each peer for all of them, then both once more. A peer's better round counts; of ours
the mean of the two. What cannot run here (a missing module, a size or backend that is refused, no room) is noted as absent,
with the reason. Sizes are told by our own program, so they stand in one place.

Before a peer is timed, what it computes is compared with the same formula in float32, written once more in the family's file. One
that computes something else is told as wrong, and not timed; `error` is what was found, as a relative norm. Our program tells only
times here: its values are checked by `scale-engine selftest`, with references of its own.

What torch.compile makes is a peer for each of --modes: "default", and "max-autotune" (without CUDA graphs: what is timed here is one
kernel or a few), which chooses among products too. That takes about 5 s a product, on a machine that does nothing else, so it is done
by default only where there are none (rows, adamw).
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
LONG, LEAST = 1.0, 5  # seconds after which what is slow has had enough turns, and how many it has at least
# Relative norm error that a peer's values may have, by the type that they are stored in.
TOLERANCE = {"bfloat16": 2e-2, "float32": 1e-3}
MODES = {"default": None, "max-autotune": "max-autotune-no-cudagraphs", "reduce-overhead": "reduce-overhead"}


class Bench:
    """One family's run: what was asked for, where it is computed, what was found."""

    def __init__(self, about, modes=("default",)):
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, help="JSON, written anew as rows come")
        parser.add_argument("--program", type=Path, default=ROOT / "target/release/scale-engine")
        parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU")
        parser.add_argument("--seconds", type=float, default=math.inf, help="skip what would begin later")
        parser.add_argument("--turns", type=int)
        parser.add_argument("--modes", default=",".join(modes), help=f"of torch.compile, comma between: {', '.join(MODES)}")
        self.more(parser)
        self.asked = asked = parser.parse_args()
        self.modes = asked.modes.split(",")
        if unknown := set(self.modes) - set(MODES):
            parser.error(f"--modes knows {', '.join(MODES)}, not {', '.join(unknown)}")
        self.smoke, self.until = asked.smoke, time.monotonic() + asked.seconds
        self.turns = asked.turns or (3 if asked.smoke else 100)
        self.cuda = not asked.smoke
        self.rows = []
        if torch is not None:
            self.device = torch.device("cuda" if self.cuda else "cpu")
            self.real = torch.bfloat16 if self.cuda else torch.float32
            many_sizes()

    def more(self, parser):
        """Adds a file's own options."""

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


def compiled(f, mode="default"):
    return torch.compile(f, dynamic=False, mode=MODES[mode])


def each_mode(bench, f, name="compiled"):
    """{peer: how to make it}. CUDA graphs are left to the whole model: they spare the host's time, which is not timed here."""
    names = {"default": name, "max-autotune": f"{name}, max-autotune"}
    return {names[mode]: lambda mode=mode: compiled(f, mode) for mode in bench.modes if mode in names}


def now(cuda):
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def microseconds(begin, end):
    return 1e3 * begin.elapsed_time(end) if hasattr(begin, "elapsed_time") else 1e6 * (end - begin)


def warm_up(bench, prepare):
    """-> seconds that a turn takes, and those of them in which the host queues it."""
    def seconds(i, wait):
        start = time.perf_counter()
        prepare(i)()
        if wait and bench.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start
    seconds(0, True)  # loads and compiles
    takes = seconds(1, True)
    # A slow peer is warm by then, and its host has time.
    hosts = [seconds(i, False) for i in range(2, WARM) if takes < LONG / 10]
    return takes, min(hosts, default=0)


def so_many(most, takes, long=LONG, least=LEAST):
    """Turns of so many seconds."""
    return min(most, max(least, int(long / takes)))


def measure(bench, prepare, turns=None):
    """`prepare(i)` gets copy i ready and returns the work that is timed -> median in microseconds, whether it is the host's, turns."""
    takes, host = warm_up(bench, prepare)
    turns = so_many(turns or bench.turns, takes)
    if bench.cuda:
        torch.cuda.synchronize()
        # Clock ticks, two in a nanosecond: the host queues ahead, at least 10 ms, at most 300.
        torch.cuda._sleep(int(2e9 * min(max(0.01, 1.5 * host * turns), 0.3)))
    marks, late = [], 0
    for i in range(turns):
        work = prepare(WARM + i)
        begin = now(bench.cuda)
        kept = work()
        marks.append((begin, now(bench.cuda)))
        late += waited_for(begin)
        del kept, work
    if bench.cuda:
        torch.cuda.synchronize()
    return median(marks), 2 * late > turns, turns


def waited_for(begin):
    """Whether the device has come to where a turn begins before all of the turn was queued."""
    return hasattr(begin, "query") and begin.query()


def median(marks):
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


class Wrong(Exception):
    """A peer computes something else."""


def compared(found, right, allowed=None):
    """Tensors and what they should be -> the largest relative norm error; `allowed`, or their types, tell how large it may be."""
    errors = []
    for x, y in zip(found, right, strict=True):
        if x.shape != y.shape:
            raise Wrong(f"has the shape {list(x.shape)}, not {list(y.shape)}")
        x, y = x.detach().float(), y.detach().float()
        errors.append((torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y).clamp(min=1e-30)).item())
    for error, x in zip(errors, found):
        most = allowed or TOLERANCE[str(x.dtype).removeprefix("torch.")]
        if not error <= most:  # NaN is wrong too
            raise Wrong(f"differs by {error:.2g} (relative norm, {most:g} is allowed)")
    return float(f"{max(errors):.2g}")


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def directions(forward, inputs, upstream, plain):
    """An op as a function, copies of its inputs, gradients of its value, its formula -> {direction: prepare}, and `check`, which
    gives what a direction computes of the first copy, and what the formula does in float32."""
    copies = len(inputs)

    def ahead(i):
        return lambda: forward(*inputs[i % copies])

    def back(i):
        x = inputs[i % copies]
        y, wanted = forward(*x), [v for v in x if v.requires_grad]
        dy = upstream[i % copies]
        return lambda: torch.autograd.grad(y, wanted, dy)

    turns = {"forward": ahead, "backward": back}

    def check(direction):
        wide = [v.detach().float().requires_grad_(v.requires_grad) for v in inputs[0]]
        right = plain(*wide)
        if direction == "backward":
            right = torch.autograd.grad(right, [v for v in wide if v.requires_grad], upstream[0].float())
        return tensors(turns[direction](0)()), tensors(right)

    return turns | {"check": check}


def family(bench, case, peers, rounds=ROUNDS, more=()):
    """Ours and theirs, A B A B. `peers(**shape)` -> {name: function -> {direction: prepare, check}}; `more` names those of them that
    are no part of PyTorch, but need it. Rows that are there get more peers."""
    rows, ready = {(json.dumps(row["shape"]), row["direction"]): row for row in bench.rows if row["name"] == case}, {}
    for _ in range(rounds):
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
            rows[key]["ours_turns"] = told["turns"]
            if told.get("host_bound"):
                rows[key]["ours_host_bound"] = True
        for shape in dict.fromkeys(shape for shape, _ in rows):
            if shape not in ready:
                ready[shape] = {name: [make] for name, make in all_of(peers, more, json.loads(shape)).items()}
            for peer, slot in ready[shape].items():
                for (_, direction), row in ((key, row) for key, row in rows.items() if key[0] == shape):
                    of_peer(bench, slot, peer, direction, row)
                    bench.save()


def all_of(peers, more, shape):
    """What makes each peer ready; where already their inputs find no room, what says so."""
    if torch is None:
        return {"torch": refuse("not installed")} | dict.fromkeys(more, refuse("PyTorch is not installed"))
    try:
        return peers(**shape)
    except Exception as error:
        return {"all": refuse(why(error))}


def of_peer(bench, slot, peer, direction, row):
    """One peer, size and direction. `slot` holds what makes it ready, then what that made: compiled once for both rounds."""
    found = row["peers"].setdefault(peer, {"us": []})
    if "us" not in found:
        return
    try:
        if bench.left() < 0:
            raise TimeoutError("no time was left")
        if len(slot) == 1:
            slot.append(slot[0]())
        prepared = slot[1]
        found.update(prepared.get("note", {}))
        if "error" not in found:
            found["error"] = compared(*prepared["check"](direction))
            free(bench)
        add_round(found, *measure(bench, prepared[direction]))
    except Wrong as error:
        row["peers"][peer] = {"wrong": str(error)}
    except Exception as error:  # what a peer cannot do is reported, not fatal
        if not found["us"]:  # timed in the first round, it stays timed
            row["peers"][peer] = {"absent": why(error)}
        free(bench)
    print(row["name"], row["shape"], direction, peer, row["peers"][peer], file=sys.stderr)


def add_round(found, us, late, turns):
    """One more round of a peer; `host_bound` and `turns` are those of its best one."""
    if us < min(found["us"], default=math.inf):
        found["host_bound"], found["turns"] = late, turns
    found["us"].append(us)


def refuse(reason):
    def make():
        raise RuntimeError(reason)
    return make
