//! The library's choices as values of options: their names are the library's, what `--help` says of them is here.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::baseline::Kind;
use crate::config::Observe;
use crate::data::population::Unit;
use crate::data::preprocess::hvg::Flavor;
use crate::data::split::Preset;
use crate::evaluate::Rules;
use crate::evaluate::registry::Profile;
use crate::gpu::Real;

/// The compiler misses the words of a choice that has none.
macro_rules! choices {
    ($of:ident { $($choice:ident: $help:literal,)* }) => {
        impl ValueEnum for $of {
            fn value_variants<'a>() -> &'a [$of] {
                &[$($of::$choice),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                let help = match self {
                    $($of::$choice => $help),*
                };
                Some(PossibleValue::new(self.name()).help(help))
            }
        }
    };
}

choices!(Kind {
    Mean: "Control cells plus the perturbation's mean effect over the training cell types",
    MeanPerCellType: "Copies of the mean perturbed training cell of the cell type",
    MeanPerBatch: "Copies of the mean perturbed training cell of the batch",
    MeanOverall: "Copies of the mean perturbed training cell",
    Linear: "Control cells plus the effect by the linear model of Ahlmann-Eltze, Huber & Anders (2025)",
});

choices!(Observe {
    None: "The predicted means themselves",
    Poisson: "Counts drawn around the means at the control cell's library size, then normalised and log1p-transformed again",
});

choices!(Unit {
    Counts: "Counts, as measured or drawn",
    Log1p: "ln(1 + counts scaled to the target): what evaluate reads",
    Scaled: "The log1p values divided by the data's factor (10): what the network sees",
});

choices!(Flavor {
    Seurat: "From normalised counts: log dispersion, z-scored within bins of equal width",
    CellRanger: "From log values: dispersion, robust z-score within bins of equal size",
    SeuratV3: "From raw counts: variance after dividing by the standard deviation usual for the gene's mean",
});

choices!(Preset {
    Tahoe: "Tahoe-100M: holds out five cell lines",
    Pbmc: "Parse 10M PBMC cytokines: holds out four donors",
    Replogle: "Replogle-Nadig: holds out the cell line hepg2",
});

choices!(Rules {
    CellEval066: "cell-eval 0.6.6 with pdex 0.1.27, quirks included",
    Fixed: "The same measures with their documented defects corrected",
    Paper: "The formulas of the paper's appendix A",
});

choices!(Profile {
    Full: "All",
    Minimal: "The quick ones: pearson_delta, mse, mae, discrimination_score_l1, overlap_at_N, precision_at_N, de_nsig_counts",
    Vcc: "mae, discrimination_score_l1, overlap_at_N: those of the Virtual Cell Challenge",
    De: "Measures of differential expression",
    Anndata: "Measures of mean profiles. Unlike cell-eval's, it does not compute or write differential expression",
    Pds: "discrimination_score_l1",
});

choices!(Real {
    Bf16: "2 bytes: 8 bits of exponent, 8 of precision",
    F32: "4 bytes, as on the CPU: for checks",
});
