#!/usr/bin/env python3
"""Sparse counts that lie on the device to dense normalised rows: ours against PyTorch and CuPy.

    python benches/gpu/gather.py [--smoke] [--out FILE]        run.py runs it with the others

Each cell stores 15 % of its genes, as ours has it. The peers are spared the rows' numbers: PyTorch is given one a stored count.
"""
import common
from common import compiled, torch

SHARE, BY = 0.15, 0.1


def cells(bench, rows, genes):
    """-> gene ids, counts, starts, and the row of each count."""
    stored = torch.rand(rows, genes, device=bench.device) < SHARE
    row, gene = stored.nonzero(as_tuple=True)
    counts = torch.randint(1, 10, row.shape, device=bench.device, dtype=torch.int16)
    starts = torch.cat([row.new_zeros(1), stored.sum(1).cumsum(0)])
    return gene, counts, starts, row


def scattered(real, shape):
    def dense(row, gene, counts, scale):
        y = torch.zeros(shape, dtype=real, device=row.device)
        return y.index_put_((row, gene), (torch.log1p(counts / scale[row]) * BY).to(real))
    return dense


def cupy_dense(shape):
    """CSR to dense in float32, which is what cuSPARSE makes, then the logarithm of every number."""
    import cupy
    from cupyx.scipy.sparse import csr_matrix

    def dense(row, gene, counts, scale, starts):
        view = cupy.from_dlpack
        values = view(counts).astype(cupy.float32) / view(scale)[view(row)]
        y = csr_matrix((values, view(gene).astype(cupy.int32), view(starts).astype(cupy.int32)), shape=shape).toarray()
        return torch.from_dlpack(cupy.log1p(y) * cupy.float32(BY)).to(torch.bfloat16)

    def on_our_stream(*inputs):
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return dense(*inputs)
    return on_our_stream


def peers(bench, R, G):
    made = [cells(bench, R, G)]
    copies = bench.copies(4 * len(made[0][0]))
    made += [tuple(x.clone() for x in made[0]) for _ in range(copies - 1)]
    scale = torch.ones(R, device=bench.device)

    def formula():
        gene, counts, starts, row = made[0]
        right = torch.zeros(R, G, device=bench.device)
        right[row, gene] = torch.log1p(counts.float() / scale[row]) * BY
        return right

    def prepared(dense, with_starts=False):
        def prepare(i):
            gene, counts, starts, row = made[i % copies]
            return lambda: dense(row, gene, counts, scale, *([starts] if with_starts else []))
        return {"forward": prepare, "check": lambda direction: ([prepare(0)()], [formula()])}

    def sparse():
        def dense(row, gene, counts, scale, starts):
            values = torch.log1p(counts / scale[row]) * BY
            return torch.sparse_csr_tensor(starts, gene, values, (R, G)).to_dense().to(bench.real)
        return prepared(dense, True)

    plain = scattered(bench.real, (R, G))
    return {"torch index_put": lambda: prepared(plain), "compiled index_put": lambda: prepared(compiled(plain)),
            "torch CSR": sparse, "CuPy CSR": lambda: prepared(cupy_dense((R, G)), True)}


def main():
    bench = common.Bench(__doc__)
    common.family(bench, "gather", lambda R, G: peers(bench, R, G))
    bench.finish()


if __name__ == "__main__":
    main()
