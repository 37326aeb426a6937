"""What three refinements buy: DSAC-T beside DSAC and SAC, as rewards are scaled, and how far each critic is from the truth.

    python bench/dsac_t.py run              every part and algorithm that is not done yet
    python bench/dsac_t.py run scale        one part: scale or bias
    python bench/dsac_t.py report           bench/results/dsac_t.json and dsac_t.png, from the raw results

scale: Pendulum-v1 with rewards times 0.01 to 100, three seeds each. The score is the return in the task's own units, from 0 (a
random policy, -1,230 here) to 1 (the best that any algorithm reached at any scale).
bias: InvertedDoublePendulum-v5, three seeds. Critics' values along episodes of the policy, less the discounted soft return that
followed (rewards, and alpha times the entropy of every later step), over the steps whose next 500, or all, were played.
All algorithms: two hidden layers of 64, batch 64, step size 1e-3, 500 random steps, an update every five steps (the authors:
every twenty); else their defaults.
Raw results lie in bench/results/raw/dsac_t/PART-ALGORITHM.jsonl, a line a seed. Settings were tried on seeds from 100 on.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import interval
from together import Together, one

from thespis.algos.continuous import dsac, dsac_t, sac
from thespis.core import Batch

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "dsac_t"
ALGORITHMS = {"DSAC-T": (dsac_t, "#1f5fd1"), "DSAC": (dsac, "#2f8f5b"), "SAC": (sac, "#c4661f")}
SMALL: dict[str, Any] = {"hidden": (64, 64), "batch_size": 64, "lr": 1e-3, "warmup": 500, "updates_per_step": 0.2}
SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
SEEDS = range(3)
STEPS = {"scale": 100_000, "bias": 100_000}
RANDOM = -1_230.0  # mean return of uniformly random actions on Pendulum-v1, 1,000 episodes


def learners(name: str, env: str, seeds: Sequence[int], scales: Sequence[float] | None = None) -> Together:
    algo, _ = ALGORITHMS[name]
    cfg = algo.Config(**SMALL) if algo is sac else algo.Config(**SMALL, alpha_lr=1e-3)
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


def _bias(many: Together, i: int, episodes: int = 20, tail: int = 500) -> dict[str, float]:
    """Mean value less mean soft return of one learner, over steps whose future is known: the rest is below 0.99^500 = 0.7%."""
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
                after = 0.99 * (soft[t] + alpha * entropy[t])
            known = len(seen) if terminated else max(len(seen) - tail, 0)
            gaps += (q - soft)[:known].tolist()
            values += soft[:known].tolist()
    return {"bias": float(np.mean(gaps)), "soft_return": float(np.mean(values)), "alpha": alpha}


PARTS = {"scale": scale, "bias": bias}


def rows(part: str, name: str) -> list[dict[str, Any]]:
    path = RAW / f"{part}-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(parts: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for part in parts:
        for name in ALGORITHMS:
            if not rows(part, name):
                found = PARTS[part](name)
                RAW.mkdir(parents=True, exist_ok=True)
                (RAW / f"{part}-{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))


def report(commit: str) -> None:
    from matplotlib.figure import Figure

    result: dict[str, Any] = {"command": "python bench/dsac_t.py run", "commit": commit, "seeds": list(SEEDS), "steps": STEPS}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
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
        if found := rows("bias", name):
            gaps = [r["bias"] / abs(r["soft_return"]) * 100 for r in found]
            result.setdefault("bias", {})[name] = {
                "bias": [r["bias"] for r in found], "soft_return": [r["soft_return"] for r in found],
                "percent": gaps, "mean_percent": float(np.mean(gaps)), "interval95": interval(gaps),
                "mean_absolute_percent": float(np.mean(np.abs(gaps))), "absolute_interval95": interval(np.abs(gaps).tolist()),
            }  # fmt: skip
            at = list(ALGORITHMS).index(name)
            right.scatter([at] * len(gaps), gaps, color=colour, s=28, zorder=3)
            right.plot([at - 0.25, at + 0.25], [np.mean(gaps)] * 2, color=colour, lw=2)
    left.set(xscale="log", xlabel="rewards times", ylabel="score: random 0, best 1", title="Pendulum-v1: the same task, scaled")
    left.legend(frameon=False, title="band: lowest to highest seed", title_fontsize=9, alignment="left")
    right.set(title="Critic against what followed", ylabel="bias, % of the soft return", xlim=(-0.6, 2.6))
    right.set_xticks(range(len(ALGORITHMS)), list(ALGORITHMS))
    right.axhline(0, color="#888", lw=1)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "results" / "dsac_t.png", dpi=160)
    text = json.dumps(result, indent=2) + "\n"
    (HERE / "results" / "dsac_t.json").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="scale, bias (default: both)")
    parser.add_argument("--commit", help="that the results were made at, if not this one")
    args = parser.parse_args()
    if args.what == "run":
        run(args.parts)
    else:
        here = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        report(args.commit or here)


if __name__ == "__main__":
    main()
