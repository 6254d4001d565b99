#!/usr/bin/env python3
"""Writes what the engine is held to: losses and gradients of tools/twin.py in float64, at many configs.

    python tools/golden.py            write tests/golden/golden.safetensors and tests/golden/cases.json
    python tools/golden.py --check    test the twin itself, and that the two files are what it writes
    python tools/golden.py --count    parameters of the presets

Needs torch, numpy, safetensors. Weights are a function of their names (golden_weight), so the files do not
carry them. cases.json says in "about" what its fields mean. golden.safetensors, all float32:
    input/x0, input/x1 [B, N, G]   input/shift [B, G]: e_p   input/mean, input/std [G]: of the training cells
    input/features [P, F]: of the perturbations, in cases with "features": true
    CASE/grad/PARAMETER   CASE/value/{z0, z1, zs, zt, z1_hat, x0_hat, predicted}   for cases with "full": true
"""
import argparse
import copy
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import twin

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
ABOUT = {
    "set": "fields that differ from base",
    "loss": "L at (seed, step); components are its parts before their weights, 0 where the weight is 0",
    "grad": "by parameter: norm |g| and dot = sum_i g_i * Rng(7).at(crc32(name)).normal(i)",
    "adamw_losses": "loss before each of ten updates: one batch, draws of step + i, the schedule's place i",
    "features": "true where perturbations are known by their features, not by name",
    "full": "true where golden.safetensors has every gradient and the values on the way",
}
SIZES = {"sets": 2, "cells": 5, "genes": 37, "cell_types": 3, "perturbations": 4, "batches": 2, "features": 8}
CONDITIONS = [[2, 1, 0], [0, 3, 1]]  # ids of cell type, perturbation, batch; one row per set
OPTIMIZER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "decay": 0.01, "clip": 1.0, "steps": 10}
BASE = {
    "encoder": {"kind": "llama", "patch": 8, "width": 16, "layers": 2, "heads": 2, "ffn": 24,
                "pool": "flatten", "standardize": False},
    "flow": {"width": 16, "layers": 2, "heads": 2, "ffn": 24, "fusion": "seed", "prediction": "x",
             "loss": "x", "conversion": "displacement", "target_gradient": False, "start": "control",
             "mask": 0.0, "add_condition": False, "t_zero": 0.0},
    "decoder": {"width": 20, "activation": "relu"},
    "conditions": {"width": 12},
    "loss": {"w_mmd": 1.0, "w_flow": 1.0, "w_endpoint": 0.0, "effect": 0.0, "kernel": "gaussian"},
}
DEFAULT = ("encoder.standardize=true decoder.activation=softplus flow.add_condition=true flow.t_zero=0.5 "
           "loss.effect=30")  # section 10
CASES = {
    "paper": "",
    "default": DEFAULT,
    "encoder-attention": "encoder.kind=attention",
    "encoder-mlp": "encoder.kind=mlp",
    "pool-query": "encoder.pool=query",
    "encoder-attention-pool-query": "encoder.kind=attention encoder.pool=query encoder.standardize=true",
    "fusion-basic": "flow.fusion=basic",
    "fusion-token": "flow.fusion=token",
    "fusion-mean": "flow.fusion=mean",
    "displacement-x-v": "flow.loss=v",
    "displacement-v-x": "flow.prediction=v",
    "displacement-v-v": "flow.prediction=v flow.loss=v",
    "jit-x-x": "flow.conversion=jit",
    "jit-x-v": "flow.conversion=jit flow.loss=v",
    "jit-v-x": "flow.conversion=jit flow.prediction=v",
    "jit-v-v": "flow.conversion=jit flow.prediction=v flow.loss=v",
    "target-gradient": "flow.target_gradient=true",
    "target-gradient-displacement-v-v": "flow.target_gradient=true flow.prediction=v flow.loss=v",
    "target-gradient-jit-x-v": "flow.target_gradient=true flow.conversion=jit flow.loss=v",
    "start-gaussian": "flow.start=gaussian",
    "start-mixed": "flow.start=mixed",
    "start-mask": "flow.mask=0.15",
    "start-mixed-mask": "flow.start=mixed flow.mask=0.15 flow.prediction=v flow.loss=v",
    "start-shifted": "flow.start=shifted",
    "kernel-energy": "loss.kernel=energy",
    "decoder-softplus": "decoder.activation=softplus",
    "decoder-identity": "decoder.activation=identity",
    "endpoint": "loss.w_endpoint=0.5",
    "jit-x-v-late": "flow.conversion=jit flow.loss=v",
    "jit-v-x-late": "flow.conversion=jit flow.prediction=v",
    "mixture": DEFAULT + " encoder.pool=query flow.fusion=token flow.conversion=jit flow.prediction=v "
               "flow.start=mixed flow.mask=0.15 loss.kernel=energy loss.w_endpoint=0.5",
    "features": DEFAULT,
}
DESCRIBED = ("features",)  # cases whose perturbations are known by their features
FULL = ("paper", "default", "encoder-attention", "jit-x-v", "mixture", "features")
SEED, STEP = 5, 17  # t = 0.65, 0.50, and one of the two is set to 0 if t_zero = 0.5
LATE = 19  # t = 0.967, 0.10: the first set reaches the floor of 1 - t
PRESET_COUNTS = 2000, (50, 1200, 14)  # genes; cell types, perturbations, batches
PRESETS = {  # patch, encoder width, layers, heads, ffn, pool; flow width, layers, heads, ffn; decoder width
    "tiny": (128, 64, 1, 1, 176, "flatten", 128, 2, 2, 320, 256),
    "s40": (256, 512, 2, 8, 1408, "flatten", 512, 8, 8, 1280, 1024),
    "s184": (128, 512, 3, 8, 1408, "flatten", 1024, 12, 8, 2560, 2048),
    "s280": (128, 768, 4, 12, 2048, "query", 1280, 12, 10, 3072, 2048),
}
EMBEDDINGS = ("patch.e", "conditions.cell_type", "conditions.perturbation", "conditions.batch")


def step_of(case):
    return LATE if case.endswith("-late") else STEP


def decays(name, w):
    """Weight decay falls on matrices (section 8); 1-D are gains, biases, seed, class, query."""
    return w.dim() > 1 and not name.endswith(EMBEDDINGS)


def golden_weight(name, shape):
    """float32, a function of name and shape: awkward on purpose (no gain is 1, no bias 0)."""
    normal = twin.Rng(1234).at(zlib.crc32(name.encode())).normal(math.prod(shape)).reshape(shape)
    last = name.rsplit(".", 1)[-1]
    if last in ("attn_norm", "mlp_norm", "norm", "gain"):
        return np.float32(1) + np.float32(0.1) * normal
    if last in ("b", "bias") or last.startswith("b_"):
        return np.float32(0.1) * normal
    if name.endswith("patch.e"):
        return np.float32(0.02) * normal
    if len(shape) == 1 or name.endswith(EMBEDDINGS):  # seed, class, query, condition rows
        return normal
    fan_in = shape[-2] if name.endswith("patch.w") else shape[-1]
    return np.float32(1) / np.sqrt(np.float32(fan_in)) * normal


def inputs():
    """Batch and statistics, float32: half of the values are zero, as in single cells."""
    b, n, g = SIZES["sets"], SIZES["cells"], SIZES["genes"]

    def normal(stream, *shape):
        return torch.from_numpy(twin.Rng(99).at(stream).normal(math.prod(shape)).reshape(shape))

    x0, x1 = (torch.relu(0.3 * normal(i, b, n, g)) for i in (0, 1))
    std, mean = torch.std_mean(torch.cat([x0, x1]).flatten(0, 1), 0, correction=0)
    features = normal(3, SIZES["perturbations"], SIZES["features"])
    return {"x0": x0, "x1": x1, "shift": 0.1 * normal(2, b, g), "mean": mean, "std": std, "features": features}


def configure(changes, base=BASE):
    """The base config with `section.field=value` changes over it."""
    config = copy.deepcopy(base)
    for change in changes.split():
        path, value = change.split("=")
        section, field = path.split(".")
        old = config[section][field]
        config[section][field] = value == "true" if isinstance(old, bool) else type(old)(value)
    return config


def build(changes, dtype=torch.float64, described=False):
    """-> model with golden weights, batch."""
    data = {name: x.to(dtype) for name, x in inputs().items()}
    data["ids"] = torch.tensor(CONDITIONS)
    counts = [SIZES[n] for n in ("cell_types", "perturbations", "batches")]
    features = data["features"] if described else None
    model = twin.Scale(configure(changes), SIZES["genes"], counts, features).to(dtype)
    model.moments = data["mean"], data["std"]
    with torch.no_grad():
        for name, w in model.named_parameters():
            w.copy_(torch.from_numpy(golden_weight(name, tuple(w.shape))))
    return model, data


def build_case(name, dtype=torch.float64):
    return build(CASES[name], dtype, name in DESCRIBED)


def rate(k, steps, peak):
    """Learning rate at step k: a linear warm-up over 2 % of the steps, a cosine to 10 % (sections 8, 11)."""
    w = math.floor(0.02 * steps + 0.5)
    return peak * (k + 1) / w if k < w else peak * (0.55 + 0.45 * math.cos(math.pi * (k - w) / (steps - w)))


def ten_steps(model, data, step):
    """AdamW on one batch -> the losses before each update."""
    o, named = OPTIMIZER, list(model.named_parameters())
    groups = [{"params": [w for name, w in named if decays(name, w) == on], "weight_decay": o["decay"] * on}
              for on in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    losses = []
    for k in range(o["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(k, o["steps"], o["lr"])
        optimizer.zero_grad()
        value, _, _ = twin.loss(model, data, SEED, step + k)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip"])  # g *= min(1, clip / (norm + 1e-6))
        optimizer.step()
        losses.append(value.item())
    return losses


def gradients(model, data, step, stop=torch.Tensor.detach):
    """-> loss, parts, values, {name: gradient}; a weight that the loss does not reach has gradient 0."""
    total, parts, values = twin.loss(model, data, SEED, step, stop)
    names, weights = zip(*model.named_parameters())
    grads = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    return total, parts, values, dict(zip(names, grads))


def probe(name, g):
    direction = torch.from_numpy(twin.Rng(7).at(zlib.crc32(name.encode())).normal(g.numel())).to(g)
    return {"norm": float(f"{g.norm():.9g}"), "dot": float(f"{g.flatten() @ direction:.9g}")}


def make():
    """-> what cases.json holds, what golden.safetensors holds."""
    cases, tensors = [], {f"input/{name}": x.contiguous() for name, x in inputs().items()}
    for name, changes in CASES.items():
        model, data = build_case(name)
        step = step_of(name)
        total, parts, values, grads = gradients(model, data, step)
        components = {part: parts[part].item() if part in parts else 0.0
                      for part in ("mse", "mmd", "flow", "endpoint", "effect")}
        cases.append({"name": name, "set": changes.split(), "seed": SEED, "step": step,
                      "features": name in DESCRIBED, "full": name in FULL,
                      "loss": total.item(), "components": components,
                      "adamw_losses": ten_steps(model, data, step),
                      "grad": {weight: probe(weight, g) for weight, g in grads.items()}})
        if name in FULL:
            tensors |= {f"{name}/grad/{weight}": g.float() for weight, g in grads.items()}
            tensors |= {f"{name}/value/{key}": x.detach().float() for key, x in values.items()}
    rates = [rate(k, OPTIMIZER["steps"], OPTIMIZER["lr"]) for k in range(OPTIMIZER["steps"])]
    seeds = {"weights": 1234, "inputs": 99, "probes": 7}
    head = {"about": ABOUT, "sizes": SIZES, "conditions": CONDITIONS, "seeds": seeds,
            "optimizer": OPTIMIZER | {"lr_at": rates}, "base": BASE}
    return head | {"cases": cases}, tensors


def write(page, tensors):
    """One line a probe, so that a change shows as few lines."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps(page, indent=1)
    for opener, closer in ("{}", "[]"):  # a list or object without nested ones goes on one line
        parts = text.split(opener)
        for i, part in enumerate(parts[1:], 1):
            inside, found, after = part.partition(closer)
            if found and not set("{[") & set(inside):
                parts[i] = " ".join(inside.split()) + found + after
        text = opener.join(parts)
    assert json.loads(text) == page
    (FOLDER / "cases.json").write_text(text + "\n")
    save_file(tensors, FOLDER / "golden.safetensors")
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


# ---------------------------------------------------------------- the twin's own tests


def check_slopes(name):
    """Every parameter of a case: the gradient along a random direction against central differences."""
    model, data = build_case(name)
    held = []  # what the loss holds fixed (targets, the kernel's scale) must stay fixed when a weight moves

    def keep(x):
        held.append(x.detach())
        return held[-1]

    _, _, _, grads = gradients(model, data, step_of(name), keep)
    worst = 0.0
    for i, (weight, w) in enumerate(model.named_parameters()):
        direction = torch.from_numpy(twin.Rng(3).at(i).normal(w.numel())).to(w).view_as(w)
        start, values = w.detach().clone(), []
        for sign in (1, -1):
            fixed = iter(held)
            with torch.no_grad():
                w.copy_(start + sign * 1e-6 * direction)
                values.append(twin.loss(model, data, SEED, step_of(name), lambda _: next(fixed))[0].item())
                w.copy_(start)
        slope, expected = (values[0] - values[1]) / 2e-6, (grads[weight] * direction).sum().item()
        error = abs(slope - expected) / (abs(expected) + 1e-2)
        assert error < 1e-5, f"{name}: {weight}: slope {slope}, gradient {expected}"
        worst = max(worst, error)
    return worst


def check_symmetries():
    """Cells in another order give the answer in that order; a set does not see the other sets."""
    order = torch.tensor([3, 0, 4, 1, 2])
    for name in CASES:
        if any(word in CASES[name] for word in ("mask", "gaussian", "mixed")):
            continue  # noise depends on the place, not on the cell
        model, data = build_case(name)
        total, _, values = twin.loss(model, data, SEED, STEP)
        moved = data | {"x0": data["x0"][:, order], "x1": data["x1"][:, order]}
        again, _, other = twin.loss(model, moved, SEED, STEP)
        torch.testing.assert_close(again, total, rtol=1e-12, atol=0)
        torch.testing.assert_close(other["predicted"], values["predicted"][:, order], rtol=1e-10, atol=1e-12)
        changed = {key: torch.cat([data[key][:1], data[key][1:].flip(1) + 1]) for key in ("x0", "x1")}
        alone = twin.loss(model, data | changed, SEED, STEP)[2]
        torch.testing.assert_close(alone["predicted"][0], values["predicted"][0], rtol=1e-12, atol=1e-12)


def check_facts():
    """Statements of the spec that the twin does not use, so that it can be held to them."""
    zeros = [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]  # known answers of Random123, philox4x32 10
    ones = [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
    assert twin.Rng(0).block([0])[0].tolist() == zeros
    assert twin.Rng(2**64 - 1, 2**64 - 1).block([2**64 - 1])[0].tolist() == ones
    data = {name: x.double() for name, x in inputs().items()}
    a, b = data["x0"], data["x1"]
    for kernel in ("gaussian", "energy"):
        assert abs(twin.mmd(a, a, kernel, lambda x: x)) < 1e-12 < twin.mmd(a, b, kernel, lambda x: x)
    seen = []
    twin.mmd(a, b, "gaussian", lambda x: seen.append(x) or x)
    both = torch.cat([a, b], 1)
    torch.testing.assert_close(seen[0], torch.cdist(both, both).square().mean((1, 2)))
    for head in "xv":  # with U = Z1 - Z_s an error is the same number in both spaces (section 11)
        runs = (build(f"flow.prediction={head} flow.loss={space}") for space in "xv")
        x, v = (twin.loss(model, data, SEED, STEP)[0] for model, data in runs)
        torch.testing.assert_close(x, v, rtol=1e-12, atol=0)


def check_files():
    """The files on disk are what this program writes, up to another machine's rounding."""
    page, tensors = make()
    disk, stored = json.loads((FOLDER / "cases.json").read_text()), load_file(FOLDER / "golden.safetensors")

    def same(a, b, path):
        assert type(a) is type(b), path
        if isinstance(a, dict):
            assert list(a) == list(b), path
            [same(a[key], b[key], f"{path}.{key}") for key in a]
        elif isinstance(a, list):
            assert len(a) == len(b), path
            [same(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b))]
        else:
            assert a == b or abs(a - b) <= 1e-7 * (1 + abs(b)), f"{path}: {a} on disk, {b} now"

    same(disk, page, "cases")
    assert set(stored) == set(tensors)
    for name, x in tensors.items():
        torch.testing.assert_close(stored[name], x, rtol=1e-5, atol=1e-7, msg=lambda m: f"{name}: {m}")


def check_rounding(name):
    """What float32 alone costs: relative errors of the loss, the worst gradient, the worst of ten losses."""
    results = []
    for dtype in (torch.float64, torch.float32):
        model, data = build_case(name, dtype)
        total, _, _, grads = gradients(model, data, step_of(name))
        results.append((total.item(), grads, ten_steps(model, data, step_of(name))))
    (total, grads, losses), (total32, grads32, losses32) = results
    errors = (((grads32[weight] - g).norm() / g.norm(), weight) for weight, g in grads.items())
    worst, weight = max(errors)
    return (f"loss {abs(total32 / total - 1):.0e}  gradient {worst:.0e} ({weight})  "
            f"ten losses {max(abs(a / b - 1) for a, b in zip(losses32, losses)):.0e}")


def check():
    torch.set_num_threads(1)
    check_facts()
    check_symmetries()
    print("random numbers, kernels, variants, order of cells, sets apart: ok")
    check_files()
    print("files: ok")
    for name in CASES:
        print(f"{name:34} slopes {check_slopes(name):.0e}   float32: {check_rounding(name)}")


def preset(name):
    """Section 9, conditions of width 512."""
    *encoder, d, layers, heads, ffn, decoder = PRESETS[name]
    config = copy.deepcopy(BASE)
    config["encoder"] |= zip(("patch", "width", "layers", "heads", "ffn", "pool"), encoder)
    config["flow"] |= {"width": d, "layers": layers, "heads": heads, "ffn": ffn}
    config["decoder"]["width"], config["conditions"]["width"] = decoder, 512
    return config


def count():
    for name in PRESETS:
        with torch.device("meta"):
            model = twin.Scale(preset(name), *PRESET_COUNTS)
        print(f"{name:5} {sum(w.numel() for w in model.parameters()):>11,}")


if __name__ == "__main__":
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--count", action="store_true")
    args = parser.parse_args()
    if args.check:
        check()
    elif args.count:
        count()
    else:
        write(*make())
