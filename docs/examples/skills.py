# docs/examples/skills.py
import gymnasium as gym
import numpy as np

import thespis

tiny = {"steps": 2_000, "warmup": 1_000, "hidden": (16,), "updates_per_step": 0.1, "eval_episodes": 4, "num_envs": 16}
run = thespis.train("slim", "thespis/Tabletop-v0", out="runs/skills", skills=4, discriminator_obs=(2, 3), overwrite=True, **tiny)
policy = thespis.load(run)
env = gym.make("thespis/Tabletop-v0")
for skill in np.eye(4):
    obs, _ = env.reset(seed=0)
    for _ in range(50):
        obs, *_ = env.step(policy.act(obs, context=skill))
    print(f"skill {skill.argmax()} left the disc at {obs[2:4].round(2)}")
