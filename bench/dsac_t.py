"""What three refinements buy: DSAC-T beside DSAC and SAC, as rewards are scaled, and how far each critic is from the truth.

    python bench/dsac_t.py run              every part and algorithm that is not done yet
    python bench/dsac_t.py run settled      one part: scale, bias, settled or wide
    python bench/dsac_t.py report           bench/results/dsac_t.json and dsac_t.png, from the raw results

scale: Pendulum-v1 with rewards times 0.01 to 100, three seeds each. The score is the return in the task's own units, from 0 (a
random policy, -1,230 here) to 1 (the best that any algorithm reached at any scale).
bias: InvertedDoublePendulum-v5, three seeds. Critics' values along episodes of the policy, less the discounted soft return that
followed (rewards, and alpha times the entropy of every later step), over the steps whose next 500, or all, were played.
settled: the same at a discount of 0.9, five seeds, with SAC of one critic too, after so many updates that the slow
targets have caught up: N tau (1 - gamma) = 5, so that a constant part of the value is there to 1 - e^-5 = 99.3% (`bias`: to 63%
for SAC, to 39% for the others, whose targets move at every second update). So 10,000 updates of SAC and 20,000 of the others.
wide (hours, and not run yet): InvertedDoublePendulum-v5, where a wrong scale costs the episode, rewards times 0.01 to 100, five
seeds, 60,000 updates; with DSAC-T without its bound and without its weights, and SAC with a fixed temperature.
All algorithms: two hidden layers of 64, batch 64, step size 1e-3, 500 random steps, an update every five steps (the authors:
every twenty); else their defaults.
Raw results lie in bench/results/raw/dsac_t/PART-ALGORITHM.jsonl, a line a seed. Settings were tried on seeds from 100 on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import interval
from record import commit, keep, plain, write_rows
from together import Together, one

from thespis.algos.continuous import dsac, dsac_t, sac
from thespis.core import Batch

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "dsac_t"
ALGORITHMS = {"DSAC-T": (dsac_t, "#1f5fd1"), "DSAC": (dsac, "#2f8f5b"), "SAC": (sac, "#c4661f")}
SMALL: dict[str, Any] = {"hidden": (64, 64), "batch_size": 64, "lr": 1e-3, "warmup": 500, "updates_per_step": 0.2}
SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
ONE_CRITIC = "SAC, one critic"
EACH = {name: colour for name, (_, colour) in ALGORITHMS.items()} | {ONE_CRITIC: "#8a4fbf"}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    ONE_CRITIC: (sac, {"critics": 1}), "SAC, alpha 0.2": (sac, {"alpha": 0.2}),
    "DSAC-T, no bound": (dsac_t, {"huber": None}), "DSAC-T, weight 1": (dsac_t, {"weight": (1.0, 1.0)}),
}  # fmt: skip
SEEDS, SETTLED_SEEDS = range(3), range(5)
STEPS = {"scale": 100_000, "bias": 100_000}
RANDOM = -1_230.0  # mean return of uniformly random actions on Pendulum-v1, 1,000 episodes


def learners(name: str, env: str, seeds: Sequence[int], scales: Sequence[float] | None = None, **numbers: Any) -> Together:
    algo, own = VARIANTS[name] if name in VARIANTS else (ALGORITHMS[name][0], {})
    numbers |= own if algo is sac else {"alpha_lr": 1e-3, **own}
    cfg = algo.Config(**SMALL, **numbers)
    return Together(algo.make, cfg, env, seeds, scales)


def scale(name: str) -> list[dict[str, Any]]:
    """Returns of 20 episodes after training, for each seed at each scale."""
    pairs = [(seed, x) for seed in SEEDS for x in SCALES]
    many = learners(name, "Pendulum-v1", [s for s, _ in pairs], [x for _, x in pairs])
    many.train(STEPS["scale"], 20_000, 2, lambda t, r: print(f"{name} step {t:,}: {r.mean(1).reshape(-1, 5).mean(0).round()}"))
    returns = many.evaluate(20)
    return [{"seed": s, "scale": x, "return_mean": float(r.mean())} for (s, x), r in zip(pairs, returns, strict=True)]


def bias(name: str) -> list[dict[str, Any]]:
    many = learners(name, "InvertedDoublePendulum-v5", list(SEEDS))
    many.train(STEPS["bias"], 20_000, 2, lambda t, r: print(f"{name} step {t:,}: {r.mean(1).round()}"))
    return [{"seed": seed} | _bias(many, i) for i, seed in enumerate(SEEDS)]


def settled(name: str) -> list[dict[str, Any]]:
    many = learners(name, "InvertedDoublePendulum-v5", list(SETTLED_SEEDS), gamma=0.9)
    steps = SMALL["warmup"] + round((10_000 if name.startswith("SAC") else 20_000) / SMALL["updates_per_step"])
    many.train(steps, 10_000, 2, lambda t, r: print(f"{name} step {t:,}: {r.mean(1).round()}", flush=True))
    return [{"seed": seed} | _bias(many, i, gamma=0.9, tail=100) for i, seed in enumerate(SETTLED_SEEDS)]


def _bias(many: Together, i: int, episodes: int = 20, tail: int = 500, gamma: float = 0.99) -> dict[str, float]:
    """Mean value less mean soft return of one learner, over steps whose future is known: the rest is below gamma^tail < 0.7%."""
    learner, state = many.learner, one(many.state, i)
    policy, world = learner.policy(state), many.world.make()
    alpha, gaps, values = float(state.log_alpha.params["x"].exp()), [], []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for episode in range(episodes):
            obs, _ = world.reset(seed=2_000_000 + episode)
            seen, did, rewards, over = [], [], [], False
            while not over:
                action = learner.act(policy, torch.from_numpy(obs)[None], True)[0].numpy()
                seen.append(obs)
                did.append(action)
                obs, reward, terminated, truncated, _ = world.step(action)
                rewards.append(float(reward))
                over = terminated or truncated
            batch = Batch(
                *(torch.as_tensor(np.array(x)) for x in (seen, did)), *torch.zeros(2, len(seen)), torch.as_tensor(np.array(seen))
            )
            actor = torch.vmap(learner.losses["actor"], in_dims=(None, None, 0), randomness="different")
            alone = Batch(*(x[:, None] for x in (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs)))
            entropy = torch.stack([actor(state.actor.params, state, alone)[1]["entropy"] for _ in range(8)]).mean(0).numpy()
            critic = torch.vmap(learner.losses["critic"], in_dims=(None, None, 0), randomness="different")
            q = critic(state.critic.params, state, alone)[1]["q"].numpy()
            soft, after = np.zeros(len(seen)), 0.0
            for t in reversed(range(len(seen))):
                soft[t] = rewards[t] + after
                after = gamma * (soft[t] + alpha * entropy[t])
            known = len(seen) if terminated else max(len(seen) - tail, 0)
            gaps += (q - soft)[:known].tolist()
            values += soft[:known].tolist()
    return {"bias": float(np.mean(gaps)), "soft_return": float(np.mean(values)), "alpha": alpha}


def wide(name: str, updates: int = 60_000) -> list[dict[str, Any]]:
    """Returns of 20 episodes after training, for each seed at each scale."""
    pairs = [(seed, x) for seed in SETTLED_SEEDS for x in SCALES]
    many = learners(name, "InvertedDoublePendulum-v5", [s for s, _ in pairs], [x for _, x in pairs])
    many.train(SMALL["warmup"] + round(updates / SMALL["updates_per_step"]))
    return [{"seed": s, "scale": x, "return_mean": float(r.mean())} for (s, x), r in zip(pairs, many.evaluate(20), strict=True)]


PARTS = {
    "scale": (scale, list(ALGORITHMS)), "bias": (bias, list(ALGORITHMS)), "settled": (settled, list(EACH)),
    "wide": (wide, [*ALGORITHMS, *(name for name in VARIANTS if name != ONE_CRITIC)]),
}  # fmt: skip


def rows(part: str, name: str) -> list[dict[str, Any]]:
    path = RAW / f"{part}-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(parts: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for part in parts:
        for name in PARTS[part][1]:
            if not rows(part, name):
                found = PARTS[part][0](name)
                write_rows(RAW / f"{part}-{name}.jsonl", [row | {"commit": commit()} for row in found])


def report(made_at: str) -> None:
    from matplotlib.figure import Figure

    made = {part: {row.get("commit", made_at) for name in PARTS[part][1] for row in rows(part, name)} for part in PARTS}
    result: dict[str, Any] = {
        "command": "python bench/dsac_t.py run",
        "commit": "; ".join(f"{part}: {', '.join(sorted(at))}" for part, at in made.items() if at),
        "seeds": list(SEEDS), "steps": STEPS,
    }  # fmt: skip
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 2, 2))
    table = {n: {(r["scale"], r["seed"]): r["return_mean"] for r in rows("scale", n)} for n in ALGORITHMS}
    best = max(np.mean([t[x, s] for s in SEEDS]) for t in table.values() if t for x in SCALES)
    for name, (_, colour) in ALGORITHMS.items():
        if t := table[name]:
            scores = np.array([[(t[x, s] - RANDOM) / (best - RANDOM) for x in SCALES] for s in SEEDS])
            own = scores.mean(0) / scores.mean(0).max()
            result.setdefault("scale", {})[name] = {
                "returns": {str(x): float(np.mean([t[x, s] for s in SEEDS])) for x in SCALES},
                "score": {str(x): float(v) for x, v in zip(SCALES, scores.mean(0), strict=True)},
                "interval95": {str(x): interval(v) for x, v in zip(SCALES, scores.T.tolist(), strict=True)},
                "share_of_own_best": {str(x): float(v) for x, v in zip(SCALES, own, strict=True)},
                "within_20_percent_of_own_best_at_all": bool((own >= 0.8).all()),
            }
            left.plot(SCALES, scores.mean(0), color=colour, marker="o", lw=2, label=name)
            left.fill_between(SCALES, scores.min(0), scores.max(0), color=colour, alpha=0.15, lw=0)
    left.set(xscale="log", xlabel="rewards times", ylabel="score: random 0, best 1", title="Pendulum-v1: the same task, scaled")
    left.legend(frameon=False, title="band: lowest to highest seed", title_fontsize=9, alignment="left")
    for part, axes in (("bias", middle), ("settled", right)):
        names = [name for name in EACH if rows(part, name)]
        result[part] = {name: biases(part, name) for name in names}
        for at, (name, told) in enumerate(result[part].items()):
            axes.scatter([at] * len(told["percent"]), told["percent"], color=EACH[name], s=28, zorder=3)
            axes.plot([at - 0.25, at + 0.25], [told["mean_percent"]] * 2, color=EACH[name], lw=2)
        axes.set(ylabel="bias, % of the soft return", xlim=(-0.6, len(names) - 0.4))
        axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
        axes.axhline(0, color="#888", lw=1)
    for name in PARTS["wide"][1]:
        if found := rows("wide", name):
            by = {x: [r["return_mean"] for r in found if r["scale"] == x] for x in SCALES}
            top = max(float(np.mean(returns)) for returns in by.values())
            result.setdefault("wide", {})[name] = {
                "returns": {str(x): float(np.mean(returns)) for x, returns in by.items()},
                "interval95": {str(x): interval(returns) for x, returns in by.items()},
                "share_of_own_best": {str(x): float(np.mean(returns)) / top for x, returns in by.items()},
            }
    middle.set_title("Values against what followed, targets\nbehind: gamma 0.99, 20,000 updates", fontsize=10)
    right.set_title("the same with targets that have\ncaught up: gamma 0.9, N tau (1 - gamma) = 5", fontsize=10)
    for axes in (left, middle, right):
        plain(axes)
    keep("dsac_t", result, figure)


def biases(part: str, name: str) -> dict[str, Any]:
    found = rows(part, name)
    gaps = [r["bias"] / abs(r["soft_return"]) * 100 for r in found]
    return {
        "seeds": [r["seed"] for r in found], "bias": [r["bias"] for r in found], "soft_return": [r["soft_return"] for r in found],
        "percent": gaps, "mean_percent": float(np.mean(gaps)), "interval95": interval(gaps),
        "mean_absolute_percent": float(np.mean(np.abs(gaps))), "absolute_interval95": interval(np.abs(gaps).tolist()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("parts", nargs="*", default=["scale", "bias", "settled"], help="those three (default), wide")
    parser.add_argument("--commit", help="that results were made at that do not say so; if not this one")
    args = parser.parse_args()
    if args.what == "run":
        run(args.parts)
    else:
        report(args.commit or commit())


if __name__ == "__main__":
    main()
