"""Regret of NORA on worlds of tables, to the last digit: each policy's value is computed, not sampled.

    python bench/nora.py                bench/results/nora.json and nora.png: all worlds and arms, 20 seeds side by side
    python bench/nora.py --seeds 100 101 --episodes 1000 --dry     a trial that keeps nothing

The learner is that of `thespis train nora`, a rollout an episode, over all seeds at once by vmap. Arms: nora; without optimism
(noah, without data); hybrid, nora that begins with 200 episodes of an optimal policy that errs in a step by chance 1 / horizon;
noah, which begins with the same data. The rate that the theory bounds is that of the worst world. So nora runs, four times as
long, on worlds of one hard choice, whose gaps are GAPS, too: "worst gap" is the largest regret in any of them by each episode.
Slope: of log regret on log episodes, by least squares over the last nine tenths of the episodes at log-even points, of each
seed. Intervals are of a mean over seeds, 95%, by Student.
"""

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from record import commit, keep, machine, plain
from torch import Tensor

import thespis
from thespis.algos.tabular import nora
from thespis.core import Batch, Box, Discrete, Spec, tree_map
from thespis.worlds.finite import Finite

WORLDS = {
    "RiverSwim": ("thespis/RiverSwim-v0", {}),
    "Lock": ("thespis/Lock-v0", {}),
    "DeepSea": ("thespis/DeepSea-v0", {"size": 15}),
}
ARMS = {"nora": (True, 0), "without optimism": (False, 0), "hybrid": (True, 200), "noah": (False, 200)}
COLUMNS = ("obs", "action", "reward", "discount", "next_obs")
GAPS = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45)
COLOURS = {"nora": "#1f5fd1", "without optimism": "#c4661f", "hybrid": "#2f8f5b", "noah": "#8a4fbf"}


class Tables:
    """Worlds of tables, of one shape, side by side."""

    def __init__(self, worlds: list[Finite], seed: int):
        self.worlds, self.rng, self.row = worlds, np.random.default_rng(seed), np.arange(len(worlds))
        self.chance, self.gain = (np.stack([getattr(w, k) for w in worlds]) for k in ("chance", "gain"))
        self.below, self.first = self.chance.cumsum(-1), worlds[0].first
        self.steps, self.states, self.actions = worlds[0].gain.shape
        self.best = np.array([w.first @ w.best()[0].max(-1) for w in worlds])

    def episodes(self, pi: np.ndarray) -> Batch:
        """One of each policy (n, H, S, A): rows (n, H, 1, ...)."""
        n, rows = len(pi), []
        x = np.minimum((self.rng.random((n, 1)) > self.first.cumsum()).sum(-1), self.states - 1)
        for h in range(self.steps):
            a = np.minimum((self.rng.random((n, 1)) > pi[self.row, h, x].cumsum(-1)).sum(-1), self.actions - 1)
            after = np.minimum((self.rng.random((n, 1)) > self.below[self.row, h, x, a]).sum(-1), self.states - 1)
            over = h + 1 == self.steps
            rows.append(
                (self.obs(h, x), a, self.gain[self.row, h, x, a], np.full(n, float(not over)), self.obs(h + 1 - over, after))
            )
            x = after
        obs, action, reward, discount, ahead = (np.stack(column, 1)[:, :, None] for column in zip(*rows, strict=True))
        floats = [torch.from_numpy(x).float() for x in (obs, reward, discount, ahead)]
        return Batch(floats[0], torch.from_numpy(action), floats[1], floats[2], floats[3])

    def obs(self, h: int, x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.tile(np.eye(self.steps)[h], (len(x), 1)), np.eye(self.states)[x]], -1)

    def values(self, pi: np.ndarray) -> np.ndarray:
        """Of each policy (n, H, S, A), from the start: (n,)."""
        ahead = np.zeros((len(pi), self.states))
        for h in reversed(range(self.steps)):
            ahead = (pi[:, h] * (self.gain[:, h] + np.einsum("nxay,ny->nxa", self.chance[:, h], ahead))).sum(-1)
        return ahead @ self.first

    def expert(self) -> np.ndarray:
        """The optimal policies, but that by chance 1 / H each step's action is drawn at random: (n, H, S, A)."""
        right = np.eye(self.actions)[np.stack([w.best().argmax(-1) for w in self.worlds])]
        return right * (1 - 1 / self.steps) + 1 / self.steps / self.actions


def choice(gap: float, steps: int = 3) -> Finite:
    """Two states, of which 1 pays 1 at each step; it comes next by chance 0.5, and after action 1 by chance 0.5 + gap."""
    chance, gain = np.full((steps, 2, 2, 2), 0.5), np.zeros((steps, 2, 2))
    chance[:, :, 1] = 0.5 - gap, 0.5 + gap
    gain[:, 1] = 1
    return Finite(chance, gain, np.array([1.0, 0.0]))


def course(worlds: list[Finite], optimism: bool, offline: int, seed: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Regret so far (n, episodes), and switches (n,), of a learner in each world."""
    tables, n = Tables(worlds, seed * 1000 + offline + optimism), len(worlds)
    spec = Spec(Box(tables.steps + tables.states), Discrete(tables.actions), horizon=tables.steps)
    learner = nora.make(nora.Config(optimism=optimism), spec)
    state = tree_map(lambda x: x.expand(n, *x.shape).clone(), learner.init())
    if offline:
        each = [tables.episodes(tables.expert()) for _ in range(offline)]
        columns = (torch.cat([getattr(b, k) for b in each], 1).squeeze(2) for k in COLUMNS)
        state = torch.vmap(learner.given)(state, Batch(*columns))

    def step(s: nora.State, rollout: Batch) -> nora.State:
        s, rows, _ = learner.prepare(s, rollout)
        return learner.update(s, rows, 0)[0]

    many, regret = torch.vmap(step), np.zeros((n, episodes))
    with torch.no_grad():
        for t in range(episodes):
            pi = policy(state.logits)
            regret[:, t] = tables.best - tables.values(pi)
            state = many(state, tables.episodes(pi))
    return regret.cumsum(-1), state.switches.numpy()


def policy(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(-1).numpy()


def slopes(regret: np.ndarray) -> np.ndarray:
    last = regret.shape[1]
    at = np.unique(np.geomspace(last / 10, last, 40).astype(int)) - 1
    return np.array([np.polyfit(np.log(at + 1), np.log(np.maximum(row[at], 1e-9)), 1)[0] for row in regret])


def interval(x: np.ndarray) -> list[float]:
    half = 2.093 * x.std(ddof=1) / len(x) ** 0.5 if len(x) == 20 else 1.96 * x.std(ddof=1) / len(x) ** 0.5
    return [round(float(x.mean() - half), 3), round(float(x.mean() + half), 3)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--episodes", type=int, default=5_000)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, curves = {}, {}
    for name in args.worlds:
        world = gym.make(WORLDS[name][0], **WORLDS[name][1]).unwrapped
        for arm, (optimism, offline) in ARMS.items():
            began = time.perf_counter()
            regret, switches = course([world] * len(args.seeds), optimism, offline, args.seeds[0], args.episodes)
            slope, last = slopes(regret), regret[:, -1]
            curves[name, arm] = regret
            found.setdefault(name, {})[arm] = {
                "regret": round(float(last.mean()), 2), "regret_interval": interval(last),
                "slope": round(float(slope.mean()), 3), "slope_interval": interval(slope),
                "switches": round(float(switches.mean()), 1), "most_switches": int(switches.max()),
                "seconds": round(time.perf_counter() - began, 1),
            }  # fmt: skip
            print(name, arm, found[name][arm], flush=True)
    began, hard = time.perf_counter(), [choice(gap) for gap in GAPS for _ in args.seeds]
    hard = course(hard, True, 0, args.seeds[0], 4 * args.episodes)[0].reshape(len(GAPS), len(args.seeds), -1)
    curves["worst gap", "nora"] = worst = hard.max(0)
    slope, ends = slopes(worst), dict(zip(map(str, GAPS), hard[..., -1].mean(-1).round(2).tolist(), strict=True))
    found["worst gap"] = {
        "slope": round(float(slope.mean()), 3), "slope_interval": interval(slope), "regret": ends,
        "slope_of_mean": round(float(slopes(hard.mean(1).max(0)[None])[0]), 3),
        "episodes": 4 * args.episodes, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    print("worst gap", found["worst gap"], flush=True)
    if not args.dry:
        about = {"command": "python bench/nora.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
        numbers = {"episodes": args.episodes, "seeds": args.seeds, "config": vars(nora.Config()), "worlds": found}
        keep("nora", about | numbers, picture(curves))


def picture(curves: dict[tuple[str, str], np.ndarray]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in curves))
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.8), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        last = curves[name, "nora"].shape[1]
        at = np.unique(np.geomspace(1, last, 200).astype(int)) - 1
        for arm, colour in COLOURS.items():
            if (name, arm) not in curves:
                continue
            table = curves[name, arm][:, at]
            ax.plot(at + 1, table.mean(0), color=colour, lw=2, label=arm)
            ax.fill_between(at + 1, table.min(0), table.max(0), color=colour, alpha=0.15, lw=0)
        half = curves[name, "nora"][:, -1].mean() * ((at + 1) / last) ** 0.5
        ax.plot(at + 1, half, color="#888888", lw=1, ls="--", label="slope 1/2")
        ax.set(xscale="log", yscale="log", title=name, xlabel="episodes")
        plain(ax)
    axes[0][0].set_ylabel("regret: mean and range of the seeds")
    axes[0][0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
