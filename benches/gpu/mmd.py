#!/usr/bin/env python3
"""The discrepancy of two populations, five Gaussians around their own scale: ours against geomloss, KeOps and compiled PyTorch.

    python benches/gpu/mmd.py [--smoke] [--out FILE]        run.py runs it with the others

geomloss knows one width for all problems of a batch and one Gaussian a call: five calls with a given width are the same sum
of kernels, and the search for the width, which ours does, is spared. Its "online" backend is KeOps. It computes in float32.
The compiled loss, tools/step_torch.py's, has its products in bfloat16.
"""
import common
from common import compiled, directions

SCALES = 0.25, 0.5, 1, 2, 4


def geomloss(backend, genes):
    from geomloss import SamplesLoss
    if backend == "online":
        import pykeops  # noqa: F401, geomloss would only warn
    scale = 2 * genes  # mean squared distance of standard normal rows
    losses = [SamplesLoss("gaussian", blur=(s * scale) ** 0.5, backend=backend) for s in SCALES]
    # Half a squared discrepancy each.
    return lambda y, x: sum(loss(y, x) for loss in losses).mean() * (2 / len(SCALES))


def own():
    import step_torch
    return step_torch.mmd


def peers(bench, B, N, G):
    def prepared(make, real):
        size = 2 * B * N * G * real.itemsize
        inputs = [[bench.numbers(B, N, G, real=real, grad=True), bench.numbers(B, N, G, real=real)]
                  for _ in range(bench.copies(size))]
        forward = make()
        one = forward(*inputs[0]).detach()
        return directions(forward, inputs, [one.new_ones(one.shape)] * len(inputs))

    wide, real = common.torch.float32, bench.real
    return {"geomloss": lambda: prepared(lambda: geomloss("tensorized", G), wide),
            "geomloss on KeOps": lambda: prepared(lambda: geomloss("online", G), wide),
            "torch": lambda: prepared(own, real),
            "compiled": lambda: prepared(lambda: compiled(own()), real)}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "mmd", lambda B, N, G: peers(bench, B, N, G))
    bench.finish()


if __name__ == "__main__":
    main()
