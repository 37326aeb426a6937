# docs/examples/follow_metrics.py
import json
import sys
from pathlib import Path

import thespis


def column(run: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every row that has `name`; null, where a value was not finite, is left out."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


if len(sys.argv) > 1:
    run = Path(sys.argv[1])
else:
    tiny = {"steps": 400, "warmup": 200, "hidden": (32, 32), "log_every": 100, "eval_every": 200, "eval_episodes": 2}
    run = thespis.train("sac", env="Pendulum-v1", out="runs/metrics", **tiny).path

for name in ("eval/return_mean", "episode/return", "train/entropy"):
    print(name, *(f"{step}: {value:.1f}" for step, value in column(run, name)), sep="  ")
