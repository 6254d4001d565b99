#!/usr/bin/env python3
"""The parts of tools/peers.sh that need Python; that script says what is measured.

Ours runs three times and its median counts; a peer's best run counts. Programs take turns. Every process may use
the first THREADS cores only, and is told so. Wall and CPU seconds and peak memory are of a whole command. The peak is
the largest process's: too low for pdex 0.1.27 and cell-eval 0.6.6, which start one a thread. `function` is the second
call in a process, as the first may compile, and the only one of pdex 0.1.27, which compiles nothing. illico's function
gives no adjusted p-values, so its seconds lack the adjustment; ours hold reading, writing and the measures as well.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

COLUMN, CONTROL = "perturbation", "non-targeting"


def halves(work):
    """counts.h5ad -> real.h5ad and pred.h5ad: ln(1 + counts per ten thousand), CSR, float32, not compressed."""
    import anndata
    import scanpy
    counts = anndata.read_h5ad(work / "counts.h5ad")
    for first, name in enumerate(("real", "pred")):
        cells = counts[first::2]
        cells = anndata.AnnData(cells.X.astype("float32"), cells.obs[[COLUMN]], cells.var)
        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
        cells.write_h5ad(work / f"{name}.h5ad")


def de(work, peer, threads):
    """A peer's table of real.h5ad to PEER.csv; prints seconds of the call and of those that only warm up."""
    import anndata
    cells, seconds = anndata.read_h5ad(work / "real.h5ad"), []
    if peer == "pdex-0.1.27":  # as cell-eval 0.6.6 calls it
        import pdex
        table = lambda: pdex.parallel_differential_expression(
            cells, reference=CONTROL, groupby_key=COLUMN, num_workers=threads, batch_size=100, metric="wilcoxon",
            is_log1p=True, as_polars=True).write_csv
    elif peer == "pdex-0.3.0":  # as cell-eval 0.8.2 calls it
        import pdex
        table = lambda: pdex.pdex(cells, reference=CONTROL, groupby=COLUMN, threads=threads, mode="ref",
                                  is_log1p=True, epsilon=0.0).write_csv
    else:
        import illico
        table = lambda: illico.asymptotic_wilcoxon(
            cells, reference=CONTROL, group_keys=COLUMN, n_threads=threads, is_log1p=True, exp_post_agg=True).to_csv
    for _ in range(1 if peer == "pdex-0.1.27" else 2):
        start = time.perf_counter()
        write = table()
        seconds.append(time.perf_counter() - start)
    write(work / f"{peer}.csv")
    print(json.dumps({"function_s": seconds[-1], "warm_up_s": sum(seconds[:-1])}))


def agree(work):
    """Our real_de.csv beside each peer's table, row by row."""
    import numpy
    import pandas
    index, found = ["target", "feature"], {}
    ours = pandas.read_csv(work / "ours-de" / "real_de.csv").set_index(index)
    for peer in ("pdex-0.1.27", "pdex-0.3.0", "illico"):
        theirs = pandas.read_csv(work / f"{peer}.csv").rename(columns={"pert": "target"}).set_index(index)
        both = ours.join(theirs.drop(index=CONTROL, errors="ignore"), rsuffix="_peer", how="outer")
        found[peer] = {"rows": len(both), "different_u": int((both["statistic"] != both["statistic_peer"]).sum())}
        for name in {"p_value", "fdr"} & set(theirs):
            a, b = both[name], both[f"{name}_peer"]
            difference = (a - b).abs() / numpy.maximum(a, b).where(a != b, 1)
            found[peer][name] = {"largest_relative_difference": difference.max(), "above_1e-9": int((difference > 1e-9).sum()),
                                 "missing": int(difference.isna().sum()), "smallest": a.min()}
    print(json.dumps(found))


def measure(command, log):
    """Runs to the end -> wall and CPU seconds, peak memory, and what the last line of output says in JSON."""
    start = time.perf_counter()
    with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err:
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _, child.returncode, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    if child.returncode != 0:
        sys.exit(f"{log.name} failed, see {log}.err")
    last = (Path(f"{log}.out").read_text().splitlines() or [""])[-1]
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024,
            "said": json.loads(last) if last.startswith("{") else {}}


def programs(work, engine, peers, threads):
    """-> {name: (times, command)}; results lie in WORK under the name."""
    files = {name: work / f"{name}.h5ad" for name in ("real", "pred")}
    labels = "--pert-col", COLUMN, "--control-pert", CONTROL
    old, new = (peers / f"cell-eval-{version}" / "bin/python" for version in ("0.6.6", "0.8.2"))

    def ours(name, profile):
        return 3, [engine, "evaluate", "--real", files["real"], "--pred", files["pred"], *labels, "--profile", profile,
                   "--threads", threads, "--out", work / name]

    def cell_eval(name, python, times, *rest):
        return times, [python, "-m", "cell_eval", "run", "-ar", files["real"], "-ap", files["pred"], *labels, "--profile",
                       "full", "--num-threads", threads, "-o", work / name, *rest]

    def table(name, python, times):
        return times, [python, __file__, "de", work, "--peer", name, "--threads", threads]

    # clustering_agreement, which ours does not compute, is left out of theirs too.
    skip = "--skip-metrics", "clustering_agreement"
    return {
        "ours full": ours("ours-full", "full"), "ours DE": ours("ours-de", "de"),
        "illico 0.6.0": table("illico", peers / "illico/bin/python", 3),
        "pdex 0.3.0": table("pdex-0.3.0", new, 3), "pdex 0.1.27": table("pdex-0.1.27", old, 1),
        "cell-eval 0.8.2": cell_eval("cell-eval-0.8.2", new, 1, *skip),
        "cell-eval 0.6.6": cell_eval("cell-eval-0.6.6", old, 1, *skip)}


def run(work, engine, peers, threads, only):
    """Everything, or `full` or `DE` alone, programs taking turns; the table, and peers.json beside the cells."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    os.environ.update({name: str(threads) for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS")})
    jobs = {name: job for name, job in programs(work, engine, peers, threads).items()
            if only is None or (only == "full") == ("full" in name or "cell-eval" in name)}
    runs = {name: [] for name in jobs}
    for turn in range(3):
        for name, (times, command) in jobs.items():
            if turn < times:
                runs[name].append(measure(command, work / name.replace(" ", "-")))
                print(f"{name}: {runs[name][-1]['wall_s']:.1f} s", file=sys.stderr)
    agreement = {} if only == "full" else json.loads(subprocess.run(
        [peers / "cell-eval-0.6.6/bin/python", __file__, "agree", work], check=True, capture_output=True, text=True).stdout)
    sizes = {name: (work / f"{name}.h5ad").stat().st_size / 2**20 for name in ("real", "pred")}
    (work / "peers.json").write_text(json.dumps({"threads": threads, "files_mib": sizes, "runs": runs, "agree": agreement}, indent=1))
    print(table_of(runs, sizes))
    for peer, found in agreement.items():
        print(f"{peer}: {json.dumps(found)}")


def table_of(runs, sizes):
    """Markdown: a row a program, its time as a multiple of ours."""
    middle = lambda name: sorted(run["wall_s"] for run in runs[name])[len(runs[name]) // 2]
    peak = lambda name: max(run["peak_mib"] for run in runs[name])
    lines = [f"Files: {sizes['real']:.0f} and {sizes['pred']:.0f} MiB, not compressed.", "",
             "| | s | times ours | peak MiB |", "|---|---|---|---|"]
    if "ours full" in runs:
        lines += full_rows(runs, middle("ours full"), peak)
    if "ours DE" in runs:
        lines += de_rows(runs, middle("ours DE") / 2, peak)
    return "\n".join(lines) + "\n"


def full_rows(runs, full, peak):
    lines = [f"| full: ours | {full:.2f} | 1 | {peak('ours full'):.0f} |"]
    for name in ("cell-eval 0.8.2", "cell-eval 0.6.6"):
        best = min(run["wall_s"] for run in runs[name])
        lines.append(f"| full: {name} | {best:.1f} | {best / full:.1f} | {peak(name):.0f} |")
    return lines


def de_rows(runs, de, peak):
    lines = [f"| DE: ours, half of the command that makes two tables | {de:.2f} | 1 | {peak('ours DE'):.0f} |"]
    for name in ("illico 0.6.0", "pdex 0.3.0", "pdex 0.1.27"):
        whole = min(run["wall_s"] - run["said"]["warm_up_s"] for run in runs[name])
        inner = min(run["said"]["function_s"] for run in runs[name])
        lines.append(f"| DE: {name}, the command | {whole:.1f} | {whole / de:.1f} | {peak(name):.0f} |")
        lines.append(f"| DE: {name}, the function alone | {inner:.1f} | {inner / de:.1f} | |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("halves", "de", "agree", "run"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=("full", "DE"))
    asked = parser.parse_args()
    if asked.do == "run":
        run(asked.work, asked.engine.absolute(), asked.peers.absolute(), asked.threads, asked.only)
    elif asked.do == "de":
        de(asked.work, asked.peer, asked.threads)
    else:
        {"halves": halves, "agree": agree}[asked.do](asked.work)


if __name__ == "__main__":
    main()
