"""Environment steps per second of simulators in JAX, by how many environments are one program, with random actions.

    python bench/jaxed.py --rounds 3 --out bench/results/jaxed.json

Through the interface that a run uses, so observations reach NumPy at every step, and an episode that ends is begun anew in the
step after. Beside them a task of Gymnasium's MuJoCo, whose environments one process steps one after the other. The counts take
turns, for `rounds` rounds of `seconds` each; compiling (the first reset and the first step) is not in the rates but told apart.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from learning import COLOURS
from record import plain, record, spread

from thespis import envs

COUNTS = (1, 16, 256, 1024)
TASKS = ("brax/inverted_pendulum", "playground/CartpoleBalance", "InvertedPendulum-v5")


class Stepping:
    """`n` environments of a task under random actions."""

    def __init__(self, task: str, n: int) -> None:
        self.rng, began = np.random.default_rng(0), time.perf_counter()
        world = envs.world(task)
        self.envs, self.shape = envs.vector(world, n), (n, world.spec.action.dim)
        self.over, self.begun = np.ones(n, bool), 0
        self.made = time.perf_counter()
        self.steps(1)
        self.seconds = {"to_make": self.made - began, "to_compile": time.perf_counter() - self.made}

    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.over.any():
                self.begun += 1
                self.envs.reset(range(self.begun, self.begun + len(self.over)), self.over)
            _, _, terminated, truncated, _ = self.envs.step(self.rng.uniform(-1, 1, self.shape).astype(np.float32))
            self.over = terminated | truncated

    def rate(self, seconds: float) -> float:
        began, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            self.steps(4)
            done += 4 * len(self.over)
        return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", nargs="+", default=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    load, figures = [os.getloadavg()[0]], {}
    for task in args.envs:
        contenders = {n: Stepping(task, n) for n in COUNTS}
        rates: dict[int, list[float]] = {n: [] for n in COUNTS}
        for _ in range(args.rounds):
            for n, contender in contenders.items():
                rates[n].append(contender.rate(args.seconds))
                print(task, n, f"{rates[n][-1]:.0f} steps a second", flush=True)
            load.append(os.getloadavg()[0])
        for contender in contenders.values():
            contender.envs.close()
        figures[task] = {str(n): told(rates[n], contenders[n].seconds) for n in COUNTS}
    result = {
        "what": "environment steps per second with random actions, by the number of environments",
        "device": f"JAX {jax.__version__} on {jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "rounds": args.rounds, "load_average": [round(x, 1) for x in load],
        "seconds_a_round": args.seconds, "steps_per_second": figures,
    }  # fmt: skip
    record(result, args.out, draw(result))


def draw(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (task, by), colour in zip(result["steps_per_second"].items(), COLOURS, strict=False):
        x, rates = [int(n) for n in by], list(by.values())
        axes.plot(x, [r["median"] for r in rates], "o-", color=colour, label=task, ms=4)
        axes.fill_between(x, [r["min"] for r in rates], [r["max"] for r in rates], color=colour, alpha=0.2, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(x, list(map(str, x)))
    axes.set(xlabel="environments", ylabel="environment steps a second", title="simulators alone, random actions, two cores")
    plain(axes)
    axes.legend(frameon=False)
    return figure


def told(rates: list[float], seconds: dict[str, float]) -> dict[str, Any]:
    return {**spread(rates), "seconds": seconds}


if __name__ == "__main__":
    main()
