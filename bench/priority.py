"""Updates until a table of Q-values is right, with rows drawn by priority and uniformly: the Blind Cliffwalk of arXiv:1511.05952.

    python bench/priority.py                      bench/results/priority.json and priority.png
    python bench/priority.py --states 4 --seeds 2 --dry     a trial that keeps nothing

n states in a row; in each, one of two actions goes on and the other ends the episode; only the last step is rewarded.
The replay holds every sequence of n actions, in random order: 2^(n+1) - 2 steps, one of which has the reward. Q-learning, one row
an update, step size 1/4, discount 1 - 1/n, until the mean squared error is below 0.001 (figure 1 and appendix B.1 of the paper,
cited from memory). Priorities: exponent 0.6; of a batch of one row the weight is 1.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import plain, record

from thespis.core import Box, Discrete, OffPolicy, Spec
from thespis.data import PrioritisedReplay, Priority, Replay

ARMS, COLOURS, MOST = ("prioritised", "uniform"), ("#1f5fd1", "#c4661f"), 400_000


def filled(n: int, arm: str, seed: int) -> Replay:
    """The replay of every sequence of n actions."""
    feed, spec = OffPolicy(1 - 1 / n, 1, 1, 2 ** (n + 1) - 2, 0, 1.0), Spec(Box(1), Discrete(2))
    by_priority = PrioritisedReplay(spec, feed, seed=seed, priority=Priority(0.6, 0.4, MOST))
    replay = by_priority if arm == "prioritised" else Replay(spec, feed, seed=seed)
    for sequence in np.random.default_rng(seed).permutation(2**n):
        for state in range(n):
            on = bool(sequence >> state & 1)
            ends = not on or state == n - 1
            seen, last = (np.full((1, 1), x, np.float32) for x in (state, state + 1))
            reward = np.float32([on and state == n - 1])
            replay.add(seen, np.array([int(on)]), reward, np.array([ends]), np.array([False]), last)
            if not on:
                break
    return replay


def updates(n: int, arm: str, seed: int) -> int:
    """Until the table is right."""
    replay, rng = filled(n, arm, seed), np.random.default_rng(seed)
    gamma, q = replay.feed.gamma, rng.normal(0, 0.1, (n + 1, 2))
    q[n], right = 0, np.stack([np.zeros(n), gamma ** np.arange(n - 1, -1, -1)], 1)
    for update in range(1, MOST + 1):
        b = replay.sample()
        s, a = int(b.obs), int(b.action)
        error = float(b.reward) + float(b.discount) * q[int(b.next_obs)].max() - q[s, a]
        q[s, a] += error / 4
        if isinstance(replay, PrioritisedReplay):
            replay.heed(torch.tensor([error]))
        if update % 10 == 0 and np.square(q[:n] - right).mean() < 1e-3:
            return update
    return MOST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, nargs="+", default=[2, 4, 6, 8, 10])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {arm: {} for arm in ARMS}
    for n in args.states:
        for arm in ARMS:
            counts = [updates(n, arm, seed) for seed in range(args.seeds)]
            found[arm][n] = {"updates": counts, "median": float(np.median(counts))}
            print(n, arm, sorted(counts), flush=True)
    result = {
        "what": "Blind Cliffwalk: updates until the Q-values are right",
        "seeds": list(range(args.seeds)),
        "by_states": found,
    }
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm, colour in zip(ARMS, COLOURS, strict=True):
        table = np.array([found[arm][n]["updates"] for n in args.states])
        axes.plot(args.states, np.median(table, 1), color=colour, lw=2, marker="o", label=arm)
        axes.fill_between(args.states, table.min(1), table.max(1), color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="states", ylabel="updates until right", yscale="log", title=f"Blind Cliffwalk, {args.seeds} seeds")
    axes.legend(frameon=False)
    plain(axes)
    record(result, None if args.dry else Path(__file__).parent / "results" / "priority.json", figure)


if __name__ == "__main__":
    main()
