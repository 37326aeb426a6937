"""Whom to ask about, where the teacher errs: accuracy of RAD's student beside uniform, margin and entropy sampling.

    python bench/rad.py                     bench/results/rad.json and rad.png: two kinds of teacher, four errors each, 30 seeds
    python bench/rad.py --world blobs       rad_blobs.json and rad_blobs.png
    python bench/rad.py --seeds 5 --dry     a trial that keeps nothing

scikit-learn's 1,797 digits, or as many points of ten normal clouds in 8 dimensions, whose centres are 1.9 times as far spread as
they are, split anew for each seed: 697 to ask about, 600 that teachers learn from, 500 held out. "few labels":
the teacher is a network like the student's, trained on few of its rows. "at the boundary": it has learnt from all 600, and the
share `error` of the pool where it is least sure is given its second choice, or its first where the second is right. The error is
measured on the pool, RAD is told its mean. The student begins with LABELLED right labels, asks in ROUNDS rounds of BUDGET, and is
trained on from round to round. All seeds and arms are trained side by side by vmap; the arms of a seed share data, teacher and
first network. Intervals: 95% of a mean over seeds, by Student; of differences, in pairs.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain
from scipy.stats import t as student
from torch import Tensor

import thespis
from thespis.algos.supervised import classifier, rad
from thespis.core import Batch, Box, Discrete, Spec, leaves, rebuild
from thespis.worlds.digits import digits

ARMS = ("uniform", "margin", "entropy", "rad")
COLOURS = {"uniform": "#888888", "margin": "#c4661f", "entropy": "#8a4fbf", "rad": "#1f5fd1"}
TEACHERS = {"few labels": (25, 45, 100, 600), "at the boundary": (0.35, 0.25, 0.15, 0.03)}
"""labels that the teachers are trained on; shares of mistakes"""
LABELLED, BUDGET, ROUNDS, EVERY, LR, DECAY = 100, 150, 2, 200, 3e-3, 0.01
FIRST = 100  # of the seeds; the numbers above were chosen on seeds 0 to 11


def blobs(seed: int, apart: float = 1.9) -> tuple[Any, Any]:
    rng = np.random.default_rng([seed, 1])
    y = rng.integers(10, size=1_797)
    return (apart * rng.normal(size=(10, 8))[y] + rng.normal(size=(len(y), 8))).astype(np.float32), y


def data(world: str, seed: int) -> tuple[Tensor, ...]:
    """Rows and classes: those to ask about, the teacher's, those held out."""
    if world == "digits":
        x, y = (np.concatenate(both) for both in zip(digits("train"), digits("test"), strict=True))
    else:
        x, y = blobs(seed)
    order, cuts = np.random.default_rng(seed).permutation(len(y)), (697, 1297)
    x, y = x.reshape(len(y), -1)[order], y[order]
    return tuple(torch.from_numpy(part) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True) for part in (a, b))


def batch(rows: Tensor, labels: Tensor) -> Batch:
    return Batch(rows, labels, rows[..., 0], rows[..., 0], rows)


def copies(make: Any, seeds: list[int]) -> Any:
    """States of many seeds on a leading axis."""
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(make())
    return stacked(found)


def stacked(states: list[Any], along: Any = torch.stack) -> Any:
    each = [leaves(s) for s in states]
    return rebuild(states[0], {k: along([x[k] for x in each]) for k in each[0]})


def logits(params: Any, rows: Tensor) -> Tensor:
    hidden = (rows @ params["w0"] + params["b0"][:, None]).relu()
    return hidden @ params["w1"] + params["b1"][:, None]


def right(params: Any, rows: Tensor, labels: Tensor) -> Tensor:
    """The share of right classes (seeds,)."""
    return (logits(params, rows).argmax(-1) == labels).float().mean(-1)


def taught(spec: Spec, rows: Tensor, labels: Tensor, seeds: list[int]) -> Any:
    """A classifier for each seed, trained on (seeds, n) rows: its parameters."""
    learner = classifier.make(classifier.Config(lr=3e-3, decay=DECAY), spec)
    states = copies(learner.init, [1000 + s for s in seeds])
    update = torch.vmap(lambda s, b: learner.update(s, b, 0)[0])
    seats = torch.arange(len(seeds))[:, None]
    for _ in range(300):
        pick = torch.randint(rows.shape[1], (len(seeds), 64))
        states = update(states, batch(rows[seats, pick], labels[seats, pick]))
    return states.actor.params


def answers_of(kind: str, size: float, parts: tuple[Tensor, ...], spec: Spec, seeds: list[int]) -> Tensor:
    """The teachers' (seeds, n)."""
    pool, truth, own, labels = parts[:4]
    if kind == "few labels":
        return logits(taught(spec, own[:, : int(size)], labels[:, : int(size)], seeds), pool).argmax(-1)
    two = logits(taught(spec, own, labels, seeds), pool).topk(2, -1)
    gap = two.values[..., 0] - two.values[..., 1]
    other = torch.where(two.indices[..., 0] == truth, two.indices[..., 1], two.indices[..., 0])
    return torch.where(gap.argsort(-1).argsort(-1) < size * gap.shape[-1], other, truth)


def run(world: str, kind: str, size: float, seeds: list[int]) -> dict[str, Any]:
    parts = tuple(torch.stack(x) for x in zip(*(data(world, seed) for seed in seeds), strict=True))
    pool, truth, test, told = parts[0], parts[1], parts[4], parts[5]
    spec, many = Spec(Box(pool.shape[-1]), Discrete(10)), len(seeds)
    torch.manual_seed(0)
    answers = answers_of(kind, size, parts, spec, seeds)
    error = (answers != truth).float().mean(-1)
    answers[:, :LABELLED] = truth[:, :LABELLED]
    numbers = {"labelled": LABELLED, "budget": BUDGET, "rounds": ROUNDS, "ask_every": EVERY, "lr": LR, "decay": DECAY}
    made = {arm: rad.make(rad.Config(choose=arm, error=round(float(error.mean()), 4), **numbers), spec) for arm in ARMS}
    first = torch.vmap(made["rad"].given)(copies(made["rad"].init, seeds), batch(pool, answers))
    states = stacked([first] * len(ARMS), torch.cat)
    torch.manual_seed(1)
    curve = []
    for _ in range(ROUNDS + 1):
        for k in [0] * (EVERY - 1) + [EVERY - 1]:
            if k == 0:
                states = torch.vmap(lambda s: made["rad"].update(s, None, 0)[0], randomness="different")(states)
            else:
                each = [
                    rebuild(states, {n: x[i * many : (i + 1) * many] for n, x in leaves(states).items()})
                    for i in range(len(ARMS))
                ]
                asked = [
                    torch.vmap(lambda s, f=made[arm].update: f(s, None, EVERY - 1)[0], randomness="different")(s)
                    for arm, s in zip(ARMS, each, strict=True)
                ]
                states = stacked(asked, torch.cat)
        curve.append(right(states.actor.params, test.repeat(len(ARMS), 1, 1), told.repeat(len(ARMS), 1)).view(len(ARMS), many))
    new = states.known.view(len(ARMS), many, -1).clone()
    new[..., :LABELLED] = 0
    wrong = (new * (answers != truth)).sum(-1) / new.sum(-1)
    return {"teacher_error": error.tolist(), "curve": torch.stack(curve, -1).tolist(), "wrong": wrong.tolist()}


def interval(x: Any) -> list[float]:
    x = np.asarray(x)
    half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return [round(float(v), 4) for v in (x.mean(), x.mean() - half, x.mean() + half)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--world", choices=["digits", "blobs"], default="digits")
    parser.add_argument("--kinds", nargs="+", default=list(TEACHERS))
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for kind in args.kinds:
        for size in TEACHERS[kind]:
            began = time.process_time()
            raw = run(args.world, kind, size, list(range(FIRST, FIRST + args.seeds)))
            row: dict[str, Any] = {"teacher_error": interval(raw["teacher_error"])}
            last = dict(zip(ARMS, np.array(raw["curve"])[..., -1], strict=True))
            for i, arm in enumerate(ARMS):
                rounds = np.array(raw["curve"])[i].mean(0).round(4).tolist()
                row[arm] = {"accuracy": interval(last[arm]), "wrong": interval(raw["wrong"][i]), "rounds": rounds}
            for arm in ARMS[:3]:
                row[f"rad - {arm}"] = interval(last["rad"] - last[arm])
            row["seconds"] = round(time.process_time() - began, 1)
            found.setdefault(kind, {})[str(size)] = row
            print(kind, size, row, flush=True)
    if not args.dry:
        command, name = (
            ("python bench/rad.py", "rad") if args.world == "digits" else ("python bench/rad.py --world blobs", "rad_blobs")
        )
        about = {"command": command, "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
        numbers = {
            "seeds": list(range(FIRST, FIRST + args.seeds)),
            "what": "mean, and its 95% interval; wrong: of the answers",
            "teachers": found,
        }
        keep(name, about | numbers, picture(found))


def picture(found: dict[str, Any]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.8), squeeze=False, layout="constrained")
    for ax, (name, rows) in zip(axes[0], found.items(), strict=True):
        x = np.array([row["teacher_error"][0] for row in rows.values()])
        for arm, colour in COLOURS.items():
            mean, low, high = np.array([row[arm]["accuracy"] for row in rows.values()]).T
            ax.plot(x, mean, color=colour, marker="o", ms=3, lw=2, label=arm)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        ax.set(title=name, xlabel="error of the teacher", ylabel="accuracy of the student, held out")
        plain(ax)
    axes[0][0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
