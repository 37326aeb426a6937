"""Beam lines: SAC with a trend and convolutions, with a trend, and on readings alone, beside what knows the line and what tries.

    python bench/beam.py            bench/results/beam.json and beam.png

Arms learn for 10,000 steps with the numbers of the authors' code but layers of 64; all seeds at once by vmap.
The arms differ in the observation (30 or 10 numbers) and in the convolutions (`tbsac --filters 0` is SAC). "Either polarity": in
training that of all correctors is wrong by chance 1/2. Each seed is tried on 200 plants that it did not learn on, with its mean
action. "Response": the nominal response matrix's inverse, clipped to 1 A a step; "measured": each is moved by 1 A first.
"One at a time": a magnet goes on while the RMS falls, or turns, or the next one's turn comes; after a round without gain the step
is halved; 600 steps. An episode ends under 0.5 mm. "Below 1 mm": where it ends. "Steps": to the first reading below 1 mm, mean
over all episodes, those that never get there with all their steps. What was learnt is kept in runs/beam, and not learnt again.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import band, commit, keep, machine, plain
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from thespis.algos.continuous import tbsac
from thespis.core import Batch, Box, Spec, leaves, rebuild, tree_map
from thespis.worlds.beam import BeamOrbit, BeamTransmission

ARMS: dict[str, tuple[Any, str, int, dict[str, Any]]] = {
    "trend, convolution": (BeamOrbit, "trend", 4, {}),
    "readings": (BeamOrbit, "readings", 0, {}),
    "trend": (BeamOrbit, "trend", 0, {}),
    "trend, convolution, either polarity": (BeamOrbit, "trend", 4, {"reversal": 0.5}),
    "readings, either polarity": (BeamOrbit, "readings", 0, {"reversal": 0.5}),
    "transmission: trend, convolution": (BeamTransmission, "trend", 4, {}),
    "transmission: readings": (BeamTransmission, "readings", 0, {}),
}
"""name: (world, history, filters, what the world is given besides in training)"""
PLANTS: dict[str, dict[str, Any]] = {
    "nominal": {}, "solenoids +-5%": {"solenoid_error": 0.05}, "gains +-20%": {"gain_error": 0.2},
    "one polarity wrong": {"flipped": 1}, "all polarities wrong": {"reversal": 1.0},
}  # fmt: skip
STEPS, HIDDEN, BATCH, REPLAY, WARMUP, TRIALS = 10_000, 64, 256, 3_000, 500, 200
Act = Callable[[np.ndarray], np.ndarray]
"""what is seen (n, obs) -> actions (n, dim)"""


def learnt(arm: str, seeds: list[int], steps: int) -> dict[str, Any]:
    """An arm's returns, (seeds, episodes), and what its policies do on each plant."""
    world, history, filters, given = ARMS[arm]
    rows, n = world(history=history, **given).batched(len(seeds)), len(seeds)
    obs_dim, dim = rows.seen().shape[1], rows.action_dim
    made = tbsac.make(tbsac.Config(filters=filters, hidden=(HIDDEN, HIDDEN)), Spec(Box(obs_dim), Box(dim)))
    states = []
    for seed in seeds:
        torch.manual_seed(seed)
        states.append(made.init())
    s = rebuild(states[0], {k: torch.stack([leaves(x)[k] for x in states]) for k in leaves(states[0])})
    act = torch.vmap(lambda s, o: made.act(made.policy(s), o, True), randomness="different")
    rng, each, many = np.random.default_rng(seeds[0]), np.arange(n)[:, None], np.ones(n, bool)
    obs, number = rows.reset(seeds, many), np.zeros(n, int)
    replay = Batch(*(torch.zeros(n, REPLAY, *size) for size in ((obs_dim,), (dim,), (), (), (obs_dim,))))
    update = torch.vmap(lambda s, b: made.update(s, b, 0)[0], randomness="different")
    example = tree_map(lambda x: x[:, :BATCH], replay)
    update = torch.compile(make_fx(update)(s, example))  # the compiler alone does not see through vmap's gradients
    returns, total = list[list[float]]([] for _ in seeds), np.zeros(n)
    for t in range(steps):
        action = 2 * torch.rand(n, dim) - 1 if t < WARMUP else act(s, torch.from_numpy(obs)[:, None])[:, 0]
        new, reward, over, _ = rows.step(action.numpy(), many)
        discount = torch.from_numpy(np.where(over, 0, 0.99)).float()
        told = torch.from_numpy(obs), action, torch.from_numpy(reward), discount, torch.from_numpy(new)
        for column, x in zip(leaves(replay).values(), told, strict=True):
            column[:, t % REPLAY] = x
        obs, total = new, total + reward
        if (ended := over | (rows.steps >= rows.limit)).any():
            number += ended
            obs = np.where(
                ended[:, None], rows.reset([seed + 1_000 * int(i) for seed, i in zip(seeds, number, strict=True)], ended), obs
            )
            for i in np.flatnonzero(ended):
                returns[i].append(float(total[i]))
            total[ended] = 0
        if t >= WARMUP:
            drawn = torch.from_numpy(rng.integers(min(t + 1, REPLAY), size=(n, BATCH)))
            s = update(s, tree_map(lambda x, i=drawn: x[each, i], replay))
    mean = torch.vmap(lambda s, o: made.act(made.policy(s), o, False))

    def policy(seen: np.ndarray) -> np.ndarray:
        found: Tensor = mean(s, torch.from_numpy(seen).unflatten(0, (n, -1)))
        return found.flatten(0, 1).numpy()

    plants = PLANTS if world is BeamOrbit else {"nominal": {}, "one polarity wrong": {"flipped": 1}}
    tried = {k: outcome(world(history=history, **more).batched(n * TRIALS), policy, n) for k, more in plants.items()}
    return {"returns": returns, "plants": tried}


def outcome(rows: Any, policy: Act, seeds: int, steps: int | None = None) -> dict[str, Any]:
    """By seed: the parts that are solved, and below 1 mm; the last reading, steps; `rows` are reset here."""
    rows.limit, n = steps or rows.limit, len(rows.steps)
    obs, going = rows.reset(10**6 + np.arange(n), np.ones(n, bool)), np.ones(n, bool)
    orbit = hasattr(rows, "response")
    last, first = np.zeros(n), np.full(n, rows.limit)
    solved = np.zeros(n, bool)
    for t in range(rows.limit):
        obs, _, over, _ = rows.step(policy(obs), going)
        value = rows.told["rms_mm" if orbit else "transmission"]
        last = np.where(going, value, last)
        near = value < 1 if orbit else over
        first = np.where(going & near & (first == rows.limit), t + 1, first)
        solved, going = solved | (going & over), going & ~over
    parts = {"solved": solved, "below_1mm": last < 1} if orbit else {"solved": solved}
    return {k: x.reshape(seeds, -1).mean(1).round(3).tolist() for k, x in (parts | {"last": last, "steps": first}).items()}


def response(rows: Any) -> Act:
    """The nominal matrix's inverse: 1 A a step at most."""
    inverse = np.linalg.pinv(rows.nominal[1][0])
    return lambda seen: np.clip(-seen[:, -10:] @ inverse.T, -1, 1).astype(np.float32)


def measured(rows: Any) -> Act:
    """The same with a matrix that is measured first, in ten steps."""
    n, d, seen_before = len(rows.steps), rows.action_dim, list[np.ndarray]()
    inverse = np.zeros((n, d, d))

    def act(seen: np.ndarray) -> np.ndarray:
        seen_before.append(seen[:, -d:])
        if (t := len(seen_before) - 1) < d:
            return np.tile(np.eye(d, dtype=np.float32)[t], (n, 1))
        if t == d:
            inverse[:] = np.linalg.inv(np.diff(np.stack(seen_before, 2)).astype(np.float64))
        return np.clip(-(inverse @ seen[:, -d:, None])[..., 0], -1, 1).astype(np.float32)

    return act


def one_at_a_time(rows: Any, cost: Callable[[np.ndarray], np.ndarray]) -> Act:
    """What is left of a step that did not pay is taken back while the next is tried."""
    n, d = len(rows.steps), rows.action_dim
    magnet, way, size, gained = np.zeros(n, int), np.ones(n), np.full(n, 0.5), np.zeros(n, bool)
    turned, best, idle, started = np.zeros(n, bool), np.full(n, np.inf), np.zeros(n, int), [False]
    each = np.arange(n)

    def act(seen: np.ndarray) -> np.ndarray:
        now, action = cost(seen), np.zeros((n, d))
        better = now < best
        best[better] = now[better]
        if started[0]:
            gained[better], worse = True, ~better
            action[each[worse], magnet[worse]] -= (way * size)[worse]
            turn = worse & ~gained & ~turned
            go_on = worse & ~turn
            way[turn], turned[turn] = -way[turn], True
            idle[go_on] = np.where(gained, 0, idle + 1)[go_on]
            magnet[go_on] = (magnet[go_on] + 1) % d
            way[go_on], turned[go_on], gained[go_on] = 1, False, False
            tired = idle >= d
            size[tired], idle[tired] = np.maximum(size[tired] / 2, 0.05), 0
        started[0] = True
        action[each, magnet] += way * size
        return action.astype(np.float32)

    return act


def baselines() -> dict[str, Any]:
    def rms(seen: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(seen[:, -10:]).mean(1))

    found: dict[str, Any] = {name: {} for name in ("response", "measured", "one at a time", "random")}
    rng = np.random.default_rng(0)
    for plant, given in PLANTS.items():
        for name in found:
            rows = BeamOrbit(history="readings", **given).batched(5 * TRIALS)
            act = {
                "response": response(rows), "measured": measured(rows), "one at a time": one_at_a_time(rows, rms),
                "random": lambda seen: rng.uniform(-1, 1, seen.shape),
            }[name]  # fmt: skip
            found[name][plant] = outcome(rows, act, 5, 600 if name == "one at a time" else None)
    for steps in (40, 600):
        rows = BeamTransmission(history="readings").batched(5 * TRIALS)
        act = one_at_a_time(rows, lambda seen: -seen[:, 0])
        found[f"transmission: one at a time, {steps}"] = {"nominal": outcome(rows, act, 5, steps)}
    return found


COLOURS = {
    "trend, convolution": "#1f5fd1",
    "trend": "#2f8f5b",
    "readings": "#c4661f",
    "one at a time": "#888888",
    "response": "#444444",
}


def picture(found: dict[str, Any], others: dict[str, Any]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (curve, bars) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(2, 3))
    present = {arm: colour for arm, colour in COLOURS.items() if arm in found or arm in others}
    for arm in [arm for arm in present if arm in found]:
        shown = min(map(len, found[arm]["returns"])) // 10 * 10
        table = np.array([x[:shown] for x in found[arm]["returns"]]).reshape(len(found[arm]["returns"]), -1, 10).mean(-1)
        band(curve, np.arange(10, shown + 1, 10), table, COLOURS[arm], arm)
    curve.set(xlabel="episode", ylabel="return: mean and range of seeds")
    names = list(PLANTS)
    for i, (arm, colour) in enumerate(present.items()):
        table = np.array([(found[arm]["plants"] if arm in found else others[arm])[name]["below_1mm"] for name in names])
        at = np.arange(len(names)) + (i - 2) * 0.16
        bars.bar(
            at, table.mean(1), 0.15, color=colour, label=arm, yerr=[table.mean(1) - table.min(1), table.max(1) - table.mean(1)]
        )
    bars.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=8)
    bars.set(ylabel="part of episodes that end below 1 mm", ylim=(0, 1.05))
    for ax in (curve, bars):
        plain(ax)
    bars.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.07), ncols=5)
    return figure


def kept(name: str, make: Callable[[], dict[str, Any]]) -> Any:
    """What `make` finds, and the seconds it took; from runs/beam, where it has been found before."""
    file = Path("runs/beam", re.sub("[^a-z0-9]+", "-", name) + ".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        began = time.process_time()
        with torch.no_grad():
            found = make() | {"core_seconds": round(time.process_time() - began)}
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(found))
        aside.rename(file)
    return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="learn these alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for arm in args.arms:
        found[arm] = kept(f"{arm}-{args.steps}", lambda arm=arm: learnt(arm, args.seeds, args.steps))
        print(arm, found[arm]["core_seconds"], json.dumps(found[arm]["plants"]), flush=True)
    others = kept("baselines", baselines)
    command = "python bench/beam.py"
    if args.arms != list(ARMS):
        command += " --arms " + " ".join(map(json.dumps, args.arms))
    about = {"command": command, "commit": commit(), "machine": machine(), "seeds": args.seeds, "steps": args.steps}
    table = {arm: x["plants"] | {"core_seconds": x["core_seconds"]} for arm, x in found.items()} | others
    keep("beam", about | {"not_run": [arm for arm in ARMS if arm not in found], "measured": table}, picture(found, others))


if __name__ == "__main__":
    main()
