#!/usr/bin/env python3
"""The model's matrix products, ours against PyTorch's on cuBLASLt and on cuBLAS and against the best of all that cuBLASLt offers; a
gated MLP, ours against its own and compiled.

    python benches/gpu/matmul.py [--smoke] [--out FILE]        run.py runs it with the others

Backward is two products. Ours leaves the gradient of the weights in float32, as it is summed, and so does cublaslt.py; PyTorch rounds
it, which is less to write.
"""
import sys

import common
import cublaslt
from common import directions, each_mode, torch


def library(name):
    """Its choice holds for the whole process, so it is made anew before each product."""
    def forward(x, w):
        if x.is_cuda:
            torch.backends.cuda.preferred_blas_library(name)
        return torch.nn.functional.linear(x, w)
    return forward


def peers(bench, M, I, J):
    size = (M * I + I * J) * bench.real.itemsize
    inputs = [[bench.numbers(M, I, grad=True), bench.numbers(J, I, grad=True)] for _ in range(bench.copies(size))]
    upstream = [bench.numbers(M, J) for _ in inputs]
    names = {"torch, cuBLASLt": "cublaslt", "torch, cuBLAS": "cublas"} if bench.cuda else {"torch": None}
    own = {cublaslt.NAME: lambda: cublaslt.linear(bench, inputs, upstream, linear)}
    return {peer: lambda name=name: directions(library(name), inputs, upstream, linear) for peer, name in names.items()} | own


def linear(x, w):
    return x @ w.T


def gated(residual, x, w_gate_up, w_down):
    linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
    gate, up = linear(x, w_gate_up).chunk(2, -1)
    return residual + linear(silu(gate) * up, w_down)


def plain_gated(residual, x, w_gate_up, w_down):
    gate, up = (x @ w_gate_up.T).chunk(2, -1)
    return residual + (gate * gate.sigmoid() * up) @ w_down.T


def gated_peers(bench, M, E, F):
    shapes = (M, E), (M, E), (2 * F, E), (E, F)
    size = sum(rows * columns for rows, columns in shapes) * bench.real.itemsize
    inputs = [[bench.numbers(*shape, grad=True) for shape in shapes] for _ in range(bench.copies(size))]
    upstream = [bench.numbers(M, E) for _ in inputs]
    forwards = {"torch": lambda: gated} | each_mode(bench, gated)
    return {peer: lambda make=make: directions(make(), inputs, upstream, plain_gated) for peer, make in forwards.items()}


def main():
    bench = common.Bench(__doc__)
    if bench.smoke:
        print(*cublaslt.check(), sep="\n", file=sys.stderr)
    common.family(bench, "matmul", lambda M, I, J: peers(bench, M, I, J), more=[cublaslt.NAME])
    common.family(bench, "matmul_swiglu", lambda M, E, F: gated_peers(bench, M, E, F))
    bench.finish()


if __name__ == "__main__":
    main()
