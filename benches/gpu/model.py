#!/usr/bin/env python3
"""The whole training step and the whole prediction, ours against the PyTorch twin, eager and compiled.

    python benches/gpu/model.py [--preset s184 ..] [--smoke] [--out FILE]        run.py runs it with the others
    python benches/gpu/model.py [--preset s184 ..] [--smoke] --compile           before it, beside what needs no quiet: compiling
                                                                                 takes minutes, and what is compiled is kept on disk

The peer is tools/step_torch.py's: the twin with fused attention, norms and AdamW, weights in float32, autocast to bfloat16.
Cells lie on the device on both sides. Times lie between events at the ends of steps, and nobody waits between steps; the
median of 20. A turn of ours is a process of its own, and the peer gives its memory back before it. FLOPs are those of the twin's products, counted on no device.
"""
import time
from contextlib import nullcontext

import common
from common import compiled, microseconds, now, torch

CELLS = 512  # per set, on each side
CONDITION_SEED = 3


class Twin:
    """The model of a preset and its optimizer."""

    def __init__(self, bench, preset):
        import golden
        import step_torch
        self.bench, self.tools = bench, step_torch
        config, (self.genes, self.counts) = golden.preset(preset), golden.PRESET_COUNTS
        config = golden.configure(golden.DEFAULT, config)
        with torch.device(bench.device):
            self.model = step_torch.build(config, self.genes, self.counts)
        self.model.moments = [torch.full((self.genes,), 0.1, device=bench.device)] * 2
        groups = {True: [], False: []}
        with torch.no_grad():
            for name, w in self.model.named_parameters():
                part = "encoder" if name.startswith("gene_encoder") else "flow"
                w.normal_().mul_(step_torch.init(name, w.shape, config[part]["layers"]))
                if name.endswith("norm"):
                    w.fill_(1)
                groups[golden.decays(name, w)].append(w)
        groups = [{"params": weights, "weight_decay": 0.01 * on} for on, weights in groups.items()]
        self.optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
        # The averaged weights, since ours keeps them too.
        self.weights = list(self.model.parameters())
        self.average = [w.detach().clone() for w in self.weights]
        # Compiled once for both rounds; each size is compiled when first seen.
        self.forwards = {"step": (step_torch.loss, compiled(step_torch.loss)),
                         "prediction": (self.predict, compiled(self.predict))}

    def cast(self):
        return torch.autocast("cuda", torch.bfloat16) if self.bench.cuda else nullcontext()

    def cells(self, sets, cells):
        x = torch.rand(sets, cells, self.genes, device=self.bench.device)
        return torch.where(x < 0.2, 5 * x, 0).to(self.bench.real)

    def ids(self, sets):
        random = torch.Generator().manual_seed(CONDITION_SEED)
        return torch.stack([torch.randint(n, (sets,), generator=random) for n in self.counts], 1).to(self.bench.device)

    @staticmethod
    def predict(model, x, ids, t):
        return model.decode(model.transport(model.encode(x), t, ids))

    def turn(self, what, is_compiled, sets, cells):
        """-> what does one step or prediction."""
        forward, ids = self.forwards[what][is_compiled], self.ids(sets)
        x = self.cells(2 * sets if what == "step" else sets, cells)
        t = torch.rand(sets, device=self.bench.device) if what == "step" else x.new_zeros(sets, dtype=torch.float32)

        def step():
            self.optimizer.zero_grad()
            with self.cast():
                total = forward(self.model, x, ids, t)
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1e-3)

        @torch.no_grad()
        def prediction():
            with self.cast():
                forward(self.model, x, ids, t)

        return {"step": step, "prediction": prediction}[what]


def flops(preset, what, sets, cells):
    """Of the products alone, counted on one set that is never computed."""
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
                Twin.predict(model, torch.empty(1, cells, genes), ids, t)
    return sets * counter.get_total_flops()


def median(bench, turn):
    """Of the times from one turn's end to the next one's. Nobody waits in between, as in training."""
    for _ in range(3):
        turn()
    ends = [now(bench.cuda)]
    for _ in range(2 if bench.smoke else 20):
        turn()
        ends.append(now(bench.cuda))
    if bench.cuda:
        torch.cuda.synchronize()
    took = sorted(microseconds(*pair) for pair in zip(ends, ends[1:]))
    return took[len(took) // 2]


def compare(bench, preset, what, sets, cells):
    """A B A B of one row."""
    row = {"name": what, "shape": {"preset": preset, "pairs": sets * cells}, "direction": "whole", "bytes": 0, "flops": 0,
           "ours_us": [], "peers": {}, "peak_gib": {}}
    twin, failed = None, {"torch": "not installed"} if torch is None else {}
    for _ in range(common.ROUNDS):
        if bench.left() < 0:
            break
        common.free(bench)
        command = "step" if what == "step" else "predict"
        told, = bench.ours(command, "--preset", preset, "--sets", sets, "--cells", cells, "--steps", 2 if bench.smoke else 20)
        row["ours_us"].append(1e6 * told["median_s"])
        row["peak_gib"]["ours"] = told["memory_gib"]
        for peer, is_compiled in (("torch.compile", True), ("eager", False)) if torch is not None else ():
            if peer in failed:
                continue
            try:
                if bench.left() < 0:
                    raise TimeoutError("no time was left")
                twin = twin or Twin(bench, preset)
                row["flops"] = row["flops"] or flops(preset, what, sets, cells)
                if bench.cuda:
                    torch.cuda.reset_peak_memory_stats()
                us = median(bench, twin.turn(what, is_compiled, sets, cells))
                row["peers"].setdefault(peer, {"us": []})["us"].append(us)
                if bench.cuda:
                    row["peak_gib"][peer] = torch.cuda.max_memory_reserved() / 2**30
            except Exception as error:
                failed[peer] = common.why(error)
            common.free(bench)
            print(row["name"], row["shape"], peer, row["peers"].get(peer, failed.get(peer)))
    for peer, reason in failed.items():
        row["peers"].setdefault(peer, {"absent": reason})
    if row["ours_us"]:
        bench.rows.append(row)
        bench.save()


def fill_cache(bench, preset, what, sets, cells):
    """Compiles the peer of a row and does one turn."""
    began, said = time.monotonic(), "compiled"
    try:
        Twin(bench, preset).turn(what, True, sets, cells)()
        if bench.cuda:
            torch.cuda.synchronize()
    except Exception as error:  # most likely no memory: others use the device
        said = common.why(error)
    common.free(bench)
    print(f"{preset} {what} of {sets * cells} pairs: {said}, {time.monotonic() - began:.0f} s", flush=True)


def main():
    bench = common.Bench(__doc__)
    sizes = [(4, 16)] if bench.smoke else [(32, CELLS), (4, CELLS)]
    for preset in bench.asked.preset or (["tiny"] if bench.smoke else ["s184", "s40", "s280"]):
        for sets, cells in sizes:
            for what in ("step", "prediction"):
                (fill_cache if bench.asked.compile else compare)(bench, preset, what, sets, cells)
    if not bench.asked.compile:
        bench.finish()


if __name__ == "__main__":
    main()
