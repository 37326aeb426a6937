"""Learning curves of SAC at the paper's settings: Thespis against Stable-Baselines3, with intervals.

    python bench/learning.py run --env HalfCheetah-v5 --steps 100000 --seeds 0 1 2 --raw bench/results/raw
    python bench/learning.py report --env HalfCheetah-v5 --steps 100000 --raw bench/results/raw --out bench/results

`run` trains every seed of both, one after the other, one thread each; what is already done is skipped, and a Thespis run
that was stopped goes on where it was. `report` writes OUT/learning-ENV.json and a picture. Both libraries: batch 256,
2 x 256 ReLU, lr 3e-4, 10,000 random steps first, one update a step; every 10,000 steps 10 episodes with the mean action.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def rows_of(path: Path, mean: str, step: str = "step") -> list[tuple[int, float]]:
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row[step], row[mean]) for row in rows if mean in row]


def curve(library: str, env: str, seed: int, raw: Path) -> list[tuple[int, float]]:
    """(step, mean evaluation return) of one run."""
    if library == "sb3":
        return rows_of(raw / f"sb3-{env}-{seed}.jsonl", "mean_return")
    return rows_of(raw / f"thespis-{env}-{seed}.jsonl", "eval/return_mean")


def run(env: str, steps: int, seeds: list[int], libraries: list[str], raw: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    for seed in seeds:
        for library in libraries:
            done = curve(library, env, seed, raw)
            if done and done[-1][0] >= steps:
                continue
            if library == "sb3":
                command = [HERE / "learn_sb3.py", "--env", env, "--steps", steps, "--seed", seed, "--out", raw]
                subprocess.run([sys.executable, *map(str, command)], check=True, env=environ)
                continue
            folder = Path("runs") / f"bench-{env}-{seed}"
            command = (
                ["resume", folder]
                if (folder / "config.json").exists()
                else ["train", "sac", "--env", env, "--seed", seed, "--out", folder]
            )
            subprocess.run([sys.executable, "-m", "thespis", *map(str, command), "--steps", str(steps)], check=True, env=environ)
            (raw / f"thespis-{env}-{seed}.jsonl").write_text((folder / "metrics.jsonl").read_text())


def interval(values: list[float], level: float = 0.95, draws: int = 20_000) -> list[float]:
    """Bootstrap interval of the mean over seeds."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (draws, len(values))).mean(1)
    return [float(x) for x in np.quantile(means, [(1 - level) / 2, (1 + level) / 2])]


def report(env: str, steps: int, seeds: list[int], raw: Path, out: Path) -> None:
    from matplotlib.figure import Figure

    curves = {name: [c for s in seeds if (c := curve(name, env, s, raw)) and c[-1][0] >= steps] for name in ("thespis", "sb3")}
    result: dict[str, object] = {"what": f"SAC on {env}, {steps:,} steps", "seeds": seeds}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, runs), label, colour in zip(curves.items(), ("Thespis", "Stable-Baselines3"), ("#0b6e99", "#c4661f"), strict=True):
        last = [dict(c)[steps] for c in runs]
        result[name] = {
            "last": last,
            "mean": float(np.mean(last)),
            "interval95": interval(last),
            "std": float(np.std(last, ddof=1)),
        }
        at = sorted(set.intersection(*(set(dict(c)) for c in runs)))
        table = np.array([[dict(c)[s] for s in at] for c in runs])
        axes.plot(at, table.mean(0), color=colour, lw=2, label=f"{label} (mean of {len(runs)} seeds)")
        axes.fill_between(at, table.min(0), table.max(0), color=colour, alpha=0.18, lw=0)
    axes.set(xlabel="environment steps", ylabel="evaluation return", title=f"SAC on {env}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{int(x):,}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{int(y):,}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left", title="band: lowest to highest seed", title_fontsize=8)
    figure.savefig(out / f"learning-{env}.png", dpi=160)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result |= {
        "command": f"python bench/learning.py run --env {env} --steps {steps} --seeds {' '.join(map(str, seeds))}",
        "commit": commit,
    }
    (out / f"learning-{env}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--libraries", nargs="+", default=["thespis", "sb3"], choices=("thespis", "sb3"))
    parser.add_argument("--raw", type=Path, default=HERE / "results" / "raw")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    if args.what == "run":
        run(args.env, args.steps, args.seeds, args.libraries, args.raw)
    else:
        report(args.env, args.steps, args.seeds, args.raw, args.out)


if __name__ == "__main__":
    main()
