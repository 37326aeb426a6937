"""How a policy does when it sees little: returns at action sequences of 1 to 30 steps, and their frequency-averaged score.

    python bench/srl.py run                 every curve and seed of bench/rows/srl.toml that is not done yet
    python bench/srl.py run --seeds 0 --curves SRL-8
    python bench/srl.py report              bench/results/srl.json and srl.png, from the raw returns

Each run is trained, then its best and its last policy are evaluated with a new observation only every N steps. The score is
the area under the mean return over N (by trapezoids, with the row's offset), over 30 times the row's best return: a policy
that has the best return at every N scores 29/30. Raw returns lie in bench/results/raw/srl/CURVE-SEED.jsonl; what is done is
skipped, and a training that was stopped goes on where it was.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from learning import COLOURS, interval
from record import band, commit, keep, plain, write_rows

from thespis import api

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "srl"
WHICH = ("best", "last")


def run(row: dict[str, Any], seeds: list[int], curves: list[str]) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for curve in curves:
            path, folder, what = RAW / f"{curve}-{seed}.jsonl", Path("runs") / f"bench-srl-{curve}-{seed}", row["curves"][curve]
            if path.exists():
                continue
            if (folder / "config.json").exists():
                done = api.resume(folder, panel=False)
            else:
                options = {"steps": row["steps"], "seed": seed, "sinks": (), **what["options"]}
                done = api.train(what["algo"], row["env"], out=folder, panel=False, **options)
            if not done.finished:
                raise SystemExit(f"{folder} was stopped; the same command goes on")
            lines = []
            for which in WHICH:
                for every in row["lengths"]:
                    got = api.evaluate(folder, row["episodes"], which=which, every=every)
                    lines.append({"which": which, "every": every, "returns": got["returns"], "step": got["step"]})
            write_rows(path, lines)


def returns(curve: str, seed: int, which: str) -> dict[int, float]:
    """Mean return by steps between observations."""
    lines = [json.loads(line) for line in (RAW / f"{curve}-{seed}.jsonl").read_text().splitlines()]
    return {x["every"]: float(np.mean(x["returns"])) for x in lines if x["which"] == which}


def score(row: dict[str, Any], by_length: dict[int, float]) -> float:
    lengths = row["lengths"]
    return float(np.trapezoid([by_length[n] + row["offset"] for n in lengths], lengths) / (30 * row["best"]))


def moments(values: list[float]) -> dict[str, Any]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"each": values, "mean": float(np.mean(values)), "interval95": interval(values), "std": spread}


def report(row: dict[str, Any], commit: str) -> None:
    from matplotlib.figure import Figure

    result: dict[str, Any] = {k: row[k] for k in ("what", "env", "steps", "episodes", "lengths", "offset", "best", "source")}
    result |= {"command": "python bench/srl.py run", "commit": commit, "curves": {}}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(row["curves"], COLOURS, strict=False):
        seeds = sorted(int(p.stem.rpartition("-")[2]) for p in RAW.glob(f"{curve}-*.jsonl"))
        if not seeds:
            continue
        told: dict[str, Any] = {"options": row["curves"][curve]["options"], "seeds": seeds}
        for which in WHICH:
            runs = [returns(curve, seed, which) for seed in seeds]
            table = np.array([[r[n] for n in row["lengths"]] for r in runs])
            told[which] = {"score": moments([score(row, r) for r in runs]), "return_at_1": moments(table[:, 0].tolist())}
            told[which]["return_by_length"] = table.mean(0).tolist()
            if which == "best":
                name = f"{curve}, {len(seeds)} seeds: {told[which]['score']['mean']:.2f}"
                band(axes, row["lengths"], table, colour, name, marker=".")
        result["curves"][curve] = told
    if not result["curves"]:
        raise SystemExit("no curve is done: python bench/srl.py run")
    axes.set(xlabel="steps from one observation to the next", ylabel="return of an episode", title=row["what"])
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    plain(axes)
    title = "mean over seeds and its frequency-averaged score; band: lowest to highest seed"
    figure.legend(frameon=False, loc="outside lower center", ncols=len(result["curves"]), title=title, title_fontsize=9)
    keep("srl", result, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the row's")
    parser.add_argument("--curves", nargs="+", help="default: the row's")
    parser.add_argument("--commit", help="that the curves were made at, if not this one")
    args = parser.parse_args()
    row = tomllib.loads((HERE / "rows" / "srl.toml").read_text())
    if args.what == "run":
        run(row, args.seeds or row["seeds"], args.curves or list(row["curves"]))
    else:
        report(row, args.commit or commit())


if __name__ == "__main__":
    main()
