#!/usr/bin/env python3
"""The discrepancy of two populations, five Gaussians around their own scale: ours against geomloss, KeOps and compiled PyTorch.

    python benches/gpu/mmd.py [--smoke] [--out FILE]        run.py runs it with the others

geomloss knows one width for all problems of a batch and one Gaussian a call: five calls with a given width are the same sum
of kernels, and the search for the width, which ours does, is spared. Its "online" backend is KeOps. "KeOps" alone makes the five
Gaussians of one distance, which geomloss cannot. Both compute in float32. The compiled loss, tools/step_torch.py's, has its products
in bfloat16. The two populations differ in every gene: the discrepancy of equal ones is a difference of nearly equal numbers, of
which bfloat16 keeps nothing that could be compared.

KeOps compiles for 20 s or more and takes seconds a turn, so its peers come after both rounds of the others, in a third round with
ours; if their time is up, the others stay.
"""
from functools import partial

import common
from common import directions, each_mode, torch

SCALES = 0.25, 0.5, 1, 2, 4


def geomloss(backend, genes):
    from geomloss import SamplesLoss
    if backend == "online":
        import pykeops  # noqa: F401, geomloss would only warn
    losses = [SamplesLoss("gaussian", blur=(s * distance(genes)) ** 0.5, backend=backend) for s in SCALES]
    # Half a squared discrepancy each.
    return lambda y, x: sum(loss(y, x) for loss in losses).mean() * (2 / len(SCALES))


def keops(bench, genes):
    from pykeops.torch import LazyTensor
    rates = 1 / (2 * distance(genes) * torch.tensor(SCALES, device=bench.device))

    def mean(a, b):
        d2 = LazyTensor(a[:, :, None]).sqdist(LazyTensor(b[:, None]))  # [B, N, N]
        k = (-(d2 * LazyTensor(rates.view(1, 1, 1, -1)))).exp().sum(-1)
        return k.sum(2).mean() / (a.shape[1] * len(SCALES))
    return lambda y, x: mean(x, x) + mean(y, y) - 2 * mean(y, x)


def own():
    import step_torch
    return step_torch.mmd


def distance(genes):
    """Mean squared, of two standard normal rows."""
    return 2 * genes


def gaussians(y, x, width=None):
    """The formula; by default the width is the populations' own, and no gradient goes through it."""
    def squared(a, b):  # [B, N, N]; the differences themselves would be of size N x N x G
        return (a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None] - 2 * a @ b.mT).clamp(min=0)

    d2 = squared(x, x), squared(y, y), squared(y, x)
    if width is None:
        width = sum(part * d.detach().mean((1, 2), keepdim=True) for part, d in zip((1, 1, 2), d2)) / 4
    k = [sum((d / (-2 * s * width)).exp() for s in SCALES).mean() / len(SCALES) for d in d2]
    return k[0] + k[1] - 2 * k[2]


def peers(bench, slow, B, N, G):
    def prepared(make, real, own_width):
        size = 2 * B * N * G * real.itemsize
        inputs = [[bench.numbers(B, N, G, real=real, grad=True), bench.numbers(B, N, G, real=real) + 3]
                  for _ in range(bench.copies(size))]
        forward = make()
        one = forward(*inputs[0]).detach()
        plain = gaussians if own_width else partial(gaussians, width=distance(G))
        return directions(forward, inputs, [one.new_ones(one.shape)] * len(inputs), plain)

    makes = {"KeOps": lambda: keops(bench, G), "geomloss on KeOps": lambda: geomloss("online", G)}
    if not slow:
        makes = {"geomloss": lambda: geomloss("tensorized", G), "torch": own} | each_mode(bench, own())
    given = {name for name in makes if slow or name == "geomloss"}  # a width, and float32
    return {name: lambda name=name, make=make: prepared(make, torch.float32 if name in given else bench.real, name not in given)
            for name, make in makes.items()}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "mmd", lambda B, N, G: peers(bench, False, B, N, G))
    common.family(bench, "mmd", lambda B, N, G: peers(bench, True, B, N, G), rounds=1)
    bench.finish()


if __name__ == "__main__":
    main()
