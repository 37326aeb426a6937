"""SPO beside a fitted reward model, with the same questions to the same raters.

    python bench/preferences.py games         cyclic preferences, and one that is no sum over steps
    python bench/preferences.py cartpole      30% of answers turned round, beside ppo with the true reward
    python bench/preferences.py games --seeds 100 101 --dry     a trial that keeps nothing; else bench/results/preferences.json

games: thespis/Rounds-v0, each learner as it comes but for `OPTIONS`, 16 environments, 300 rollouts; on the cycle both have an
entropy bonus of 0.2, the reward model is fitted to the newest 8 rollouts. "exploitability" is how far
above 1/2 the best single action wins against a policy, times 2: of the mean of all policies of the run, and of the newest. "kept"
is the part of the episodes of the second half of the run in which action 0's share is within 0.1 of a third.
cartpole: `thespis train`, 8 environments, the mean return of 10 evaluation episodes at the end. Intervals are of a mean over
seeds, 95%, by Student.
"""

import argparse
import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from record import RESULTS, commit, keep, machine, plain

import thespis
from thespis.algos.preference import reward_model, spo
from thespis.core import Batch, Box, Discrete, Spec
from thespis.engine.compile import Stepper

ENVS, ROLLOUTS = 16, 300
GAMES = {"cycle": (3, 1, "thespis.worlds.raters:cycle"), "share": (2, 60, "thespis.worlds.raters:shares_a_third")}
OPTIONS: dict[str, Any] = {"hidden": (16,), "comparisons": 256, "epochs": 4, "normalise_obs": False}
BEATS = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
"""the chance that the row's action is preferred to the column's: 1 beats 0, 2 beats 1, 0 beats 2"""
CARTPOLE = {"steps": 40_000, "num_envs": 8, "rollout": 256, "eval_every": 40_000, "eval_episodes": 10, "compile_after": -1}
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 10: 2.262}


def game(algo: Any, name: str, seed: int) -> dict[str, Any]:
    actions, rounds, rater = GAMES[name]
    steps = max(rounds * 4, 16)
    more: dict[str, Any] = {"entropy_weight": 0.2} if name == "cycle" else {}
    more |= {"batch_size": steps * ENVS // 2} | ({"kept": 8 * steps * ENVS, "fits": 10} if algo is reward_model else {})
    learner = algo.make(
        algo.Config(rater=rater, rollout=steps, **more, **OPTIONS), Spec(Box(1), Discrete(actions), horizon=rounds)
    )
    torch.manual_seed(seed)
    stepper, obs = Stepper(learner, learner.init()), torch.zeros(steps, ENVS, 1)
    over = (torch.arange(1, steps + 1) % rounds == 0)[:, None].expand(steps, ENVS)
    policies, kept = [], []
    one = torch.arange(actions)
    for _ in range(ROLLOUTS):
        with torch.no_grad():
            action = learner.act(learner.policy(stepper.state), obs.flatten(0, 1), True).view(steps, ENVS)
            batch = Batch(obs, action, torch.zeros(steps, ENVS), (~over).float() * learner.experience.gamma, obs, {"ended": over})
        policies.append(torch.stack([(action == a).float().mean() for a in one]).tolist())
        share = (action == 0).float().unflatten(0, (-1, rounds)).mean(1)
        kept.append(float(((share - 1 / 3).abs() <= 0.1).float().mean()))
        rows = stepper.prepare(batch)
        count = len(rows.reward)
        for _ in range(learner.experience.epochs):
            for index in torch.randperm(count).split(learner.experience.batch_size):
                stepper.step(Batch(*(getattr(rows, k)[index] for k in COLUMNS), {k: v[index] for k, v in rows.extra.items()}))
    found: dict[str, Any] = {"policies": np.array(policies)}
    if name == "cycle":
        found |= {"mean": exploitability(np.mean(policies, 0)), "newest": exploitability(np.mean(policies[-5:], 0))}
    else:
        found["kept"] = float(np.mean(kept[ROLLOUTS // 2 :]))
    return found


COLUMNS = ("obs", "action", "reward", "discount", "next_obs")


def exploitability(policy: np.ndarray) -> float:
    return float(2 * (BEATS @ policy).max() - 1)


def interval(values: list[float]) -> dict[str, Any]:
    x = np.array(values)
    half = T95.get(len(x), 1.96) * x.std(ddof=1) / len(x) ** 0.5
    return {"mean": round(float(x.mean()), 4), "interval": [round(float(x.mean() - half), 4), round(float(x.mean() + half), 4)]}


def games(seeds: list[int]) -> tuple[dict[str, Any], Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    found: dict[str, Any] = {}
    for ax, name in zip(axes, GAMES, strict=True):
        for algo, colour in ((spo, "#1f5fd1"), (reward_model, "#c4661f")):
            began, label = time.perf_counter(), algo.__name__.rpartition(".")[2]
            each = [game(algo, name, seed) for seed in seeds]
            numbers = {k: interval([e[k] for e in each]) for k in each[0] if k != "policies"}
            found.setdefault(name, {})[label] = numbers | {"seconds": round(time.perf_counter() - began, 1)}
            print(name, label, found[name][label], flush=True)
            for i, e in enumerate(each[:3]):
                ax.plot(e["policies"][:, 0], color=colour, lw=0.8, label=None if i else f"{label}, 3 seeds")
        ax.axhline(1 / 3, color="#888888", lw=1, ls="--")
        ax.set(title={"cycle": "stone, paper, scissors", "share": "a third of the rounds"}[name], xlabel="rollouts", ylim=(0, 1))
        plain(ax)
    axes[0].set_ylabel("share of action 0")
    axes[0].legend(frameon=False, fontsize=8)
    return found, figure


def cartpole(seeds: list[int]) -> dict[str, Any]:
    rater = {"rater": "thespis.worlds.raters:often_mistaken"}
    arms = {"spo, 30% turned round": ("spo", rater), "true reward": ("ppo_discrete", {})}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for seed in seeds:
        for name, (algo, more) in arms.items():
            with tempfile.TemporaryDirectory() as folder:
                options = CARTPOLE | more | {"seed": seed, "out": f"{folder}/run", "panel": False, "sinks": (), "quiet": True}
                result = thespis.train(algo, "CartPole-v1", **options)
            found[name].append(float(result.return_mean or 0))
        print(seed, {name: x[-1] for name, x in found.items()}, flush=True)
    told: dict[str, Any] = {name: interval(x) | {"each": x} for name, x in found.items()}
    spo_mean, true_mean = (told[name]["mean"] for name in arms)
    return told | {"part of the true reward's return": round(spo_mean / true_mean, 3), "options": CARTPOLE}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("games", "cartpole"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, figure = games(args.seeds) if args.what == "games" else (cartpole(args.seeds), None)
    print(json.dumps(found, indent=2))
    if not args.dry:
        file = RESULTS / "preferences.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        about = {
            "command": " ".join(["python", "bench/preferences.py", *sys.argv[1:]]),
            "commit": commit(),
            "machine": machine(),
            "seeds": args.seeds,
        }
        keep("preferences", before | {args.what: about | found}, figure)


if __name__ == "__main__":
    main()
