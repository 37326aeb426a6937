"""SAC where a step of the environment takes 10 ms: stepping and learning by turns, against collectors that step meanwhile.

    python bench/overlap.py --rounds 3 --out bench/results/overlap.json

HalfCheetah-v5, what remains of 10 ms slept away, the paper's numbers, one update a step: neither learning nor stepping is small.
The kinds take turns. A rate is that of the rows of metrics after 40% of a run's steps; the lag is how many updates older than the
learner the policies were that made the newest segments (collect/staleness_mean and _max in the rows of metrics).
"""

import argparse
import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any

from collectors import waiting
from record import record, spread

import thespis
from thespis.engine.cluster import cluster
from thespis.report import curve

KINDS = (0, 1, 2)
STEPS = 2_500


def rows(collectors: int) -> list[dict[str, Any]]:
    """The rows of metrics of a run, after its start."""
    with tempfile.TemporaryDirectory() as place:
        run = thespis.train(
            "sac", env=functools.partial(waiting, "HalfCheetah-v5"), out=Path(place) / "run", collectors=collectors, steps=STEPS,
            warmup=500, threads=1, compile_after=0, eval_every=10**9, eval_episodes=1, checkpoint_every=10**9, log_every=100,
            sinks=(), panel=False,
        )  # fmt: skip
        every = curve.rows(run.path)
    return [row for row in every if "time/seconds" in row and row["step"] >= 0.4 * STEPS]


def rate(at: list[dict[str, Any]]) -> float:
    return (at[-1]["step"] - at[0]["step"]) / (at[-1]["time/seconds"] - at[0]["time/seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seen: dict[int, list[list[dict[str, Any]]]] = {kind: [] for kind in KINDS}
    with cluster(max(KINDS), None):
        for _ in range(args.rounds):
            for kind in KINDS:
                seen[kind].append(rows(kind))
                print(kind, f"{rate(seen[kind][-1]):.1f} steps a second", flush=True)
    rates = {kind: [rate(at) for at in runs] for kind, runs in seen.items()}
    lags = {kind: [row for at in runs for row in at if "collect/staleness_max" in row] for kind, runs in seen.items() if kind}
    result = {
        "what": "SAC, environment steps per second where a step takes 10 ms of waiting and an update some 6 ms: by turns (0) and "
        "with collectors (1, 2)",
        "steps_per_second": {kind: spread(r) for kind, r in rates.items()},
        "of_by_turns": {kind: [a / b for a, b in zip(rates[kind], rates[0], strict=True)] for kind in lags},
        "lag_in_updates": {
            kind: {
                "mean": statistics.mean(row["collect/staleness_mean"] for row in at),
                "max": max(row["collect/staleness_max"] for row in at),
            }
            for kind, at in lags.items()
        },
    }
    record(result, args.out)


if __name__ == "__main__":
    main()
