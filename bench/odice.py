"""O-DICE's own claim, in four rooms: the orthogonal gradient beside the true one and the half of it.

    python bench/odice.py            bench/results/odice.json and odice.png
    python bench/odice.py --dry --updates 2000 --seeds 0 1

A point in a square of side 10 moves by an action in [-1, 1] times 0.8, and not at all where a wall is in the way; walls at 5 with
four doors of width 1.2. A step costs 3 until the point is within 1 of (9, 9), where an episode ends (as the paper's AntMaze has
it: rewards as they are, no layer norms). 20,000 steps are recorded: random walks of 50 steps from anywhere, and for 5% of the
steps noisy short paths from the room of the origin. Judged: the part of 400 starts that arrive within 60 steps, and the steps
that they take: starts in that room, and in the two rooms beside it, which only random walks have seen ("shifted").
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from learning import interval
from record import commit, keep, machine, plain

from thespis.algos.offline import odice
from thespis.core import Batch, Box, Spec, replace, tree_map
from thespis.engine.compile import Stepper

SPEC = Spec(Box(2), Box(2))
ARMS = {"orthogonal": {}, "semi": {"gradient": "semi"}, "true": {"gradient": "true"}}
COLOURS = {"orthogonal": "#1f5fd1", "semi": "#c4661f", "true": "#5f6b7a"}
NUMBERS: dict[str, Any] = {"hidden": (64, 64), "gamma": 0.97, "lr": 1e-3, "norm": False}
DOORS = {0: (2.5, 7.5), 1: (2.5, 7.5)}
"""middles of the doors in the wall across axis 0, and across axis 1"""
GOAL, LONGEST, ROWS = np.array([9.0, 9.0]), 60, 20_000


def moved(x: np.ndarray, action: np.ndarray) -> np.ndarray:
    """(n, 2) after actions (n, 2)."""
    after = np.clip(x + 0.8 * np.clip(action, -1, 1), 0, 10)
    for axis, doors in DOORS.items():
        crossing = (x[:, axis] - 5) * (after[:, axis] - 5) <= 0
        share = (5 - x[:, axis]) / np.where(crossing & (after[:, axis] != x[:, axis]), after[:, axis] - x[:, axis], 1)
        there = x[:, 1 - axis] + share * (after[:, 1 - axis] - x[:, 1 - axis])
        open_ = np.min([np.abs(there - door) for door in doors], axis=0) < 0.6
        after = np.where((crossing & ~open_)[:, None], x, after)
    return after


def arrived(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x - GOAL, axis=-1) < 1


def guide(x: np.ndarray) -> np.ndarray:
    """Who knows the way: from the rooms on the left through the wall across x, then through that across y, then to the goal."""
    right, up = x[:, 0] > 5, x[:, 1] > 5
    axis = np.where(right, 1, 0)  # of the wall that comes next
    row, door = np.arange(len(x)), np.where(right, 7.5, np.where(up, 7.5, 2.5))
    aligned = np.abs(x[row, 1 - axis] - door) < 0.4
    to = np.empty_like(x)
    to[row, 1 - axis], to[row, axis] = door, np.where(aligned, 5.6, np.minimum(x[row, axis], 4.5))
    return np.clip((np.where((right & up)[:, None], GOAL, to) - x) / 0.8, -1, 1)


def recorded(seed: int) -> Batch:
    rng, rows, count = np.random.default_rng(seed), [], 0
    for known, size in ((True, ROWS // 20), (False, ROWS)):
        while count < size:
            n = 20
            x = rng.uniform(0, 5, (n, 2)) if known else rng.uniform(0, 10, (n, 2))
            going = ~arrived(x)
            for _ in range(50):
                action = guide(x) + rng.normal(0, 0.3, (n, 2)) if known else rng.uniform(-1, 1, (n, 2))
                action = np.clip(action, -1, 1)
                after = moved(x, action)
                end = arrived(after)
                rows.append([v[going] for v in (x, action, np.where(end, 0.0, -3.0), NUMBERS["gamma"] * ~end, after)])
                count += int(going.sum())
                x, going = after, going & ~end
                if not going.any() or count >= size:
                    break
    columns = [torch.from_numpy(np.concatenate(c)[:ROWS]).float() for c in zip(*rows, strict=True)]
    returns = torch.linspace(0, 1000, ROWS)  # a range of 1,000: rewards stay as they are
    return Batch(*columns, extra={"episode_return": returns})


def judged(act: Any, low: tuple[float, float], seed: int) -> tuple[float, float]:
    """The part of 400 starts in the room at `low` that arrive, and the mean steps, LONGEST for who does not."""
    x = np.random.default_rng(seed).uniform(0, 5, (400, 2)) + low
    there, steps = arrived(x), np.zeros(400)
    for _ in range(LONGEST):
        steps += ~there
        x = np.where(there[:, None], x, moved(x, act(x)))
        there |= arrived(x)
    return float(there.mean()), float(steps.mean())


def course(arm: str, seeds: list[int], updates: int) -> list[dict[str, float]]:
    """All seeds at once, on a leading axis."""
    learner = odice.make(odice.Config(**(NUMBERS | ARMS[arm])), SPEC)
    data, states, n = [recorded(seed) for seed in seeds], [], len(seeds)
    for seed, rows in zip(seeds, data, strict=True):
        torch.manual_seed(seed)
        states.append(learner.given(learner.init(), rows) if learner.given else learner.init())
    flat = [torch.stack([getattr(b, k) for b in data]) for k in ("obs", "action", "reward", "discount", "next_obs")]
    state = stacked(states)
    many = replace(learner, update=lambda s, b, k: torch.vmap(lambda s, b: learner.update(s, b, k), randomness="different")(s, b))
    stepper, g, row = (
        Stepper(many, state, compile_after=200),
        torch.Generator().manual_seed(1000 + seeds[0]),
        torch.arange(n)[:, None],
    )
    with torch.no_grad():
        for _ in range(updates):
            index = torch.randint(ROWS, (n, 256), generator=g)
            stepper.step(Batch(*(column[row, index] for column in flat)))
    found = []
    at = torch.cartesian_prod(torch.linspace(0.25, 9.75, 39), torch.linspace(0.25, 9.75, 39))
    for i, seed in enumerate(seeds):
        s = tree_map(lambda x, i=i: x[i], stepper.state)
        act = lambda x, s=s: learner.act(learner.policy(s), torch.from_numpy(x).float(), False).numpy()
        with torch.no_grad():
            arrive, steps = judged(act, (0, 0), seed)
            beside = [judged(act, low, seed) for low in ((5.0, 0.0), (0.0, 5.0))]
            forward = learner.losses["forward"](s.value.params, s, Batch(at, at, at[:, 0], at[:, 0], at))[1]
        found.append(
            {
                "arrived": arrive, "steps": steps, "shifted_arrived": float(np.mean([a for a, _ in beside])),
                "shifted_steps": float(np.mean([b for _, b in beside])), "range_of_v": float(forward["range"]),
            }
        )  # fmt: skip
    return found


def stacked(states: list[Any]) -> Any:
    from thespis.core import leaves, rebuild

    each = [leaves(s) for s in states]
    return rebuild(states[0], {k: torch.stack([e[k] for e in each]) for k in each[0]})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for arm in ARMS:
        began = time.perf_counter()
        each = course(arm, args.seeds, args.updates)
        found[arm] = {k: {"mean": float(np.mean(v)), "interval95": interval(v), "each": v}
                      for k in each[0] for v in [[e[k] for e in each]]}  # fmt: skip
        found[arm]["lost_by_shift"] = found[arm]["arrived"]["mean"] - found[arm]["shifted_arrived"]["mean"]
        found[arm]["seconds"] = round(time.perf_counter() - began, 1)
        print(arm, {k: v["mean"] if isinstance(v, dict) else v for k, v in found[arm].items()}, flush=True)
    if args.dry:
        return
    about = {"what": (__doc__ or "").split("\n")[0], "command": "python bench/odice.py", "commit": commit(), "machine": machine()}
    keep("odice", about | {"seeds": args.seeds, "updates": args.updates, "numbers": NUMBERS, "found": found}, picture(found))


def picture(found: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {"arrived": "arrived", "shifted_arrived": "arrived, shifted starts", "range_of_v": "range of V"}
    for ax, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for i, arm in enumerate(found):
            ax.bar(i, found[arm][key]["mean"], color=COLOURS[arm], alpha=0.4)
            ax.plot([i] * len(found[arm][key]["each"]), found[arm][key]["each"], "o", color=COLOURS[arm], ms=4)
        ax.set(title=title, xticks=range(len(found)), xticklabels=list(found))
        plain(ax, "y")
    return figure


if __name__ == "__main__":
    main()
