#!/usr/bin/env python3
"""RMSNorm and SwiGLU, ours against PyTorch's own and compiled.

    python benches/gpu/rows.py [--smoke] [--out FILE]        run.py runs it with the others
"""
import common
from common import directions, each_mode, torch

EPS = 1e-5


def rms_norm(x, gain):
    return torch.nn.functional.rms_norm(x, gain.shape, gain, EPS)


def plain_norm(x, gain):
    """With its sums in float32, which a compiler fuses as it likes."""
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()).to(x.dtype) * gain


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def plain_gate(x):
    gate, up = x.chunk(2, -1)
    return gate * gate.sigmoid() * up


def peers(bench, shapes, out, forwards, plain):
    size = bench.real.itemsize * shapes[0][0] * shapes[0][1]
    inputs = [[bench.numbers(*shape, grad=True) for shape in shapes] for _ in range(bench.copies(size))]
    upstream = [bench.numbers(*out) for _ in inputs]
    return {name: lambda make=make: directions(make(), inputs, upstream, plain) for name, make in forwards.items()}


def main():
    bench = common.Bench(__doc__, modes=("default", "max-autotune"))
    norms = {"torch": lambda: rms_norm} | each_mode(bench, rms_norm) | each_mode(bench, plain_norm, "compiled by hand")
    common.family(bench, "rms_norm", lambda M, D: peers(bench, [(M, D), (D,)], (M, D), norms, plain_norm))
    gates = {"torch": lambda: swiglu} | each_mode(bench, swiglu)
    common.family(bench, "swiglu", lambda M, F: peers(bench, [(M, 2 * F)], (M, F), gates, plain_gate))
    bench.finish()


if __name__ == "__main__":
    main()
