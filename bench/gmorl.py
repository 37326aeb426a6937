"""GMORL in mobile edge computing: one policy for all preferences beside a policy for each, LinUCB, greedy and random choice.

    python bench/gmorl.py                 every part that runs/gmorl lacks, then bench/results/gmorl.json and gmorl.png
    python bench/gmorl.py PART ...        these parts alone, of a few minutes each; results are of the parts that there are

Parts: "one": a policy trained with 1 to 4 edge servers, five seeds; "few": with 1 to 3, three seeds; "each-0", "each-1" and
"each-2": a policy for each of five preferences, a seed each; "others": the rest. The learner is the house's own, the seeds of a
part side by side by vmap; an epoch is 64 episodes, then 150 updates; 20 epochs, the first with random choices. Tested with 4 edge
servers on 21 preferences, 50 episodes each, the same for all. A point is the summed delay of an episode's tasks, each to its end,
and its joules, in the mean. Hypervolumes have one reference: the worst delay and the worst energy of all fronts and of random
choice, as in the paper; and once more of all points. LinUCB: one linear model of a server's row for each preference, 10 epochs of
16 episodes, exploration 1, then none. Greedy: least weighted cost of the task that waits, exactly; it knows what learners must
find. Costs are in units of 20 s and 50 mJ.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain

from thespis.algos.discrete import gmorl
from thespis.core import Batch, Box, Discrete, Spec, leaves, rebuild
from thespis.worlds.edge import SLOTS, STEPS, Servers

UNITS, GRID, EACH = np.array([20.0, 0.05]), np.linspace(0, 1, 21), [2, 6, 10, 14, 18]
SPEC = Spec(Box((1 + SLOTS) * 27), Discrete(1 + SLOTS), rewards=("delay", "energy"), horizon=STEPS)
EPOCHS, ENVS, UPDATES, EPISODES = 20, 64, 150, 50
FOLDER = Path("runs/gmorl")
Choose = Callable[[Servers, np.ndarray, np.ndarray], np.ndarray]
"""(world, observations, preferences (n, 2)) -> servers (n,)"""


def told(first: np.ndarray) -> np.ndarray:
    return np.stack([first, 1 - first], -1)


def front(choose: Choose, first: np.ndarray = GRID, edges: int = SLOTS) -> list[list[float]]:
    """(preferences, 2): seconds and joules of an episode."""
    world, preference = Servers(len(first) * EPISODES, (edges, edges)), np.repeat(told(first), EPISODES, 0)
    obs, total = world.reset(np.tile(10_000 + np.arange(EPISODES), len(first)).tolist()), 0.0
    for _ in range(STEPS):
        obs, reward = world.step(choose(world, obs, preference))
        total = total - reward
    return np.asarray(total).reshape(len(first), EPISODES, 2).mean(1).tolist()


def trained(seeds: list[int], edges: tuple[int, int], fixed: list[float | None]) -> list[list[list[float]]]:
    """A front for each seed: all preferences of the grid, or the fixed one alone."""
    n, cfg = len(seeds), gmorl.PRESETS["gmorl_edge"]
    learner, rng = gmorl.make(cfg, SPEC), np.random.default_rng([*seeds, edges[1]])
    each = []
    for seed in seeds:
        torch.manual_seed(seed)
        each.append(leaves(learner.init()))
    s = rebuild(learner.init(), {k: torch.stack([x[k] for x in each]) for k in each[0]})
    act = torch.vmap(lambda p, obs: learner.act(p, obs, True), randomness="different")
    update = torch.vmap(lambda s, b: learner.update(s, b, 0))
    obs = torch.zeros(n, EPOCHS, STEPS + 1, ENVS, SPEC.obs.dim + 2)
    action, reward = torch.zeros(n, EPOCHS, STEPS, ENVS, dtype=torch.long), torch.zeros(n, EPOCHS, STEPS, ENVS, 2)
    world, rows = Servers(n * ENVS, edges), torch.arange(n)[:, None]
    for epoch in range(EPOCHS):
        first = np.stack([rng.permutation((np.arange(ENVS) + 0.5) / ENVS) if w is None else np.full(ENVS, w) for w in fixed])
        preference = torch.from_numpy(told(first)).float()
        begun = [1_000_000 * seed + 1_000 * epoch + i for seed in seeds for i in range(ENVS)]
        seen = torch.from_numpy(world.reset(begun)).unflatten(0, (n, ENVS))
        obs[:, epoch, 0] = torch.cat([seen, preference], -1)
        for t in range(STEPS):
            chosen = act(s.actor.params, obs[:, epoch, t]) if epoch else torch.randint(1 + SLOTS, (n, ENVS))
            seen, gained = map(torch.from_numpy, world.step(chosen.flatten().numpy()))
            action[:, epoch, t], reward[:, epoch, t] = chosen, (gained / torch.from_numpy(UNITS)).float().unflatten(0, (n, ENVS))
            obs[:, epoch, t + 1] = torch.cat([seen.unflatten(0, (n, ENVS)), preference], -1)
        for _ in range(UPDATES):
            e, t, i = (torch.randint(most, (n, cfg.batch_size)) for most in (epoch + 1, STEPS, ENVS))
            at, discount = (rows, e, t, i), torch.full((n, cfg.batch_size, 2), cfg.gamma)
            s, metrics = update(s, Batch(obs[at], action[at], reward[at], discount, obs[rows, e, t + 1, i]))
        print(
            f"epoch {epoch}: {reward[:, epoch].sum((1, 2)).mean(0).div(ENVS).tolist()}", metrics["entropy"].tolist(), flush=True
        )

    def of(i: int) -> Choose:
        p = {k: x[i] for k, x in s.actor.params.items()}
        return lambda world, seen, w: learner.act(p, torch.from_numpy(np.concatenate([seen, w], 1)).float(), False).numpy()

    return [front(of(i), GRID if w is None else np.array([w])) for i, w in enumerate(fixed)]


def linucb(seed: int) -> list[list[float]]:
    n, many, d = len(GRID), 16, 28
    inverse, b, world = np.tile(np.eye(d), (n, 1, 1)), np.zeros((n, d)), Servers(len(GRID) * 16, (1, SLOTS))
    preference = np.repeat(told(GRID), many, 0)

    def features(obs: np.ndarray) -> np.ndarray:  # (preferences, episodes, servers, d)
        rows = obs.reshape(n, -1, 1 + SLOTS, d - 1).astype(float)
        return np.concatenate([rows, np.ones_like(rows[..., :1])], -1)

    def choose(world: Servers, obs: np.ndarray, explore: float) -> tuple[np.ndarray, np.ndarray]:
        x = features(obs)
        value = np.einsum("pesd,pd->pes", x, np.einsum("pij,pj->pi", inverse, b))
        if explore:
            value = value + explore * np.sqrt(np.einsum("pesi,pij,pesj->pes", x, inverse, x, optimize=True))
        best = np.where(world.there.reshape(value.shape), value, -np.inf).argmax(-1)
        return best, x

    for epoch in range(10):
        obs = world.reset([1_000_000 * seed + 1_000 * epoch + i for i in range(n * many)])
        for _ in range(STEPS):
            waits = world._task().reshape(n, many) > 0
            chosen, x = choose(world, obs, 1.0)
            obs, reward = world.step(chosen.ravel())
            gain = (preference * reward / UNITS).sum(-1).reshape(n, many)
            x = np.take_along_axis(x, chosen[..., None, None], 2)[:, :, 0] * waits[..., None]
            inverse = np.linalg.inv(np.linalg.inv(inverse) + np.einsum("pei,pej->pij", x, x))
            b += np.einsum("pei,pe->pi", x, gain)
    return front(lambda world, obs, _: choose(world, obs, 0)[0].ravel())


def greedy(world: Servers, obs: np.ndarray, preference: np.ndarray) -> np.ndarray:
    return (world.costs() / UNITS * np.maximum(preference, 1e-9)[:, None]).sum(-1).argmin(-1)


def others() -> dict[str, Any]:
    rng, one = np.random.default_rng(0), np.array([0.5])
    turn = iter(range(10**9))
    fixed: dict[str, Choose] = {
        "random": lambda world, *_: np.where(world.there, rng.random(world.there.shape), -1).argmax(-1),
        "all to the cloud": lambda world, *_: np.zeros(world.n, int),
        "edges in turn": lambda world, *_: np.full(world.n, 1 + next(turn) % SLOTS),
    }
    found: dict[str, Any] = {name: [front(choose, one)] for name, choose in fixed.items()}
    found["greedy"] = [front(greedy)]
    found["linucb"] = [linucb(seed) for seed in range(5)]
    world, began = Servers(1024), time.process_time()
    world.reset(range(1024))
    drawn, begun = time.process_time() - began, time.process_time()
    for _ in range(STEPS):
        world.step(rng.integers(1 + SLOTS, size=1024))
    spent = time.process_time() - begun
    found["steps_per_core_second"] = {
        "stepping": round(1024 * STEPS / spent),
        "with resets": round(1024 * STEPS / (spent + drawn)),
    }
    return found


def volume(points: Any, worst: np.ndarray) -> float:
    """What part of the box from 0 to `worst` some point is better in."""
    total, low = 0.0, worst[1]
    for delay, energy in sorted(map(tuple, points)):
        if delay < worst[0] and energy < low:
            total, low = total + (worst[0] - delay) * (low - energy), energy
    return float(total / worst.prod())


def summary(parts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Of the parts that there are."""
    fronts = {"gmorl": parts["one"], **parts["others"]}
    speed, rules = fronts.pop("steps_per_core_second"), ("all to the cloud", "edges in turn")
    if "few" in parts:
        fronts["gmorl, trained with 1 to 3"] = parts["few"]
    if each := [[x[0] for x in parts[name]] for name in PARTS if name.startswith("each") and name in parts]:
        fronts["a policy for each"], fronts["gmorl, at these five"] = each, [[x[i] for i in EACH] for x in parts["one"]]
    tables = {name: np.array(x) for name, x in fronts.items()}
    numbers: dict[str, Any] = {}
    for what, names in (("fronts and random", [k for k in tables if k not in rules]), ("all points", list(tables))):
        worst = np.max([tables[name].reshape(-1, 2).max(0) for name in names], 0)
        v = {name: [100 * volume(points, worst) for points in tables[name]] for name in names}
        mean = {name: float(np.mean(x)) for name, x in v.items()}
        numbers[f"hypervolume, reference of {what}"] = {
            "reference": {"seconds": round(float(worst[0])), "joules": round(float(worst[1]), 2)},
            "of": {name: {"mean": round(mean[name], 2), "seeds": np.round(v[name], 2).tolist()} for name in names},
            "gmorl_over": {name: round(mean["gmorl"] / mean[name], 3) for name in names if mean[name] and name != "gmorl"},
        }
        if each:
            numbers[f"hypervolume, reference of {what}"]["at_five_over_a_policy_for_each"] = round(
                mean["gmorl, at these five"] / mean["a policy for each"], 4
            )
    cost = {k: (tables[k] / UNITS * told(GRID)).sum(-1) for k in ("gmorl", "linucb", "greedy")}
    if "few" in parts:
        cost["gmorl, trained with 1 to 3"] = (tables["gmorl, trained with 1 to 3"] / UNITS * told(GRID)).sum(-1)
    numbers["weighted cost, mean of 21 preferences"] = {k: np.round(x.mean(-1), 2).tolist() for k, x in cost.items()}
    numbers["preferences_at_which_every_seed_costs_less_than_every_seed_of_linucb"] = int(
        (cost["gmorl"].max(0) < cost["linucb"].min(0)).sum()
    )
    if each:
        five = [(tables[k] / UNITS * told(GRID[EACH])).sum(-1).mean(0) for k in ("gmorl, at these five", "a policy for each")]
        numbers["weighted_cost_over_that_of_a_policy_for_each"] = (five[0] / five[1]).round(3).tolist()
    rank = lambda x: np.argsort(np.argsort(x))
    ordered = [[np.corrcoef(rank(x), np.arange(21))[0, 1] for x in (-s[:, 0], s[:, 1])] for s in tables["gmorl"]]
    numbers["rank_correlation_of_the_weight_of_delay"] = dict(
        zip(("with less delay", "with more energy"), np.mean(ordered, 0).round(4).tolist(), strict=True)
    )
    return numbers | {"steps_per_core_second": speed}, tables


def picture(tables: dict[str, np.ndarray]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, colour in {
        "gmorl": "#1f5fd1",
        "gmorl, trained with 1 to 3": "#4fa3d9",
        "linucb": "#c4661f",
        "greedy": "#444444",
    }.items():
        for i, x in enumerate(tables.get(name, [])):
            axes.plot(x[:, 0], x[:, 1], "o-", ms=3, lw=1, color=colour, alpha=0.7, label=None if i else name)
    for name, colour, mark in (
        ("a policy for each", "#2f8f5b", "s"),
        ("random", "#aaaaaa", "X"),
        ("all to the cloud", "#aa3333", "^"),
        ("edges in turn", "#8a4fbf", "v"),
    ):
        if name in tables:
            x = tables[name].reshape(-1, 2)
            axes.plot(x[:, 0], x[:, 1], mark, ms=5, color=colour, ls="", label=name)
    axes.set(xscale="log", xlabel="summed delay of an episode's tasks, s", ylabel="energy of an episode, J")
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    return figure


PARTS: dict[str, Callable[[], Any]] = {
    "others": others,
    "one": lambda: trained(list(range(5)), (1, SLOTS), [None] * 5),
    **{f"each-{i}": lambda i=i: trained([100 + i] * 5, (1, SLOTS), GRID[EACH].tolist()) for i in range(3)},
    "few": lambda: trained(list(range(3)), (1, 3), [None] * 3),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    args = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in args.parts or PARTS:
        if not (place := FOLDER / f"{name}.json").exists():
            began = time.process_time()
            found = PARTS[name]()
            place.write_text(json.dumps({"found": found, "commit": commit(), "core_seconds": round(time.process_time() - began)}))
    kept = {name: json.loads(place.read_text()) for name in PARTS if (place := FOLDER / f"{name}.json").exists()}
    if not {"one", "others"} <= kept.keys():
        return
    numbers, tables = summary({name: x["found"] for name, x in kept.items()})
    about = {
        "command": " ".join(["python bench/gmorl.py", *args.parts]),
        "commit": kept["one"]["commit"],
        "machine": machine(),
        "seeds": list(range(5)),
    }
    numbers["core_seconds"] = {name: x["core_seconds"] for name, x in kept.items()}
    numbers["fronts"] = {name: x.mean(0).round(3).tolist() for name, x in tables.items()}
    keep("gmorl", about | numbers, picture(tables))


if __name__ == "__main__":
    main()
