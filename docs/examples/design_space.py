# docs/examples/design_space.py
import gymnasium as gym
import numpy as np

from thespis.worlds.dram import CHOICES, LEVELS

env = gym.make("thespis/DRAM-v0", trace="cloud", goal="latency", requests=300)
designs = np.random.default_rng(0).integers(LEVELS, size=(40, 10))
rewards = env.unwrapped.reward(designs)  # of many at once; each design is simulated once
watts, milliseconds = env.unwrapped.measured(designs)
best = rewards.argmax()
print(f"reward {rewards[best]:.2f}: {milliseconds[best] * 1e3:.2f} us at {watts[best]:.2f} W")
print({name: levels[i] for (name, levels), i in zip(CHOICES.items(), designs[best], strict=True)})
