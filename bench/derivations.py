"""Many right answers: how many distinct ones a model gives, at which accuracy, and what tells right answers from wrong ones.

    python bench/derivations.py run        every arm and seed that is not done yet
    python bench/derivations.py report     bench/results/iq_language.json and .png, from the raw results

A fixed set of derivations, one a task, is learnt from for many epochs by sft, by iq_language and by two controls of sft. On
held-out tasks each model answers 32 times at several temperatures. Distinct right answers are compared at one accuracy: that of
sft at temperature 1. Raw results: bench/results/raw/iq_language/ARM-SEED.jsonl.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import COLOURS
from record import commit, keep, machine, plain, write_rows

import thespis
from thespis.algos.language.iq_language import rewards
from thespis.envs.text import text_world
from thespis.language import writer
from thespis.lm import Model, padded

ARMS: dict[str, dict[str, Any]] = {
    "sft": {"algo": "sft"},
    **{f"iq_{td}": {"algo": "iq_language", "td": td} for td in (0.01, 0.1)},
    "smooth_0.1": {"algo": "sft", "smooth": 0.1},
    "entropy_0.1": {"algo": "sft", "entropy": 0.1},
}
TERMS, ROWS, STEPS, TASKS, SAMPLES, TEMPERATURES = 5, 2_000, 64_000, 100, 32, (0.7, 0.85, 1.0, 1.15, 1.3)
SIZE = "tiny:dim=64,layers=2,heads=4,context=64"
RAW = Path(__file__).parent / "results" / "raw" / "iq_language"


def written(seed: int) -> Path:
    """The derivations of a seed."""
    world, file = text_world("thespis/Derivations-v0", {"terms": TERMS}).make(), Path(f"runs/bench-derivations-{seed}.jsonl")
    drawn = (world.reset(10_000 * (seed + 1) + i) for i in range(ROWS))
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": p, "answer": info["solution"]}) + "\n" for p, info in drawn))
    return file


def auc(score: np.ndarray, right: np.ndarray) -> float:
    """How often a right answer has the higher score than a wrong one; 1/2 where they are equal."""
    order = np.argsort(score)
    _, inverse, counts = np.unique(score[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(score))
    rank[order] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = right.sum()
    return float((rank[right].sum() - n * (n + 1) / 2) / (n * (len(right) - n))) if 0 < n < len(right) else float("nan")


def measured(model: Model) -> dict[str, Any]:
    """Answers to held-out tasks, at each temperature; and what tells right from wrong among those at 1."""
    world = text_world("thespis/Derivations-v0", {"terms": TERMS}).make()
    told: dict[str, Any] = {}
    seeds = [900_000_000 + i for i in range(TASKS)]
    asked = [world.reset(s, True) for s in seeds]
    prompts = [model.text.asked(text) for text, _ in asked for _ in range(SAMPLES)]
    for temperature in TEMPERATURES:
        model.temperature = temperature
        said = model.sample(prompts, 24, torch.Generator().manual_seed(0))
        right, distinct = np.zeros((TASKS, SAMPLES), bool), []
        for i, s in enumerate(seeds):
            world.reset(s, True)
            answers = [model.text.decode(t) for t, _ in said[i * SAMPLES : (i + 1) * SAMPLES]]
            right[i] = [world.step(a)[1] == 1 for a in answers]
            distinct.append(len({a for a, r in zip(answers, right[i], strict=True) if r}))
        told[str(temperature)] = {"accuracy": float(right.mean()), "distinct": float(np.mean(distinct))}
        if temperature == 1:
            rows = padded([(p + t, [False] * len(p) + [True] * len(t)) for p, (t, _) in zip(prompts, said, strict=True)])
            both = model.read(rows, lambda out: torch.stack([out.logp, rewards()(out), out.entropy()], -1)).sum(1).numpy()
            for name, score in (("likelihood", both[:, 0]), ("reward", both[:, 1])):
                told[f"auc_{name}"] = auc(score, right.ravel())
                each = [auc(score[i * SAMPLES : (i + 1) * SAMPLES], right[i]) for i in range(TASKS)]
                told[f"auc_{name}_within"] = float(np.nanmean(each))
    model.temperature = 1.0
    greedy = model.sample(prompts[::SAMPLES], 24, greedy=True)
    told["greedy"] = 0.0
    told["distinct_possible"] = float(np.mean([info["count"] for _, info in asked]))
    for s, (t, _) in zip(seeds, greedy, strict=True):
        world.reset(s, True)
        told["greedy"] += world.step(model.text.decode(t))[1] / TASKS
    return told


def run(seeds: list[int], arms: list[str]) -> None:
    for seed in seeds:
        for arm in arms:
            file, folder = RAW / f"{arm}-{seed}.jsonl", Path(f"runs/bench-iq_language-{arm}-{seed}")
            if file.exists():
                continue
            clock, what = time.process_time(), dict(ARMS[arm])
            made = thespis.train(
                what.pop("algo"), data=written(seed), env="thespis/Derivations-v0", env_args={"terms": TERMS}, out=folder,
                steps=STEPS, model=SIZE, seed=seed, eval_episodes=0, checkpoint_every=STEPS, panel=False, quiet=True, sinks=(),
                overwrite=True, **what,
            )  # fmt: skip
            if not made.finished:
                raise SystemExit(f"{folder} was stopped ({made.stopped}); the same command begins it anew")
            trained = time.process_time() - clock
            told = {"arm": arm, "seed": seed, **measured(writer(folder)[1])}
            told |= {"train_seconds": trained, "seconds": time.process_time() - clock}
            print(json.dumps(told), flush=True)
            write_rows(file, [told])


def gained(told: dict[str, Any], base: dict[str, float]) -> float | None:
    """By what share there are more distinct right answers than in `base`, where the temperature gives its accuracy, linear
    between temperatures. None: no temperature reaches it."""
    x, y = np.array(sorted((told[str(t)]["accuracy"], told[str(t)]["distinct"]) for t in TEMPERATURES)).T
    reached = x[0] <= base["accuracy"] <= x[-1]
    return float(np.interp(base["accuracy"], x, y)) / base["distinct"] - 1 if reached else None


def report(commit: str) -> None:
    from matplotlib.figure import Figure

    found = {arm: [json.loads(f.read_text()) for f in sorted(RAW.glob(f"{arm}-*.jsonl"))] for arm in ARMS}
    found = {arm: runs for arm, runs in found.items() if runs}
    base = {r["seed"]: r for r in found["sft"]}
    result: dict[str, Any] = {
        "what": f"distinct right answers of {SAMPLES} to a held-out task, rows of {TERMS} digits",
        "env": "thespis/Derivations-v0",
        "source": "arXiv:2409.01369: task performance at equal or better diversity, T5 and PaLM 2; no figure of this task",
        "command": "python bench/derivations.py run", "commit": commit, "machine": machine(), "seeds": sorted(base),
        "model": SIZE, "rows": ROWS, "steps": STEPS, "tasks": TASKS, "arms": {},
    }  # fmt: skip
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (arm, runs), colour in zip(found.items(), COLOURS, strict=False):
        table = np.array([[[r[str(t)][k] for t in TEMPERATURES] for k in ("accuracy", "distinct")] for r in runs])
        gain = [gained(r, base[r["seed"]]["1.0"]) for r in runs]
        told: dict[str, Any] = {"options": ARMS[arm], "seeds": [r["seed"] for r in runs], "gain_at_equal_accuracy": gain}
        for name in ("greedy", *(f"auc_{x}{y}" for x in ("likelihood", "reward") for y in ("", "_within"))):
            told[name] = [r[name] for r in runs]
        for i, name in enumerate(("accuracy", "distinct")):
            told |= {f"{name} at {t}": table[:, i, j].tolist() for j, t in enumerate(TEMPERATURES)}
        result["arms"][arm] = told | {"train_seconds": [r["train_seconds"] for r in runs]}
        axes.plot(*table.mean(0), "o-", color=colour, label=f"{arm}, mean of {len(runs)} seeds", lw=2, ms=4)
    axes.set(
        xlabel="share of answers that are right, at five temperatures", ylabel="distinct right answers", title=result["what"]
    )
    plain(axes)
    axes.legend(frameon=False)
    keep("iq_language", result, figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--commit", help="that the results were made at, if not this one")
    args = parser.parse_args()
    if args.what == "run":
        run(args.seeds, args.arms)
    else:
        report(args.commit or commit())
