//! Gene encoder: one vector per cell, no cell sees another (SCALE v1, eq. 3-6; where the paper is silent, the design is ours).

use super::build::{Build, Linear, Mlp};
use crate::config::{Activation, EncoderConfig, EncoderKind, Pooling};
use crate::params::{Param, Vars};
use crate::tape::{Tape, Var};

/// x `[M, G]` -> h `[M, D]`.
#[derive(Debug)]
pub enum GeneEncoder {
    /// Kinds `llama` and `attention`: patches of genes are tokens.
    Patches(Patches),
    /// Kind `mlp`.
    Mlp(Mlp),
}

/// Patches of genes as tokens, blocks over them, one vector out.
#[derive(Debug)]
pub struct Patches {
    patch: Param,
    position: Param,
    blocks: Vec<Block>,
    pool: Pool,
    heads: usize,
}

/// One sequential, pre-norm block over the P tokens of a cell.
#[derive(Debug)]
enum Block {
    Llama {
        attn_norm: Param,
        w_qkv: Param,
        w_out: Param,
        mlp_norm: Param,
        w_gate_up: Param,
        w_down: Param,
    },
    Attention {
        attn_norm: [Param; 2],
        qkv: [Param; 2],
        out: [Param; 2],
        mlp_norm: [Param; 2],
        up: [Param; 2],
        down: [Param; 2],
    },
}

#[derive(Debug)]
enum Pool {
    Flatten(Linear),
    Query { query: Param, w_kv: Param, out: Linear },
}

impl GeneEncoder {
    /// Adds its weights: G genes in, D numbers per cell out.
    pub fn new(build: &mut Build, config: &EncoderConfig, genes: usize, latent: usize) -> Self {
        let mut b = build.within("gene_encoder");
        if config.kind == EncoderKind::Mlp {
            return GeneEncoder::Mlp(Mlp {
                up: b.linear("up", 4 * latent, genes),
                down: b.linear("down", latent, 4 * latent),
            });
        }
        let (s, e) = (config.patch, config.width);
        let tokens = genes.div_ceil(s);
        let patch = b.normal("patch.w", &[tokens, s, e], (s as f32).powf(-0.5), true);
        let position = b.normal("patch.e", &[tokens, e], 0.02, false);
        let blocks =
            (0..config.layers).map(|i| Block::new(&mut b.within(&format!("blocks.{i}")), config)).collect();
        let pool = match config.pool {
            Pooling::Flatten => Pool::Flatten(b.linear("pool", latent, tokens * e)),
            Pooling::Query => Pool::Query {
                query: b.normal("pool.query", &[e], 1.0, false),
                w_kv: b.matrix("pool.w_kv", 2 * e, e),
                out: b.linear("pool", latent, e),
            },
        };
        GeneEncoder::Patches(Patches { patch, position, blocks, pool, heads: config.heads })
    }

    /// `[M, G]` -> `[M, D]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, x: Var) -> Var {
        match self {
            GeneEncoder::Mlp(mlp) => mlp.forward(t, p, x),
            GeneEncoder::Patches(patches) => patches.forward(t, p, x),
        }
    }
}

impl Patches {
    fn forward(&self, t: &mut Tape, p: &Vars, x: Var) -> Var {
        let mut h = t.patch_embed(x, p[self.patch], p[self.position]); // [M, P, E]
        for (i, block) in self.blocks.iter().enumerate() {
            h = t.scope(format_args!("gene_encoder.blocks.{i}"), |t| block.forward(t, p, h, self.heads));
        }
        let [m, tokens, e] = t.value(h).dims("gene_encoder");
        match &self.pool {
            Pool::Flatten(linear) => {
                let flat = t.reshape(h, &[m, tokens * e]);
                linear.forward(t, p, flat)
            }
            Pool::Query { query, w_kv, out } => {
                let kv = t.linear(h, p[*w_kv], None); // [M, P, 2E]
                let pooled = t.seed_attention(p[*query], kv, self.heads);
                out.forward(t, p, pooled)
            }
        }
    }
}

impl Block {
    fn new(b: &mut Build, config: &EncoderConfig) -> Self {
        let (e, f, layers) = (config.width, config.ffn, config.layers);
        if config.kind == EncoderKind::Llama {
            return Block::Llama {
                attn_norm: b.gain("attn_norm", e),
                w_qkv: b.matrix("w_qkv", 3 * e, e),
                w_out: b.branch_end("w_out", e, e, layers),
                mlp_norm: b.gain("mlp_norm", e),
                w_gate_up: b.matrix("w_gate_up", 2 * f, e),
                w_down: b.branch_end("w_down", e, f, layers),
            };
        }
        Block::Attention {
            attn_norm: [b.gain("attn_norm.gain", e), b.bias("attn_norm.bias", e)],
            qkv: [b.matrix("w_qkv", 3 * e, e), b.bias("b_qkv", 3 * e)],
            out: [b.branch_end("w_out", e, e, layers), b.bias("b_out", e)],
            mlp_norm: [b.gain("mlp_norm.gain", e), b.bias("mlp_norm.bias", e)],
            up: [b.matrix("w_up", 4 * e, e), b.bias("b_up", 4 * e)],
            down: [b.branch_end("w_down", e, 4 * e, layers), b.bias("b_down", e)],
        }
    }

    /// `[M, P, E]` -> `[M, P, E]`.
    fn forward(&self, t: &mut Tape, p: &Vars, h: Var, heads: usize) -> Var {
        match *self {
            Block::Llama { attn_norm, w_qkv, w_out, mlp_norm, w_gate_up, w_down } => {
                let u = t.rms_norm(h, Some(p[attn_norm]));
                let qkv = t.linear(u, p[w_qkv], None);
                t.forget_on_device(u);
                let mixed = t.attention(qkv, None, heads);
                let h = t.linear_add(h, mixed, p[w_out], None);
                let u = t.rms_norm(h, Some(p[mlp_norm]));
                let h = t.matmul_swiglu(h, u, p[w_gate_up], p[w_down]);
                t.forget_on_device(u);
                h
            }
            Block::Attention { attn_norm, qkv, out, mlp_norm, up, down } => {
                let u = t.layer_norm(h, p[attn_norm[0]], p[attn_norm[1]]);
                let qkv = t.linear(u, p[qkv[0]], Some(p[qkv[1]]));
                let mixed = t.attention(qkv, None, heads);
                let h = t.linear_add(h, mixed, p[out[0]], Some(p[out[1]]));
                let u = t.layer_norm(h, p[mlp_norm[0]], p[mlp_norm[1]]);
                let hidden = t.linear(u, p[up[0]], Some(p[up[1]]));
                let hidden = t.activation(hidden, Activation::Gelu);
                t.linear_add(h, hidden, p[down[0]], Some(p[down[1]]))
            }
        }
    }
}
