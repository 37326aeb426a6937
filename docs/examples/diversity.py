# docs/examples/diversity.py
import gymnasium as gym

import thespis

tiny = {"offspring": 32, "cells": 50, "hidden": (16,), "steps": 32 * 60 * 3, "eval_episodes": 2}
run = thespis.train("map_elites", "thespis/Omni-v0", out="runs/omni", overwrite=True, **tiny)
policy = thespis.load(run)
env = gym.make("thespis/Omni-v0")
for wanted in [(-0.5, 0.0), (0.0, 0.5)]:
    obs, _ = env.reset()
    for _ in range(60):
        obs, *_ = env.step(policy.act(obs, context=wanted))
    print(f"asked for {wanted}, ended at {obs[:2].round(2)}")
