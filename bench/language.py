"""Papers on actors that write, with tiny models: arms that all begin with the same supervised start.

    python bench/language.py run copo           every arm and seed of bench/rows/copo.toml that is not done yet
    python bench/language.py report copo        bench/results/copo.json and copo.png, from the raw curves

A row names the environment and its arguments, the solutions learnt from at the start, steps, seeds, its arms (each an algorithm
with options), and the metrics of training that are kept beside the returns of evaluations (`watch`); perhaps options of all its
runs, `log_every`, an arm's own `steps`, and `reach`: a return, of which the report says after how many episodes it is reached.
Raw curves lie in bench/results/raw/ROW/ARM-SEED.jsonl.
"""

import argparse
import itertools
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from learning import COLOURS, dress, interval
from record import band, commit, keep, machine, write_rows

import thespis

HERE = Path(__file__).parent
EVERY = (
    "eval/return_mean",
    "eval/greedy_return_mean",
    "eval/pass@4",
    "eval/pass@32",
    "time/seconds",
    "time/cpu_seconds",
    "time/updates",
)


def raw(row: str, arm: str, seed: int) -> Path:
    return HERE / "results" / "raw" / row / f"{arm}-{seed}.jsonl"


def options(row: dict[str, Any], seed: int) -> dict[str, Any]:
    world = {"env": row["env"], "env_args": row["env_args"], "seed": seed, "answer_tokens": row["answer_tokens"]}
    return world | {"panel": False, "quiet": True, "sinks": (), "eval_episodes": 128, "overwrite": True} | row.get("options", {})


def begun(row: dict[str, Any], seed: int) -> Path:
    """The supervised start of a seed, which rows with the same world and solutions share."""
    said = "-".join(f"{k}{v}" for k, v in row["env_args"].items())
    folder = Path("runs") / f"bench-language-{row['env'].split('/')[-1]}-{said}-{row['start']}-{seed}"
    if not (folder / "policy" / "last.json").exists():
        thespis.train(
            "sft", out=folder, steps=row["start"], eval_every=row["start"], **options(row, seed) | row.get("start_options", {})
        )
    return folder


def run(name: str, row: dict[str, Any], seeds: list[int], arms: list[str]) -> None:
    for seed in seeds:
        for arm in arms:
            path = raw(name, arm, seed)
            if path.exists():
                continue
            start, folder = begun(row, seed), Path("runs") / f"bench-language-{name}-{arm}-{seed}"
            what = dict(row["arms"][arm])
            clock = time.process_time()
            made = thespis.train(
                what.pop("algo"), out=folder, start_from=start, eval_every=row["eval_every"],
                log_every=row.get("log_every", row["eval_every"]), **options(row, seed) | {"steps": row["steps"]} | what,
            )  # fmt: skip
            if not made.finished:
                raise SystemExit(f"{folder} was stopped ({made.stopped}); the same command begins it anew")
            rows: dict[int, dict[str, float]] = {}
            for line in (folder / "metrics.jsonl").read_text().splitlines():
                told = json.loads(line)
                kept = {
                    k: v for k, v in told.items() if k in EVERY or k in row["watch"] or k.removeprefix("train/") in row["watch"]
                }
                rows[told["step"]] = rows.get(told["step"], {"step": told["step"]}) | kept
            rows[max(rows)]["time/cpu_seconds"] = time.process_time() - clock
            write_rows(path, rows.values())


def reached(rows: list[dict[str, float]], size: int, wanted: float) -> int | None:
    """Episodes, `size` an update, until an evaluation has the return, between two of them along a line; None: never."""
    found = [(r.get("time/updates", 0) * size, r["eval/return_mean"]) for r in rows if "eval/return_mean" in r]
    for (x, low), (y, high) in itertools.pairwise(found):
        if high >= wanted:
            return round(y - (y - x) * (high - wanted) / max(high - low, 1e-9) if low < wanted else x)
    return None


def report(name: str, row: dict[str, Any], commit: str) -> None:
    from matplotlib.figure import Figure

    result = {k: row[k] for k in ("what", "env", "env_args", "start", "steps", "source")}
    result |= {"command": f"python bench/language.py run {name}", "commit": commit, "machine": machine(), "curves": {}}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (arm, what), colour in zip(row["arms"].items(), COLOURS, strict=False):
        runs = {s: [json.loads(x) for x in raw(name, arm, s).open()] for s in row["seeds"] if raw(name, arm, s).exists()}
        if not runs:
            continue
        told: dict[str, Any] = {"options": what, "seeds": list(runs)}
        for metric in [
            "eval/return_mean",
            "eval/greedy_return_mean",
            "eval/pass@4",
            "eval/pass@32",
            *(w if "/" in w else f"train/{w}" for w in row["watch"]),
        ]:
            table = [[r[metric] for r in rows if metric in r] for rows in runs.values()]
            table = np.array([t[: min(map(len, table))] for t in table])  # episodes of other lengths make fewer updates
            if not table.size:
                continue
            third = max(table.shape[1] // 3, 1)
            skip = 1 if metric.startswith("eval/") else 0  # the first evaluation is the start's
            told[metric] = {
                **({"start": table[:, 0].mean()} if skip else {}),
                "first_third": table[:, skip : third + skip].mean(1).tolist(),
                **({} if skip else {"over_time": {"std": table.std(1).tolist(), "lowest": table.min(1).tolist(),
                                                  "highest": table.max(1).tolist()}}),
                "last": table[:, -1].tolist(), "last_mean": table[:, -1].mean(), "last_interval95": interval(table[:, -1]),
            }  # fmt: skip
        last = told["eval/return_mean"]["last"]
        told |= {
            "mean": float(np.mean(last)),
            "interval95": interval(last),
            "std": float(np.std(last, ddof=min(len(last) - 1, 1))),
        }
        if "reach" in row:
            each = thespis.algorithms()[what["algo"]].config
            size = what.get("questions", each.questions) * what.get("group", each.group if hasattr(each, "group") else 1)
            told["episodes_until"] = {str(row["reach"]): [reached(rows, size, row["reach"]) for rows in runs.values()]}
        told["cpu_seconds"] = [rows[-1]["time/cpu_seconds"] for rows in runs.values()]
        result["curves"][arm] = told
        steps = [r["step"] for r in next(iter(runs.values())) if "eval/return_mean" in r]
        table = np.array([[r["eval/return_mean"] for r in rows if "eval/return_mean" in r] for rows in runs.values()])
        band(axes, steps, table, colour, f"{arm}, mean of {len(runs)} seeds")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    dress(axes, row["what"], "answers", "band: lowest to highest seed")
    keep(name, result, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("row", help="a name in bench/rows")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the row's")
    parser.add_argument("--arms", nargs="+", help="default: the row's")
    parser.add_argument("--commit", help="that the curves were made at, if not this one")
    args = parser.parse_args()
    row = tomllib.loads((HERE / "rows" / f"{args.row}.toml").read_text())
    if args.what == "run":
        run(args.row, row, args.seeds or row["seeds"], args.arms or list(row["arms"]))
    else:
        report(args.row, row, args.commit or commit())


if __name__ == "__main__":
    main()
