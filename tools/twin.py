"""The model once more, in plain PyTorch, written from the paper and the spec alone: the judge of the engine.

Used by tools/golden.py (float64: losses and gradients the engine is held to) and tools/step_torch.py
(float32: what a training step costs in PyTorch). Source: SCALE v1 (arXiv 2603.17380); "section n" is of a
page, not in the repository, that fixes what the paper leaves open: this file says what it says. Nothing here
is tuned: attention stores its scores, a block concatenates the seed token and cuts it off again.
Letters: B sets, N cells, G genes, S genes in a patch, P patches, E encoder width, D latent width, H heads,
K = width / H.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5  # of both norms

# ---------------------------------------------------------------- random numbers: src/rng.rs, Philox 4x32-10


class Rng:
    def __init__(self, seed, stream=0):
        self.seed, self.stream = seed, stream

    def at(self, index):
        a, b, _, _ = self.block([index ^ 0x5CA1_E000_0000_0000])[0].tolist()
        return Rng(self.seed, a << 32 | b)

    def block(self, counters):
        """[n] counters -> [n, 4] words."""
        low, shift = np.uint64(0xFFFF_FFFF), np.uint64(32)
        counters = np.asarray(counters, np.uint64)
        whole = [counters, np.full_like(counters, np.uint64(self.stream))]
        x = [half for c in whole for half in (c & low, c >> shift)]
        key = [self.seed & 0xFFFF_FFFF, self.seed >> 32]
        for _ in range(10):
            first, second = x[0] * np.uint64(0xD251_1F53), x[2] * np.uint64(0xCD9E_8D57)
            x = [second >> shift ^ x[1] ^ np.uint64(key[0]), second & low,
                 first >> shift ^ x[3] ^ np.uint64(key[1]), first & low]
            key = [key[0] + 0x9E37_79B9 & 0xFFFF_FFFF, key[1] + 0xBB67_AE85 & 0xFFFF_FFFF]
        return np.stack(x, -1)

    def uniform(self, n):
        """Elements 0..n in [0, 1), float32, 24 bits."""
        words = self.block(np.arange((n + 3) // 4)).reshape(-1)[:n]
        return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)

    def normal(self, n):
        """Elements 0..n, standard normal, float32; Rust's to one unit in the last place."""

        def single(f, x):
            return f(x.astype(np.float64)).astype(np.float32)

        u, v = self.uniform((n + 3) // 4 * 4).reshape(-1, 2).T
        radius = np.sqrt(np.float32(-2) * single(np.log, np.float32(1) - u))
        angle = np.float32(2 * np.pi) * v
        return np.stack([radius * single(np.cos, angle), radius * single(np.sin, angle)], -1).reshape(-1)[:n]


# ---------------------------------------------------------------- parts of the model (sections 3, 4, 11)


def table(*shape):
    return nn.Parameter(torch.empty(*shape))


def rms_norm(x, gain=None):
    y = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return y if gain is None else y * gain


def attention(q, k, v, heads):
    """q [.., T, E], k and v [.., U, E] -> [.., T, E]; heads are consecutive slices, scale 1 / sqrt(K)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (q, k, v))  # [.., H, T, K]
    alpha = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)  # [.., H, T, U]
    return (alpha @ v).transpose(-2, -3).flatten(-2)


def swiglu(x, w_gate_up, w_down):
    gate, up = F.linear(x, w_gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, w_down)


class Linear(nn.Module):
    def __init__(self, out, inp, bias=True):
        super().__init__()
        self.w, self.b = table(out, inp), table(out) if bias else None

    def forward(self, x):
        return F.linear(x, self.w, self.b)


class Mlp(nn.ModuleList):
    """Linear, SiLU, Linear."""

    def __init__(self, inp, hidden, out):
        super().__init__([Linear(hidden, inp), Linear(out, hidden)])

    def forward(self, x):
        return self[1](F.silu(self[0](x)))


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain, self.bias = table(width), table(width)

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, EPS)


class LlamaBlock(nn.Module):
    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads = heads
        self.attn_norm, self.w_qkv, self.w_out = table(width), table(3 * width, width), table(width, width)
        self.mlp_norm, self.w_gate_up, self.w_down = table(width), table(2 * ffn, width), table(width, ffn)

    def forward(self, h):  # [M, P, E]
        q, k, v = F.linear(rms_norm(h, self.attn_norm), self.w_qkv).chunk(3, -1)
        h = h + F.linear(attention(q, k, v, self.heads), self.w_out)
        return h + swiglu(rms_norm(h, self.mlp_norm), self.w_gate_up, self.w_down)


class AttentionBlock(nn.Module):
    """The "basic attention module": LayerNorm, biases, GELU of width 4E."""

    def __init__(self, width, heads, _ffn):
        super().__init__()
        self.heads = heads
        self.attn_norm, self.mlp_norm = LayerNorm(width), LayerNorm(width)
        self.w_qkv, self.b_qkv = table(3 * width, width), table(3 * width)
        self.w_out, self.b_out = table(width, width), table(width)
        self.w_up, self.b_up = table(4 * width, width), table(4 * width)
        self.w_down, self.b_down = table(width, 4 * width), table(width)

    def forward(self, h):  # [M, P, E]
        q, k, v = F.linear(self.attn_norm(h), self.w_qkv, self.b_qkv).chunk(3, -1)
        h = h + F.linear(attention(q, k, v, self.heads), self.w_out, self.b_out)
        up = F.linear(self.mlp_norm(h), self.w_up, self.b_up)
        return h + F.linear(F.gelu(up), self.w_down, self.b_down)


class Patch(nn.Module):
    def __init__(self, patches, size, width):
        super().__init__()
        self.w, self.e = table(patches, size, width), table(patches, width)

    def forward(self, x):  # [M, G] -> [M, P, E]
        patches, size, _ = self.w.shape
        x = F.pad(x, (0, patches * size - x.shape[-1])).unflatten(-1, (patches, size))
        return torch.einsum("mps,pse->mpe", x, self.w) + self.e


class Pool(nn.Module):
    """A cell's tokens [M, P, E] -> h [M, D]: all of them side by side, or what one learned query sees."""

    def __init__(self, kind, patches, width, heads, latent):
        super().__init__()
        self.heads, self.asks = heads, kind == "query"
        if self.asks:
            self.query, self.w_kv = table(width), table(2 * width, width)
        self.w, self.b = table(latent, width if self.asks else patches * width), table(latent)

    def forward(self, h):
        if self.asks:
            k, v = F.linear(h, self.w_kv).chunk(2, -1)
            h = attention(self.query.expand(len(h), 1, -1), k, v, self.heads)
        return F.linear(h.flatten(1), self.w, self.b)


class GeneEncoder(nn.Module):
    """SCALE v1, eq. 3-6: [M, G] -> [M, D], no cell sees another."""

    def __init__(self, c, latent, genes):
        super().__init__()
        self.tokens = c["kind"] != "mlp"
        if self.tokens:
            block = {"llama": LlamaBlock, "attention": AttentionBlock}[c["kind"]]
            patches = -(-genes // c["patch"])
            self.patch = Patch(patches, c["patch"], c["width"])
            self.blocks = nn.ModuleList(block(c["width"], c["heads"], c["ffn"]) for _ in range(c["layers"]))
            self.pool = Pool(c["pool"], patches, c["width"], c["heads"], latent)
        else:
            self.up, self.down = Linear(4 * latent, genes), Linear(latent, 4 * latent)

    def forward(self, x):
        if not self.tokens:
            return self.down(F.silu(self.up(x)))
        h = self.patch(x)
        for block in self.blocks:
            h = block(h)
        return self.pool(h)


class SetEncoder(nn.Module):
    """DeepSets (SCALE v1, eq. 7-9): [B, N, D] -> [B, N, D]."""

    def __init__(self, d):
        super().__init__()
        self.phi, self.rho = Mlp(d, d, d), Mlp(d, d, d)
        self.psi = nn.ModuleDict({"h": Linear(d, d), "s": Linear(d, d, bias=False), "out": Linear(d, d)})

    def forward(self, h):
        s = self.rho(self.phi(h).mean(1, keepdim=True))  # [B, 1, D]
        return rms_norm(self.psi["out"](F.silu(self.psi["h"](h) + self.psi["s"](s))) + h)


class Conditions(nn.Module):
    """SCALE v1, eq. 31: ids [B, 3] -> C~ [B, 3, D]. With features [P, F], perturbations are known by those (not in the paper)."""

    def __init__(self, counts, width, latent, features=None):
        super().__init__()
        cell_types, perturbations, batches = counts
        self.features, described = features, features is not None
        self.cell_type = table(cell_types, width)
        self.perturbation = Mlp(features.shape[1], width, width) if described else table(perturbations, width)
        self.batch, self.project = table(batches, width), table(latent, width)

    def forward(self, ids):
        c, p, b = ids.T
        described = self.features is not None
        p = self.perturbation(self.features[p]) if described else self.perturbation[p]
        return F.linear(torch.stack([self.cell_type[c], p, self.batch[b]], 1), self.project)


class Fusion(nn.Module):
    """C~ [B, 3, D] -> c_seed [B, D] (SCALE v1, eq. 32-33, and the other arms of its figure 3a)."""

    def __init__(self, kind, d):
        super().__init__()
        self.kind = kind
        if kind == "mean":
            self.w_v = table(d, d)
        else:
            self.w_qkv = table(3 * d, d)
            if kind != "basic":
                self.register_parameter({"seed": "seed", "token": "class"}[kind], table(d))

    def forward(self, c):
        if self.kind == "mean":
            return F.linear(c, self.w_v).mean(1)
        w_q, w_k, w_v = self.w_qkv.chunk(3)
        if self.kind == "token":
            c = torch.cat([getattr(self, "class").expand(len(c), 1, -1), c], 1)  # [B, 4, D]
        q = F.linear(self.seed.expand(len(c), 1, -1) if self.kind == "seed" else c, w_q)
        c = attention(q, F.linear(c, w_k), F.linear(c, w_v), 1)
        return c.mean(1) if self.kind == "basic" else c[:, 0]


class FlowBlock(nn.Module):
    """The parallel block as printed (SCALE v1, eq. 34-36): h [B, N, D], seed [B, 1, D] -> [B, N, D]."""

    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads = heads
        self.norm, self.w_qkv, self.w_out = table(width), table(3 * width, width), table(width, width)
        self.w_gate_up, self.w_down = table(2 * ffn, width), table(width, ffn)

    def forward(self, h, seed):
        h = torch.cat([h, seed], 1)  # [B, N + 1, D]
        u = rms_norm(h, self.norm)
        a = F.linear(attention(*F.linear(u, self.w_qkv).chunk(3, -1), self.heads), self.w_out)
        return (h + a + swiglu(u, self.w_gate_up, self.w_down))[:, :-1]


def time_features(t):
    """t [B] -> [B, 256]."""
    angle = 1000 * t[:, None] * 10 ** (-4 * torch.arange(128, dtype=t.dtype, device=t.device) / 128)
    return torch.cat([angle.cos(), angle.sin()], 1)


class Scale(nn.Module):
    """config: sections of plain fields; counts: how many cell types, perturbations, batches; features: [P, F]."""

    def __init__(self, config, genes, counts, features=None):
        super().__init__()
        flow = config["flow"]
        d = flow["width"]
        self.config, self.moments = config, None  # moments: mean and std of the training cells, [G] each
        self.gene_encoder = GeneEncoder(config["encoder"], d, genes)
        self.set_encoder, self.decoder = SetEncoder(d), Mlp(d, config["decoder"]["width"], genes)
        self.conditions = Conditions(counts, config["conditions"]["width"], d, features)
        self.fusion, self.time = Fusion(flow["fusion"], d), Mlp(256, d, d)
        blocks = [FlowBlock(d, flow["heads"], flow["ffn"]) for _ in range(flow["layers"])]
        self.flow = nn.ModuleDict({"blocks": nn.ModuleList(blocks), "head": Linear(d, d)})

    def encode(self, x):  # [B, N, G] -> [B, N, D]
        if self.config["encoder"]["standardize"]:
            mean, std = self.moments
            x = (x - mean) / (std + 0.05)
        return self.set_encoder(self.gene_encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    def decode(self, z):  # [B, N, D] -> [B, N, G]
        outputs = {"relu": F.relu, "softplus": F.softplus, "identity": lambda x: x}
        return outputs[self.config["decoder"]["activation"]](self.decoder(z))

    def transport(self, zt, t, ids):
        """The head's answer [B, N, D]: an endpoint or a velocity (SCALE v1, eq. 19-23)."""
        tau = self.time(time_features(t))[:, None]  # [B, 1, D]
        c_seed = self.fusion(self.conditions(ids))[:, None]  # [B, 1, D]
        h = zt + tau + c_seed if self.config["flow"]["add_condition"] else zt + tau
        for block in self.flow["blocks"]:
            h = block(h, c_seed + tau)
        return self.flow["head"](h)


# ---------------------------------------------------------------- the losses (sections 5, 6, 10)


def mmd(a, b, kernel, stop):
    """Biased MMD^2 of two populations [B, N, G], mean over sets (SCALE v1, eq. 16)."""
    n, both = a.shape[1], torch.cat([a, b], 1)
    d2 = (both[:, :, None] - both[:, None]).square().sum(-1)  # [B, 2N, 2N]
    if kernel == "energy":
        k = -(d2 + 1e-12).sqrt()
    else:
        v = 2 * (both.square().sum(-1).mean(1) - both.mean(1).square().sum(-1))  # [B]: the mean of d2
        v = stop(v).clamp(min=1e-12)[:, None, None]
        k = sum((-d2 / (2 * s * v)).exp() for s in (0.25, 0.5, 1, 2, 4)) / 5
    within, across = (k[:, i, j].mean((1, 2)) for i, j in ((slice(n), slice(n)), (slice(n), slice(n, None))))
    return (within + k[:, n:, n:].mean((1, 2)) - 2 * across).mean()


def draws(config, seed, step, shape, like):
    """What is random at a step: times [B], noise and mask [B, N, D]."""
    r, n = Rng(seed).at(1).at(step), math.prod(shape)
    t = np.where(r.at(1).uniform(shape[0]) < np.float32(config["t_zero"]), 0, r.at(0).uniform(shape[0]))
    noise, keep = r.at(2).at(0).normal(n), r.at(2).at(1).uniform(n) >= np.float32(config["mask"])
    return tuple(torch.from_numpy(x).to(like) for x in (t, noise.reshape(shape), keep.reshape(shape)))


def flow_error(c, y, zs, z1, zt, t, stop):
    """The head's answer y -> (L_flow, Z1^): four variants (SCALE v1, eq. 22-30), two conversions."""
    left = (1 - t).clamp(min=0.05)[:, None, None]
    if c["conversion"] == "jit":
        velocity, endpoint = (lambda x: (x - zt) / left), (lambda v: zt + left * v)
    else:
        velocity, endpoint = (lambda x: x - zs), (lambda v: zs + v)
    hold = (lambda x: x) if c["target_gradient"] else stop
    z1_hat = y if c["prediction"] == "x" else endpoint(y)
    if c["loss"] == "x":
        error = z1_hat - hold(z1)
    else:
        error = (y if c["prediction"] == "v" else velocity(y)) - hold(velocity(z1))
    return error.square().mean(), z1_hat


def loss(model, data, seed, step, stop=torch.Tensor.detach):
    """data: x0, x1 [B, N, G], ids [B, 3], shift [B, G] -> L, its unweighted parts, the values on the way."""
    flow, weight, x0, x1 = model.config["flow"], model.config["loss"], data["x0"], data["x1"]
    z0, z1 = model.encode(x0), model.encode(x1)
    x0_hat, x1_hat = model.decode(z0), model.decode(z1)
    t, noise, keep = draws(flow, seed, step, z0.shape, z0)
    zs = {"control": lambda: z0, "gaussian": lambda: noise, "mixed": lambda: noise + 0.5 * z0,
          "shifted": lambda: model.encode(F.relu(x0 + data["shift"][:, None]))}[flow["start"]]() * keep
    zt = (1 - t)[:, None, None] * zs + t[:, None, None] * z1  # SCALE v1, eq. 18
    flow_loss, z1_hat = flow_error(flow, model.transport(zt, t, data["ids"]), zs, z1, zt, t, stop)

    def population(a, b):
        return mmd(a, b, weight["kernel"], stop)

    parts = {"mse": sum((a - b).square().sum(-1).mean() for a, b in ((x0_hat, x0), (x1_hat, x1))),
             "mmd": population(x0_hat, x0) + population(x1_hat, x1), "flow": flow_loss}
    predicted = model.decode(z1_hat)
    if weight["w_endpoint"] > 0:
        parts["endpoint"] = population(predicted, x1)
    if weight["effect"] > 0:
        error = (predicted - x0_hat).mean(1) - (x1 - x0).mean(1)  # [B, G]
        parts["effect"] = error.square().sum(-1).mean()
    weights = {"mse": 1, "mmd": weight["w_mmd"], "flow": weight["w_flow"], "endpoint": weight["w_endpoint"],
               "effect": weight["effect"]}
    values = {"z0": z0, "z1": z1, "zs": zs, "zt": zt, "z1_hat": z1_hat, "x0_hat": x0_hat,
              "predicted": predicted}
    return sum(weights[name] * part for name, part in parts.items()), parts, values
