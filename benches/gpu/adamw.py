#!/usr/bin/env python3
"""A whole update: norm, clip, AdamW, averaged weights, the copy that products read. Ours against PyTorch's.

    python benches/gpu/adamw.py [--smoke] [--out FILE]        run.py runs it with the others

The peers get all weights as one flat tensor, which spares them the list. "without the average" does less than ours and is
told beside it; it is not what ours is compared with. "compiled" is the textbook's update in one function, and so is that of
max-autotune.
"""
import common
from common import each_mode, torch

RATE, BETAS, EPS, DECAY, KEEP, CLIP = 2e-4, (0.9, 0.95), 1e-8, 0.01, 0.999, 1.0


class Weights:
    def __init__(self, bench, count):
        zeros = torch.zeros(count, device=bench.device)
        self.w = torch.nn.Parameter(bench.numbers(count, real=torch.float32))
        self.w.grad = bench.numbers(count, real=torch.float32)
        # Neither is what it will be: an update that leaves one alone is seen.
        self.m, self.v, self.average = zeros, zeros.clone(), self.w.detach() / 2
        self.rounded = torch.zeros_like(self.w, dtype=torch.bfloat16) if bench.cuda else None

    def numbers(self):
        return self.w.detach(), self.w.grad, self.m, self.v, self.average, self.rounded


def fused(weights, averaged):
    optimizer = torch.optim.AdamW([weights.w], lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True)

    @torch.no_grad()
    def step():
        torch.nn.utils.clip_grad_norm_([weights.w], CLIP)
        optimizer.step()
        if averaged:
            weights.average.lerp_(weights.w, 1 - KEEP)
        if weights.rounded is not None:
            weights.rounded.copy_(weights.w)
    return step


def update(w, g, m, v, average, rounded):
    """Step 1 for ever: what the powers of the betas are changes no time."""
    g = g * (CLIP / (torch.linalg.vector_norm(g) + 1e-6)).clamp(max=1)
    m.lerp_(g, 1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
    w.mul_(1 - RATE * DECAY).sub_(RATE / (1 - BETAS[0]) * m / ((v / (1 - BETAS[1])).sqrt() + EPS))
    average.lerp_(w, 1 - KEEP)
    if rounded is not None:
        rounded.copy_(w)


def first_step(weights, step, averaged):
    """-> how far weights and average go in a step, and the rounded weights; and the same by the formula in float64."""
    def gone(before, after):
        kept = [after[0] - before[0], *([after[4] - before[4]] if averaged else [])]
        return kept + ([after[5]] if after[5] is not None else [])

    before = [x if x is None else x.clone() for x in weights.numbers()]
    after = [x if x is None else x.double() for x in before]
    with torch.no_grad():
        update(*after)
    right = gone([x if x is None else x.double() for x in before], after)
    step()
    return gone(before, weights.numbers()), right


def peers(bench, L):
    def prepared(make, averaged=True, **note):
        copies = bench.copies(26 * L)
        weights = [Weights(bench, L) for _ in range(copies)]
        steps = [make(w) for w in weights]
        return {"step": lambda i: steps[i % copies], "note": note,
                "check": lambda direction: first_step(weights[0], steps[0], averaged)}

    def whole(make):
        f = make()  # for all copies of the weights
        return prepared(lambda w: torch.no_grad()(lambda: f(*w.numbers())))

    return {"clip, fused AdamW, average, copy": lambda: prepared(lambda w: fused(w, True)),
            "without the average": lambda: prepared(lambda w: fused(w, False), averaged=False, less="no averaged weights"),
            **{name: lambda make=make: whole(make) for name, make in each_mode(bench, update).items()}}


def main():
    bench = common.Bench(__doc__, modes=("default", "max-autotune"))
    common.family(bench, "adamw", lambda L: peers(bench, L))
    bench.finish()


if __name__ == "__main__":
    main()
