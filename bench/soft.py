"""SOFT's attention: its time beside softmax's, and how good the inverse is.

    python bench/soft.py               bench/results/soft.json and soft.png: one thread, forward, processor time
    python bench/soft.py --dry         a trial that keeps nothing

One head of 32 numbers, 64 landmarks (means of tokens), batch 1. Time: processor time of one call, the least of several; slope: of
log time on log tokens from 1,024 on. Residual: the largest entry of |1 - P V| after 5, 10 and 20 steps, float32, for landmarks of
three spreads, with the condition number of P = K2 + 0.01.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain
from torch import Tensor

import thespis
from thespis.nets import inverse, linear_attention, soft_attention
from thespis.nets.soft import RIDGE, kernel

TOKENS, LANDMARKS, DIM = (256, 1024, 2304, 4096, 9216), 64, 32
COLOURS = {"softmax": "#c4661f", "softmax, fused": "#e0a878", "soft": "#1f5fd1", "soft_norm": "#8a4fbf", "linear": "#888888"}


def least(function: Callable[[], Tensor], times: int) -> float:
    function()
    took = []
    for _ in range(times):
        began = time.process_time()
        function()
        took.append(time.process_time() - began)
    return min(took)


def calls(n: int) -> dict[str, Callable[[], Tensor]]:
    torch.manual_seed(n)
    q, v = torch.randn(n, DIM) / DIM**0.25, torch.randn(n, DIM)
    soft = lambda norm: soft_attention(q, q.view(LANDMARKS, n // LANDMARKS, DIM).mean(1), v, norm=norm)
    return {
        "softmax": lambda: (q @ q.mT).softmax(-1) @ v,
        "softmax, fused": lambda: torch.nn.functional.scaled_dot_product_attention(q[None, None], q[None, None], v[None, None]),
        "soft": partial(soft, False),
        "soft_norm": partial(soft, True),
        "linear": lambda: linear_attention(q, q, v),
    }


def residuals() -> list[dict[str, float]]:
    found = []
    for spread in (1.0, 0.3, 0.1):
        torch.manual_seed(0)
        landmarks = spread * torch.randn(49, DIM)
        p = kernel(landmarks, landmarks) + RIDGE * torch.eye(49)
        row = {"spread": spread, "condition": round(float(torch.linalg.cond(p.double())), 1)}
        found.append(row | {f"{k} steps": float((torch.eye(49) - p @ inverse(p, k)).abs().max()) for k in (5, 10, 20)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    took: dict[str, dict[int, float]] = {}
    with torch.no_grad():
        for n in TOKENS:
            for name, call in calls(n).items():
                took.setdefault(name, {})[n] = 1e3 * least(call, 3 if name.startswith("softmax") and n > 3000 else 15)
            print(n, {name: round(row[n], 2) for name, row in took.items()}, flush=True)
    far = np.log([n for n in TOKENS if n >= 1024])
    slopes = {k: round(float(np.polyfit(far, np.log([row[n] for n in TOKENS if n >= 1024]), 1)[0]), 2) for k, row in took.items()}
    faster = {
        f"{a} over {b}": {n: round(took[a][n] / took[b][n], 1) for n in TOKENS}
        for a in ("softmax", "softmax, fused") for b in ("soft", "soft_norm")
    }  # fmt: skip
    found: dict[str, Any] = {
        "milliseconds": {k: {n: round(x, 3) for n, x in row.items()} for k, row in took.items()},
        "slope": slopes, "times": faster, "residual": residuals(),
    }  # fmt: skip
    print(found)
    if not args.dry:
        about = {"command": "python bench/soft.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
        keep("soft", about | {"landmarks": LANDMARKS, "numbers of a head": DIM} | found, picture(took))


def picture(took: dict[str, dict[int, float]]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5, 3.8), layout="constrained")
    for name, row in took.items():
        ax.plot(list(row), list(row.values()), color=COLOURS[name], lw=2, marker="o", ms=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds of one thread, forward")
    ax.legend(frameon=False, fontsize=8)
    plain(ax)
    return figure


if __name__ == "__main__":
    main()
