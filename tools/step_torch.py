#!/usr/bin/env python3
"""Times a training step in PyTorch, float32 on the CPU: the peer of the engine's step.

    python tools/step_torch.py --threads 1 --encoder llama --sets 16 --cells 32 [--preset s40] [--recipe paper] [--compile]
    python tools/step_torch.py --check        the fast loss and its gradients against tools/twin.py, flow blocks apart and joined

Prints one JSON line: median_s of a step (forward, backward, clip, AdamW), pairs_per_s = B * N / median_s, and
cpu_s, the processor time of all threads, which is steadier on a shared machine. The batch is dense and in
memory: loading it is not timed. A fair peer: the twin's modules, with controls and perturbed in one pass,
fused attention and norms, the seed token as one more key and value, distances by a matrix product, PyTorch's
fused AdamW, and an allocator that keeps its memory. With --compile the loss goes through torch.compile.
"""
import argparse
import ctypes
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

import golden
import twin


def norm(x, gain):
    # In one type, under autocast too: otherwise PyTorch does not fuse it.
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), twin.EPS)


def split(x, heads):
    """[.., T, E] -> [.., H, T, K]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def linear_add(residual, x, w):
    return torch.addmm(residual.flatten(0, 1), x.flatten(0, 1), w.T).view_as(residual)


def thin(u, w, parts):
    """Products by the parts of a matrix, apart: their gradients need not be laid side by side."""
    return [F.linear(u, part) for part in w.chunk(parts)]


class LlamaBlock(twin.LlamaBlock):
    products = staticmethod(thin)

    def forward(self, h):  # [M, P, E]
        u = norm(h, self.attn_norm)
        q, k, v = (split(x, self.heads) for x in self.products(u, self.w_qkv, 3))
        h = linear_add(h, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), self.w_out)
        u = norm(h, self.mlp_norm)
        gate, up = self.products(u, self.w_gate_up, 2)
        return linear_add(h, F.silu(gate) * up, self.w_down)


class FlowBlock(twin.FlowBlock):
    """The seed token is one more key and value: the paper drops its own row, so that is not computed."""

    products = staticmethod(thin)

    def forward(self, h, seed):  # [B, N, D], [B, 1, D]
        d = h.shape[-1]
        u, s = norm(h, self.norm), norm(seed, self.norm)
        q, k, v = F.linear(u, self.w_qkv).chunk(3, -1)
        seed_k, seed_v = F.linear(s, self.w_qkv[d:]).chunk(2, -1)
        k, v = torch.cat([k, seed_k], 1), torch.cat([v, seed_v], 1)  # [B, N + 1, D]
        a = F.scaled_dot_product_attention(*(split(x, self.heads) for x in (q, k, v)))  # [B, H, N, K]
        a = a.transpose(1, 2).flatten(2)
        gate, up = self.products(u, self.w_gate_up, 2)
        return linear_add(linear_add(h, a, self.w_out), F.silu(gate) * up, self.w_down)


class JoinedFlowBlock(nn.Module):
    """The same with the fewest products: one [3D + 2F, D] gives q, k, v, gate and up, one [D, D + F] takes both ways back."""

    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads, self.width = heads, width
        self.norm, self.w_in, self.w_last = (twin.table(*shape) for shape in (
            (width,), (3 * width + 2 * ffn, width), (width, width + ffn)))

    def forward(self, h, seed):  # [B, N, D], [B, 1, D]
        d, f = self.width, self.w_last.shape[1] - self.width
        u, s = norm(h, self.norm), norm(seed, self.norm)
        q, k, v, gate, up = F.linear(u, self.w_in).split([d, d, d, f, f], -1)
        seed_k, seed_v = F.linear(s, self.w_in[d:3 * d]).chunk(2, -1)
        k, v = torch.cat([k, seed_k], 1), torch.cat([v, seed_v], 1)  # [B, N + 1, D]
        a = F.scaled_dot_product_attention(*(split(x, self.heads) for x in (q, k, v)))  # [B, H, N, K]
        return linear_add(h, torch.cat([a.transpose(1, 2).flatten(2), F.silu(gate) * up], -1), self.w_last)


# Weight of a joined block: those that it joins, and along which axis.
JOINED = {"w_in": ("w_qkv", "w_gate_up", 0), "w_last": ("w_out", "w_down", 1)}


def join(weights):
    """Weights by name, or gradients -> those of a model with joined flow blocks."""
    found = dict(weights)
    for name in weights:
        block, _, last = name.rpartition(".")
        for joined, (first, second, axis) in JOINED.items():
            if block.startswith("flow.blocks.") and last == first:
                found[f"{block}.{joined}"] = torch.cat([found.pop(name), found.pop(f"{block}.{second}")], axis)
    return found


def build(config, genes, counts, joined=False):
    """The twin's model, same names and weights (but what `joined` flow blocks join), with the faster blocks."""
    model, e, f = twin.Scale(config, genes, counts), config["encoder"], config["flow"]
    if e["kind"] == "llama":
        blocks = [LlamaBlock(e["width"], e["heads"], e["ffn"]) for _ in range(e["layers"])]
        model.gene_encoder.blocks = nn.ModuleList(blocks)
    block = JoinedFlowBlock if joined else FlowBlock
    blocks = [block(f["width"], f["heads"], f["ffn"]) for _ in range(f["layers"])]
    model.flow["blocks"] = nn.ModuleList(blocks)
    return model


def mmd(y, x):
    """Gaussian kernel, mean over sets; y [B, N, G] is decoded, x is data, so no gradient is made for it."""
    xx, yy, across = x @ x.mT, y @ y.mT, y @ x.mT  # [B, N, N]
    x2, y2 = xx.diagonal(dim1=1, dim2=2), yy.diagonal(dim1=1, dim2=2)  # [B, N]
    d2 = torch.stack([x2[:, :, None] + x2[:, None] - 2 * xx, y2[:, :, None] + y2[:, None] - 2 * yy,
                      y2[:, :, None] + x2[:, None] - 2 * across]).clamp(min=0)  # [3, B, N, N]
    means = d2.detach().mean((2, 3))
    v = ((means[0] + means[1] + 2 * means[2]) / 4).clamp(min=1e-12)[:, None, None]
    k = sum((d2 / (-2 * s * v)).exp() for s in (0.25, 0.5, 1, 2, 4)).mean((1, 2, 3)) / 5
    return k[0] + k[1] - 2 * k[2]


def loss(model, x, ids, t):
    """x [2B, N, G]: controls, then perturbed cells; control start, x-pred, x-loss."""
    weight, sets = model.config["loss"], len(t)
    z = model.encode(x)  # [2B, N, D]
    zs, z1 = z.chunk(2)
    z1_hat = model.transport(torch.lerp(zs, z1, t[:, None, None].to(z1.dtype)), t, ids)
    if weight["effect"] > 0:
        x_hat, predicted = model.decode(torch.cat([z, z1_hat])).tensor_split([2 * sets])
    else:
        x_hat = model.decode(z)
    # L_MSE and L_MMD add X0's term and X1's: twice the mean over the 2B sets.
    total = 2 * x.shape[-1] * F.mse_loss(x_hat, x) + weight["w_flow"] * F.mse_loss(z1_hat, z1.detach())
    total = total + weight["w_mmd"] * 2 * mmd(x_hat, x)
    if weight["effect"] > 0:
        x0_mean, x1_mean = x.mean(1).chunk(2)
        error = predicted.mean(1) - x_hat[:sets].mean(1) - (x1_mean - x0_mean)
        total = total + weight["effect"] * error.square().sum(-1).mean()
    return total


def check():
    for case in ("paper", "default", "encoder-mlp"):
        model, data = golden.build(golden.CASES[case])
        expected, _, _, grads = golden.gradients(model, data, golden.STEP)
        counts = [golden.SIZES[n] for n in ("cell_types", "perturbations", "batches")]
        t = twin.draws(model.config["flow"], golden.SEED, golden.STEP, (2, 5, 16), data["x0"])[0]
        for joined, convert in ((False, dict), (True, join)):
            fast = build(model.config, golden.SIZES["genes"], counts, joined).double()
            fast.load_state_dict(convert(model.state_dict()))
            fast.moments, wanted = model.moments, convert(grads)
            total = loss(fast, torch.cat([data["x0"], data["x1"]]), data["ids"], t)
            total.backward()
            torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
            for name, w in fast.named_parameters():
                torch.testing.assert_close(w.grad, wanted[name], rtol=1e-9, atol=1e-10)
            print(f"{case}{', joined' * joined}: loss and gradients are the twin's")


def init(name, shape, layers):
    """Standard deviation of a weight at the start (section 11); 0 for biases, and gains are 1."""
    if name.endswith("patch.e"):
        return 0.02
    if name.endswith(golden.EMBEDDINGS) or name in ("fusion.seed", "fusion.class", "gene_encoder.pool.query"):
        return 1.0
    if len(shape) == 1:
        return 0.0
    fan_in = shape[-2] if name.endswith("patch.w") else shape[-1]
    last_of_block = name.endswith(("w_out", "w_down", "w_last"))
    return 1 / math.sqrt(fan_in * (2 * layers if last_of_block else 1))


def prepare(args):
    """-> a function that does one step."""
    config, (genes, counts) = golden.preset(args.preset), golden.PRESET_COUNTS
    config["encoder"]["kind"] = args.encoder
    if args.recipe == "default":
        config = golden.configure(golden.DEFAULT, config)
    model, random = build(config, genes, counts), torch.Generator().manual_seed(0)
    x = torch.relu(torch.randn(2 * args.sets, args.cells, genes, generator=random) - 1) / 10
    ids = torch.stack([torch.randint(n, (args.sets,), generator=random) for n in counts], 1)
    std, mean = torch.std_mean(x.flatten(0, 1), 0)
    model.moments = mean, std
    with torch.no_grad():
        for name, w in model.named_parameters():
            layers = config["encoder" if name.startswith("gene_encoder") else "flow"]["layers"]
            w.copy_(init(name, w.shape, layers) * torch.randn(w.shape, generator=random))
            if name.endswith("norm"):
                w.fill_(1)
        if args.recipe == "default":
            model.decoder[1].b.copy_(mean.expm1().log())  # softplus of it is the mean
    groups = [{"params": [w for name, w in model.named_parameters() if golden.decays(name, w) == on],
               "weight_decay": 0.01 * on} for on in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    forward = torch.compile(loss) if args.compile else loss

    def step():
        t = torch.rand(args.sets, generator=random)
        if config["flow"]["t_zero"] > 0:
            t *= torch.rand(args.sets, generator=random) >= config["flow"]["t_zero"]
        optimizer.zero_grad()
        total = forward(model, x, ids, t)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step


def keep_memory():
    """glibc returns large blocks at each free and pays page faults for them again: 10 to 18 % of a step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--preset", choices=("tiny", "s40"), default="tiny")
    parser.add_argument("--encoder", choices=("llama", "mlp"), default="llama")
    parser.add_argument("--recipe", choices=("paper", "default"), default="paper")
    parser.add_argument("--sets", type=int, default=16)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.check:
        return check()
    keep_memory()
    step, times, losses = prepare(args), [], []
    for _ in range(5 + args.steps):
        start = time.perf_counter(), time.process_time()
        losses.append(step())
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = zip(*times[5:])
    median = statistics.median(wall)
    print(json.dumps(vars(args) | {
        "torch": torch.__version__, "first_loss": losses[0], "last_loss": losses[-1], "min_s": min(wall),
        "cpu_s": statistics.median(cpu), "median_s": median, "pairs_per_s": args.sets * args.cells / median}))


if __name__ == "__main__":
    main()
