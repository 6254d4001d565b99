//! Conditions: rows of tables, fused into one seed token per set (SCALE v1, eq. 31-33; section 3.4).

use super::build::{Build, Mlp};
use crate::config::{Config, Fusion};
use crate::gpu::Gpu;
use crate::params::{Param, Vars};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What a condition token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cell type c.
    CellType,
    /// Perturbation p.
    Perturbation,
    /// Batch b.
    Batch,
}

impl Kind {
    /// All kinds, in the order of a group's ids.
    pub const ALL: [Kind; 3] = [Kind::CellType, Kind::Perturbation, Kind::Batch];

    /// Name of its table among the weights.
    pub fn table(self) -> &'static str {
        match self {
            Kind::CellType => "conditions.cell_type",
            Kind::Perturbation => "conditions.perturbation",
            Kind::Batch => "conditions.batch",
        }
    }
}

/// How many names of each kind there are, and what is known of perturbations besides.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Cell types known.
    pub cell_types: usize,
    /// Perturbations known, the control label included.
    pub perturbations: usize,
    /// Batches known.
    pub batches: usize,
    /// `[perturbations, F]`: numbers that describe them, if that is how they are known, and not by name (ours; the paper has names).
    pub features: Option<Tensor>,
}

/// The T condition tokens of B sets, token by token: its kind, and one row number per set.
pub type Tokens = Vec<(Kind, Vec<u32>)>;

/// The three tokens that a set has today: cell type, perturbation, batch.
pub fn three(ids: &[[u32; 3]]) -> Tokens {
    let column = |(i, kind): (usize, Kind)| (kind, ids.iter().map(|id| id[i]).collect());
    Kind::ALL.into_iter().enumerate().map(column).collect()
}

/// Standard deviation of the first values of a query that sees all tokens alike. One of 1 has its favourites from the start, and
/// early on rows of perturbations are only noise: it may turn to tokens that say nothing, such as that of a single batch, for hundreds
/// of steps (NOTES.md, "Fusion that begins even").
const SMALL_QUERY: f32 = 0.02;

/// T tokens per set -> one row of width D.
#[derive(Debug)]
pub struct Condition {
    rows: [Rows; 3],
    project: Param,
    fusion: Fuse,
    width: usize,
}

/// What gives a kind's tokens their rows of width d_c.
#[derive(Debug)]
enum Rows {
    /// A row for each name.
    Learned(Param),
    /// A function of the features of what is named, `[V, F]`.
    Described { features: Tensor, map: Mlp },
}

#[derive(Debug)]
enum Fuse {
    Seed { seed: Param, w_qkv: Param },
    Basic { w_qkv: Param },
    Token { class: Param, w_qkv: Param },
    Mean { w_v: Param },
}

impl Condition {
    /// Adds its weights.
    ///
    /// # Panics
    /// If the features have not one row for each perturbation.
    pub fn new(build: &mut Build, config: &Config, vocabulary: &Vocabulary) -> Self {
        let (c, d) = (config.conditions.width, config.flow.width);
        let mut rows = |kind: Kind, count: usize, features: &Option<Tensor>| match features {
            None => Rows::Learned(build.normal(kind.table(), &[count, c], 1.0, false)),
            Some(features) => {
                let [described, width] = features.dims("features");
                assert_eq!(described, count, "features: one row for each {kind:?}");
                Rows::Described { features: features.clone(), map: build.mlp(kind.table(), c, c, width) }
            }
        };
        let rows = [
            rows(Kind::CellType, vocabulary.cell_types, &None),
            rows(Kind::Perturbation, vocabulary.perturbations, &vocabulary.features),
            rows(Kind::Batch, vocabulary.batches, &None),
        ];
        let project = build.within("conditions").matrix("project", d, c);
        let mut b = build.within("fusion");
        let query = if config.flow.even_fusion { SMALL_QUERY } else { 1.0 };
        let fusion = match config.flow.fusion {
            Fusion::Seed => {
                Fuse::Seed { seed: b.normal("seed", &[d], query, false), w_qkv: b.matrix("w_qkv", 3 * d, d) }
            }
            Fusion::Basic => Fuse::Basic { w_qkv: b.matrix("w_qkv", 3 * d, d) },
            Fusion::Token => Fuse::Token {
                class: b.normal("class", &[d], query, false),
                w_qkv: b.matrix("w_qkv", 3 * d, d),
            },
            Fusion::Mean => Fuse::Mean { w_v: b.matrix("w_v", d, d) },
        };
        Condition { rows, project, fusion, width: d }
    }

    /// The same with its constants on a device.
    pub fn onto(mut self, gpu: &Gpu) -> Self {
        for rows in &mut self.rows {
            if let Rows::Described { features, .. } = rows {
                *features = features.to_gpu(gpu, "features of perturbations", gpu.real());
            }
        }
        self
    }

    /// Rows of one kind `[B, d_c]`, by number.
    fn rows(&self, t: &mut Tape, p: &Vars, kind: Kind, ids: &[u32]) -> Var {
        match &self.rows[kind as usize] {
            Rows::Learned(table) => t.embedding(p[*table], ids),
            Rows::Described { features, map } => {
                let features = t.constant(features.clone());
                let features = t.embedding(features, ids);
                map.forward(t, p, features)
            }
        }
    }

    /// T tokens of B sets -> c_seed `[B, D]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, tokens: &Tokens) -> Var {
        let rows: Vec<Var> = tokens.iter().map(|(kind, ids)| self.rows(t, p, *kind, ids)).collect();
        let c = t.tokens(&rows); // [B, T, d_c]
        let c = t.linear(c, p[self.project], None); // [B, T, D], eq. 31
        let d = self.width;
        match &self.fusion {
            Fuse::Seed { seed, w_qkv } => {
                let w_q = t.slice(p[*w_qkv], 0..d);
                let w_kv = t.slice(p[*w_qkv], d..3 * d);
                let seed = t.reshape(p[*seed], &[1, d]);
                let q = t.linear(seed, w_q, None);
                let q = t.reshape(q, &[d]);
                let kv = t.linear(c, w_kv, None);
                t.seed_attention(q, kv, 1) // eq. 32-33
            }
            Fuse::Basic { w_qkv } => {
                let qkv = t.linear(c, p[*w_qkv], None);
                let mixed = t.attention(qkv, None, 1);
                t.pool(mixed)
            }
            Fuse::Token { class, w_qkv } => {
                let c = t.prepend(p[*class], c);
                let qkv = t.linear(c, p[*w_qkv], None);
                let mixed = t.attention(qkv, None, 1);
                t.token(mixed, 0)
            }
            Fuse::Mean { w_v } => {
                let v = t.linear(c, p[*w_v], None);
                t.pool(v)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Params, Table};
    use crate::rng::Rng;

    /// The largest difference between what tokens fuse to and the mean of their values, relative to the largest of these.
    fn from_even(fusion: &str, even: bool) -> f32 {
        let set = [format!("flow.fusion={fusion}"), format!("flow.even_fusion={even}")];
        let config = Config::load(Some("tiny"), None, &set).expect("a good config");
        let vocabulary = Vocabulary { cell_types: 2, perturbations: 5, batches: 1, features: None };
        let mut table = Table::default();
        let condition = Condition::new(&mut Build::new(&mut table), &config, &vocabulary);
        let weights = table.draw(Rng::new(3));
        let (params, d) = (Params::new(table, weights), config.flow.width);
        let mut t = Tape::off();
        let p = params.bind(&mut t);
        let tokens = three(&[[0, 1, 0], [1, 4, 0]]);
        let fused = condition.forward(&mut t, &p, &tokens);
        let (Fuse::Seed { w_qkv, .. } | Fuse::Token { w_qkv, .. }) = condition.fusion else {
            panic!("no query")
        };
        let rows: Vec<Var> =
            tokens.iter().map(|(kind, ids)| condition.rows(&mut t, &p, *kind, ids)).collect();
        let c = t.tokens(&rows);
        let c = t.linear(c, p[condition.project], None);
        let w_v = t.slice(p[w_qkv], 2 * d..3 * d);
        let values = t.linear(c, w_v, None);
        let mean = t.pool(values);
        // The class token is a token too, with values near 0.
        let share = if fusion == "token" { 0.75 } else { 1.0 };
        let (fused, mean) = (t.value(fused).data(), t.value(mean).data());
        let most = mean.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        fused.iter().zip(mean).fold(0.0f32, |most, (x, m)| most.max((x - share * m).abs())) / most
    }

    #[test]
    fn even_fusion_begins_as_the_mean_of_all_tokens() {
        for fusion in ["seed", "token"] {
            let (even, drawn) = (from_even(fusion, true), from_even(fusion, false));
            assert!(even < 0.05 && drawn > 0.2, "{fusion}: {even} {drawn}");
        }
    }
}
