#!/usr/bin/env python3
"""The whole training step and the whole prediction, ours against the PyTorch twin, eager and compiled.

    python benches/gpu/model.py [--preset s184 ..] [--size 32x512 ..] [--modes ..] [--smoke] [--out FILE]
                                                    run.py runs it with the others
    python benches/gpu/model.py .. --compile        before it, beside what needs no quiet: compiling takes minutes, eight peers at a
                                                    time, and what is compiled is kept on disk

The peer is tools/step_torch.py's twin with fused attention, norms and AdamW. A step has weights in float32 and autocast to bfloat16, the
usual way to train; the prediction's weights are bfloat16 beforehand, as ours are. Cells lie on the device on both sides. Times lie
between events at the ends of turns, and nobody waits between turns; the median of 100, of fewer where those would take more than 3 s,
but of 20 at least; the report tells how many. A turn of ours is a process of its own, and the peer gives its cache back before it, not
its weights. FLOPs are those of the twin's products, counted on no device.

Before a peer is timed, its loss and clipped gradients, or its prediction, are compared with the eager program's for the same weights
and cells; a peer that computes something else is told as wrong and not timed. The eager program is held to tools/twin.py by
`tools/step_torch.py --check`, and ours is by tests/golden.rs.

A row is a preset and a --size, SETSxCELLS; by default 32x512 and 4x512. "default" is the step for which the preset is made (s40
16x128, s184 and s280 8x256); it has no prediction, and needs a call of its own.

Peers of a row, of which the best counts and is named:
    eager                   thin products
    torch.compile           by each of --modes. In "default" also with thin products (q, k, v, gate and up apart, each read of the input
                            once more but no gradients laid side by side), which may be the quicker ones
    torch.compile, joined   by "default", with what algebra leaves of a flow block, as ours has it: one product gives q, k, v, gate and up,
                            one takes both ways back
    .., CUDA graph          the same, the whole turn in one graph: forward, backward, clip, AdamW and average, as ours is. It needs no
                            compiling of its own, and leaves less to the host than torch.compile's own graphs of forward and backward
    .. reduce-overhead      torch.compile's own graphs
    .. max-autotune         Triton's products beside the library's
--modes is "default" by default. Of s184 in both sizes that is 3 to 6 minutes to --compile on 16 cores and about 6 to time (estimated:
compiling one peer took 75 s of a prediction, 130 of a step). The other modes need a call of their own, of one preset:
    --modes reduce-overhead                     1 to 2 minutes to compile, 3 to time
    --modes max-autotune --size 32x512          7 minutes to compile, in quiet and one at a time, since it times what it chooses; 1 to time
"""
import copy
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import common
from common import compiled, now, torch

SIZES = "32x512", "4x512"
TOLERANCE = 5e-2  # relative norm error of a loss, of all gradients together, of a prediction
DEFAULT_STEPS = {"tiny": "16x32", "s40": "16x128", "s184": "8x256", "s280": "8x256"}  # src/config/presets.rs
CONDITION_SEED = 3
AT_A_TIME = 8  # peers that are compiled
LONG, LEAST = 3.0, 20  # as in common.py, for whole turns


class Way(NamedTuple):
    """How a peer runs the model."""
    mode: str | None = None  # of torch.compile
    wide: bool = False
    graph: bool = False
    joined: bool = False


def ways(bench):
    """-> {peer: way}. Graphs come last: if one cannot be captured, the others have been timed."""
    plain = {"eager": Way()}
    for mode in bench.modes:
        plain["torch.compile" + f" {mode}" * (mode != "default")] = Way(mode, wide=True)
    if "default" in bench.modes:
        plain["torch.compile, thin"] = Way("default")
        plain["torch.compile, joined"] = Way("default", wide=True, joined=True)
    graphs = {f"{peer}, CUDA graph": way._replace(graph=True) for peer, way in plain.items()
              if way.mode not in (None, "reduce-overhead")}
    return plain | graphs


def wide(u, w, parts):
    """One product by a whole matrix, in parts afterwards; tools/step_torch.py has it `thin`."""
    return torch.nn.functional.linear(u, w).chunk(parts, -1)


class Twin:
    """The model of a preset, as a step or a prediction needs it, with flow blocks apart or `joined`."""

    def __init__(self, bench, preset, what, joined):
        import golden
        import step_torch
        self.bench, self.what = bench, what
        config, (self.genes, self.counts) = golden.preset(preset), golden.PRESET_COUNTS
        config = golden.configure(golden.DEFAULT, config)
        with torch.device(bench.device):
            model = step_torch.build(config, self.genes, self.counts, joined)
        groups = {True: [], False: []}
        with torch.no_grad():
            for name, w in model.named_parameters():
                part = "encoder" if name.startswith("gene_encoder") else "flow"
                w.normal_().mul_(step_torch.init(name, w.shape, config[part]["layers"]))
                if name.endswith("norm"):
                    w.fill_(1)
                groups[golden.decays(name, w)].append(w)
        real = torch.float32 if what == "step" else bench.real
        model.to(real).moments = [torch.full((self.genes,), 0.1, device=bench.device, dtype=real)] * 2
        # The same weights in two ways of using them.
        self.models = {False: model, True: copy.deepcopy(model, {id(w): w for w in model.parameters()})}
        for part in self.models[True].modules():
            if hasattr(part, "products"):
                part.products = wide
        self.weights, self.optimizer, self.average = list(model.parameters()), None, []
        if what == "step":
            groups = [{"params": weights, "weight_decay": 0.01 * on} for on, weights in groups.items()]
            self.optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95), eps=1e-8, fused=True, capturable=bench.cuda)
            # The averaged weights, since ours keeps them too.
            self.average = [w.detach().clone() for w in self.weights]
        # Compiled once for both rounds, and for a graph.
        forward = step_torch.loss if what == "step" else predict
        self.forwards = {None: forward} | {mode: compiled(forward, mode) for mode in bench.modes}

    def cells(self, sets, cells):
        x = torch.rand(sets, cells, self.genes, device=self.bench.device)
        return torch.where(x < 0.2, 5 * x, 0).to(self.bench.real)

    def ids(self, sets):
        random = torch.Generator().manual_seed(CONDITION_SEED)
        return torch.stack([torch.randint(n, (sets,), generator=random) for n in self.counts], 1).to(self.bench.device)

    def given(self, sets, cells):
        """Cells, conditions and times."""
        x = self.cells(2 * sets if self.what == "step" else sets, cells)
        t = torch.rand(sets, device=self.bench.device) if self.what == "step" else x.new_zeros(sets)
        return x, self.ids(sets), t

    def cast(self):
        return torch.autocast("cuda", torch.bfloat16) if self.bench.cuda and self.what == "step" else nullcontext()

    def turn(self, way, given):
        """-> what does one step or prediction, and gives its loss or its cells."""
        forward, model = self.forwards[way.mode], self.models[way.wide]

        def step():
            # Gradients are made anew, not added to: torch.compile's graphs and ours write them where they like.
            self.optimizer.zero_grad(set_to_none=True)
            if way.mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            with self.cast():
                total = forward(model, *given)
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1e-3)
            return total.detach()

        @torch.inference_mode()
        def prediction():
            if way.mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            return forward(model, *given)

        turn = {"step": step, "prediction": prediction}[self.what]
        return captured(turn, self.bench) if way.graph else turn

    def eager(self, given):
        """What a turn gives, and the gradients that it leaves, without changing anything."""
        with torch.set_grad_enabled(self.what == "step"), self.cast():
            value = self.forwards[None](self.models[False], *given)
        if self.what != "step":
            return [value]
        gradients = torch.autograd.grad(value, self.weights)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        scale = (1 / (norm + 1e-6)).clamp(max=1)
        return [value.detach(), flat([g * scale for g in gradients])]

    def checked(self, way, given):
        """-> a turn, and how far its values are from the eager program's; capturing one changes the weights."""
        before, right = [w.detach().clone() for w in self.weights], self.eager(given)
        common.free(self.bench)
        turn = self.turn(way, given)
        with torch.no_grad():
            torch._foreach_copy_(self.weights, before)
        found = [turn()]
        if self.what == "step":
            found.append(flat([w.grad for w in self.weights]))
        return turn, common.compared(found, right, TOLERANCE)

    def held(self):
        """Bytes that it keeps between turns."""
        states = self.optimizer.state.values() if self.optimizer else ()
        return sum(x.nbytes for x in [*self.weights, *self.average, *(x for state in states for x in state.values())])

    def rest(self):
        """Gives back what a turn leaves."""
        for w in self.weights:
            w.grad = None
        common.free(self.bench)


def flat(tensors):
    return torch.cat([x.flatten() for x in tensors])


def predict(model, x, ids, t):
    return model.decode(model.transport(model.encode(x), t, ids))


def captured(turn, bench):
    """One CUDA graph of a turn -> what launches it."""
    if not bench.cuda:
        raise RuntimeError("a CPU has no CUDA graphs")
    own, aside, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(own)
    with torch.cuda.stream(aside):  # what is chosen or allocated once must not happen while a graph is captured
        for _ in range(3):
            turn()
    own.wait_stream(aside)
    try:
        with torch.cuda.graph(graph):
            value = turn()
    finally:
        torch.cuda.set_stream(own)  # a capture that fails leaves its own

    def replay(turn=turn):  # which reads what `turn` holds
        graph.replay()
        return value
    return replay


def flops(preset, what, cells):
    """Of the products alone, of one set, which is never computed."""
    from torch.utils.flop_counter import FlopCounterMode
    import golden
    import step_torch
    config, (genes, counts) = golden.configure(golden.DEFAULT, golden.preset(preset)), golden.PRESET_COUNTS
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = step_torch.build(config, genes, counts)
        model.moments = [torch.empty(genes)] * 2
        ids, t = torch.empty(1, 3, dtype=torch.long), torch.empty(1)
        if what == "step":
            step_torch.loss(model, torch.empty(2, cells, genes), ids, t).backward()
        else:
            with torch.no_grad():
                predict(model, torch.empty(1, cells, genes), ids, t)
    return counter.get_total_flops()


def seconds(bench, turn):
    wait = torch.cuda.synchronize if bench.cuda else lambda: None
    wait()
    start = time.perf_counter()
    turn()
    wait()
    return time.perf_counter() - start


def measure(bench, turn):
    """-> median of the times from one turn's end to the next one's, whether it is the host's, turns. Nobody waits in between, as in
    training."""
    for _ in range(2):  # compile, and choose
        turn()
    turns = common.so_many(bench.turns, seconds(bench, turn), LONG, LEAST)
    ends, late = [now(bench.cuda)], 0
    for _ in range(turns):
        turn()
        late += common.waited_for(ends[-1])
        ends.append(now(bench.cuda))
    if bench.cuda:
        torch.cuda.synchronize()
    return common.median(list(zip(ends, ends[1:]))), 2 * late > turns, turns


def ours(bench, asked, turns=None):
    """-> what our program says of its turns, how many they were. How many there is time for is known after the first few."""
    command, steps = "step" if asked.what == "step" else "predict", turns or min(LEAST, bench.turns)
    told, = bench.ours(command, "--preset", asked.preset, "--sets", asked.sets, "--cells", asked.cells, "--steps", steps)
    more = turns or common.so_many(bench.turns, told["median_s"], LONG, LEAST)
    return (told, steps) if more == steps else ours(bench, asked, more)


class Row(NamedTuple):
    preset: str
    what: str
    sets: int
    cells: int

    def shape(self):
        """Of sets of 512 cells, unless it says otherwise."""
        shape = {"preset": self.preset, "pairs": self.sets * self.cells}
        return shape | ({"cells": self.cells} if self.cells != 512 else {})


def rows(bench):
    """What was asked for."""
    found = []
    for preset in bench.asked.preset or (["tiny"] if bench.smoke else ["s184", "s40", "s280"]):
        for size in bench.asked.size or (["4x16"] if bench.smoke else SIZES):
            sets, cells = map(int, (DEFAULT_STEPS[preset] if size == "default" else size).split("x"))
            found += [Row(preset, what, sets, cells) for what in ("step", "prediction")
                      if size != "default" or what == "step"]
    return found


def of_peer(bench, twin, way, asked, found):
    """One round: checked in the first, timed."""
    given = twin.given(asked.sets, asked.cells)
    if "error" in found:
        turn = twin.turn(way, given)
    else:
        turn, found["error"] = twin.checked(way, given)
        common.free(bench)
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    common.add_round(found, *measure(bench, turn))


def compare(bench, asked):
    """A B A B of one row."""
    row = {"name": asked.what, "shape": asked.shape(), "direction": "whole", "bytes": 0, "flops": 0, "ours_us": [], "peers": {},
           "peak_gib": {}}
    twins, failed = {}, set()
    if torch is None:
        row["peers"]["torch"] = {"absent": "not installed"}
    for _ in range(common.ROUNDS):
        if bench.left() < 0:
            break
        common.free(bench)
        told, row["ours_turns"] = ours(bench, asked, row.get("ours_turns"))
        row["ours_us"].append(1e6 * told["median_s"])
        row["peak_gib"]["ours"] = told["memory_gib"]
        if told.get("host_bound"):
            row["ours_host_bound"] = True
        if len(row["ours_us"]) == 1:
            bench.rows.append(row)
        for peer, way in ways(bench).items() if torch is not None else ():
            if peer in failed:
                continue
            try:
                if bench.left() < 0:
                    raise TimeoutError("no time was left")
                if way.joined not in twins:
                    twins[way.joined] = Twin(bench, asked.preset, asked.what, way.joined)
                twin = twins[way.joined]
                row["flops"] = row["flops"] or asked.sets * flops(asked.preset, asked.what, asked.cells)
                twin.rest()
                of_peer(bench, twin, way, asked, row["peers"].setdefault(peer, {"us": []}))
                if bench.cuda:
                    # Not what the other twin keeps. The lower round's: where there was no compiling ahead, the first one's is the compiler's.
                    others = sum(other.held() for other in twins.values() if other is not twin)
                    gib = (torch.cuda.max_memory_reserved() - others) / 2**30
                    row["peak_gib"][peer] = min(gib, row["peak_gib"].get(peer, gib))
            except common.Wrong as error:
                failed.add(peer)
                row["peers"][peer] = {"wrong": str(error)}
            except Exception as error:  # what a peer cannot do is reported, not fatal
                failed.add(peer)
                if not row["peers"].get(peer, {}).get("us"):  # timed in the first round, it stays timed
                    row["peers"][peer] = {"absent": common.why(error)}
            print(row["name"], row["shape"], peer, row["peers"][peer], flush=True)
            bench.save()
            for twin in twins.values():
                twin.rest()


def job(at, *more, **environment):
    """This file once more, for one row or one peer."""
    done = subprocess.run([sys.executable, *sys.argv, "--job", str(at), *more], env=os.environ | environment)
    if done.returncode != 0:
        print(f"job {at}: ended with exit code {done.returncode}", flush=True)
    return done.returncode == 0


def to_compile(bench):
    """-> [(row, peer)]: a graph is captured of what another peer compiled."""
    return [(row, peer) for row in rows(bench) for peer, way in ways(bench).items() if way.mode and not way.graph]


def fill_cache(bench, row, peer):
    """Compiles a peer and does one turn."""
    began, said = time.monotonic(), "compiled"
    try:
        way = ways(bench)[peer]
        twin = Twin(bench, row.preset, row.what, way.joined)
        twin.turn(way, twin.given(row.sets, row.cells))()
        if bench.cuda:
            torch.cuda.synchronize()
    except Exception as error:  # most likely no memory: others use the device. What was compiled until then is kept
        said = common.why(error)
    print(f"{row.preset} {row.what} of {row.sets} x {row.cells}, {peer}: {said}, {time.monotonic() - began:.0f} s", flush=True)


def fill_caches(bench):
    """Each peer of each row in a process of its own; several compilers have few workers each. One that chooses by timing is alone."""
    jobs = to_compile(bench)
    alone = [at for at, (_, peer) in enumerate(jobs) if ways(bench)[peer].mode == "max-autotune"]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for at in set(range(len(jobs))) - set(alone):
            pool.submit(job, at, TORCHINDUCTOR_COMPILE_THREADS="4")
    for at in alone:
        job(at)


class Bench(common.Bench):
    def more(self, parser):
        parser.add_argument("--preset", action="append", help="may be given again")
        parser.add_argument("--size", action="append", help="SETSxCELLS, or default; may be given again")
        parser.add_argument("--compile", action="store_true", help="fill torch.compile's cache and end")
        parser.add_argument("--job", type=int, help="only the row of this number, added to --out; with --compile only the peer")


def main():
    bench = Bench(__doc__)
    asked = bench.asked
    if asked.compile:
        fill_caches(bench) if asked.job is None else fill_cache(bench, *to_compile(bench)[asked.job])
    elif asked.job is None:
        # A process each: a capture that fails may end PyTorch (2.11) when it next gives memory back.
        if asked.out:
            asked.out.unlink(missing_ok=True)
        ended = [job(at, "--seconds", f"{bench.left():.0f}") for at in range(len(rows(bench))) if bench.left() > 0]
        sys.exit(not all(ended))
    else:
        if asked.out and asked.out.exists():
            bench.rows = json.loads(asked.out.read_text())
        compare(bench, rows(bench)[asked.job])
        bench.finish()


if __name__ == "__main__":
    main()
