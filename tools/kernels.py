#!/usr/bin/env python3
"""Registers, spills, shared memory, theoretical occupancy and tensor-core instructions of every kernel, as a Markdown table.

    tools/cuda.sh --tools && tools/kernels.py [--arch sm_90] > kernels.md

Compiles kernels/*.cu for one architecture, for f32 and bf16 storage, and reads what ptxas and cuobjdump say. No GPU needed.
Shared memory that a launch asks for depends on its shape: for kernels that ask, it is the one of preset s184 (DYNAMIC below).
"""
import argparse, concurrent.futures, pathlib, re, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
CUDA = HERE / ".cuda/nvidia/cu13/bin"

# Limits of one multiprocessor: registers, threads, blocks, bytes of shared memory (and what each block is charged).
LIMITS = {"sm_80": (65536, 2048, 32, 164 << 10, 1 << 10), "sm_90": (65536, 2048, 32, 228 << 10, 1 << 10)}

# Bytes of dynamic shared memory at the shapes of preset s184, bf16.
DYNAMIC = {
    "attention_forward_64": 48 << 10, "attention_forward_128": 96 << 10,
    "attention_backward_64": 96 << 10, "attention_backward_128": 160 << 10,
    "attention_backward_128_small": 80 << 10,
    "attention_hopper_forward": (7 * 32 << 10) + 6 * 256 + 16 * 8 + 1024, "attention_hopper_backward": (225 << 10) + 20 * 8 + 1024,
    "attention_hopper_backward_apart": (225 << 10) + 20 * 8 + 1024,
    "attention_hopper_forward_pairs": (6 * 32 << 10) + 12 * 256 + 14 * 8 + 1024,
    "attention_cell_forward_64x16": 24 << 10, "attention_cell_forward_64x32": 48 << 10,
    "attention_cell_forward_64x64": 96 << 10, "attention_cell_forward_128x16": 48 << 10,
    "attention_cell_backward_64x16": 41472, "attention_cell_backward_64x32": 73 << 10,
    "attention_cell_backward_64x64": 69 << 10, "attention_cell_backward_128x16": 82432,
    **{f"matmul_swiglu_{way}": 14 * (16 << 10) + 2 * 14 * 8 + 1024 for way in ("forward", "backward", "forward_wide", "backward_wide")},
    "mmd_pairs": 96 << 10, "mmd_backward": 96 << 10,
    "mmd_hopper_pairs": (12 * 16 << 10) + 16 * 128 * 4 + 10 * 8 + 1024, "mmd_hopper_backward": (12 * 16 << 10) + 16 * 128 * 4 + 10 * 8 + 1024, "gather_rows": 8 * 2008 * 2,
}

SHOWN = ["HMMA", "LDSM", "LDGSTS", "HGMMA", "UTMALDG", "MULTICAST"]

# The include that marks a file for sm_90a alone, as in build.rs.
HOPPER = '#include "hopper.cuh"'


def threads_of(text):
    """Threads a block of each kernel, from __launch_bounds__."""
    found = re.findall(r"__global__\s+void\s+(?:__cluster_dims__\([^)]*\)\s*)?__launch_bounds__\(([^)]*)\)\s*(\w+)\s*\(", re.sub(r"//[^\n]*", "", text))
    constants = dict(re.findall(r"constexpr int (\w+) = (\d+)[;,]", text))
    value = lambda e: eval(re.sub(r"[A-Z_]+", lambda m: constants.get(m.group(), m.group()), e.split(",")[0]))
    return {name: value(bounds) for bounds, name in found}


def compile_one(source, storage, arch):
    """(kernel -> (registers, spilled bytes, static shared bytes)), (kernel -> instruction counts)."""
    arch += "a" if HOPPER in source.read_text() else ""
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "out.cubin"
        done = subprocess.run(
            [CUDA / "nvcc", "-std=c++17", "-cubin", "-O3", "-gencode", f"arch=compute_{arch[3:]},code={arch}", "-Xptxas", "-v", f"-DSCALE_BF16={int(storage == 'bf16')}",
             "-I", HERE / "kernels", "-o", cubin, source], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{source} ({storage}):\n{done.stderr}")
        used = {}
        for part in done.stderr.split("Compiling entry function '")[1:]:
            number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])
            used[part.split("'")[0]] = (number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes smem"))
        sass = subprocess.run([CUDA / "cuobjdump", "-sass", cubin], capture_output=True, text=True, check=True).stdout
        counts = {}
        for part in sass.split("Function : ")[1:]:
            counts[part.split()[0]] = [len(re.findall(rf"\b{word}\b", part)) for word in SHOWN]
        return used, counts


def occupancy(registers, shared, threads, arch):
    """Share of a multiprocessor's threads that can be resident."""
    all_registers, all_threads, all_blocks, all_shared, charged = LIMITS[arch]
    warps = -(-threads // 32)
    by_registers = all_registers // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = all_shared // (shared + charged)
    return min(by_registers, by_shared, all_blocks, all_threads // threads) * threads / all_threads


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90", choices=sorted(LIMITS))
    arch = parser.parse_args().arch
    if not (CUDA / "cuobjdump").exists():
        sys.exit("no disassembler in .cuda: run tools/cuda.sh --tools")
    sources = sorted(path for path in (HERE / "kernels").glob("*.cu") if arch == "sm_90" or HOPPER not in path.read_text())
    jobs = [(source, storage) for source in sources for storage in ("f32", "bf16")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: compile_one(*job, arch), jobs))
    version = re.search(r"V([\d.]+)", subprocess.run([CUDA / "nvcc", "--version"], capture_output=True, text=True).stdout)[1]
    print(f"`tools/cuda.sh --tools && tools/kernels.py`, nvcc {version}: what ptxas and the SASS say of each kernel; no device was used.\n")
    print(f"| kernel ({arch}) | storage | threads | registers | spilled | shared | occupancy | {' | '.join(SHOWN)} |")
    print("|---|---|" + "---:|" * (5 + len(SHOWN)))
    for (source, storage), (used, counts) in zip(jobs, results):
        threads = threads_of(source.read_text())
        for kernel, (registers, spilled, static) in sorted(used.items()):
            shared = static + DYNAMIC.get(kernel, 0)
            share = occupancy(registers, shared, threads[kernel], arch)
            row = [kernel, storage, threads[kernel], registers, spilled, shared, f"{share:.0%}", *counts[kernel]]
            print("| " + " | ".join(map(str, row)) + " |")
    gone = DYNAMIC.keys() - {kernel for used, _ in results for kernel in used}
    if arch == "sm_90" and gone:
        sys.exit(f"DYNAMIC names kernels that are gone: {sorted(gone)}")


main()
