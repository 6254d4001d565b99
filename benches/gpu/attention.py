#!/usr/bin/env python3
"""Attention in a cell and in a set, ours against every backend of PyTorch's, compiled plain math and FlexAttention.

    python benches/gpu/attention.py [--smoke] [--out FILE]        run.py runs it with the others

The peers are spared what ours does on the way: they get q, k and v apart, contiguous and head by head, the seed's row already
among the keys and values, and leave their gradients so. Ours reads and writes packed rows.

FlexAttention gives queries shorter than 128 to a kernel made for decoding, whose grid ends at 65,535 sets times heads: more cells
than that it refuses. So for these it is timed by its general kernel too. A cell has few tokens, so peers also get so many cells
packed into one attention that they fill a block of 128 queries, masked from each other; packed beforehand, which is not timed.
"""
import math

import common
from common import compiled, directions, each_mode, torch

BACKENDS = {"SDPA flash": "FLASH_ATTENTION", "SDPA efficient": "EFFICIENT_ATTENTION", "SDPA cuDNN": "CUDNN_ATTENTION",
            "SDPA math": "MATH"}
BLOCK = 128  # queries: fewer go to FlexAttention's kernel for decoding, and its mask has blocks of so many


def plain(q, k, v):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def backend(name, mask=None):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def forward(q, k, v):
        with sdpa_kernel(getattr(SDPBackend, name)):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return forward


def flex(**options):
    from torch.nn.attention.flex_attention import flex_attention
    return compiled(lambda q, k, v: flex_attention(q, k, v, **options))


def flex_packed(bench, rows, tokens):
    from torch.nn.attention.flex_attention import create_block_mask
    mask = create_block_mask(lambda b, h, q, k: q // tokens == k // tokens, None, None, rows, rows, device=bench.device)
    return flex(block_mask=mask, kernel_options={"FORCE_USE_FLEX_ATTENTION": True})


def ready(forwards, inputs, upstream, right=plain):
    return {name: lambda make=make: directions(make(), inputs, upstream, right) for name, make in forwards.items()}


def numbers(bench, sets, queries, keys, heads, width):
    """-> copies of q, k and v, and a gradient for each."""
    shapes = [(sets, heads, rows, width) for rows in (queries, keys, keys)]
    size = sum(math.prod(shape) for shape in shapes) * bench.real.itemsize
    inputs = [[bench.numbers(*shape, grad=True) for shape in shapes] for _ in range(bench.copies(size))]
    return inputs, [bench.numbers(*shapes[0]) for _ in inputs]


def peers(bench, inputs, upstream):
    forwards = {name: lambda enum=enum: backend(enum) for name, enum in BACKENDS.items()}
    forwards["FlexAttention"] = flex
    if inputs[0][0].shape[2] < BLOCK:
        forwards["FlexAttention, general kernel"] = lambda: flex(kernel_options={"FORCE_USE_FLEX_ATTENTION": True})
    return ready(forwards | each_mode(bench, plain, "compiled math"), inputs, upstream)


def packed(bench, inputs, upstream):
    """Peers that see as many cells at once as fill a block of queries."""
    cells, heads, tokens, width = inputs[0][0].shape
    together = max(BLOCK // tokens, 1)
    if cells % together:
        return {"packed": common.refuse(f"{cells} cells are not a multiple of {together}")}
    rows = together * tokens

    def pack(x):  # random numbers are as good in one order as in another
        return x.detach().view(cells // together, heads, rows, width).requires_grad_(x.requires_grad)

    def apart(q, k, v):
        return plain(*(x.unflatten(2, (together, tokens)) for x in (q, k, v))).flatten(2, 3)

    at = torch.arange(rows, device=bench.device) // tokens
    mask = at[:, None] == at  # what is masked is computed too, in the places where nothing would be otherwise
    forwards = {f"{name}, packed": lambda enum=enum: backend(enum, mask) for name, enum in BACKENDS.items() if enum != "MATH"}
    forwards["FlexAttention, packed"] = lambda: flex_packed(bench, rows, tokens)
    return ready(forwards, [[pack(x) for x in copy] for copy in inputs], [pack(x) for x in upstream], apart)


def in_cell(bench, M, P, H, K):
    given = numbers(bench, M, P, P, H, K)
    return peers(bench, *given) | packed(bench, *given)


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "attention_cell", lambda **shape: in_cell(bench, **shape))
    common.family(bench, "attention_set", lambda B, N, H, K: peers(bench, *numbers(bench, B, N, N + 1, H, K)))
    bench.finish()


if __name__ == "__main__":
    main()
