"""Environment steps per second with 1, 2, 4 and 8 collectors, where a step of the environment takes 10 ms of waiting.

    python bench/collectors.py --rounds 3 --out bench/results/collectors.json

Such an environment is a simulator or a robot elsewhere: it costs time and no processor. SAC with a tiny network makes an update
in every hundred steps, so that neither the learner nor the cores are what is measured. The counts of collectors take turns, for
`rounds` rounds. A rate is that of the rows of metrics between 40% and 90% of a run's steps: all collectors are there, and none is
done. Reported are each count's median and range, and how much of linear growth the median is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
from record import record, spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import thespis
from thespis.engine.cluster import cluster
from thespis.report import curve

COUNTS = (1, 2, 4, 8)
WAIT = 0.01


def waiting(env: str = "thespis/Value-v0") -> Any:
    class Waiting(gym.Wrapper):
        """What remains of 10 ms after the step itself is slept away."""

        def step(self, action: Any) -> Any:
            until = time.perf_counter() + WAIT
            out = self.env.step(action)
            time.sleep(max(until - time.perf_counter(), 0))
            return out

    return Waiting(gym.make(env))


def rate(collectors: int, seconds: float) -> float:
    steps = int(seconds / WAIT) * collectors
    with tempfile.TemporaryDirectory() as place:
        run = thespis.train(
            "sac", env=waiting, out=Path(place) / "run", collectors=collectors, steps=steps, warmup=100, hidden=(8,),
            batch_size=16, updates_per_step=0.01, eval_every=10**9, eval_episodes=1, checkpoint_every=10**9,
            log_every=steps // 20, sinks=(), compile_after=-1, panel=False,
        )  # fmt: skip
        rows = curve.rows(run.path)
    at = [(row["step"], row["time/seconds"]) for row in rows if "time/seconds" in row and 0.4 <= row["step"] / steps <= 0.9]
    return (at[-1][0] - at[0][0]) / (at[-1][1] - at[0][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="that a run takes where every step takes 10 ms")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    load = [os.getloadavg()[0]]
    with cluster(max(COUNTS), None):
        for _ in range(args.rounds):
            for count in COUNTS:
                rates[count].append(rate(count, args.seconds))
                print(count, f"{rates[count][-1]:.1f} steps a second", flush=True)
            load.append(os.getloadavg()[0])
    medians = {count: statistics.median(r) for count, r in rates.items()}
    result = {
        "what": "SAC, environment steps per second by collectors, where a step of the environment takes 10 ms of waiting",
        "rounds": args.rounds, "load_average": [round(x, 1) for x in load], "seconds_a_run": args.seconds,
        "steps_per_second": {str(c): spread(r) for c, r in rates.items()},
        "of_linear_from_one": {str(c): medians[c] / medians[1] / c for c in COUNTS},
        "of_the_environment": {str(c): medians[c] * WAIT / c for c in COUNTS},
    }  # fmt: skip
    record(result, args.out, draw(rates))


def draw(rates: dict[int, list[float]]) -> Any:
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.plot(COUNTS, [c / WAIT for c in COUNTS], "--", color="grey", label="the environments' own pace")
    for count, values in rates.items():
        axes.plot([count] * len(values), values, ".", color="tab:blue")
    axes.plot(COUNTS, [statistics.median(rates[c]) for c in COUNTS], color="tab:blue", label="median of the rounds")
    axes.set(xlabel="collectors", ylabel="environment steps a second", xticks=COUNTS, xlim=(0, 8.4), ylim=(0, None))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
