"""An agent a choice beside one PPO with ten heads and Gaussian PPO, on memory controllers: three traces, three goals, ten seeds.

    python bench/marl_dse.py            bench/results/marl_dse.json and marl_dse.png; wants numba

Each learner is the house's own, over all cells and seeds at once by vmap: rollouts of 32 designs, 4 epochs of one minibatch, a
table of logits in place of a network (there is nothing to see), entropy 0.01. Arms differ in `make` alone, and in the learning
rate: of 0.01, 0.03 and 0.1 that with the best mean, in parts of each cell's best, over all cells on seeds 100 to 102. "ArchGym's
bins": a Gaussian's number is rounded first, so that only three levels of a choice can be had, as in the paper's code. Genetic: 32
designs, parents by tournaments of two, uniform crossover, each choice drawn anew by chance 0.1, the best two stay. "Regret": of
the best design that was tried, in parts of the best of all, which are all simulated. Intervals are of a mean over seeds, 95%, by
Student; z: difference over its standard error.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import band, commit, keep, machine, plain
from torch import Tensor

import thespis
from thespis.algos.agents import marl_dse
from thespis.algos.onpolicy import ppo
from thespis.core import Batch, Box, Learner, MultiDiscrete, Spec, leaves, rebuild
from thespis.worlds import dram

CELLS = [(trace, goal) for trace in dram.TRACES for goal in dram.GOALS]
LEVELS = np.array(dram.LEVELS)
ROWS, ROUNDS, EPOCHS = 32, 62, 4
SAME: dict[str, Any] = {"hidden": (), "rollout": ROWS, "batch_size": ROWS, "epochs": EPOCHS, "normalise_reward": False}
HEADS, VECTOR = (Spec(Box(1), kind) for kind in (MultiDiscrete(dram.LEVELS), Box(10)))
ARMS, RATES, TRIAL = ("agents", "ten heads", "Gaussian", "Gaussian, ArchGym's bins"), (0.01, 0.03, 0.1), [100, 101, 102]
COLOURS = {
    "agents": "#1f5fd1", "ten heads": "#c4661f", "Gaussian": "#2f8f5b", "Gaussian, ArchGym's bins": "#8a4fbf",
    "genetic": "#444444", "random": "#aaaaaa",
}  # fmt: skip


def learner(arm: str, lr: float) -> Learner:
    if arm == "agents":
        return marl_dse.make(marl_dse.Config(lr=lr, entropy_weight=0.01, **SAME), HEADS)
    cfg = ppo.Config(lr=lr, entropy_weight=0.01, normalise_obs=False, **SAME)
    return ppo.make(cfg, HEADS if arm == "ten heads" else VECTOR)


def designs(arm: str, action: Tensor) -> np.ndarray:
    """(..., 10) levels of what a learner did."""
    a = action.numpy()
    if not arm.startswith("Gaussian"):
        return a
    a = np.clip(a, -1, 1)
    if "bins" in arm:
        return np.rint((np.rint(a) + 1) / 2 * (LEVELS - 1)).astype(int)
    return np.minimum(((a + 1) / 2 * LEVELS).astype(int), LEVELS - 1)


Judge = Callable[[np.ndarray], np.ndarray]
"""designs (cells, seeds, n, 10) -> rewards (cells, seeds, n)"""


def learnt(arm: str, lr: float, seeds: list[int], judge: Judge) -> np.ndarray:
    """Rewards (cells, seeds, designs), in the order of trial."""
    made, many = learner(arm, lr), len(CELLS) * len(seeds)
    torch.manual_seed(seeds[0])
    states = [made.init() for _ in range(many)]
    s = rebuild(states[0], {k: torch.stack([leaves(x)[k] for x in states]) for k in leaves(states[0])})
    obs, found = torch.zeros(many, ROWS, 1, 1), []

    def round_of(s: Any, rollout: Batch) -> Any:
        assert made.prepare
        s, rows, _ = made.prepare(s, rollout)
        for _ in range(EPOCHS):
            s, _ = made.update(s, rows, 0)
        return s

    act = torch.vmap(lambda s, o: made.act(made.policy(s), o, True), randomness="different")
    learn = torch.vmap(round_of, randomness="different")
    with torch.no_grad():
        for _ in range(ROUNDS):
            action = act(s, obs[:, :, 0])
            reward = judge(designs(arm, action).reshape(len(CELLS), len(seeds), ROWS, 10))
            found.append(reward)
            gained = torch.from_numpy(reward).float().reshape(many, ROWS, 1)
            over = torch.ones(many, ROWS, 1, dtype=torch.bool)
            s = learn(s, Batch(obs, action[:, :, None], gained, torch.zeros_like(gained), obs, {"ended": over}))
    return np.concatenate(found, -1)


def searched(arm: str, seeds: list[int], judge: Judge) -> np.ndarray:
    """The same without learning: at random, or bred."""
    rng, shape = np.random.default_rng(seeds[0]), (len(CELLS), len(seeds), ROWS, 10)
    new, found = rng.integers(LEVELS, size=shape), []
    for _ in range(ROUNDS):
        reward = judge(new)
        found.append(reward)
        old, new = new, rng.integers(LEVELS, size=shape)
        if arm == "genetic":
            pairs = rng.integers(ROWS, size=(2, 2, *shape[:3]))
            mother, father = (np.take_along_axis(old, winners(reward, *two)[..., None], -2) for two in pairs)
            child = np.where(rng.random(shape) < 0.5, mother, father)
            new = np.where(rng.random(shape) < 0.1, new, child)
            top = np.argsort(-reward, -1, kind="stable")[..., :2, None]
            new[:, :, :2] = np.take_along_axis(old, top, -2)
    return np.concatenate(found, -1)


def winners(reward: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each tournament of two, by their numbers (cells, seeds, n)."""
    first, second = (np.take_along_axis(reward, x, -1) for x in (a, b))
    return np.where(first >= second, a, b)


def half(x: np.ndarray) -> float:
    """Of the 95% interval of a mean."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.remove(str(Path(__file__).parent))  # numba would take coverage.py, which stands there, for the package
    sys.modules.pop("coverage", None)
    began = time.process_time()
    worlds = [dram.DRAM(trace, goal) for trace, goal in CELLS]
    every = np.unique(dram.plain(np.stack(np.unravel_index(np.arange(LEVELS.prod()), LEVELS), -1)), axis=0)
    best = np.array([world.reward(every).max() for world in worlds])
    simulated = time.process_time() - began
    print(f"{3 * len(every)} designs simulated in {simulated:.0f} core-seconds", flush=True)

    def judge(tried: np.ndarray) -> np.ndarray:
        return np.stack([world.reward(x) for world, x in zip(worlds, tried, strict=True)])

    rates = {}
    for arm in ARMS:
        rates[arm] = {lr: float((learnt(arm, lr, TRIAL, judge) / best[:, None, None]).mean()) for lr in RATES}
        print(arm, rates[arm], flush=True)
    curves = {arm: learnt(arm, max(found, key=found.__getitem__), args.seeds, judge) for arm, found in rates.items()}
    curves |= {arm: searched(arm, args.seeds, judge) for arm in ("genetic", "random")}
    cells, mean = {}, {arm: x.mean(-1) for arm, x in curves.items()}
    for i, (trace, goal) in enumerate(CELLS):
        ours, row = mean["agents"][i], {}
        for arm, x in curves.items():
            m, least = mean[arm][i], 1 - x[i].max(-1) / best[i]
            error = (m.var(ddof=1) + ours.var(ddof=1)) ** 0.5 / len(m) ** 0.5
            row[arm] = {"mean": round(float(m.mean()), 3), "interval": round(half(m), 3), "regret": round(float(least.mean()), 4)}
            row[arm] |= {"last_200": round(float(x[i, :, -200:].mean()), 3)}
            if arm != "agents":
                row[arm] |= {
                    "ahead": round(float(ours.mean() / m.mean() - 1), 3),
                    "z": round(float((ours - m).mean() / error), 1),
                }
        cells[f"{trace}, {goal}"] = {"best": round(float(best[i]), 3)} | row
    ahead = {
        arm: {"of_9": sum(c[arm]["ahead"] > 0 for c in cells.values()), "z_over_2": sum(c[arm]["z"] > 2 for c in cells.values())}
        for arm in curves if arm != "agents"
    }  # fmt: skip
    about = {"command": "python bench/marl_dse.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
    numbers = {
        "seeds": args.seeds, "designs": ROWS * ROUNDS, "rates": rates, "agents_ahead": ahead, "cells": cells,
        "core_seconds": {"all": round(time.process_time() - began), "simulating": round(simulated)},
    }  # fmt: skip
    keep("marl_dse", about | numbers, picture(curves))


def picture(curves: dict[str, np.ndarray]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(11, 8.5), layout="constrained", sharex=True)
    at = (np.arange(ROUNDS) + 1) * ROWS
    for i, (ax, (trace, goal)) in enumerate(zip(axes.flat, CELLS, strict=True)):
        for arm, colour in COLOURS.items():
            band(ax, at, curves[arm][i].reshape(-1, ROUNDS, ROWS).mean(-1), colour, arm)
        ax.set_title(f"{trace}, {goal}", fontsize=10)
        plain(ax)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    axes[1][0].set_ylabel("reward of a round: mean and range of the seeds")
    axes[2][1].set_xlabel("designs tried")
    return figure


if __name__ == "__main__":
    main()
