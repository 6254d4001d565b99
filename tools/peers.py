#!/usr/bin/env python3
"""The parts of tools/peers.sh that need Python; that script says what is measured.

The rules. Ours runs three times and its median counts, a peer's best run counts; runs of all programs take turns.
Every process may use the first THREADS cores only, and is told so. Wall and processor seconds are of whole
processes and the ones they started, from exec to exit; `function` is the call alone, data in memory, its
first call not counted where it compiles. Peak memory is the largest process's, so it is too low for pdex 0.1.27
and cell-eval 0.6.6, which start one a thread. cell-eval leaves out clustering_agreement, which ours has not.
illico's function adjusts no p-value, so the adjustment is not in its seconds.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

COLUMN, CONTROL = "perturbation", "non-targeting"


def halves(work):
    """Counts -> real.h5ad and pred.h5ad: ln(1 + counts per ten thousand), CSR, float32, not compressed."""
    import anndata
    import scanpy
    counts = anndata.read_h5ad(work / "counts.h5ad")
    for name, first in (("real", 0), ("pred", 1)):
        part = counts[first::2]
        part = anndata.AnnData(part.X.astype("float32"), part.obs[[COLUMN]], part.var)
        scanpy.pp.normalize_total(part, target_sum=1e4)
        scanpy.pp.log1p(part)
        del part.uns["log1p"]
        part.X.sort_indices()
        part.write_h5ad(work / f"{name}.h5ad")


def de(work, peer, threads):
    """One table of a peer to PEER.csv; prints seconds of the call, and those that a whole command would not spend."""
    import anndata
    cells, calls = anndata.read_h5ad(work / "real.h5ad"), 2
    if peer == "pdex-0.1.27":  # as cell-eval 0.6.6 calls it; compiles nothing
        from pdex import parallel_differential_expression
        calls = 1
        call = lambda: parallel_differential_expression(
            cells, reference=CONTROL, groupby_key=COLUMN, num_workers=threads, batch_size=100, metric="wilcoxon",
            tie_correct=True, is_log1p=True, as_polars=True).write_csv
    elif peer == "pdex-0.3.0":  # as cell-eval 0.8.2 calls it
        from pdex import pdex
        call = lambda: pdex(cells, COLUMN, mode="ref", threads=threads, is_log1p=True, epsilon=0.0,
                            reference=CONTROL).write_csv
    else:
        from illico import asymptotic_wilcoxon
        call = lambda: asymptotic_wilcoxon(cells, is_log1p=True, group_keys=COLUMN, reference=CONTROL,
                                           n_threads=threads, exp_post_agg=True).to_csv
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        write = call()
        seconds.append(time.perf_counter() - start)
    write(work / f"{peer}.csv")
    print(json.dumps({"function_s": seconds[-1], "again_s": sum(seconds[1:])}))


def agree(work):
    """Our real_de.csv beside each peer's table, row by row."""
    import numpy
    import pandas
    index, tables = ["target", "feature"], {}
    ours = pandas.read_csv(work / "ours-de" / "real_de.csv").set_index(index)
    for peer in ("pdex-0.1.27", "pdex-0.3.0", "illico"):
        table = pandas.read_csv(work / f"{peer}.csv").rename(columns={"pert": "target"}).set_index(index)
        table = table[table.index.get_level_values(0) != CONTROL]
        both = ours.join(table, rsuffix="_peer", how="inner")
        worst = {}
        for name in ("p_value", "fdr"):
            if name in table:
                a, b = both[name], both[name + "_peer"]
                worst[name] = float(numpy.nan_to_num((a - b).abs() / numpy.maximum(a, b), nan=0.0).max())
        tables[peer] = {"rows": [len(ours), len(table), len(both)], "largest_relative_difference": worst,
                        "missing_p": int(both["p_value_peer"].isna().sum()), "smallest_p": float(ours["p_value"].min()),
                        "different_u": int((both["statistic"] != both["statistic_peer"]).sum())}
    print(json.dumps(tables))


def measure(command, log):
    """Runs to the end -> wall and processor seconds, peak memory, and what the last line of its output says."""
    start = time.perf_counter()
    with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        _, child.returncode, usage = os.wait4(child.pid, 0)
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: see {log}.err")
    run = {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime,
           "peak_mib": usage.ru_maxrss / 1024}
    last = (Path(f"{log}.out").read_text().splitlines() or [""])[-1]
    return run | (json.loads(last) if last.startswith("{") else {})


def programs(work, engine, peers, threads):
    """-> {kind: {program: (times, command)}}; each command's results lie in WORK under its log's name."""
    real, pred = work / "real.h5ad", work / "pred.h5ad"
    ours = [engine, "evaluate", "--real", real, "--pred", pred, "--pert-col", COLUMN, "--control-pert", CONTROL,
            "--threads", threads]

    def python(peer, *rest):
        return [peers / peer / "bin/python", *rest]

    def cell_eval(version, *rest):
        return python(f"cell-eval-{version}", "-m", "cell_eval", "run", "-ap", pred, "-ar", real, "--pert-col", COLUMN,
                      "--control-pert", CONTROL, "--profile", "full", "--num-threads", threads, *rest)

    def table(peer, environment):
        return python(environment, __file__, "de", work, "--peer", peer, "--threads", threads)

    skip = "--skip-metrics", "clustering_agreement"
    return {
        "full": {"ours-full": (3, [*ours, "--profile", "full", "--out", work / "ours-full"]),
                 "cell-eval-0.8.2": (2, cell_eval("0.8.2", *skip, "-o", work / "cell-eval-0.8.2")),
                 "cell-eval-0.6.6": (1, cell_eval("0.6.6", *skip, "-o", work / "cell-eval-0.6.6"))},
        "DE": {"ours-de": (3, [*ours, "--profile", "de", "--out", work / "ours-de"]),
               "illico": (3, table("illico", "illico")),
               "pdex-0.3.0": (3, table("pdex-0.3.0", "cell-eval-0.8.2")),
               "pdex-0.1.27": (1, table("pdex-0.1.27", "cell-eval-0.6.6"))}}


def run(work, engine, peers, threads):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    kinds = programs(work, engine, peers, str(threads))
    runs = {name: [] for kind in kinds.values() for name in kind}
    load = [os.getloadavg()[0]]
    for turn in range(3):
        for kind in kinds.values():
            for name, (times, command) in kind.items():
                if turn < times:
                    runs[name].append(measure([str(word) for word in command], work / name))
    load.append(os.getloadavg()[0])
    agreement = measure([str(peers / "cell-eval-0.6.6/bin/python"), __file__, "agree", str(work)], work / "agree")
    measures = {name: next(csv.reader((work / name / "results.csv").open()))[1:] for name in kinds["full"]}
    size = {name: (work / f"{name}.h5ad").stat().st_size / 2**20 for name in ("real", "pred")}
    report(work, kinds, runs, size, threads)
    print(f"\nreal.h5ad {size['real']:.0f} MiB, pred.h5ad {size['pred']:.0f} MiB, load of the machine {load}")
    for name, columns in measures.items():
        print(f"{name}: {len(columns)} measures; not in ours: {sorted(set(columns) - set(measures['ours-full']))}")
    print("p-values beside ours:", {k: v for k, v in agreement.items() if not k.endswith(("_s", "_mib"))})
    (work / "peers.json").write_text(json.dumps(
        {"threads": threads, "inputs_mib": size, "load": load, "runs": runs, "agreement": agreement,
         "measures": measures}, indent=1))


def report(work, kinds, runs, size, threads):
    """The table: ours at its median, a peer at its best."""
    print(f"| {work.name}, {threads} threads | what | wall s | CPU s | beside ours | peak MiB | input MiB |")
    print("|---|---|---|---|---|---|---|")
    for kind, names in kinds.items():
        ours = statistics.median(run["wall_s"] for run in runs[next(iter(names))]) / (2 if kind == "DE" else 1)
        for name in names:
            middle, best = sorted(runs[name], key=lambda run: run["wall_s"])[len(runs[name]) // 2], None
            print(name, middle, best, ours, size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("halves", "de", "agree", "run"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--threads", type=int, default=2)
    args = vars(parser.parse_args())
    part = globals()[args.pop("part")]
    part(**{name: value for name, value in args.items() if name in part.__code__.co_varnames[:part.__code__.co_argcount]})


if __name__ == "__main__":
    main()
