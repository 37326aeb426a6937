"""Wall-clock to skill, which is what a user feels: minutes until an evaluation reaches a return.

    OMP_NUM_THREADS=1 taskset -c 0 python bench/time_to_return.py run time_halfcheetah
                                                              every curve and seed of its row in bench/rows that is not done yet
    python bench/time_to_return.py report time_halfcheetah    bench/results/time_halfcheetah.json and .png, from the raw curves

A contender is started as a user would start it, on a core that nothing else is on, with as many threads as OMP_NUM_THREADS says
(of which a Thespis run chooses), and stopped once an evaluation of 10 episodes, every 5,000 steps, has a mean of the target or
more. The clock runs from the start of its process: imports, compilation and evaluations are in it. Raw curves lie in
bench/results/raw/ROW/CURVE-SEED.jsonl: {"step", "return_mean", "minutes"} a line.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from learning import COLOURS, HERE, arguments, asked, done, dress, interval, raw, words
from record import record, write_rows

Curve = list[dict[str, float]]


def curve(path: Path) -> Curve:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluations(path: Path) -> list[tuple[int, float]]:
    """(step, mean return) of those that a run has written so far, Thespis's own or a peer's."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    names = "eval/return_mean", "return_mean"
    return [(row["step"], row[name]) for row in rows for name in names if name in row and row["step"] > 0]


def race(row: dict[str, Any], what: dict[str, Any], seed: int) -> Curve:
    """One contender, one seed, from its start to the target or to the last step."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        common = ["--env", row["env"], "--steps", row["steps"], "--seed", seed]
        options = [word for k, v in what.get("options", {}).items() for word in words(k, v)]
        if "script" in what:
            told = Path(place) / "curve.jsonl"
            command = [HERE / what["script"], *common, "--every", row["every"], "--threads", threads, "--out", told, *options]
        else:
            told = Path(place) / "run" / "metrics.jsonl"
            command = ["-m", "thespis", "train", what["algo"], *common, "--eval-every", row["every"], "--out", told.parent]
            command += options
        began = time.monotonic()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-W", "ignore", *map(str, command)], **quiet)
        seen: Curve = []
        try:
            while True:
                over = process.poll() is not None
                for step, mean in evaluations(told)[len(seen) :]:
                    seen.append({"step": step, "return_mean": mean, "minutes": (time.monotonic() - began) / 60})
                    if mean >= row["target"]:
                        return seen
                if over:
                    return seen
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()


def reached(curve: Curve, target: float) -> dict[str, float] | None:
    return next((row for row in curve if row["return_mean"] >= target), None)


def run(name: str, row: dict[str, Any], seeds: list[int], curves: list[str]) -> None:
    for seed in seeds:
        for which in curves:
            path = raw(name, which, seed)
            if path.exists():
                continue
            seen = race(row, row["curves"][which], seed)
            last = seen[-1]["step"] if seen else 0
            if not reached(seen, row["target"]) and last < row["steps"]:
                raise SystemExit(f"{which}, seed {seed}, ended at step {last}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, seen)
            print(which, seed, seen[-1], flush=True)


def report(name: str, row: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    told: dict[str, Any] = {}
    for which, colour in zip(row["curves"], COLOURS, strict=False):
        runs = {seed: curve(path) for seed, path in done(name, which).items()}
        if not runs:
            continue
        ends = {seed: reached(seen, row["target"]) for seed, seen in runs.items()}
        minutes = [end["minutes"] if end else math.inf for end in ends.values()]
        told[which] = {
            "seeds": list(runs), "minutes": [m if math.isfinite(m) else None for m in minutes],
            "steps": [end["step"] if end else None for end in ends.values()],
        }  # fmt: skip
        if len(runs) > 1 and all(map(math.isfinite, minutes)):
            told[which] |= {"mean_minutes": statistics.mean(minutes), "interval95": interval(minutes)}
        for i, seen in enumerate(runs.values()):
            x, y = [line["minutes"] for line in seen], [line["return_mean"] for line in seen]
            axes.plot(x, y, color=colour, lw=1.5, alpha=0.8, label=which if i == 0 else None)
    if not told:
        raise SystemExit(f"no curve of {name} is done: python bench/time_to_return.py run {name}")
    axes.axhline(row["target"], color="#8a929c", lw=1, ls="--")
    dress(axes, row["what"], "minutes since the start, all included", "a line a seed")
    what = f"minutes until an evaluation reaches {row['target']:,}"
    return {"what": what, "env": row["env"], "how": row["how"], "curves": told}, figure


def main() -> None:
    args = arguments(__doc__.split("\n")[0]).parse_args()
    row, seeds, curves = asked(args)
    if args.what == "run":
        run(args.row, row, seeds, curves)
    else:
        made = {"made_by": f"python bench/time_to_return.py run {args.row}", "made_at": args.commit} if args.commit else {}
        result, figure = report(args.row, row)
        record(result | made, HERE / "results" / f"{args.row}.json", figure)


if __name__ == "__main__":
    main()
