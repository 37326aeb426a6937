# docs/examples/memory.py
import gymnasium as gym

import thespis

tiny = {"memory": 8, "hidden": (16,), "burn_in": 2, "length": 4, "batch_size": 8, "warmup": 100, "eval_episodes": 1}
run = thespis.train("recurrent_sac", env="thespis/HiddenPendulum-v0", steps=150, out="runs/memory", **tiny)
policy, env = thespis.load(run), gym.make("thespis/HiddenPendulum-v0")
for seed in (0, 1):
    policy.reset()  # a new episode: nothing of the last one is remembered
    obs, _ = env.reset(seed=seed)
    for _ in range(5):
        obs, *_ = env.step(policy.act(obs))  # one observation at a time: the policy remembers the others
