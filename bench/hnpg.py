"""HNPG on a combination lock whose end chance does not find: does recorded data open it?

    python bench/hnpg.py run --horizon 5        every arm and seed that is not done yet, into results/raw/hnpg
    python bench/hnpg.py run --horizon 15 --seeds 0 1 2
    python bench/hnpg.py report                 bench/results/hnpg.json and hnpg.png

thespis/Lock-v0 with ten actions; a reward of 1 for who stays on the path to the end. Data: 2,000 episodes of an optimal policy
that errs in a step by chance 1 / horizon, with an action at random. "hnpg" and "no data" (the same file without data: TRPO with
an actor and a critic a step) have 1,000 steps a rollout; "bc" and "sac" (sac_discrete with --data) run as they come.
dense: the same lock paying 1 / horizon for each step on the path, for which no data is needed; "useless": recorded in the lost
state; "relabelled": the episodes above with rewards of 0 or 1 at random. Judged: the part of the newest 1,000 steps' episodes
that end well (dense: their return), actions drawn; "greedy": the value of the likeliest actions. A proxy: the paper's lock has
vectors for actions and noisy observations, ours has one choice of ten and its step and state one-hot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import interval
from nora import Tables
from record import RESULTS, commit, keep, machine, plain

import thespis
from thespis.algos.onpolicy import hnpg
from thespis.core import Batch, Box, Discrete, Spec
from thespis.engine.compile import Stepper
from thespis.worlds.finite import Finite, Lock

ACTIONS, EPISODES, ROLLOUT = 10, 2_000, 1_000
STEPS = {"5": 100_000, "15": 300_000, "dense": 60_000}
ONLINE = {"hnpg": "good", "no data": None, "useless": "lost", "relabelled": "relabelled"}
"""arms that are HNPG, and their data"""
ARMS = {"5": ("hnpg", "no data", "bc", "sac"), "15": ("hnpg", "no data", "bc", "sac"),
        "dense": ("no data", "hnpg", "useless", "relabelled")}  # fmt: skip
OPTIONS: dict[str, Any] = {"hidden": (16, 16), "regressions": 1, "lr": 1e-3, "gamma": 1.0, "normalise_obs": False}
SAC_STEPS = 20_000
ENOUGH = 0.8
"""of 5 or 15 steps: a run whose newest ten rollouts are that good is over"""
RAW = RESULTS / "raw" / "hnpg"
COLOURS = {"hnpg": "#1f5fd1", "no data": "#c4661f", "useless": "#2f8f5b", "relabelled": "#8a4fbf"}


def world(which: str) -> Finite:
    lock = Lock(5 if which == "dense" else int(which), ACTIONS)
    if which != "dense":
        return lock
    pays = lock.chance[..., :2].sum(-1) / lock.gain.shape[0]
    return Finite(lock.chance, pays, lock.first)


def recorded(lock: Finite, kind: str, seed: int) -> Batch:
    """EPISODES of them: rows (n, ...)."""
    tables, rng = Tables([lock] * EPISODES, 10_000 + seed), np.random.default_rng(seed)
    lost = np.full_like(tables.expert(), 1 / ACTIONS)
    if kind == "lost":
        tables.first = np.array([0.0, 0.0, 1.0])
    b = tables.episodes(lost if kind == "lost" else tables.expert())
    rows = Batch(*(getattr(b, k).flatten(0, 2) for k in ("obs", "action", "reward", "discount", "next_obs")))
    if kind == "relabelled":
        rows.reward.copy_(torch.from_numpy(rng.integers(2, size=len(rows.reward))))
    return rows


def online(which: str, arm: str, seed: int) -> dict[str, Any]:
    lock, kind = world(which), ONLINE[arm]
    horizon, states = len(lock.gain), len(lock.first)
    episodes = ROLLOUT // horizon
    tables, spec = Tables([lock] * episodes, seed), Spec(Box(horizon + states), Discrete(ACTIONS), horizon=horizon)
    torch.manual_seed(seed)
    learner = hnpg.make(hnpg.Config(stages=horizon, rollout=horizon, **OPTIONS), spec)
    state = learner.init()
    if kind and learner.given:
        state = learner.given(state, recorded(lock, kind, seed))
    stepper = Stepper(learner, state)
    every = torch.from_numpy(
        np.concatenate([np.repeat(np.eye(horizon), states, 0), np.tile(np.eye(states), (horizon, 1))], -1)
    ).float()
    each = np.broadcast_to(np.arange(ACTIONS), (horizon * states, ACTIONS))
    curve, greedy = [], 0.0
    for _ in range(STEPS[which] // (episodes * horizon)):
        policy = learner.policy(stepper.state)
        shape = (horizon, states, ACTIONS)
        with torch.no_grad():
            draws = learner.act(policy, every.repeat(episodes, 1), True).view(episodes, -1, 1).numpy()
            best = learner.act(policy, every, False).view(-1, 1).numpy()
        b = tables.episodes((draws == each).astype(float).reshape(episodes, *shape))
        greedy = float(Tables([lock], 0).values((best == each).astype(float).reshape(1, *shape))[0])
        curve.append(float(b.reward.sum() / episodes))
        time_first = {k: getattr(b, k).squeeze(2).transpose(0, 1) for k in ("obs", "action", "reward", "discount", "next_obs")}
        rows = stepper.prepare(Batch(**time_first, extra={"ended": time_first["discount"] == 0}))
        for _ in range(learner.experience.epochs):
            stepper.step(rows)
        if len(curve) % 25 == 0:
            print(which, arm, seed, len(curve) * episodes * horizon, np.mean(curve[-5:]), greedy, flush=True)
        if which != "dense" and np.mean(curve[-10:]) > ENOUGH:
            break
    return {"curve": curve, "steps_each": episodes * horizon, "greedy": greedy}


def trained(which: str, arm: str, seed: int) -> dict[str, Any]:
    """By `thespis train`, judged by 200 episodes of drawn actions and 50 of the likeliest."""
    lock, options = world(which), dict[str, Any](eval_episodes=50)
    b = recorded(lock, "good", seed)
    horizon = len(lock.gain)
    pairs = lambda x: torch.stack([x[:, :horizon].argmax(-1), x[:, horizon:].argmax(-1)], -1).numpy()
    data = {"observations": pairs(b.obs), "actions": b.action.numpy(), "rewards": b.reward.numpy(),
            "terminals": (b.discount == 0).numpy(), "next_observations": pairs(b.next_obs)}  # fmt: skip
    steps = {"bc": 2_000, "sac": SAC_STEPS}[arm]
    options |= {"data": data}
    with tempfile.TemporaryDirectory() as folder:
        run = thespis.train(
            {"sac": "sac_discrete"}.get(arm, arm), "thespis/Lock-v0", env_args={"horizon": horizon, "actions": ACTIONS},
            steps=steps, seed=seed, out=Path(folder) / "run", eval_every=steps, panel=False, quiet=True, sinks=(),
            **options,
        )  # fmt: skip
        policy = thespis.load(run)
        return {"steps": steps, "greedy": run.return_mean, "drawn": played(lock, policy, seed)}


def played(lock: Finite, policy: Any, seed: int) -> float:
    total = 0.0
    for i in range(200):
        (obs, _), over = lock.reset(seed=1000 * seed + i), False
        while not over:
            obs, reward, over, _, _ = lock.step(policy.act(obs, explore=True))
            total += reward
    return total / 200


def run(which: str, seeds: list[int], arms: list[str]) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for arm in arms:
            file, began = RAW / f"{which}-{arm.replace(' ', '_')}-{seed}.json", time.perf_counter()
            if file.exists():
                continue
            found = online(which, arm, seed) if arm in ONLINE else trained(which, arm, seed)
            found |= {"seconds": round(time.perf_counter() - began, 1)}
            file.write_text(json.dumps(found) + "\n")
            print(which, arm, seed, {k: v for k, v in found.items() if k != "curve"}, found.get("curve", [])[-1:], flush=True)


def opened(curve: list[float], steps: int) -> int | None:
    """Steps until the mean of the newest five rollouts is above a half."""
    x = np.convolve(curve, np.ones(5) / 5, "valid")
    return int(steps * (np.argmax(x > 0.5) + 5)) if (x > 0.5).any() else None


def report() -> None:
    from matplotlib.figure import Figure

    found: dict[str, Any] = {}
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for ax, (which, title) in zip(
        figure.subplots(1, 3), (("5", "5 steps"), ("15", "15 steps"), ("dense", "dense, 5 steps")), strict=True
    ):
        for arm in ARMS[which]:
            files = sorted(RAW.glob(f"{which}-{arm.replace(' ', '_')}-*.json"))
            each = [json.loads(f.read_text()) for f in files]
            if not each:
                continue
            drawn = [float(np.mean(e["curve"][-5:])) if "curve" in e else e["drawn"] for e in each]
            numbers: dict[str, Any] = {
                "seeds": [int(f.stem.rpartition("-")[2]) for f in files], "drawn": drawn, "mean": float(np.mean(drawn)),
                "interval95": interval(drawn), "greedy": [e["greedy"] for e in each], "seconds": [e["seconds"] for e in each],
            }  # fmt: skip
            if arm in ONLINE:
                size = each[0]["steps_each"]
                numbers |= {
                    "steps": [size * len(e["curve"]) for e in each],
                    "opened_after": [opened(e["curve"], size) for e in each],
                }
                for i, e in enumerate(each):
                    y = np.convolve(e["curve"], np.ones(5) / 5, "valid")
                    label = None if i else f"{arm}, {len(each)} seeds"
                    ax.plot(size * np.arange(5, 5 + len(y)), y, color=COLOURS[arm], lw=1, label=label)
            else:
                numbers |= {"steps": each[0]["steps"]}
            found.setdefault(which, {})[arm] = numbers
        if which not in found:
            continue
        ax.set(title=title, xlabel="environment steps", ylabel="mean return of five rollouts", ylim=(-0.02, 1.02))
        plain(ax)
        ax.legend(frameon=False, fontsize=8)
    about = {
        "what": (__doc__ or "").split("\n")[0],
        "command": "python bench/hnpg.py run",
        "commit": commit(),
        "machine": machine(),
    }
    seeds = sorted({s for by in found.values() for n in by.values() for s in n["seeds"]})
    keep("hnpg", about | {"seeds": seeds, "options": OPTIONS, "episodes_of_data": EPISODES, "worlds": found}, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--horizon", choices=tuple(STEPS), nargs="+", default=list(STEPS), help="5, 15, or dense")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "report":
        report()
        return
    for which in args.horizon:
        run(which, args.seeds, args.arms or list(ARMS[which]))


if __name__ == "__main__":
    main()
