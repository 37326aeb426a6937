# docs/examples/priority.py
import thespis

tiny = {"steps": 300, "warmup": 200, "hidden": (16,), "eval_episodes": 1}
run = thespis.train("sac", env="MountainCarContinuous-v0", priority=0.6, out="runs/priority", **tiny)
print(run.return_mean)
