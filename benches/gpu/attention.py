#!/usr/bin/env python3
"""Attention in a cell and in a set, ours against every backend of PyTorch's, compiled plain math and FlexAttention.

    python benches/gpu/attention.py [--smoke] [--out FILE]        run.py runs it with the others

The peers are spared what ours does on the way: they get q, k and v apart, contiguous and head by head, the seed's row already
among the keys and values, and leave their gradients so. Ours reads and writes packed rows.
"""
import math

import common
from common import compiled, directions, each_mode, torch

BACKENDS = {"SDPA flash": "FLASH_ATTENTION", "SDPA efficient": "EFFICIENT_ATTENTION", "SDPA cuDNN": "CUDNN_ATTENTION",
            "SDPA math": "MATH"}


def plain(q, k, v):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def backend(name):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def forward(q, k, v):
        with sdpa_kernel(getattr(SDPBackend, name)):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return forward


def flex():
    from torch.nn.attention.flex_attention import flex_attention
    return compiled(flex_attention)


def peers(bench, sets, queries, keys, heads, width):
    shapes = [(sets, heads, rows, width) for rows in (queries, keys, keys)]
    size = sum(math.prod(shape) for shape in shapes) * bench.real.itemsize
    inputs = [[bench.numbers(*shape, grad=True) for shape in shapes] for _ in range(bench.copies(size))]
    upstream = [bench.numbers(*shapes[0]) for _ in inputs]
    forwards = {name: lambda enum=enum: backend(enum) for name, enum in BACKENDS.items()}
    forwards |= {"FlexAttention": flex} | each_mode(bench, plain, "compiled math")
    return {name: lambda make=make: directions(make(), inputs, upstream) for name, make in forwards.items()}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "attention_cell", lambda M, P, H, K: peers(bench, M, P, P, H, K))
    common.family(bench, "attention_set", lambda B, N, H, K: peers(bench, B, N, N + 1, H, K))
    bench.finish()


if __name__ == "__main__":
    main()
