"""Learning curves with intervals: trains what a row of bench/rows names, and draws it.

    python bench/learning.py run sac            every curve and seed of bench/rows/sac.toml that is not done yet
    python bench/learning.py report sac         bench/results/sac.json and sac.png, from the raw curves; and, where the row names
                                                a curve as `reference`, that in thespis/report/references.json

A row names the environment, steps, seeds and its curves: each an algorithm of Thespis or a script for a peer, with options, or a
curve of another row (raw = "ROW/CURVE").
Runs follow one another, one thread each; what is done is skipped, and a Thespis run that was stopped goes on where it was.
Raw curves lie in bench/results/raw/ROW/CURVE-SEED.jsonl: {"step", "return_mean", "returns"} a line. Of the last evaluations
also the worst tenth of the seeds is told, by its mean, and, where the row has a `bar`, how many lie below it.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import band, commit, keep, plain, write_rows

import thespis
from thespis.report import curve as metrics
from thespis.report import statistics
from thespis.report.reference import FILE

HERE = Path(__file__).parent
COLOURS = ("#1f5fd1", "#c4661f", "#2f8f5b", "#8a4fbf", "#b0324a", "#5f6b7a")


def raw(name: str, curve: str, seed: int) -> Path:
    return HERE / "results" / "raw" / name / f"{curve}-{seed}.jsonl"


def points(path: Path) -> dict[int, float]:
    """Mean evaluation return by step."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["step"]: row["return_mean"] for row in rows}


def words(option: str, value: Any) -> list[str]:
    """What is said on the command line: --hidden 128 128, --no-unit-norm, --lr 0.001."""
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *map(str, value if isinstance(value, list) else [value])]


def done(name: str, curve: str) -> dict[int, Path]:
    """Raw curves by seed."""
    found = {int(path.stem.rpartition("-")[2]): path for path in raw(name, curve, 0).parent.glob(f"{curve}-*.jsonl")}
    return dict(sorted(found.items()))


def run(name: str, row: dict[str, Any], seeds: list[int], curves: list[str]) -> None:
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    for seed in seeds:
        for curve in curves:
            what, path = row["curves"][curve], raw(name, curve, seed)
            if "raw" in what or max(points(path), default=0) >= row["steps"]:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            common = ["--env", row["env"], "--steps", row["steps"], "--seed", seed]
            options = [word for k, v in what.get("options", {}).items() for word in words(k, v)]
            if "script" in what:
                command = [HERE / what["script"], *common, "--out", path, *options]
                subprocess.run([sys.executable, *map(str, command)], check=True, env=environ)
                continue
            folder = Path("runs") / f"bench-{name}-{curve}-{seed}"
            command = ["train", what["algo"], *common, "--out", folder, *options]
            if (folder / "config.json").exists():
                command = ["resume", folder, "--steps", row["steps"]]
            subprocess.run([sys.executable, "-m", "thespis", *map(str, command)], check=True, env=environ)
            rows = [r for r in metrics.rows(folder) if "eval/return_mean" in r]
            kept = [{"step": r["step"], "return_mean": r["eval/return_mean"], "returns": r["eval/returns"]} for r in rows]
            write_rows(path, kept)


def interval(values: Sequence[float] | np.ndarray, draws: int = 20_000) -> list[float]:
    """95% bootstrap interval of the mean over seeds."""
    low, high = statistics.interval(lambda scores: scores[0].mean(), [np.asarray(values)], draws=draws)
    return [float(low), float(high)]


def worst_tenth(values: Sequence[float]) -> float:
    """Mean of the lowest tenth of them, or of the lowest one where they are fewer than ten."""
    return float(np.sort(values)[: max(len(values) // 10, 1)].mean())


def dress(axes: Any, title: str, x: str, what_is_shown: str) -> None:
    """Axes of returns of evaluations."""
    axes.set(xlabel=x, ylabel="return of an evaluation", title=title)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if abs(y) >= 10 else f"{y:.2g}")
    plain(axes)
    axes.legend(frameon=False, loc="best", title=what_is_shown, title_fontsize=9, alignment="left")


def report(name: str, row: dict[str, Any], commit: str) -> None:
    from matplotlib.figure import Figure

    result: dict[str, Any] = {k: row[k] for k in ("what", "env", "steps", "source")}
    result |= {"command": f"python bench/learning.py run {name}", "commit": commit, "curves": {}}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(row["curves"], COLOURS, strict=False):
        place = row["curves"][curve].get("raw", f"{name}/{curve}").split("/")
        runs = {seed: p for seed, path in done(*place).items() if row["steps"] in (p := points(path))}
        if not runs:
            continue
        steps = sorted(set.intersection(*map(set, runs.values())))
        table = np.array([[p[s] for s in steps] for p in runs.values()])
        last, learnt = [p[row["steps"]] for p in runs.values()], table[:, [s > 0 for s in steps]].mean(1)
        result["curves"][curve] = {
            "seeds": list(runs), "last": last, "mean": float(np.mean(last)), "interval95": interval(last),
            "std": float(np.std(last, ddof=1)) if len(last) > 1 else None, "worst_tenth": worst_tenth(last),
            **({"below_the_bar": sum(x < row["bar"] for x in last)} if "bar" in row else {}),
            "over_all_evaluations": {"mean": float(learnt.mean()), "interval95": interval(learnt)},
        }  # fmt: skip
        band(axes, steps, table, colour, f"{curve}, mean of {len(runs)} seeds")
    if not result["curves"]:
        raise SystemExit(f"no curve of {name} is done: python bench/learning.py run {name}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    dress(axes, row["what"], "environment steps", "band: lowest to highest seed")
    if "reference" in row:
        refer(name, row)
    keep(name, result, figure)


def refer(name: str, row: dict[str, Any]) -> None:
    """The row's reference into the file that pictures of runs are drawn from, in the place of the one that it had there."""
    what = row["curves"][row["reference"]]
    runs = [points(path) for path in done(*what.get("raw", f"{name}/{row['reference']}").split("/")).values()]
    steps = sorted(set.intersection(*map(set, runs)))
    table = np.array([[p[s] for s in steps] for p in runs])
    known = {f.name for f in dataclasses.fields(thespis.algorithms()[what["algo"]].module.Config)}
    options = {k.replace("-", "_"): v for k, v in what.get("options", {}).items()}
    curves = {n: f(table, 0).round(1).tolist() for n, f in (("mean", np.mean), ("low", np.min), ("high", np.max))}
    says = f"{row.get('says', row['what'].partition(' on ')[0])}, {len(runs)} seeds"
    settings = {k: v for k, v in options.items() if k in known}
    new = {"row": name, "says": says, "env": row["env"], "algo": what["algo"], "settings": settings, "steps": steps, **curves}
    stored = json.loads(FILE.read_text())["references"] if FILE.exists() else []
    lines = ",\n".join(json.dumps(r) for r in sorted([r for r in stored if r["row"] != name] + [new], key=lambda r: r["row"]))
    FILE.write_text(f'{{"references": [\n{lines}\n]}}\n')


def arguments(description: str) -> argparse.ArgumentParser:
    """What to do with which row, seeds and curves."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("row", help="a name in bench/rows")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the row's")
    parser.add_argument("--curves", nargs="+", help="default: the row's")
    parser.add_argument("--commit", help="that the curves were made at, if not this one")
    return parser


def asked(args: argparse.Namespace) -> tuple[dict[str, Any], list[int], list[str]]:
    """The row, and its seeds and curves that are wanted."""
    row = tomllib.loads((HERE / "rows" / f"{args.row}.toml").read_text())
    return row, args.seeds or row["seeds"], args.curves or list(row["curves"])


def main() -> None:
    args = arguments(__doc__.split("\n")[0]).parse_args()
    row, seeds, curves = asked(args)
    if args.what == "run":
        run(args.row, row, seeds, curves)
    else:
        report(args.row, row, args.commit or commit())


if __name__ == "__main__":
    main()
