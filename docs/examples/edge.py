# docs/examples/edge.py
import gymnasium as gym
import numpy as np

import thespis

tiny = {"steps": 300, "warmup": 100, "batch_size": 32, "eval_episodes": 2}
run = thespis.train("gmorl_edge", env="thespis/EdgeComputing-v0", out="runs/servers", **tiny)
policy = thespis.load(run)
env = gym.make("thespis/EdgeComputing-v0", edges=3)
for preference in ([0.9, 0.1], [0.1, 0.9]):  # of delay, of energy
    (obs, _), total = env.reset(seed=0), np.zeros(2)
    for _ in range(100):
        obs, rewards, *_ = env.step(policy.act(obs, context=preference))
        total -= rewards * env.unwrapped.units
    print(f"{preference}: {total[0]:.0f} s of delay, {total[1]:.2f} J")
