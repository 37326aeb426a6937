# docs/examples/private_tuning.py
import gymnasium as gym
import matplotlib
import numpy as np

import thespis  # noqa: F401

matplotlib.use("Agg")
import matplotlib.pyplot as plt

env = gym.make("thespis/PrivateTuning-v0", epsilon=8.0, updates=16, part="private").unwrapped
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for threshold in (0.1, 0.4, 1.6):
    env.reset(seed=0)
    action = np.append(np.full(4, np.log10(threshold)), 0).astype(np.float32)
    curve, over = [(0, np.exp(env.loss))], False
    while not over:
        _, _, over, _, info = env.step(action)
        curve.append((info["updates"], info["perplexity"]))
    ax.plot(*zip(*curve, strict=True), "o-", label=f"clipped to {threshold}")
    told = env.audit()
    print(f"clipped to {threshold}: perplexity {told['perplexity']:.1f}, epsilon {told['epsilon']:.3f} of 8")
ax.set_xlabel("updates")
ax.set_ylabel("perplexity of a character")
ax.legend(frameon=False)
figure.savefig("private-tuning.png", dpi=130)
