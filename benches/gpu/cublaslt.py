#!/usr/bin/env python3
"""cuBLASLt asked by itself: of a product the quickest of all algorithms that it offers, where PyTorch takes its first guess.

    python benches/gpu/cublaslt.py        without a GPU: does what cuBLASLt is told fit its header, and mean the product that is wanted?

Of each product it is asked for 128 algorithms, with 256 MiB for split sums, which may be added in any way. Each is timed 5 times,
in copies of the matrices by turns; of the quickest 5, timed 30 times more, the best is the peer that matmul.py times by the rule of
common.py. `algorithms` tells, of each product, how many could run, the place of the best in cuBLASLt's own order (PyTorch's is the
first, ours the best of the first 8, with 32 MiB and sums in a fixed order) and into how many parts it splits the sums.

The library is the one that PyTorch has loaded; outputs and workspace are PyTorch's memory, and the stream is its stream.
"""
import ctypes
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import common
from common import torch

NAME = "cuBLASLt, the best of all"
LIBRARIES = "libcublasLt.so.13", "libcublasLt.so.12"
ASKED, WORKSPACE = 128, 256 << 20
TRIES, FINALISTS, MORE = 5, 5, 30

# cublasLt.h, cublas_api.h and library_types.h; `check` reads them.
CONSTANTS = {
    "CUDA_R_32F": 0, "CUDA_R_16BF": 14, "CUBLAS_COMPUTE_32F": 68, "CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1,
    "CUBLASLT_MATMUL_DESC_TRANSA": 3, "CUBLASLT_MATMUL_DESC_TRANSB": 4, "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": 1,
    "CUBLASLT_ALGO_CONFIG_SPLITK_NUM": 2,
}
KINDS = {"float32": "CUDA_R_32F", "bfloat16": "CUDA_R_16BF"}


class Algorithm(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint64 * 8)]


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""
    _fields_ = [("algorithm", Algorithm), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float),
                ("reserved", ctypes.c_int * 4)]


assert (ctypes.sizeof(Algorithm), ctypes.sizeof(Result)) == (64, 96)


class Matrix(NamedTuple):
    """As it lies in memory, row after row; `turned`: the product takes its transpose."""
    rows: int
    columns: int
    turned: bool = False
    kind: str = "bfloat16"


class Product(NamedTuple):
    """out = a b."""
    out: Matrix
    a: Matrix
    b: Matrix


def linear_products(M, I, J):
    """Of y = x w^T: y itself, and the gradients of x and of w, from x [M, I], w [J, I] and dy [M, J]."""
    return {"y": Product(Matrix(M, J), Matrix(M, I), Matrix(J, I, turned=True)),
            "dx": Product(Matrix(M, I), Matrix(M, J), Matrix(J, I)),
            "dw": Product(Matrix(J, I, kind="float32"), Matrix(M, J, turned=True), Matrix(M, I))}


def described(product):
    """What cuBLASLt is told -> {operand: (kind, rows, columns, leading dimension, operation)}.

    It reads memory column after column, so it sees each of our matrices transposed, and is asked for out^T = b^T a^T: its first
    operand is our b. A matrix that we take as it is, it takes as it is too.
    """
    def layout(matrix):
        return (CONSTANTS[KINDS[matrix.kind]], matrix.columns, matrix.rows, matrix.columns,
                CONSTANTS["CUBLAS_OP_T" if matrix.turned else "CUBLAS_OP_N"])
    return {"A": layout(product.b), "B": layout(product.a), "D": layout(product.out)}


class Lt:
    """The library, or a RuntimeError that says why not."""

    def __init__(self, handle=True):
        self.library = next(filter(None, map(loaded, LIBRARIES)), None)
        if self.library is None:
            raise RuntimeError(f"there is no {LIBRARIES[0]}")
        pointer, real = ctypes.c_void_p, ctypes.c_size_t
        for name, arguments in {
                "Create": [pointer], "MatmulDescCreate": [pointer, ctypes.c_int, ctypes.c_int],
                "MatmulDescSetAttribute": [pointer, ctypes.c_int, pointer, real],
                "MatmulDescGetAttribute": [pointer, ctypes.c_int, pointer, real, pointer],
                "MatrixLayoutCreate": [pointer, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
                "MatmulPreferenceCreate": [pointer],
                "MatmulPreferenceSetAttribute": [pointer, ctypes.c_int, pointer, real],
                "MatmulAlgoConfigGetAttribute": [pointer, ctypes.c_int, pointer, real, pointer],
                "MatmulAlgoGetHeuristic": [pointer] * 7 + [ctypes.c_int, pointer, pointer],
                "Matmul": [pointer] * 14 + [real, pointer]}.items():
            getattr(self.library, f"cublasLt{name}").argtypes = arguments
        self.library.cublasLtGetVersion.restype = real
        self.handle = self.made("Create") if handle else None

    def call(self, name, *arguments):
        status = getattr(self.library, f"cublasLt{name}")(*arguments)
        if status != 0:
            raise RuntimeError(f"cublasLt{name}: status {status}")

    def made(self, name, *arguments):
        """What a .._Create gives."""
        found = ctypes.c_void_p()
        self.call(name, ctypes.byref(found), *arguments)
        return found

    def set(self, what, descriptor, attribute, value):
        self.call(f"{what}SetAttribute", descriptor, CONSTANTS[attribute], ctypes.byref(value), ctypes.sizeof(value))

    def version(self):
        return self.library.cublasLtGetVersion()


@cache
def opened():
    return Lt()


@cache
def scratch():
    return torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")


def loaded(name):
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


class Plan:
    """A product's descriptors, which live as long as the process, and its algorithms."""

    def __init__(self, lt, product):
        self.lt, told = lt, described(product)
        self.work = lt.made("MatmulDescCreate", CONSTANTS["CUBLAS_COMPUTE_32F"], CONSTANTS["CUDA_R_32F"])
        for operand in "AB":
            lt.set("MatmulDesc", self.work, f"CUBLASLT_MATMUL_DESC_TRANS{operand}", ctypes.c_int32(told[operand][-1]))
        self.layouts = [lt.made("MatrixLayoutCreate", *told[operand][:-1]) for operand in "ABDD"]  # C is D
        self.alpha, self.beta = ctypes.c_float(1), ctypes.c_float(0)

    def offered(self):
        """Algorithms, cuBLASLt's best guess first."""
        preference, found, count = self.lt.made("MatmulPreferenceCreate"), (Result * ASKED)(), ctypes.c_int()
        self.lt.set("MatmulPreference", preference, "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES", ctypes.c_size_t(WORKSPACE))
        self.lt.call("MatmulAlgoGetHeuristic", self.lt.handle, self.work, *self.layouts, preference, ASKED, found, ctypes.byref(count))
        return [result.algorithm for result in found[:count.value] if result.state == 0]

    def run(self, algorithm, workspace, out, a, b):
        address = lambda x: x.data_ptr()
        a_, b_, c_, d_ = self.layouts
        self.lt.call("Matmul", self.lt.handle, self.work, ctypes.byref(self.alpha), address(b), a_, address(a), b_,
                     ctypes.byref(self.beta), address(out), c_, address(out), d_, ctypes.byref(algorithm), address(workspace), WORKSPACE,
                     torch.cuda.current_stream().cuda_stream)
        return out

    def parts(self, algorithm):
        """Of split sums."""
        found, size = ctypes.c_int32(), ctypes.c_size_t()
        self.lt.call("MatmulAlgoConfigGetAttribute", ctypes.byref(algorithm), CONSTANTS["CUBLASLT_ALGO_CONFIG_SPLITK_NUM"],
                     ctypes.byref(found), ctypes.sizeof(found), ctypes.byref(size))
        return found.value


def quickest(plan, given, workspace):
    """`given(i)` is out, a and b of copy i -> the best algorithm, and what is told of it."""
    def runs(algorithm, at):
        try:
            plan.run(algorithm, workspace, *given(at))
            return True
        except RuntimeError:
            return False

    def times(algorithms, turns):
        """-> microseconds of each, all queued before the first is read."""
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)
        marks = {}
        for at in range(turns):
            for place, algorithm in algorithms.items():
                operands, begin = given(at + place), common.now(True)
                plan.run(algorithm, workspace, *operands)
                marks.setdefault(place, []).append((begin, common.now(True)))
        torch.cuda.synchronize()
        return {place: common.median(found) for place, found in marks.items()}

    # The first run of each loads its kernel.
    able = {place: algorithm for place, algorithm in enumerate(plan.offered()) if runs(algorithm, place)}
    if not able:
        raise RuntimeError("cuBLASLt offers no algorithm")
    took = times(able, TRIES)
    last = {place: able[place] for place in sorted(took, key=took.get)[:FINALISTS]}
    took = times(last, MORE)
    best = min(took, key=took.get)
    return able[best], {"of": len(able), "place": best + 1, "split": plan.parts(able[best])}


def linear(bench, inputs, upstream, formula):
    """Copies of x and w, and of the gradient of x w^T -> {direction: prepare}."""
    if not bench.cuda:
        raise RuntimeError("needs a GPU")
    lt, workspace = opened(), scratch()
    (x, w), copies = inputs[0], len(inputs)
    (M, I), J = x.shape, len(w)
    products, chosen, told = linear_products(M, I, J), {}, {"version": lt.version()}
    reads = {"y": lambda x, w, dy: (x, w), "dx": lambda x, w, dy: (dy, w), "dw": lambda x, w, dy: (dy, x)}

    def given(name, i):
        out = products[name].out
        made = torch.empty(out.rows, out.columns, device=bench.device, dtype=getattr(torch, out.kind))
        return made, *reads[name](*inputs[i % copies], upstream[i % copies])

    for name, product in products.items():
        plan = Plan(lt, product)
        algorithm, told[name] = quickest(plan, lambda i, name=name: given(name, i), workspace)
        chosen[name] = plan, algorithm

    def work(i, *names):
        def all_of():
            found = [chosen[name][0].run(chosen[name][1], workspace, *given(name, i)) for name in names]
            return found[0] if len(found) == 1 else found
        return all_of

    turns = common.directions(formula, inputs, upstream, formula)
    ours = {"forward": lambda i: work(i, "y"), "backward": lambda i: work(i, "dx", "dw")}

    def check(direction):
        return common.tensors(ours[direction](0)()), turns["check"](direction)[1]
    return ours | {"check": check, "note": {"algorithms": told}}


def computed(told, a, b, size):
    """A product as cuBLASLt does it, on lists: its manual's rules for matrices that lie column after column."""
    def element(memory, layout, row, column):
        _, _, _, leading, turned = layout
        return memory[row + column * leading] if not turned else memory[column + row * leading]

    rows, columns, depth = size
    out = [0] * (rows * columns)
    for row in range(rows):
        for column in range(columns):
            terms = (element(b, told["A"], row, k) * element(a, told["B"], k, column) for k in range(depth))
            out[row + column * told["D"][3]] = sum(terms)
    return out


def check_products():
    """Each product of a small layer as cuBLASLt is told it, against loops over rows."""
    M, I, J = 3, 5, 2
    x, w, dy = ([(7 * at + seed) % 11 - 5 for at in range(size)] for seed, size in ((1, M * I), (2, J * I), (3, M * J)))
    right = {"y": [sum(x[m * I + i] * w[j * I + i] for i in range(I)) for m in range(M) for j in range(J)],
             "dx": [sum(dy[m * J + j] * w[j * I + i] for j in range(J)) for m in range(M) for i in range(I)],
             "dw": [sum(dy[m * J + j] * x[m * I + i] for m in range(M)) for j in range(J) for i in range(I)]}
    reads = {"y": (x, w), "dx": (dy, w), "dw": (dy, x)}
    depth = {"y": I, "dx": J, "dw": M}
    for name, product in linear_products(M, I, J).items():
        told = described(product)
        size = told["D"][1], told["D"][2], depth[name]
        for operand, sides in (("A", (size[0], depth[name])), ("B", (depth[name], size[1]))):
            _, rows, columns, _, turned = told[operand]
            assert ((columns, rows) if turned else (rows, columns)) == sides, (name, operand)
        assert computed(told, *reads[name], size) == right[name], name


def header_of(library):
    """The folder of headers beside a library that is loaded."""
    at = re.search(rf"\S+/{re.escape(library)}", Path("/proc/self/maps").read_text())
    folder = Path(at[0]).resolve().parents[1] / "include" if at else None
    return folder if folder and (folder / "cublasLt.h").exists() else None


def check():
    """Without a device -> lines that say what was checked; anything wrong raises."""
    check_products()
    said = ["the products of a layer, as cuBLASLt is told them, are those of rows"]
    try:
        lt = Lt(handle=False)
    except RuntimeError as error:
        return said + [f"{error}: its descriptors were not tried"]
    for product in linear_products(48, 64, 32).values():
        plan, told = Plan(lt, product), described(product)
        for operand in "AB":
            found, size = ctypes.c_int32(-1), ctypes.c_size_t()
            lt.call("MatmulDescGetAttribute", plan.work, CONSTANTS[f"CUBLASLT_MATMUL_DESC_TRANS{operand}"], ctypes.byref(found), 4,
                    ctypes.byref(size))
            assert (found.value, size.value) == (told[operand][-1], 4)
    said.append(f"cuBLASLt {lt.version()} makes their descriptors")
    folder = next(filter(None, map(header_of, LIBRARIES)), None)
    if folder is None:
        return said + ["no cublasLt.h beside it: its constants were not compared"]
    text = "".join((folder / name).read_text() for name in ("cublasLt.h", "cublas_api.h", "library_types.h"))
    for name, value in CONSTANTS.items():
        assert (found := re.search(rf"\b{name}\s*=\s*(\d+)", text)) and int(found[1]) == value, name
    result = re.search(r"typedef struct \{([^}]*)\} cublasLtMatmulHeuristicResult_t;", text)[1]
    fields = re.findall(r"^\s*(\w+) \w+(?:\[(\d+)\])?;", re.sub(r"/\*.*?\*/", "", result, flags=re.S), re.M)
    assert fields == [("cublasLtMatmulAlgo_t", ""), ("size_t", ""), ("cublasStatus_t", ""), ("float", ""), ("int", "4")], fields
    assert re.search(r"typedef struct \{\s*uint64_t data\[8\];\s*\} cublasLtMatmulAlgo_t;", text)
    return said + [f"{len(CONSTANTS)} constants and two structs are those of {folder.name}/cublasLt.h"]


if __name__ == "__main__":
    print(*check(), sep="\n")
