#!/usr/bin/env python3
"""The discrepancy of two populations, five Gaussians around their own scale: ours against geomloss, KeOps and compiled PyTorch.

    python benches/gpu/mmd.py [--smoke] [--out FILE]        run.py runs it with the others

geomloss knows one width for all problems of a batch and one Gaussian a call: five calls with a given width are the same sum
of kernels, and the search for the width, which ours does, is spared. Its "online" backend is KeOps. "KeOps" alone makes the five
Gaussians of one distance, which geomloss cannot. Both compute in float32. The compiled loss, tools/step_torch.py's, has its products
in bfloat16.

KeOps compiles for 20 s or more and takes seconds a turn, so its peers come after both rounds of the others, in a third round with
ours; if their time is up, the others stay.
"""
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


def peers(bench, slow, B, N, G):
    def prepared(make, real):
        size = 2 * B * N * G * real.itemsize
        inputs = [[bench.numbers(B, N, G, real=real, grad=True), bench.numbers(B, N, G, real=real)]
                  for _ in range(bench.copies(size))]
        forward = make()
        one = forward(*inputs[0]).detach()
        return directions(forward, inputs, [one.new_ones(one.shape)] * len(inputs))

    makes = {"KeOps": lambda: keops(bench, G), "geomloss on KeOps": lambda: geomloss("online", G)}
    if not slow:
        makes = {"geomloss": lambda: geomloss("tensorized", G), "torch": own} | each_mode(bench, own())
    kind = {name: torch.float32 if "geomloss" in name or slow else bench.real for name in makes}
    return {name: lambda name=name, make=make: prepared(make, kind[name]) for name, make in makes.items()}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "mmd", lambda B, N, G: peers(bench, False, B, N, G))
    common.family(bench, "mmd", lambda B, N, G: peers(bench, True, B, N, G), rounds=1)
    bench.finish()


if __name__ == "__main__":
    main()
