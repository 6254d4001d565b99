"""Writes tests/golden/rescaled.csv: scanpy's genes where log1p values are divided by ten before they are ranked.

    pip install scanpy==1.11.* && python3 tools/rescaled.py

The cells are those of tests/golden/tahoe/cells.h5ad. `means`, `dispersions`, `dispersions_norm` and `chosen` over all cells,
`batch_norm` and `batch_chosen` merged over cell lines; `undivided` is what scanpy chooses without the division.
"""
from pathlib import Path

import pandas as pd
import scanpy as sc

GOLDEN, COUNT = Path(__file__).parent.parent / "tests" / "golden", 30

cells = sc.read_h5ad(GOLDEN / "tahoe" / "cells.h5ad")
sc.pp.normalize_total(cells, target_sum=1e4)
sc.pp.log1p(cells)
undivided = sc.pp.highly_variable_genes(cells, n_top_genes=COUNT, inplace=False)
cells.X.data /= 10  # in place: the values stay f32
whole = sc.pp.highly_variable_genes(cells, n_top_genes=COUNT, inplace=False)
merged = sc.pp.highly_variable_genes(cells, n_top_genes=COUNT, batch_key="cell_line_id", inplace=False)
pd.DataFrame({
    "gene": cells.var_names,
    **{name: whole[name].to_numpy() for name in ("means", "dispersions", "dispersions_norm")},
    "chosen": whole.highly_variable.to_numpy(),
    "batch_norm": merged.dispersions_norm.to_numpy(),
    "batch_chosen": merged.highly_variable.to_numpy(),
    "undivided": undivided.highly_variable.to_numpy(),
}).to_csv(GOLDEN / "rescaled.csv", index=False)
