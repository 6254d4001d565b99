"""Makes large count files and times scanpy's preprocessing; called by tools/atlas.sh, which tells what for.

    atlas.py make FILE CELLS GENES [gzip]     counts of 5 % of the genes a cell, CSR as anndata writes it, in blocks of rows
    atlas.py repeat FILE OUT TIMES            the cells of FILE so many times over, chunk by chunk as they are packed
    atlas.py scanpy FILE OUT [GENES]          read, normalize_total, log1p, highly_variable_genes, write: one JSON line
    atlas.py compare WORK --engine E --threads N     both on gzip.h5ad and plain.h5ad, three turns; ours on many.h5ad

A cell's counts are multinomial: a library size, log-normal, is drawn over genes whose shares are log-normal, so that rare
genes are mostly 0 and 1 and common ones have hundreds, as packing sees them in real files. 24 perturbations and the control
lie in any order over 4 lines and 3 batches.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np

BLOCK = 5_000
DENSITY = 0.05


def make(path, cells, genes, packing=None):
    rng = np.random.default_rng(7)
    share = rng.lognormal(0, 2.0, genes)
    edges = np.cumsum(share / share.sum())
    # The number of draws per cell that hits, on average, at least that many genes.
    draws, wanted = genes // 16, DENSITY * genes
    while (1 - np.exp(-draws * share / share.sum())).sum() < wanted:
        draws += genes // 100
    with h5py.File(path, "w") as file:
        said(file, "anndata", "0.1.0")
        x = said(file.create_group("X"), "csr_matrix", "0.1.0")
        x.attrs["shape"] = np.array([cells, genes])
        kept = {"maxshape": (None,), "chunks": (1 << 17,), "compression": packing}
        data, indices = (x.create_dataset(name, (0,), kind, **kept) for name, kind in (("data", "f4"), ("indices", "i4")))
        pointers, stored = np.zeros(cells + 1, "i8"), 0
        for first in range(0, cells, BLOCK):
            rows = min(BLOCK, cells - first)
            library = np.maximum(rng.lognormal(np.log(draws), 0.3, rows).astype("i8"), 1)
            cell = np.repeat(np.arange(rows), library)
            gene = np.searchsorted(edges, rng.random(len(cell)), side="right").clip(max=genes - 1)
            hits, counts = np.unique(cell * genes + gene, return_counts=True)
            pointers[first + 1 : first + rows + 1] = stored + np.cumsum(np.bincount(hits // genes, minlength=rows))
            for array, block in ((data, counts), (indices, hits % genes)):
                array.resize((stored + len(hits),))
                array[stored:] = block
            stored += len(hits)
        x.create_dataset("indptr", data=pointers)
        around(file, cells, genes, rng)


def around(file, cells, genes, rng):
    """All of an h5ad but X."""
    obs = frame(file, "obs", [f"cell{i}" for i in range(cells)])
    columns = {"gene": ["non-targeting"] + [f"P{i}" for i in range(24)], "line": list("ABCD"), "plate": list("123")}
    obs.attrs["column-order"] = list(columns)
    for name, labels in columns.items():
        column = said(obs.create_group(name), "categorical", "0.2.0")
        column.attrs["ordered"] = False
        text(column, "categories", labels)
        said(column.create_dataset("codes", data=rng.integers(0, len(labels), cells).astype("i1")), "array", "0.2.0")
    frame(file, "var", [f"GENE{i}" for i in range(genes)]).attrs["column-order"] = np.array([], "f8")
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        said(file.create_group(name), "dict", "0.1.0")


def repeat(path, out, times):
    """Whole chunks only: the cell that a last chunk cuts ends there."""
    with h5py.File(path) as old, h5py.File(out, "w") as file:
        x, genes = said(file.create_group("X"), "csr_matrix", "0.1.0"), int(old["X"].attrs["shape"][1])
        chunks = len(old["X/data"]) // old["X/data"].chunks[0]
        stored = chunks * old["X/data"].chunks[0]
        ends = np.minimum(old["X/indptr"][1:], stored)
        ends = ends[: np.searchsorted(ends, stored) + 1]
        cells = times * len(ends)
        x.attrs["shape"] = np.array([cells, genes])
        for name in ("data", "indices"):
            array = old["X"][name]
            kept = {"chunks": array.chunks, "compression": array.compression}
            copy = x.create_dataset(name, (times * stored,), array.dtype, **kept)
            for chunk in range(chunks):
                mask, packed = array.id.read_direct_chunk((chunk * array.chunks[0],))
                for turn in range(times):
                    copy.id.write_direct_chunk((turn * stored + chunk * array.chunks[0],), packed, mask)
        pointers = [np.zeros(1, "i8")] + [ends + turn * stored for turn in range(times)]
        x.create_dataset("indptr", data=np.concatenate(pointers))
        around(file, cells, genes, np.random.default_rng(8))


def said(item, kind, version):
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version
    return item


def text(group, name, words):
    said(group.create_dataset(name, data=words, dtype=h5py.string_dtype()), "string-array", "0.2.0")


def frame(file, name, index):
    group = said(file.create_group(name), "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    text(group, "_index", index)
    return group


def scanpy(path, out, genes=2000):
    import anndata
    import scanpy as sc
    import scipy.sparse

    def chosen(cells):
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        sc.pp.highly_variable_genes(cells, n_top_genes=genes)
        return cells[:, cells.var["highly_variable"]]

    # Imports are not timed, nor is what numba compiles at the first call.
    few = scipy.sparse.random(200, 4 * genes, 0.1, "csr", "f4", random_state=0)
    chosen(anndata.AnnData(few))
    began, used = time.perf_counter(), time.process_time()
    chosen(anndata.read_h5ad(path)).write_h5ad(out)
    told = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - used}
    told["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told | {"scanpy": sc.__version__, "anndata": anndata.__version__}))


def run(command, threads):
    """Seconds by the clock and of processors, and peak MiB, of a command; or what it tells of itself in JSON."""
    env = dict(os.environ, **dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads))
    began = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    words = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    told = {"s": time.perf_counter() - began, "cpu_s": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}
    return told | (json.loads(words) if words.startswith("{") else {})


def compare(work, engine, threads):
    out, runs = f"{work}/out", []

    def ours(name):
        shutil.rmtree(out, ignore_errors=True)
        command = [engine, "preprocess", f"{work}/{name}.h5ad", "--out", out, "--pert-col", "gene", "--control-pert"]
        told = run([*command, "non-targeting", "--celltype-col", "line", "--batch-col", "plate"], threads)
        shards = sum(os.path.getsize(f"{out}/{file}") for file in os.listdir(out) if file.endswith(".shard"))
        return told | {"file": name, "who": "ours", "shards": shards, "bytes": os.path.getsize(f"{work}/{name}.h5ad")}

    def theirs(name):
        told = run([sys.executable, __file__, "scanpy", f"{work}/{name}.h5ad", f"{work}/out.h5ad"], threads)
        return told | {"file": name, "who": "scanpy"}

    for _ in range(3):
        for name in ("gzip", "plain"):
            runs += [ours(name), theirs(name)]
    runs.append(ours("many"))
    with open(f"{work}/atlas.json", "w") as file:
        json.dump({"threads": threads, "cpu": cpu(), "runs": runs}, file, indent=1)
    print("| file | | s | processor s | peak MiB | file MB | shards MB |\n|---|---|---|---|---|---|---|")
    for name, who in dict.fromkeys((r["file"], r["who"]) for r in runs):
        same = sorted((r for r in runs if (r["file"], r["who"]) == (name, who)), key=lambda r: r["s"])
        best = same[len(same) // 2]
        sizes = [f"{best[key] / 1e6:.0f}" if key in best else "" for key in ("bytes", "shards")]
        print(f"| {name} | {who} | {best['s']:.1f} | {best['cpu_s']:.1f} | {best['mib']:.0f} | {' | '.join(sizes)} |")


def cpu():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    command, path, *rest = sys.argv[1:]
    if command == "make":
        make(path, int(rest[0]), int(rest[1]), *rest[2:])
    elif command == "repeat":
        repeat(path, rest[0], int(rest[1]))
    elif command == "scanpy":
        scanpy(path, rest[0], *map(int, rest[1:]))
    else:
        options = dict(zip(rest[::2], rest[1::2]))
        compare(path, options["--engine"], options["--threads"])
