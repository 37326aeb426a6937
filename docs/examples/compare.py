# docs/examples/compare.py
import thespis

tiny = {"env": "Pendulum-v1", "steps": 300, "warmup": 100, "hidden": (16,), "eval_every": 100, "eval_episodes": 2}
runs = [thespis.train("sac", seed=seed, out=f"runs/compare/sac-{seed}", **tiny) for seed in (1, 2)]
runs += [thespis.train("td3", seed=seed, out=f"runs/compare/td3-{seed}", **tiny) for seed in (1, 2)]
print(thespis.report(*runs))

found = thespis.compare(*runs)
for group in found["groups"]:
    print(group["group"], group["seeds"], group["iqm"], group["interval95"])
print(found["notes"])
