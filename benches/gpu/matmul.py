#!/usr/bin/env python3
"""The model's matrix products, ours against PyTorch's on cuBLASLt and on cuBLAS.

    python benches/gpu/matmul.py [--smoke] [--out FILE]        run.py runs it with the others

Backward is two products. Ours leaves the gradient of the weights in float32, as it is summed; PyTorch rounds it.
"""
import common
from common import directions, torch


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
    return {peer: lambda name=name: directions(library(name), inputs, upstream) for peer, name in names.items()}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "matmul", lambda M, I, J: peers(bench, M, I, J))
    bench.finish()


if __name__ == "__main__":
    main()
