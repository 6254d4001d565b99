"""Writes tests/golden/encodings: the same six cells in every way that h5ad files in circulation store them.

    pip install anndata==0.12.* hdf5plugin
    python tools/encodings.py

What hdf5-pure can write is made by tests/encodings.rs itself; here is the rest. The cells and labels must stay those of
that test.
"""

import pathlib
import warnings

import h5py
import hdf5plugin
import numpy
import pandas
from anndata import AnnData, io, settings
from scipy import sparse

OUT = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "encodings"
COUNTS = numpy.array([[3, 0, 1, 0, 0], [0, 100, 2, 0, 0], [1, 1, 0, 7, 0], [0, 0, 0, 0, 0], [2, 70, 0, 1, 0], [0, 5, 5, 0, 9]])
CELLS = [f"cell{i}" for i in range(6)]
GENES = ["CD3E", "ACTB", "MYC", "TP53", "GATA1"]
DRUGS = ["none", "é", None, "é", "b", "none"]
LINES = ["T", "T", "B", "B", "T", "T"]
PLATES = [2, 10, 2, 2, 10, 10]
KEPT = [True, False, True, True, False, True]


def frames(nullable=False):
    """obs with one column of each kind, and var."""
    obs = pandas.DataFrame({"drug": pandas.Categorical(DRUGS), "line": LINES, "plate": PLATES, "kept": KEPT}, index=CELLS)
    if nullable:
        obs["drug"] = pandas.array(DRUGS, dtype=pandas.StringDtype(na_value=pandas.NA))
        obs["plate"] = pandas.array([2, 10, None, 2, 10, 10], dtype="Int16")
        obs["kept"] = pandas.array([True, None, True, True, False, True], dtype="boolean")
    return obs, pandas.DataFrame({"highly_variable": [True, True, False, True, False]}, index=GENES)


def current(name, nullable=False, filters=({}, {}, {}), **how):
    """A file as anndata writes it today; X is CSR, the layers are its other storages. Filters: of X and obs, CSC, dense."""
    with h5py.File(OUT / f"{name}.h5ad", "w", **how) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obs, var = frames(nullable)
        x, (first, second, third) = COUNTS.astype("float32"), filters
        io.write_elem(file, "X", sparse.csr_matrix(x), dataset_kwargs=first)
        io.write_elem(file, "layers/csc", sparse.csc_matrix(x), dataset_kwargs=second)
        io.write_elem(file, "layers/dense", x, dataset_kwargs=third)
        io.write_elem(file, "obs", obs, dataset_kwargs=first)
        io.write_elem(file, "var", var)


def obsm():
    """PerturbDiff's and STATE's choice of genes beside X, in each storage."""
    with h5py.File(OUT / "obsm.h5ad", "w", libver=("v110", "v110")) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obs, var = frames()
        x = COUNTS[:, [0, 1, 3]].astype("float32")
        table = pandas.DataFrame(x, index=CELLS, columns=["CD3E", "ACTB", "TP53"])
        parts = {"X_hvg": x, "csr/X_hvg": sparse.csr_matrix(x), "csc/X_hvg": sparse.csc_matrix(x), "table": table, "X_pca": x[:, :2]}
        io.write_elem(file, "obs", obs)
        io.write_elem(file, "var", var)
        for place, part in parts.items():
            io.write_elem(file, f"obsm/{place}", part)


def refused():
    """A filter that is not read, and the layout that only HDF5 2 writes where it is asked for its latest."""
    with h5py.File(OUT / "blosc.h5ad", "w", libver=("v110", "v110")) as file:
        for place, part in zip(["obs", "var"], frames()):
            io.write_elem(file, place, part)
        # A filter is skipped for chunks that it does not shrink.
        file.create_dataset("X", data=COUNTS.astype("float64"), **hdf5plugin.Blosc())
    with h5py.File(OUT / "hdf5_2.h5ad", "w", libver="latest") as file:
        io.write_elem(file, "obs", frames()[0], dataset_kwargs={"compression": "gzip"})


def sparse_group(file, name, matrix, **attributes):
    group = file.create_group(name)
    group.attrs.update(attributes)
    for part in ["data", "indices", "indptr"]:
        group[part] = getattr(matrix, part)


def legacy_0_7():
    """anndata 0.7: categories beside the columns, each found through an object reference."""
    with h5py.File(OUT / "anndata_0_7.h5ad", "w") as file:
        obs, var = frames()
        x = sparse.csr_matrix(COUNTS.astype("float32"))
        sparse_group(file, "X", x, **{"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": COUNTS.shape})
        file.create_group("raw").attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        sparse_group(file, "raw/X", x, **{"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": COUNTS.shape})
        var["kind"] = pandas.Categorical(["coding"] * 5)
        for place, frame in {"obs": obs, "var": var, "raw/var": var}.items():
            group = file.create_group(place)
            group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
            group.attrs["column-order"] = list(frame.columns)
            group["index"] = frame.index.to_numpy(dtype=object)
            for name, column in frame.items():
                if isinstance(column.dtype, pandas.CategoricalDtype):
                    group[name] = column.cat.codes.to_numpy()
                    group[f"__categories/{name}"] = column.cat.categories.to_numpy(dtype=object)
                    group[f"__categories/{name}"].attrs["ordered"] = False
                    group[name].attrs["categories"] = group[f"__categories/{name}"].ref
                else:
                    group[name] = column.to_numpy()


def legacy_compound(name, text):
    """anndata before 0.7: obs and var are compound tables, categories lie in uns."""
    with h5py.File(OUT / f"{name}.h5ad", "w") as file:
        for place in ["X", "raw.X"]:
            sparse_group(file, place, sparse.csr_matrix(COUNTS.astype("float32")), h5sparse_format="csr", h5sparse_shape=COUNTS.shape)
        codes = pandas.Categorical(DRUGS)
        fields = [("index", text), ("drug", "i1"), ("line", text), ("plate", "i8"), ("kept", bool), ("score", "f4")]
        encode = str.encode if numpy.dtype(text).kind == "S" else str
        rows = zip(map(encode, CELLS), codes.codes, map(encode, LINES), PLATES, KEPT, [0.5] * 6)
        file["obs"] = numpy.array(list(rows), dtype=fields)
        var = numpy.array([(encode(gene),) for gene in GENES], dtype=[("index", text)])
        file["var"], file["raw.var"] = var, var
        file["uns/drug_categories"] = codes.categories.to_numpy(dtype=object)


def fixed_text():
    """Text of fixed length and in ASCII, as older h5py wrote it, also in attributes; numbers with the high byte first."""
    with h5py.File(OUT / "fixed_text.h5ad", "w", userblock_size=512) as file:
        x = sparse.csr_matrix(COUNTS)
        shape = numpy.array(COUNTS.shape, dtype=">i4")
        group = file.create_group("X")
        group.attrs.update({"encoding-type": numpy.bytes_("csr_matrix"), "shape": shape})
        group["data"], group["indices"], group["indptr"] = x.data.astype(">f8"), x.indices.astype(">i4"), x.indptr.astype(">i8")
        drugs = pandas.Categorical(DRUGS)
        for place, names in {"obs": CELLS, "var": GENES}.items():
            frame = file.create_group(place)
            frame.attrs.update({"encoding-type": numpy.bytes_("dataframe"), "_index": numpy.bytes_("_index")})
            frame["_index"] = numpy.array(names, dtype="S9")
            frame.attrs["column-order"] = numpy.array([], dtype="f8")
        frame = file["obs"]
        frame.attrs["column-order"] = numpy.array(["drug", "line", "plate", "kept"], dtype="S8")
        frame.create_group("drug").attrs["encoding-type"] = numpy.bytes_("categorical")
        frame["drug/codes"] = drugs.codes
        utf8 = h5py.string_dtype("utf-8", 6)
        frame.create_dataset("drug/categories", data=[str(drug).encode() for drug in drugs.categories], dtype=utf8)
        frame["line"], frame["plate"], frame["kept"] = numpy.array(LINES, dtype="S3"), numpy.array(PLATES, dtype=">u2"), KEPT


def main():
    warnings.simplefilter("ignore")
    settings.allow_write_nullable_strings = True
    OUT.mkdir(parents=True, exist_ok=True)
    # h5py chooses an array's chunks if it has a filter; these cut both axes.
    zstd, lzf = dict(hdf5plugin.Zstd()), {"compression": "lzf"}
    checked = {**zstd, "shuffle": True, "fletcher32": True, "chunks": (4, 3)}
    current("filters", filters=(zstd, lzf, checked))
    current("filters_v110", filters=(zstd, lzf, checked), libver=("v110", "v110"))
    refused()
    current("nullable", nullable=True, libver=("v110", "v110"))
    obsm()
    legacy_0_7()
    legacy_compound("compound_fixed", "S9")
    legacy_compound("compound_vlen", h5py.string_dtype())
    fixed_text()
    sizes = {path.name: path.stat().st_size for path in sorted(OUT.iterdir())}
    print(*(f"{size:7} {name}" for name, size in sizes.items()), f"{sum(sizes.values()):7} in all", sep="\n")


if __name__ == "__main__":
    main()
