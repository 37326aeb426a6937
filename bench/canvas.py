"""SOFT's attention where something far away matters: the higher of two digits, beside other attentions and none.

    python bench/canvas.py                              bench/results/canvas.json and canvas.png: all that was run
    python bench/canvas.py --run soft_norm --seeds 0    one arm, kept in bench/results/raw/canvas; not run again where it is there

thespis/TwoDigits-v0: 6,000 canvases of 32 x 32 with two of the training digits, judged on 1,000 of held-out digits. 256 tokens
(squares of 2), two blocks of width 32, one head, 64 landmarks; each block has its convolution of 5 x 5 besides. Six times
through the canvases, 64 at once: 560 updates of AdamW, decay 0.01, a rate that rises for 50 updates and falls by a cosine.
"""

import argparse
import json
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from record import RESULTS, commit, keep, machine, plain
from scipy.stats import t as student

import thespis
from thespis import nets
from thespis.core import Box, Discrete, Spec
from thespis.worlds.digits import TwoDigits

RAW, UPDATES, EVERY, PEAK = RESULTS / "raw" / "canvas", 560, 112, 2e-3
COLOURS = {"softmax": "#c4661f", "soft_norm": "#8a4fbf", "soft": "#1f5fd1", "linear": "#888888", "none": "#c0c0c0"}


def run(kind: Any, seed: int, peak: float) -> None:
    world: Any = gym.make("thespis/TwoDigits-v0", seed=seed).unwrapped
    assert isinstance(world, TwoDigits)
    rows = [torch.from_numpy(x) for x in (*world.train, world.rows[:1_000], world.labels[:1_000])]
    x, y, test, told = (row.flatten(1).float() / 255 if row.ndim > 1 else row for row in rows)
    torch.manual_seed(seed)
    net = nets.attention(Spec(Box(1024), Discrete(10), images=((0, 1024),), shapes=((32, 32, 1),)), 10, kind, 32, 1, 2, 2)
    p = {name: value.requires_grad_() for name, value in net.init().items()}
    adam, curve, began = torch.optim.AdamW(p.values(), peak, weight_decay=0.01), [], time.process_time()
    for k in range(UPDATES):
        adam.param_groups[0]["lr"] = peak * min(1, (k + 1) / 50) * 0.5 * (1 + np.cos(np.pi * k / UPDATES))
        pick = torch.randint(len(x), (64,))
        loss = torch.nn.functional.cross_entropy(net.apply(p, x[pick]), y[pick])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if (k + 1) % EVERY == 0:
            with torch.no_grad():
                right = torch.cat([net.apply(p, part).argmax(-1) for part in test.split(250)]) == told
            curve.append(round(right.double().mean().item(), 4))
            print(kind, seed, k + 1, round(loss.item(), 3), curve[-1], round(time.process_time() - began), flush=True)
    RAW.mkdir(parents=True, exist_ok=True)
    row = {"kind": kind, "seed": seed, "peak": peak, "accuracy": curve, "commit": commit()}
    path(kind, seed, peak).write_text(json.dumps(row | {"seconds": round(time.process_time() - began)}) + "\n")


def path(kind: str, seed: int, peak: float) -> Any:
    return RAW / f"{kind}-{peak:g}-{seed}.json"


def report() -> None:
    found: dict[str, Any] = {}
    rows = [json.loads(file.read_text()) for file in sorted(RAW.glob("*.json"))]
    for kind in COLOURS:
        for peak in sorted({row["peak"] for row in rows if row["kind"] == kind}):
            arm = [row for row in rows if row["kind"] == kind and row["peak"] == peak]
            last = np.array([row["accuracy"][-1] for row in arm])
            half = student.ppf(0.975, len(last) - 1) * last.std(ddof=1) / len(last) ** 0.5 if len(last) > 1 else np.nan
            found[f"{kind}, rate {peak:g}"] = {
                "seeds": [row["seed"] for row in arm], "accuracy": last.tolist(), "mean": round(float(last.mean()), 4),
                "interval": [round(float(last.mean() + s * half), 4) for s in (-1, 1)] if len(last) > 1 else None,
                "curve": np.mean([row["accuracy"] for row in arm], 0).round(4).tolist(), "seconds": [r["seconds"] for r in arm],
            }  # fmt: skip
    about = {
        "command": "python bench/canvas.py",
        "commit": rows[-1]["commit"],
        "machine": machine(),
        "thespis": thespis.__version__,
    }
    seeds = sorted({row["seed"] for row in rows})
    keep("canvas", about | {"seeds": seeds, "updates": UPDATES, "interval": "95%, Student", "arms": found}, picture(found))


def picture(found: dict[str, Any]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5, 3.8), layout="constrained")
    for kind, colour in COLOURS.items():
        if arms := [arm for name, arm in found.items() if name.startswith(f"{kind},")]:
            best = max(arms, key=lambda arm: (len(arm["seeds"]), arm["mean"]))
            ax.plot(range(EVERY, UPDATES + 1, EVERY), best["curve"], color=colour, lw=2, marker="o", ms=3, label=kind)
    ax.set(xlabel="updates", ylabel="accuracy, held-out digits")
    ax.legend(frameon=False, fontsize=8)
    plain(ax)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", nargs="+", choices=list(COLOURS), default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peak", type=float, default=PEAK)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for kind in args.run:
            if not path(kind, seed, args.peak).exists():
                run(kind, seed, args.peak)
    if not args.run:
        report()


if __name__ == "__main__":
    main()
