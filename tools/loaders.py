#!/usr/bin/env python3
"""The parts of tools/loaders.sh that need Python; that script says what is measured.

A process a loader, on the first THREADS cores only. The file is read once before, the first batches are thrown away, and
batches are counted for a few seconds: cells handed out, control cells among them where a loader pairs them. `cells/s` is by
the clock, `a core` by the processor time of the process and its workers; on a machine with other work the second is the one
to compare. Each runs three times, loaders taking turns; the best run counts. Ours is one thread in the line `dense`, and its
own threads in `loader`, which hands out sparse rows.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

SETS, CELLS, SECONDS, ROUNDS = 4, 256, 5.0, 3
TYPE, PERTURBATION, BATCH, CONTROL = "cell_type", "perturbation", "batch", "non-targeting"
PEERS = {  # name: (environment, package)
    "annbatch, blocks of 64": ("v312", "annbatch"),
    "annbatch, single rows": ("v312", "annbatch"),
    "cell-load, X_hvg": ("v311", "cell-load"),
    "cell-load, X_hvg, workers": ("v311", "cell-load"),
    "cell-load, X": ("v311", "cell-load"),
    "bionemo-scdl, get_row": ("v311", "bionemo-scdl"),
    "bionemo-scdl, DataLoader": ("v311", "bionemo-scdl"),
    "anndata, backed": ("v311", "anndata"),
}


def prepare(work):
    """counts.h5ad -> cells.h5ad: float32 CSR, not compressed, with the dense copy in obsm that cell-load is fastest with."""
    import anndata
    import numpy
    cells = anndata.read_h5ad(work / "counts.h5ad")
    cells = anndata.AnnData(cells.X.astype("float32").tocsr(), cells.obs.astype("category"), cells.var)
    cells.var["highly_variable"] = True
    cells.obsm["X_hvg"] = numpy.ascontiguousarray(cells.X.toarray())
    cells.write_h5ad(work / "cells.h5ad")


def draws(path):
    """Endless batches of row numbers: SETS times CELLS random rows of one random condition."""
    import h5py
    import numpy
    with h5py.File(path) as file:
        codes = [file["obs"][column]["codes"][:].astype("int64") for column in (TYPE, PERTURBATION)]
    condition = codes[0] * (codes[1].max() + 1) + codes[1]
    order = numpy.argsort(condition, kind="stable")
    groups = numpy.split(order, numpy.flatnonzero(numpy.diff(condition[order])) + 1)
    random = numpy.random.default_rng(0)
    while True:
        picked = [groups[random.integers(len(groups))] for _ in range(SETS)]
        yield numpy.concatenate([random.choice(group, CELLS, replace=len(group) < CELLS) for group in picked])


def backed(work, _):
    import anndata
    import numpy
    cells = anndata.read_h5ad(work / "cells.h5ad", backed="r")
    for rows in draws(work / "cells.h5ad"):
        different, place = numpy.unique(rows, return_inverse=True)
        yield cells.X[different].toarray()[place]


def scdl(work, kind):
    import numpy
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
    folder = work / "scdl"
    if not folder.exists():
        SingleCellMemMapDataset(str(folder), str(work / "cells.h5ad"), use_X_not_raw=True).save()
    cells = SingleCellMemMapDataset(str(folder))
    genes = int(cells.number_of_variables()[0])
    if kind == "get_row":
        for rows in draws(work / "cells.h5ad"):
            out = numpy.zeros((len(rows), genes), "float32")
            for i, row in enumerate(rows):
                (values, places), *_ = cells.get_row(int(row))
                out[i, places] = values
            yield out
    from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch
    from torch.utils.data import DataLoader

    class Batches:
        def __iter__(self):
            return ([int(row) for row in rows] for rows in draws(work / "cells.h5ad"))

        def __len__(self):
            return 10**9

    for batch in DataLoader(cells, batch_sampler=Batches(), collate_fn=collate_sparse_matrix_batch):
        yield batch.to_dense()


def annbatch(work, kind):
    import anndata
    import h5py
    import numpy
    import pandas
    import zarr
    from annbatch import DatasetCollection, Loader
    from annbatch.samplers import ClassSampler
    store = str(work / "annbatch.zarr")
    if not os.path.exists(store):
        def x_alone(path):
            with h5py.File(path) as file:
                return anndata.AnnData(*(anndata.io.read_elem(file[part]) for part in ("X", "obs", "var")))
        DatasetCollection(store, mode="a").add_adatas([str(work / "cells.h5ad")], load_adata=x_alone, shuffle=True,
                                                      groupby=[TYPE, PERTURBATION], rng=numpy.random.default_rng(0))
    group = zarr.open(store, mode="r")
    [name] = [name for name in group.keys() if name.startswith("dataset")]
    obs = anndata.io.read_elem(group[name]["obs"])
    classes = pandas.Categorical(obs[TYPE].astype(str) + "|" + obs[PERTURBATION].astype(str))
    block, ahead = (64, 8192) if kind == "blocks of 64" else (1, 1024)
    while True:
        sampler = ClassSampler(block, ahead // block, CELLS, classes=classes, num_samples=200 * ahead,
                               rng=numpy.random.default_rng(0))
        loader = Loader(batch_sampler=sampler, preload_to_gpu=False, to=None)
        loader.use_collection(DatasetCollection(store, mode="r"))
        for batch in loader:
            yield batch["X"].toarray()


def cell_load(work, kind):
    from cell_load.data_modules import PerturbationDataModule
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as split:
        split.write(f'[datasets]\nd = "{(work / "cells.h5ad").resolve()}"\n[training]\nd = "train"\n')
    stored = kind == "X"
    module = PerturbationDataModule(
        toml_config_path=split.name, embed_key=None if stored else "X_hvg", output_space="all" if stored else "gene",
        num_workers=int(os.environ["OMP_NUM_THREADS"]) if kind.endswith("workers") else 0, batch_size=SETS,
        cell_sentence_len=CELLS, batch_col=BATCH, pert_col=PERTURBATION, cell_type_key=TYPE, control_pert=CONTROL,
        basal_mapping_strategy="random")
    module.setup()
    while True:
        for batch in module.train_dataloader():
            yield batch["pert_cell_emb"], batch["ctrl_cell_emb"]


READERS = {"annbatch": annbatch, "cell-load": cell_load, "bionemo-scdl": scdl, "anndata": backed}


def processor_seconds():
    import psutil
    own = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        own += times.user + times.system
    return own


def time_peer(work, name):
    """One loader in this process: a line of JSON."""
    warnings.filterwarnings("ignore")
    package, _, kind = name.partition(", ")
    with open(work / "cells.h5ad", "rb") as file:
        while file.read(1 << 24):
            pass
    batches = READERS[package](work, kind)
    for _ in range(3):
        next(batches)
    began, spent, cells = time.perf_counter(), processor_seconds(), 0
    while time.perf_counter() - began < SECONDS:
        batch = next(batches)
        cells += sum(map(len, batch)) if isinstance(batch, tuple) else len(batch)
    seconds, spent = time.perf_counter() - began, processor_seconds() - spent
    print(json.dumps({"cells_per_s": cells / seconds, "cells_per_core_s": cells / spent,
                      "version": importlib.metadata.version(package)}), flush=True)
    import psutil
    for worker in psutil.Process().children(recursive=True):
        worker.kill()  # it holds our standard output open, and the caller waits for its end
    os._exit(0)


def run(work, engine, peers, threads):
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    told = {**os.environ, **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "NUMBA", "RAYON", "MKL")}}
    here = str(Path(__file__).resolve())
    if not (work / "cells.h5ad").exists() and (peers / "v311").exists():
        subprocess.run([peers / "v311/bin/python", here, "prepare", str(work)], check=True, env=told)
    runs = {}
    for turn in range(ROUNDS):
        command = [engine, "bench", "loader", "--data", str(work / "data"), "--sets", str(SETS), "--cells", str(CELLS),
                   "--steps", "200", "--json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, env=told).stdout)
        for line in found["lines"]:
            if line["cells_per_s"]:
                runs.setdefault(f"ours, {line['name']}", []).append(line)
        for name, (environment, _) in PEERS.items():
            python = peers / environment / "bin/python"
            if not python.exists():
                continue
            try:
                done = subprocess.run([python, here, "peer", str(work), "--name", name], capture_output=True, text=True,
                                      env=told, timeout=300)
            except subprocess.TimeoutExpired:
                print(f"{name}: no answer in 300 s", file=sys.stderr)
                continue
            if done.returncode or not done.stdout.strip():
                if turn == 0:
                    print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            runs.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    result = {"command": "tools/loaders.sh " + " ".join([str(threads), *work.name.split("-")[1:]]), "threads": threads,
              "machine": models[0] if models else platform.processor(), "sets": SETS, "cells": CELLS,
              "load": os.getloadavg()[0], "runs": runs, "absent": [name for name in PEERS if name not in runs]}
    (work / "loaders.json").write_text(json.dumps(result, indent=1) + "\n")
    table(result)


def table(result):
    best = {name: {of: max(run[of] for run in runs) for of in ("cells_per_s", "cells_per_core_s")}
            for name, runs in result["runs"].items()}
    ours = best["ours, dense"]
    print(f"{result['machine']}, {result['threads']} threads, load {result['load']:.1f}\n")
    print("| | cells/s | a core | ours, dense, is faster a core |\n|---|---|---|---|")
    for name, rates in best.items():
        ahead = "" if name.startswith("ours") else f"{ours['cells_per_core_s'] / rates['cells_per_core_s']:.0f}x"
        print(f"| {name} | {rates['cells_per_s']:,.0f} | {rates['cells_per_core_s']:,.0f} | {ahead} |")
    for name in result["absent"]:
        print(f"| {name} | absent | | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["prepare", "peer", "run", "table"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name")
    args = parser.parse_args()
    match args.mode:
        case "prepare":
            prepare(args.work)
        case "peer":
            time_peer(args.work, args.name)
        case "run":
            run(args.work, args.engine, args.peers, args.threads)
        case "table":
            table(json.loads(args.work.read_text()))


if __name__ == "__main__":
    main()
