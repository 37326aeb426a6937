# docs/examples/sweep.py
import thespis

small = {"steps": 300, "warmup": 100, "hidden": (32, 32), "eval_episodes": 2}
found = thespis.sweep("sac", "Pendulum-v1", over={"lr": [3e-4, 1e-3]}, seeds=1, out="runs/sweep-python", **small)
for row in found["settings"]:
    print(f"{row['name']}: {row['iqm']:.0f} over {row['seeds']} seeds, 95% interval {row['interval95']}")
