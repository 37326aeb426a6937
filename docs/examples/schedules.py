# docs/examples/schedules.py
import json

import thespis

tiny = {"steps": 600, "warmup": 200, "hidden": (32, 32), "log_every": 100, "eval_episodes": 1}
run = thespis.train("sac", env="Pendulum-v1", lr="cosine:1e-3:1e-5:warmup=0.1", out="runs/schedule", **tiny)
for row in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines()):
    if "train/actor_lr" in row:
        print(f"step {row['step']}: {row['train/actor_lr']:.1e}")  # the mean since the row before

rate = thespis.Schedule("linear:3e-4")  # the same, checked at once
print(rate.shape, rate.first, rate.last)
