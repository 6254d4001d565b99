//! Flow transformer g_theta: cells and one seed token per set, parallel blocks (SCALE v1, eq. 17-23, 34-36).

use super::build::{Build, Linear, Mlp};
use super::condition::{Condition, Tokens, Vocabulary};
use crate::config::Config;
use crate::gpu::Gpu;
use crate::params::{Param, Vars};
use crate::tape::{Tape, Var};

/// (Z_t, t, conditions) -> the head's answer `[B, N, D]`.
#[derive(Debug)]
pub struct Flow {
    time: Mlp,
    condition: Condition,
    blocks: Vec<Block>,
    head: Linear,
    heads: usize,
    add_condition: bool,
}

/// H += Attn(U) + SwiGLU(U), U = RMSNorm([H; c_seed]): attention and MLP read the same norm (eq. 35 as printed).
#[derive(Debug)]
struct Block {
    norm: Param,
    /// `[3D + 2F, D]`: Q | K | V | gate | up.
    w_in: Param,
    /// `[D, D + F]`: attention's | the MLP's.
    w_out: Param,
}

/// Number of sinusoidal features of t.
const TIME_FEATURES: usize = 256;

impl Flow {
    /// Adds its weights.
    pub fn new(build: &mut Build, config: &Config, vocabulary: &Vocabulary) -> Self {
        let (d, f, layers) = (config.flow.width, config.flow.ffn, config.flow.layers);
        let condition = Condition::new(build, config, vocabulary);
        let time = build.mlp("time", d, d, TIME_FEATURES);
        let mut b = build.within("flow");
        let blocks = (0..layers)
            .map(|i| {
                let mut b = b.within(&format!("blocks.{i}"));
                Block {
                    norm: b.gain("norm", d),
                    w_in: b.stacked("w_in", d, [("w_qkv", 3 * d), ("w_gate_up", 2 * f)]),
                    w_out: b.branch_ends("w_out", d, [("w_out", d), ("w_down", f)], layers),
                }
            })
            .collect();
        let head = b.linear("head", d, d);
        let heads = config.flow.heads;
        Flow { time, condition, blocks, head, heads, add_condition: config.flow.add_condition }
    }

    /// The same with its constants on a device.
    pub fn onto(self, gpu: &Gpu) -> Self {
        Flow { condition: self.condition.onto(gpu), ..self }
    }

    /// Z_t `[B, N, D]`, one time and T tokens per set -> `[B, N, D]`: Z1^ or U^, as the config's variant says.
    pub fn forward(&self, t: &mut Tape, p: &Vars, z: Var, times: &[f32], tokens: &Tokens) -> Var {
        let features = t.time(times);
        let tau = t.scope("time", |t| self.time.forward(t, p, features)); // [B, D]
        let condition = t.scope("condition", |t| self.condition.forward(t, p, tokens)); // [B, D]
        let seed = t.add(condition, tau);
        let input = if self.add_condition { seed } else { tau };
        let mut h = t.add_to_set(z, input);
        for (i, block) in self.blocks.iter().enumerate() {
            h = t.scope(format_args!("flow.blocks.{i}"), |t| block.forward(t, p, h, seed, self.heads));
        }
        self.head.forward(t, p, h)
    }
}

impl Block {
    /// The seed serves as one extra key and value; its own row of the output is dropped (eq. 36), so it is never computed.
    fn forward(&self, t: &mut Tape, p: &Vars, h: Var, seed: Var, heads: usize) -> Var {
        let d = t.value(h).width();
        let w_kv = t.slice(p[self.w_in], d..3 * d);
        let seed = t.rms_norm(seed, Some(p[self.norm]));
        let seed = t.linear(seed, w_kv, None); // [B, 2D]
        let u = t.rms_norm(h, Some(p[self.norm]));
        let packed = t.linear(u, p[self.w_in], None); // [B, N, 3D + 2F]
        t.forget_on_device(u);
        let both = t.attention(packed, Some(seed), heads); // [B, N, D + F]
        let h = t.linear_add(h, both, p[self.w_out], None);
        t.forget_on_device(both);
        h
    }
}
