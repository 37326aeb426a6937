"""RLDP: SAC sets thresholds and noise of private fine-tuning; beside fixed thresholds, quantiles, a schedule and random actions.

Paper: Khadangi et al. 2025, "Efficient Differentially Private Fine-Tuning of LLMs via Reinforcement Learning", arXiv:2507.22565.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thespis.study import make, train

ENV, BUDGETS, ADAPTERS, CLIPS = "thespis/PrivateTuning-v0", (2.0, 8.0), 4, (0.1, 0.3, 0.5, 1.0, 3.0)
"""world; epsilons; adapters; the fixed thresholds"""
Floats = NDArray[np.float32]
Rule = Callable[[Floats], Floats]


def clip(threshold: float) -> Floats:
    """The action that sets all thresholds to this, and the noise to the middle."""
    return np.append(np.full(ADAPTERS, np.log10(threshold)), 0).astype(np.float32)


def quantile(obs: Floats, aim: float = 0.5, rate: float = 0.8) -> Floats:
    """Andrew et al. 2021 (arXiv:1905.03871): a threshold follows the median of its norms, by the noised count; `rate` is the
    paper's 0.2 an update, for four at once."""
    clipped = obs[ADAPTERS : 2 * ADAPTERS]
    return np.append(np.clip(obs[:ADAPTERS] + rate * (clipped - aim) / np.log(10), -1, 1), 0).astype(np.float32)


def _always(action: Floats, obs: Floats) -> Floats:
    return action


def rules(policy: Any, seed: int) -> dict[str, Rule]:
    """What each arm does: observation -> action. The observation's 16th number is the part of the updates that are made."""
    rng = np.random.default_rng(seed)
    fixed: dict[str, Rule] = {f"fixed {c}": partial(_always, clip(c)) for c in CLIPS}
    return fixed | {
        "quantile": quantile,
        "linear": lambda obs: clip(max(1 - float(obs[15]), 0.1)),
        "random": lambda obs: rng.uniform(-1, 1, ADAPTERS + 1).astype(np.float32),
        "rldp": lambda obs: policy.act(obs),
    }


def tune(folder: Path, seed: int, controller: str, epsilon: float, sets: int = 3) -> None:
    """Fine-tunes on `sets` sets of private texts by each rule, none of which the controller has seen."""
    import gymnasium as gym

    import thespis

    env: Any = gym.make(ENV, epsilon=epsilon, part="private").unwrapped
    with (folder / "tuned.jsonl").open("w") as out:
        for arm, rule in rules(thespis.load(controller), seed).items():
            for i in range(sets):
                (obs, _), over, curve = env.reset(seed=1000 * seed + i), False, []
                while not over:
                    obs, _, over, _, info = env.step(rule(obs))
                    curve.append([info["updates"], info["perplexity"]])
                row = {"arm": arm, "set": i, **env.audit(), "curve": curve, "noise": env.history}
                out.write(json.dumps(row) + "\n")


SEEDS = 3
STAGES = {
    "controller": train(
        "sac", env=ENV, env_args={"epsilon": list(BUDGETS)}, steps=600, warmup=100, hidden=(64, 64), lr=1e-3,
        alpha=0.003, batch_size=128, gamma=0.98, eval_every=600, eval_episodes=4, compile_after=-1, updates_per_step=2.0,
    ),
    "at_2": make(tune, controller="{controller}", epsilon=BUDGETS[0]),
    "at_8": make(tune, controller="{controller}", epsilon=BUDGETS[1]),
}  # fmt: skip


def rows(file: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, file.open())


def table(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """An arm's means over the sets of texts. "reached": its public perplexity after 60% of the updates, over the last one of the
    best fixed threshold, which is chosen by what it came to on these very texts: below 1 is sooner."""
    found: dict[str, dict[str, float]] = {}
    for epsilon in BUDGETS:
        told = list(rows(folders[f"at_{epsilon:g}"] / "tuned.jsonl"))
        arms = {arm: [r for r in told if r["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in told)}
        means = {
            arm: {k: float(np.mean([r[k] for r in each])) for k in ("perplexity", "exposure")}
            | {"epsilon": max(r["epsilon"] for r in each), "updates": float(np.mean([r["curve"][-1][0] for r in each]))}
            for arm, each in arms.items()
        }
        best = min((arm for arm in means if arm.startswith("fixed")), key=lambda arm: means[arm]["perplexity"])
        aim = np.mean([r["curve"][-1][1] for r in arms[best]])
        for arm, each in arms.items():
            early = np.mean([min(p for n, p in r["curve"] if n <= 24 or n == r["curve"][0][0]) for r in each])
            means[arm] |= {"reached": float(early / aim)}
        found |= {f"{epsilon:g}, {arm}": m for arm, m in means.items()} | {f"{epsilon:g}, best fixed": means[best]}
    return found
