"""MAMQL in Overcooked's cramped room, beside behaviour cloning and IQ-Learn, from few demonstrations of scripted cooks.

    python bench/kitchen.py            bench/results/kitchen.json and kitchen.png
    python bench/kitchen.py --dry      prints, and keeps nothing

Each seed has demonstrations and a start of its own; the seeds of an arm are learnt side by side. All arms learn from data alone
and have the same networks (two layers of 64), step size and minibatches. "mamql": a regulariser of 5 and of 1 temperature.
"cloning" is the same file with one of 1e9. "iq_learn" has that preset's temperature. Judged after each EVERY updates on 100
rooms of 200 steps: soups that both cooks serve, by sampled actions; the cooks that demonstrate, who do something at random in a
tenth of their steps, are judged the same. Intervals are of a mean over seeds, 95%, by Student.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from preferences import interval
from record import band, commit, keep, machine, plain
from torch import Tensor

from thespis import envs
from thespis.algos.agents import mamql
from thespis.core import Batch, leaves, rebuild
from thespis.worlds.kitchen import EARNED, CrampedRoom, Kitchens, scripted

ARMS: dict[str, dict[str, float]] = {
    "mamql": {"temperature": 1.0, "regulariser": 5.0},
    "mamql, firm": {"temperature": 1.0, "regulariser": 1.0},
    "cloning": {"temperature": 1.0, "regulariser": 1e9},
    "iq_learn": {"temperature": 0.01, "regulariser": 0.5},
}
COLOURS = ("#1f5fd1", "#8a4fbf", "#c4661f", "#2f8f5b")
DEMOS, EVERY, ROOMS = (1, 4, 16), 250, 100


def served(act: Any, rng: np.random.Generator) -> float:
    """Soups of an episode of 200 steps, in the mean over ROOMS."""
    rows, earned = Kitchens(ROOMS), 0.0
    for _ in range(200):
        earned += float(rows.step(act(rows, rng)).mean())
    return earned / EARNED


def learnt(arm: str, demos: int, seeds: list[int], updates: int) -> np.ndarray:
    """(seeds, evaluations): soups."""
    cfg = mamql.Config(**ARMS[arm], gamma=0.99, hidden=(64, 64), lr=1e-3, batch_size=256)
    spec = envs.world("thespis/CrampedRoom-v0").spec
    learner, net = mamql.make(cfg, spec), mamql.critics(spec, cfg.hidden)
    data = []
    for seed in seeds:
        found = CrampedRoom(demos=demos, demo_seed=1_000 + seed).recorded()
        data.append([torch.from_numpy(np.asarray(found[k])) for k in ("observations", "actions", "next_observations")])
    obs, action, ahead = (torch.stack(x) for x in zip(*data, strict=True))
    states = []
    for seed in seeds:
        torch.manual_seed(seed)
        states.append(leaves(learner.init()))
    s = rebuild(learner.init(), {k: torch.stack([each[k] for each in states]) for k in states[0]})
    update, place = torch.vmap(lambda s, b: learner.update(s, b, 0)[0]), torch.arange(len(seeds))[:, None]
    many, ones = torch.full((len(seeds), cfg.batch_size, 2), cfg.gamma), torch.ones(len(seeds), cfg.batch_size)
    told = []
    for k in range(updates):
        pick = torch.randint(obs.shape[1], (len(seeds), cfg.batch_size))
        s = update(s, Batch(obs[place, pick], action[place, pick], many, many, ahead[place, pick], {"demo": ones}))
        if (k + 1) % EVERY == 0:
            told.append([served(policy(net, s, i, cfg.temperature), np.random.default_rng(seed)) for i, seed in enumerate(seeds)])
    return np.array(told).T


def policy(net: Any, s: Any, i: int, temperature: float) -> Any:
    critic = {k: v[i] for k, v in s.critic.params.items()}

    def act(rows: Kitchens, rng: np.random.Generator) -> np.ndarray:
        q: Tensor = net.apply(critic, torch.from_numpy(rows.observed())) / temperature  # (2, rooms, 6)
        return (q.numpy() + rng.gumbel(size=q.shape)).argmax(-1).T

    return act


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    experts = [served(scripted, np.random.default_rng(seed)) for seed in args.seeds]
    found: dict[str, Any] = {}
    figure, axes = plt.subplots(1, len(DEMOS), figsize=(4.2 * len(DEMOS), 3.6), sharey=True, layout="constrained")
    at = range(EVERY, args.updates + 1, EVERY)
    with torch.no_grad():
        for ax, demos in zip(axes, DEMOS, strict=True):
            last = {}
            for arm, colour in zip(ARMS, COLOURS, strict=True):
                began = time.process_time()
                table = learnt(arm, demos, args.seeds, args.updates)
                last[arm] = table[:, -1]
                told = {"soups": interval(last[arm]), "at best": interval(table.max(1)), "each": table[:, -1].round(3).tolist()}
                told |= {"curve": table.mean(0).round(3).tolist(), "seconds": round(time.process_time() - began)}
                found.setdefault(f"{demos} demonstrations", {})[arm] = told
                band(ax, list(at), table, colour, arm)
                print(demos, arm, told, flush=True)
            found[f"{demos} demonstrations"]["mamql - cloning"] = interval(last["mamql"] - last["cloning"])
            ax.axhline(float(np.mean(experts)), color="#888888", lw=1, ls="--")
            ax.set(title=f"{demos} demonstration{'s' * (demos > 1)}", xlabel="updates")
            plain(ax)
    axes[0].set_ylabel("soups in 200 steps")
    axes[-1].legend(frameon=False, fontsize=8)
    if not args.dry:
        about = {"command": "python bench/kitchen.py", "commit": commit(), "machine": machine(), "seeds": args.seeds}
        about |= {"updates": args.updates, "what": "mean, 95% interval", "experts": interval(experts), "arms": ARMS}
        keep("kitchen", about | found, figure)


if __name__ == "__main__":
    main()
