#!/usr/bin/env python3
"""What the device can do at most: a large bfloat16 product and a device copy, the two that every time is held against.

    python benches/gpu/ceilings.py [--smoke] [--out FILE]        run.py runs it before the others and after them
"""
import common
from common import torch


def main():
    bench = common.Bench(__doc__)
    found = {}
    if torch is not None:
        n, turns = (256 if bench.smoke else 8192), (3 if bench.smoke else 20)
        a, b = bench.numbers(n, n), bench.numbers(n, n)
        us = lambda work: common.measure(bench, lambda i: work, turns)[0]
        found["matmul_tflop_per_s"] = 2 * n**3 / us(lambda: a @ b) / 1e6
        size = (1 << 22) if bench.smoke else (1 << 32)
        x = torch.randint(0, 255, (size,), device=bench.device, dtype=torch.uint8)
        y = torch.empty_like(x)
        # Bytes read and bytes written.
        found["copy_gb_per_s"] = 2 * size / us(lambda: y.copy_(x)) / 1e3
    bench.rows = [found]
    bench.finish()


if __name__ == "__main__":
    main()
