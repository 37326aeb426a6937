"""Error on a stream of corrupted digits that nobody labels: NHL beside TENT, batch-norm statistics, and its own parts.

    python bench/nhl.py                bench/results/nhl.json and nhl.png: six corruptions, nine arms, 5 seeds
    python bench/nhl.py --seeds 1 --dry     a trial that keeps nothing

Of each seed a classifier_conv is trained on 900 clean digits of 16 x 16. The stream of a corruption: the 897 others, REPEATS
times, each time moved by up to a pixel and spoilt anew, in batches of 64. Each batch is learnt from and then named, by every arm;
the network begins anew with each corruption. Error: of all pictures of a stream, in percent, mean of the six corruptions; 95%
intervals of a mean over seeds, by Student; differences in pairs.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain
from scipy.stats import t as student
from torch import Tensor

import thespis
from thespis.algos.supervised import classifier, nhl
from thespis.core import Batch, Box, Discrete, Spec, replace
from thespis.worlds.digits import CORRUPTIONS, CorruptedDigits

SPEC = Spec(Box(256), Discrete(10), images=((0, 256),), shapes=((16, 16, 1),))
REPEATS, UPDATES, LR = 4, 400, 3e-3
ARMS: dict[str, dict[str, Any]] = {
    "source": {},
    "statistics": {"adapt": "statistics"},
    "hebb": {"adapt": "hebb"},
    "modulator": {"adapt": "modulator"},
    "tent": {"adapt": "tent"},
    "nhl": {"adapt": "nhl"},
    "nhl, hard winner": {"adapt": "nhl", "winner": "hard"},
    "tent, 10 x": {"adapt": "tent", "lr": 10 * LR},
    "nhl, 10 x": {"adapt": "nhl", "lr": 10 * LR},
}


def batch(rows: Tensor, labels: Tensor) -> Batch:
    nothing = torch.zeros(len(rows))
    return Batch(rows, labels, nothing, nothing, rows)


def trained(seed: int, rows: Tensor, labels: Tensor) -> Any:
    learner = classifier.make(classifier.Config(net="convolutions"), SPEC)
    torch.manual_seed(seed)
    s = learner.init()
    for _ in range(UPDATES):
        pick = torch.randint(len(rows), (64,))
        s, _ = learner.update(s, batch(rows[pick], labels[pick]), 0)
    return s


def stream(arm: dict[str, Any], s: Any, rows: Tensor, labels: Tensor) -> list[float]:
    """Whether each picture was named wrongly, batch by batch: the share."""
    learner = nhl.make(nhl.Config(**{"lr": LR, **arm}), SPEC)
    state, wrong = learner.init(), []
    p = s.actor.params
    state = replace(
        state, kept={k: p[k] for k in state.kept}, actor=replace(state.actor, params={k: p[k] for k in state.actor.params}),
        stats=s.stats,
    )  # fmt: skip
    for i in range(0, len(rows) - 63, 64):
        if arm:
            state, _ = learner.update(state, batch(rows[i : i + 64], torch.full((64,), -1)), 0)  # no labels
        said = learner.act(learner.policy(state), rows[i : i + 64], False)
        wrong.append(float((said != labels[i : i + 64]).float().mean()))
    return wrong


def interval(x: Any) -> list[float]:
    x = np.asarray(x)
    half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5 if len(x) > 1 else np.nan
    return [round(float(v), 2) for v in (x.mean(), x.mean() - half, x.mean() + half)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, course = time.process_time(), np.zeros((len(ARMS), args.seeds, len(CORRUPTIONS), REPEATS * 897 // 64))
    for seed in range(args.seeds):
        for c, corruption in enumerate(CORRUPTIONS):
            world = CorruptedDigits(corruption, REPEATS, seed=seed)
            if c == 0:
                clean, told = world.train
                s = trained(seed, torch.from_numpy(clean.reshape(-1, 256) / np.float32(255)), torch.from_numpy(told))
            order = np.concatenate([np.random.default_rng([seed, r]).permutation(897) + 897 * r for r in range(REPEATS)])
            rows = torch.from_numpy(world.rows[order].reshape(-1, 256) / np.float32(255))
            for a, arm in enumerate(ARMS.values()):
                course[a, seed, c] = stream(arm, s, rows, torch.from_numpy(world.labels[order]))
        print(seed, dict(zip(ARMS, (100 * course[:, seed].mean((1, 2))).round(1), strict=True)), flush=True)
    error = 100 * course.mean(-1)  # arm, seed, corruption
    mean = dict(zip(ARMS, error.mean(-1), strict=True))
    found: dict[str, Any] = {
        name: {"error": interval(mean[name]), "seeds": mean[name].round(2).tolist(),
               "by corruption": dict(zip(CORRUPTIONS, error[a].mean(0).round(1).tolist(), strict=True))}
        for a, name in enumerate(ARMS)
    }  # fmt: skip
    pairs = {"nhl": "tent", "nhl, 10 x": "tent, 10 x", "hebb": "statistics", "nhl, hard winner": "nhl", "tent": "statistics"}
    found["differences"] = {f"{a} - {b}": interval(mean[a] - mean[b]) for a, b in [*pairs.items(), ("nhl", "modulator")]}
    hebb = error[list(ARMS).index("hebb")] - error[list(ARMS).index("statistics")]
    found["differences"]["hebb - statistics, by corruption"] = {k: interval(hebb[:, i]) for i, k in enumerate(CORRUPTIONS)}
    print(found)
    if not args.dry:
        about = {"command": "python bench/nhl.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
        numbers = {
            "seeds": list(range(args.seeds)),
            "pictures": course.shape[-1] * 64,
            "cpu_seconds": round(time.process_time() - began),
        }
        keep("nhl", about | numbers | {"what": "error in percent: mean, 95% interval", "found": found}, picture(100 * course))


def picture(course: np.ndarray) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "statistics": "#888888",
        "hebb": "#2f8f5b",
        "tent": "#c4661f",
        "nhl": "#1f5fd1",
        "tent, 10 x": "#e0a878",
        "nhl, 10 x": "#8fb0ea",
    }
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.8), layout="constrained")
    names = list(ARMS)
    for name, colour in colours.items():
        wrong = course[names.index(name)].mean(1).cumsum(-1) / np.arange(1, course.shape[-1] + 1)  # (seeds, batches)
        x = 64 * np.arange(1, course.shape[-1] + 1)
        axes[0].plot(x, wrong.mean(0), color=colour, lw=2, label=name)
        axes[0].fill_between(x, wrong.min(0), wrong.max(0), color=colour, alpha=0.12, lw=0)
        axes[1].plot(CORRUPTIONS, course[names.index(name)].mean((0, 2)), color=colour, marker="o", ms=4, lw=1)
    axes[0].set(xlabel="pictures of the stream", ylabel="error so far, %: mean and range of the seeds")
    axes[1].set(ylabel="error, %")
    axes[0].legend(frameon=False, fontsize=8)
    for ax in axes:
        plain(ax)
    return figure


if __name__ == "__main__":
    main()
