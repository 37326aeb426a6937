"""AC-Flow beside ORW-CFM-W2 on eight Gaussians, or on digits: reward against distance from the field that both begin as.

    python bench/ac_flow.py                     bench/results/ac_flow.json and ac_flow.png
    python bench/ac_flow.py --world digits      bench/results/ac_flow_digits.json and ac_flow_digits.png
    python bench/ac_flow.py --dry               prints, and keeps nothing

A proxy of ours: no world and no number of the papers. Five seeds, each with a field of its own, pretrained on what the world
recorded (points of all eight clouds alike; digits asked for by their class). Then 200 rounds of 128 samples, 4 updates a
round, for every tau and beta of both algorithms, AC-Flow's warm-up included; the judge's word has normal noise of spread 0.3.
Judged on 1,000 samples from the same noise: the mean reward without noise; the mean of a held-out judge; W2, exact, to the
samples of the pretrained field; on Gaussians the entropy of which cloud is nearest (2.08 at most), on digits the spread, the
root mean square distance of a sample from the mean of its class. All arms of an algorithm run side by side, by vmap. Front: of
each seed, the best reward at a W2 by straight lines through the arms of one tau; compared at the W2s that both algorithms
reach in every seed. Dip: how far the mean reward of ten rounds falls below that of the first round, at most.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from thespis import nets
from thespis.algos.flow import ac_flow, flow_matching, orw_cfm_w2
from thespis.core import Batch, Box, Spec, leaves, rebuild, tree_map
from thespis.worlds.samples import DrawnDigits, Gaussians, Samples, normal

SEEDS, NET = (0, 1, 2, 3, 4), {"hidden": (64, 64, 64), "ode_steps": 10}
TAUS, BETAS, NOISE, MANY = (1.0, 2.0), (0.0, 0.1, 0.3, 1.0), 0.3, 128
COLOURS = {"orw_cfm_w2": "#c4661f", "ac_flow": "#1f5fd1"}
STUDENT = 2.776  # of five seeds, 95%
WORLD: Samples = Gaussians()
SPEC = Spec(Box(2), Box(2))


def stacked(make: Any, seeds: Any) -> Any:
    """States of `make`, one a seed, on a leading axis."""
    each = []
    for seed in seeds:
        torch.manual_seed(seed)
        each.append(make())
    return rebuild(each[0], {k: torch.stack([leaves(s)[k] for s in each]) for k in leaves(each[0])})


def pretrained(updates: int) -> Any:
    """States of flow_matching, (seeds, ...)."""
    obs, points = (torch.from_numpy(WORLD.recorded()[k]) for k in ("observations", "actions"))
    learner = flow_matching.make(flow_matching.Config(**NET), SPEC)
    state, g = stacked(learner.init, SEEDS), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(updates):
            pick = torch.randint(len(points), (len(SEEDS), 256), generator=g)
            seen, x, zero = obs[pick], points[pick], torch.zeros(pick.shape)
            state, _ = torch.vmap(learner.update, randomness="different")(state, Batch(seen, x, zero, zero, seen))
    return state


def samples(actor: Any, obs: Tensor) -> Tensor:
    """(R, ...) parameters, (N, C + D) or (R, N, C + D) observations -> (R, N, D)."""
    act = flow_matching.make(flow_matching.Config(**NET), SPEC).act
    with torch.no_grad():
        return torch.vmap(lambda p, z: act({"actor": p}, z, False), (0, 0 if obs.dim() == 3 else None))(actor, obs)


def various(obs: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """How unlike each other the samples are."""
    if isinstance(WORLD, Gaussians):
        cloud = np.square(x[:, None] - WORLD.centres).sum(-1).argmin(1)
        share = np.bincount(cloud, minlength=8) / len(cloud)
        return {"entropy": -(share[share > 0] * np.log(share[share > 0])).sum()}
    asked = obs.argmax(1)
    far = [np.square(x[asked == k] - x[asked == k].mean(0)).sum(1) for k in range(10)]
    return {"spread": np.concatenate(far).mean() ** 0.5}


def judged(obs: Tensor, x: Tensor, before: Tensor) -> list[dict[str, float]]:
    """Of samples (R, N, D), beside those that the pretrained fields make of the same observations (N, C + D)."""
    out, asked = [], obs[:, : -WORLD.dim].numpy()
    for here, there in zip(x.numpy(), before.numpy(), strict=True):
        told = WORLD.judge(asked, here, np.zeros(len(here)))
        row = {"reward": told["true"].mean(), "held_out": told["held_out"].mean()} | various(asked, here)
        cost = cdist(here, there, "sqeuclidean")
        row["w2"] = cost[linear_sum_assignment(cost)].mean() ** 0.5
        out.append({k: float(v) for k, v in row.items()})
    return out


def course(module: Any, arms: list[dict[str, float]], begin: Any, rounds: int) -> tuple[Any, list[Any]]:
    """The fields (arms * seeds, ...) after so many rounds, and the mean true reward (arms, seeds) of each round's samples.
    Arms differ in numbers that are tensors here: tau, beta, ..."""
    names, n = sorted(arms[0]), len(arms) * len(SEEDS)
    grid = torch.tensor([[arm[k] for k in names] for arm in arms for _ in SEEDS])
    base = module.Config(**NET)
    learner = module.make(base, SPEC)
    state = stacked(learner.init, SEEDS * len(arms))
    actor = replace(state.actor, params={k: p.repeat(len(arms), *[1] * (p.dim() - 1)) for k, p in begin.actor.params.items()})
    state, curve = replace(state, actor=actor), []

    def prepare(s: Any, rollout: Batch) -> Any:
        return learner.prepare(s, rollout)[:2]

    def update(row: Tensor, s: Any, b: Batch) -> Any:
        return module.make(replace(base, **dict(zip(names, row, strict=True))), SPEC).update(s, b, 0)

    torch.manual_seed(0)
    with torch.no_grad():
        for i in range(rounds):
            obs = torch.from_numpy(WORLD.seen(np.arange(len(SEEDS) * MANY) + (i + 1) * 10**6)).view(len(SEEDS), MANY, -1)
            obs = obs.repeat(len(arms), 1, 1)
            x = samples(state.actor.params, obs)
            asked, flat = (y.flatten(0, 1).numpy().astype(np.float64) for y in (obs[..., : -WORLD.dim], x))
            true = WORLD.judge(asked, flat, np.zeros(len(flat)))["true"].reshape(n, MANY)
            spread = NOISE * normal(np.arange(len(SEEDS) * MANY) + i * 10**6, 1, 1).reshape(len(SEEDS), MANY)
            reward = torch.from_numpy(true + np.tile(spread, (len(arms), 1))).float()
            curve.append(true.mean(1).reshape(len(arms), -1))
            rollout = tree_map(lambda y: y.unsqueeze(1), Batch(obs, x, reward, torch.zeros_like(reward), obs))
            state, rows = torch.vmap(prepare)(state, rollout)
            for _ in range(base.epochs):
                state, _ = torch.vmap(update, randomness="different")(grid, state, rows)
    return state, curve


def explained(state: ac_flow.State, obs: Tensor, x: Tensor) -> dict[str, float]:
    """Of the variance of the standardised reward of samples x (R, N, D), the part that the critics know at a time."""
    asked = obs[:, : -WORLD.dim].expand(len(x), -1, -1)
    critic, out = nets.timed(WORLD.dim, asked.shape[-1], ac_flow.Config().critic_hidden, 1), {}
    told = WORLD.judge(asked.flatten(0, 1).numpy(), x.flatten(0, 1).numpy(), np.zeros(x[..., 0].numel()))
    reward = torch.from_numpy(told["true"]).view(len(x), -1)
    seen = state.seen
    reward = (reward - seen["mean"]) / (seen["var"] + 1e-8).sqrt()
    for when in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full_like(x[..., :1], when)
        point = torch.lerp(torch.randn_like(x), x, t)
        with torch.no_grad():
            v = torch.vmap(critic.apply)(state.critic.params, point, t, asked).squeeze(-1)
        part = 1 - (reward - v).square().mean(1) / (reward.var(1, correction=0) + 1e-8)
        out[f"{when:g}"] = round(float(part.median()), 3)
    return out


def mean(x: Any) -> dict[str, Any]:
    """Over seeds, with its 95% interval."""
    x = np.asarray(x, float)
    half = STUDENT * x.std(ddof=1) / len(x) ** 0.5
    return {"mean": round(float(x.mean()), 3), "interval": [round(float(x.mean() + k * half), 3) for k in (-1, 1)]}


def front(arms: list[dict[str, float]], rows: list[list[dict[str, float]]], at: np.ndarray) -> np.ndarray:
    """The best reward of each seed at the W2s `at`, (seeds, W2s): nan where no tau reaches it. rows: [arm][seed]."""
    best = np.full((len(SEEDS), len(at)), np.nan)
    for tau in {arm["tau"] for arm in arms}:
        mine = [row for arm, row in zip(arms, rows, strict=True) if arm["tau"] == tau]
        for seed in range(len(SEEDS)):
            x, y = np.array(sorted((row[seed]["w2"], row[seed]["reward"]) for row in mine)).T
            best[seed] = np.fmax(best[seed], np.interp(at, x, y, np.nan, np.nan))
    return best


def dip(curve: np.ndarray) -> np.ndarray:
    """(rounds, seeds) -> (seeds,): how far ten rounds fall below the first, 0 where they never do."""
    means = np.stack([curve[i : i + 10].mean(0) for i in range(len(curve) - 9)])
    return np.maximum(curve[0] - means.min(0), 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--pretrain", type=int, default=4_000)
    parser.add_argument("--world", choices=("gaussians", "digits"), default="gaussians")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.world == "digits":
        global WORLD, SPEC
        WORLD, SPEC = DrawnDigits(), Spec(Box(74), Box(64))
        NET["hidden"] = (128, 128, 128)
    began = time.perf_counter()
    begin = pretrained(args.pretrain)
    obs = torch.from_numpy(WORLD.seen(np.arange(1_000) + 7))
    before = samples(begin.actor.params, obs)
    start = judged(obs, before, before)
    base = [{"tau": tau, "beta": beta} for tau in TAUS for beta in BETAS]
    full = [arm | {"advantage_clip": 2.0, "critic_only": 100.0} for arm in base]
    ablations = [full[2] | {"critic_only": 0.0}, full[2] | {"advantage_clip": 1e6}]
    found: dict[str, Any] = {"start": {k: mean([row[k] for row in start]) for k in start[0]}}
    drawn, tables, curves = {"pretrained": before[0]}, {}, {}
    for name, module, arms in (("orw_cfm_w2", orw_cfm_w2, base), ("ac_flow", ac_flow, full + ablations)):
        state, curve = course(module, arms, begin, args.rounds)
        x = samples(state.actor.params, obs)
        told = judged(obs, x, before.repeat(len(arms), 1, 1))
        rows = [told[i * len(SEEDS) : (i + 1) * len(SEEDS)] for i in range(len(arms))]
        tables[name], table = rows[: len(base)], np.stack(curve)
        found[name] = []
        for i, arm in enumerate(arms):
            words = {k: mean([row[k] for row in rows[i]]) for k in rows[i][0]} | {"dip": mean(dip(table[:, i]))}
            found[name].append({k: round(v, 3) for k, v in arm.items()} | words)
            print(name, found[name][-1], flush=True)
            curves[name, i] = table[:, i].T
        drawn |= {f"{name}, beta {arms[i]['beta']:g}": x[i * len(SEEDS)] for i in (0, 2)}
        if module is ac_flow:
            found["explained"] = explained(
                tree_map(lambda y: y[: len(base) * len(SEEDS)], state), obs, x[: len(base) * len(SEEDS)]
            )
    at = np.round(np.arange(0.1, 1.2, 0.1), 1) if args.world == "gaussians" else np.round(np.arange(0.5, 6.1, 0.5), 1)
    both = [front(base, tables[name], at) for name in ("orw_cfm_w2", "ac_flow")]
    reached = np.isfinite(both[0] + both[1]).all(0)
    found["front"] = {
        f"{w:g}": {"orw_cfm_w2": mean(a), "ac_flow": mean(b), "difference": mean(b - a)}
        for w, a, b in zip(at[reached], both[0].T[reached], both[1].T[reached], strict=True)
    }
    print(found["front"], found.get("explained"), flush=True)
    if not args.dry:
        more, name = ("", "ac_flow") if args.world == "gaussians" else (" --world digits", "ac_flow_digits")
        about = {"command": "python bench/ac_flow.py" + more, "commit": commit(), "machine": machine(), "seeds": SEEDS}
        numbers = {"rounds": args.rounds, "pretrain": args.pretrain, "seconds": round(time.perf_counter() - began)}
        keep(name, about | numbers | found, picture(found, curves, drawn, obs))


def picture(found: dict[str, Any], curves: dict[Any, np.ndarray], drawn: dict[str, Tensor], obs: Tensor) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12.5, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 10, height_ratios=(3, 2))
    ax, ways = figure.add_subplot(grid[0, :5]), figure.add_subplot(grid[0, 5:])
    for name, colour in COLOURS.items():
        for tau, mark in zip(TAUS, "os", strict=True):
            arms = [arm for arm in found[name][: len(TAUS) * len(BETAS)] if arm["tau"] == tau]
            x, y = ([arm[k]["mean"] for arm in arms] for k in ("w2", "reward"))
            ax.plot(
                x, y, color=colour, marker=mark, ms=5, lw=1.5, ls="-" if tau == TAUS[0] else "--", label=f"{name}, tau {tau:g}"
            )
    ax.set(xlabel="W2 to the samples of the pretrained field", ylabel="mean reward, five seeds", title="each point a beta")
    for (name, i), table in curves.items():
        if i in (0, 2, 8):
            kind = {0: "beta 0", 2: "beta 0.3", 8: "beta 0.3, no warm-up"}[i]
            ways.plot(table.mean(0), color=COLOURS[name], ls={0: "-", 2: "--", 8: ":"}[i], lw=1.5, label=f"{name}, {kind}")
    ways.set(xlabel="round", ylabel="mean reward of its samples", title="tau 1")
    for axes in (ax, ways):
        plain(axes)
        axes.legend(frameon=False, fontsize=8)
    for i, (name, x) in enumerate(drawn.items()):
        small = figure.add_subplot(grid[1, 2 * i : 2 * i + 2])
        if isinstance(WORLD, Gaussians):
            small.scatter(*WORLD.centres.T, s=260, facecolors="none", edgecolors="#cccccc")
            small.scatter(*WORLD.centres[WORLD.liked].T, s=260, facecolors="none", edgecolors="#c4661f")
            small.scatter(*x[:300].T, s=2, color="#1f5fd1")
            small.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        else:
            small.imshow(WORLD.draw(obs.numpy(), x.numpy())[:, :300])
        small.set(title=name, xticks=[], yticks=[])
        small.title.set_fontsize(9)
    return figure


if __name__ == "__main__":
    main()
