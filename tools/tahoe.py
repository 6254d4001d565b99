"""Writes tests/golden/tahoe: a small release in the shape of Tahoe-100M's, and the same cells as h5ad, which tests compare.

    pip install pyarrow anndata && python3 tools/tahoe.py METADATA tests/golden/tahoe

METADATA is the folder `metadata` of the release (gene_metadata.parquet, sample_metadata.parquet), of which some rows are
kept: token ids, names, samples and doses are the release's, counts are drawn here.
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
    # Some from all over the table, and two that share a symbol, if there are such.
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
    counts[3] = 0  # a cell with the marker alone
    of = samples.iloc[np.arange(CELLS) % len(samples)]
    lines = [LINES[i] for i in rng.integers(0, len(LINES), CELLS)]
    names = [f"{i:02}_001_{i % 7:03}-lib_841" for i in range(CELLS)]
    tokens, expressions = [], []
    for i, row in enumerate(counts):
        stored = rng.permutation(np.flatnonzero(row))  # lists are in no order
        marker = i % 5 != 0  # and where there is no marker, nothing is dropped
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


main(Path(sys.argv[1]), Path(sys.argv[2]))
