"""Papers that are a procedure: the table of a study, with the commit that it was made at.

python bench/studies.py run coderl                every seed that is not finished yet, in runs/bench-study-coderl
python bench/studies.py report coderl             bench/results/coderl.json and coderl.png, from its table
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from record import commit, keep, machine, plain

import thespis
from thespis.study import studies

RUNS = Path("runs")


def report(name: str, made_at: str) -> None:
    from matplotlib.figure import Figure

    found = json.loads((RUNS / f"bench-study-{name}" / "table.json").read_text())
    about = json.loads((RUNS / f"bench-study-{name}" / "study.json").read_text())
    curves: dict[str, Any] = {}
    for row, columns in found["rows"].items():
        for column, x in columns.items():
            std = float(np.std(x["values"], ddof=min(len(x["values"]) - 1, 1)))
            curves.setdefault(row, {})[column] = {k: x[k] for k in ("mean", "interval95", "values")} | {"std": std}
    result = {"what": studies()[name].summary, "command": f"python bench/studies.py run {name}", "commit": made_at}
    result |= {"machine": machine(), "seeds": found["seeds"], "stages": about["stages"], "curves": curves}
    columns = [
        c for c in dict.fromkeys(c for row in curves.values() for c in row) if sum(c in row for row in curves.values()) > 1
    ]
    wide = min(len(columns), 4)
    tall = -(-len(columns) // wide)
    figure = Figure(figsize=(3.2 * wide, tall * (0.7 + 0.3 * len(curves))), layout="constrained")
    for axes, column in zip(figure.subplots(tall, wide, squeeze=False).flat, columns, strict=False):
        rows = [row for row in curves if column in curves[row]]
        for i, row in enumerate(reversed(rows)):
            x = curves[row][column]
            axes.plot(x["values"], [i] * len(x["values"]), "o", color="tab:blue", alpha=0.4, ms=4)
            axes.plot(x["mean"], i, "|", color="black", ms=14, mew=2)
        axes.set_yticks(range(len(rows)), rows[::-1])
        axes.set_title(column, fontsize=9)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        plain(axes)
    for axes in figure.axes[len(columns) :]:
        axes.remove()
    keep(name, result, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("study", choices=list(studies()))
    parser.add_argument("--seeds", type=int, help="how many; default: the study's")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--commit", help="that the study was made at, if not this one")
    args = parser.parse_args()
    if args.what == "report":
        report(args.study, args.commit or commit())
    else:
        found = thespis.study(args.study, out=RUNS / f"bench-study-{args.study}", seeds=args.seeds, seed=args.seed, quiet=True)
        print(json.dumps(found["rows"], indent=2))


if __name__ == "__main__":
    main()
