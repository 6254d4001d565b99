"""Writes tests/golden/tahoe: a small release in the shape of Tahoe-100M's, and the same cells as h5ad, which tests compare.

    pip install pyarrow anndata && python3 tools/tahoe.py METADATA tests/golden/tahoe

METADATA is the folder `metadata` of the release (gene_metadata.parquet, sample_metadata.parquet), of which some rows are
kept: token ids, names, samples and doses are the release's, counts are drawn here.

    python3 tools/tahoe.py METADATA OUT CELLS ROWS

writes one large file of CELLS cells, about 1,000 counts each over all genes of the release, in row groups of ROWS: what a group
costs that is larger than memory would like.
"""
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

CELLS, GENES, LINES = 48, 90, ["CVCL_0023", "CVCL_0480", "CVCL_1097"]


def main(metadata: Path, out: Path) -> None:
    rng = np.random.default_rng(5)
    genes = pd.read_parquet(metadata / "gene_metadata.parquet")
    # Some from all over the table, and two that share a symbol, if any do.
    twins = genes[genes.gene_symbol.duplicated(keep=False)].sort_values("gene_symbol").head(2)
    genes = pd.concat([genes.iloc[:: len(genes) // (GENES - 2)].head(GENES - 2), twins]).drop_duplicates("token_id")
    genes = genes.sample(frac=1, random_state=3)
    samples = pd.read_parquet(metadata / "sample_metadata.parquet")
    control = samples[samples.drug == "DMSO_TF"].head(2)
    blank = samples[samples.drug.str.endswith(" ")].head(1)
    doses = samples[samples.drug == "Infigratinib"].head(3)
    samples = pd.concat([control, blank, doses])
    for folder in ("data", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    genes.to_parquet(out / "metadata/gene_metadata.parquet", compression="snappy")
    samples.to_parquet(out / "metadata/sample_metadata.parquet", compression="gzip")

    counts = rng.poisson(rng.gamma(0.4, 2.0, (1, len(genes))), (CELLS, len(genes))).astype(np.float32)
    counts[3] = 0  # a cell with nothing but the marker
    of = samples.iloc[np.arange(CELLS) % len(samples)]
    lines = [LINES[i] for i in rng.integers(0, len(LINES), CELLS)]
    names = [f"{i:02}_001_{i % 7:03}-lib_841" for i in range(CELLS)]
    tokens, expressions = [], []
    for i, row in enumerate(counts):
        stored = rng.permutation(np.flatnonzero(row))  # lists are unordered
        marker = i % 5 != 0  # and without a marker nothing is dropped
        tokens.append([1] * marker + genes.token_id.to_numpy()[stored].tolist())
        expressions.append([-2.0] * marker + row[stored].tolist())
    table = pa.table({
        "genes": pa.array(tokens, pa.list_(pa.int64())),
        "expressions": pa.array(expressions, pa.list_(pa.float32())),
        "drug": of.drug.tolist(),
        "sample": of["sample"].tolist(),
        "BARCODE_SUB_LIB_ID": names,
        "cell_line_id": lines,
        "moa-fine": ["unclear"] * CELLS,
        "canonical_smiles": [None if i % 4 == 0 else "CCO" for i in range(CELLS)],
        "pubchem_cid": ["1923.0"] * CELLS,
        "plate": of.plate.tolist(),
    })
    half = CELLS // 2 + 5
    pq.write_table(table.slice(0, half), out / "data/train-00000-of-00002.parquet", row_group_size=11)
    pq.write_table(table.slice(half), out / "data/train-00001-of-00002.parquet", data_page_version="2.0",
                   data_page_size=256, use_dictionary=False)

    obs = pd.DataFrame({"drugname_drugconc": of.drugname_drugconc.tolist(), "cell_line_id": lines,
                        "plate": of.plate.tolist()}, index=pd.Index(names, name="BARCODE_SUB_LIB_ID"))
    var = pd.DataFrame({"gene_ids": genes.ensembl_id.tolist()}, index=genes.gene_symbol.tolist())
    cells = anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var)
    cells.var_names_make_unique()
    cells.write_h5ad(out / "cells.h5ad", compression="gzip")
    labels = obs.rename(columns={"cell_line_id": "line"}).drop(columns="plate").sample(frac=1, random_state=1)
    labels.rename_axis("cell").to_parquet(out / "labels.parquet")  # the index is not the first column


def large(metadata: Path, out: Path, cells: int, rows: int) -> None:
    rng = np.random.default_rng(6)
    tokens = pd.read_parquet(metadata / "gene_metadata.parquet").token_id.to_numpy()
    samples = pd.read_parquet(metadata / "sample_metadata.parquet")
    samples = pd.concat([samples[samples.drug == "DMSO_TF"].head(2), samples[samples.drug == "Infigratinib"].head(3)])
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "metadata").mkdir(exist_ok=True)
    for name in ("gene_metadata.parquet", "sample_metadata.parquet"):
        (out / "metadata" / name).write_bytes((metadata / name).read_bytes())
    # Some genes are found in most cells, most in few, as in real cells.
    weights = rng.gamma(0.15, 1.0, len(tokens))
    weights /= weights.sum()
    stored = [np.unique(rng.choice(len(tokens), 1600, p=weights)) for _ in range(500)]
    of = samples.iloc[np.arange(cells) % len(samples)]

    def column(make, of_list):
        lists = [make(i) for i in range(cells)]
        ends = np.concatenate([[0], np.cumsum([len(each) for each in lists])])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(lists), of_list))

    table = pa.table({
        "genes": column(lambda i: np.concatenate([[1], tokens[stored[i % 500]]]), pa.int64()),
        "expressions": column(lambda i: np.concatenate([[-2.0], 1.0 + rng.poisson(0.6, len(stored[i % 500]))]), pa.float32()),
        "drug": of.drug.tolist(), "sample": of["sample"].tolist(), "plate": of.plate.tolist(),
        "BARCODE_SUB_LIB_ID": [f"cell{i}" for i in range(cells)],
        "cell_line_id": [LINES[i % 3] for i in range(cells)],
    })
    pq.write_table(table, out / "data/train-00000-of-00001.parquet", row_group_size=rows)


if len(sys.argv) == 3:
    main(Path(sys.argv[1]), Path(sys.argv[2]))
else:
    large(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
