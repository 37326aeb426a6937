# docs/examples/from_data.py
import os
from pathlib import Path

os.environ["MINARI_DATASETS_PATH"] = str(Path("datasets").resolve())  # Minari's folder; if not set, ~/.minari/datasets

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

import thespis


def episode(env: gym.Env, seed: int) -> EpisodeBuffer:
    """One episode of a simple controller: push the pendulum the way it turns."""
    obs, _ = env.reset(seed=seed)
    seen, actions, rewards, terminations, truncations = [obs], [], [], [], []
    while not (truncations and truncations[-1]):
        actions.append(np.array([2.0 if obs[2] > 0 else -2.0]))
        obs, reward, terminated, truncated, _ = env.step(actions[-1])
        for column, value in zip((seen, rewards, terminations, truncations), (obs, reward, terminated, truncated), strict=True):
            column.append(value)
    return EpisodeBuffer(None, seed, None, seen, actions, rewards, terminations, truncations)


if not Path("datasets/pendulum/push-v0").exists():
    env = gym.make("Pendulum-v1")
    minari.create_dataset_from_buffers("pendulum/push-v0", [episode(env, seed) for seed in range(5)], env="Pendulum-v1")

tiny = {"env": "Pendulum-v1", "data": "pendulum/push-v0", "steps": 50, "hidden": (32, 32), "eval_episodes": 2, "warmup": 0}
print(thespis.train("sac", out="runs/sac-from-data", **tiny).return_mean)
print(thespis.train("arsq", pretrain=100, demo_slice=(0.5, 1.0), out="runs/arsq-from-data", **tiny).return_mean)
