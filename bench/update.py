"""One update of SAC beside the machine's own floor: bare matrix products of the same shapes, measured in the same run.

    python bench/update.py --threads 2 --out bench/results/update.json          at the paper's sizes
    python bench/update.py --threads 1 --grow --out bench/results/growth.json   against batch and width, with growth.png

Compiled in float32 and with bfloat16 products, and in eager mode. The kinds take turns of half a second; what is reported is the
median, the quartiles, and the ratio of each round.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import plain, quartiles, record

import thespis  # noqa: F401  (it says how long torch's idle threads wait)
from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Spec, tree_map
from thespis.engine.compile import Stepper

TASKS = {"Pendulum-v1": (3, 1), "HalfCheetah-v5": (17, 6), "Humanoid-v5": (348, 17)}
Kind = tuple[Callable[[], object], str]
"""what is timed, and the precision of its products"""


def floor(obs: int, action: int, width: int, batch: int, device: str) -> tuple[Callable[[], object], float]:
    """Every matrix product of one update with two critics, as (rows, inner, columns), and how many MFLOP they are."""
    actor = [(obs, width), (width, width), (width, 2 * action)]
    critic = [(obs + action, width), (width, width), (width, 1)]
    forward = {id(net): [(batch, k, n) for k, n in net] for net in (actor, critic)}
    weights = {id(net): [(k, batch, n) for k, n in net] for net in (actor, critic)}
    inputs = {id(net): [(batch, n, k) for k, n in net] for net in (actor, critic)}
    a, q = id(actor), id(critic)
    target = forward[a] + 2 * forward[q]
    critics = 2 * (forward[q] + weights[q] + inputs[q][1:])
    policy = forward[a] + 2 * (forward[q] + inputs[q]) + weights[a] + inputs[a][1:]
    shapes = target + critics + policy
    jobs = [[torch.randn(shape, device=device) for shape in ((m, k), (k, n), (m, n))] for m, k, n in shapes]

    def run() -> None:
        for x, y, out in jobs:
            torch.mm(x, y, out=out)

    return run, sum(2 * m * k * n for m, k, n in shapes) / 1e6


def update(
    obs: int, action: int, width: int, batch: int, device: str, compile_after: int = 0, bf16: bool = False
) -> Callable[[], object]:
    learner = sac.make(sac.Config(hidden=(width, width)), Spec(Box(obs), Box(action)))
    stepper = Stepper(learner, tree_map(lambda x: x.to(device), learner.init()), compile_after, lambda line: None, bf16=bf16)
    rows = Batch(
        torch.randn(batch, obs), torch.rand(batch, action) * 2 - 1, torch.randn(batch), torch.full((batch,), 0.99),
        torch.randn(batch, obs),
    )  # fmt: skip
    rows = tree_map(lambda x: x.to(device), rows)
    return lambda: stepper.step(rows)


def compared(bare: Callable[[], object], *size: Any) -> dict[str, Kind]:
    kinds = {"floor": (bare, "highest"), "float32": (update(*size), "highest")}
    return kinds | {"bf16": (update(*size, bf16=True), "medium")}


def rounds(kinds: dict[str, Kind], count: int, seconds: float, device: str) -> dict[str, list[float]]:
    """Milliseconds of each kind, one a round."""
    out: dict[str, list[float]] = {name: [] for name in kinds}
    over = (lambda: None) if device == "cpu" else torch.accelerator.synchronize
    for number in range(-1, count):
        for name, (step, precision) in kinds.items():
            torch.set_float32_matmul_precision(precision)
            for _ in range(5):
                step()
            over()
            began, calls = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                step()
                calls += 1
            over()
            if number >= 0:
                out[name].append((time.perf_counter() - began) / calls * 1e3)
    return out


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    def over(below: str, name: str) -> dict[str, Any]:
        return quartiles([x / y for x, y in zip(times[name], times[below], strict=True)])

    ratio = {f"{name} / floor": over("floor", name) for name in times if name != "floor"}
    if "bf16" in times:
        ratio["float32 / bf16"] = over("bf16", "float32")
    return {"milliseconds": {name: quartiles(v) for name, v in times.items()}, "ratio": ratio}


def paper_sizes(args: argparse.Namespace) -> dict[str, Any]:
    out = {}
    for env in args.envs:
        obs, action = TASKS[env]
        bare, mflop = floor(obs, action, 256, 256, args.device)
        kinds = compared(bare, obs, action, 256, 256, args.device)
        kinds["eager"] = update(obs, action, 256, 256, args.device, -1), "highest"
        out[env] = {"MFLOP": mflop} | summary(rounds(kinds, args.rounds, args.seconds, args.device))
    return {"what": "one update of SAC, batch 256, 2 x 256, beside its bare matrix products", "envs": out}


def growth(args: argparse.Namespace) -> dict[str, Any]:
    out: dict[str, Any] = {"batch": {}, "width": {}}
    sizes = [("batch", b, 256, b) for b in (64, 128, 256, 512, 1024)] + [("width", w, w, 256) for w in (64, 128, 256, 512, 1024)]
    for name, value, width, batch in sizes:
        bare, mflop = floor(17, 6, width, batch, args.device)
        kinds = compared(bare, 17, 6, width, batch, args.device)
        out[name][value] = {"MFLOP": mflop} | summary(rounds(kinds, args.rounds, args.seconds, args.device))
    return {"what": "one update of SAC on HalfCheetah-v5's dimensions against batch (width 256) and width (batch 256)", **out}


def draw(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    colours = {"floor": "#8a929c", "float32": "#1f5fd1", "bf16": "#c4661f"}
    names = {"floor": "bare products, float32", "float32": "update, float32", "bf16": "update, bfloat16 products"}
    for axes, by in zip(figure.subplots(1, 2, sharey=True), ("batch", "width"), strict=True):
        for kind, colour in colours.items():
            points = {int(x): row["milliseconds"][kind] for x, row in result[by].items()}
            axes.plot(list(points), [p["median"] for p in points.values()], "o-", color=colour, label=names[kind], ms=4)
            axes.fill_between(
                list(points), *zip(*[(p["quartiles"][0], p["quartiles"][2]) for p in points.values()], strict=True),
                color=colour, alpha=0.2, lw=0,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(list(points), [str(x) for x in points])
        axes.set_xlabel(f"{by} ({'rows an update' if by == 'batch' else 'units of a hidden layer'})")
        plain(axes)
    figure.axes[0].set_ylabel("one update (ms)")
    figure.axes[0].legend(frameon=False)
    figure.suptitle(f"SAC on HalfCheetah-v5's dimensions, {result['threads']} thread{'s' * (result['threads'] > 1)}", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cuda: the update is one CUDA graph")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--envs", nargs="+", choices=list(TASKS), default=["HalfCheetah-v5"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--grow", action="store_true", help="against batch and width")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    how = {"device": args.device, "threads": args.threads, "rounds": args.rounds}
    result = (growth if args.grow else paper_sizes)(args) | how
    record(result, args.out, draw(result) if args.grow else None)


if __name__ == "__main__":
    main()
