"""Train an algorithm of Stable-Baselines3 or SBX and record its evaluations: a peer for `bench/learning.py`.

    python bench/learn_sb3.py --env HalfCheetah-v5 --steps 100000 --seed 0 --out FILE.jsonl
    python bench/learn_sb3.py --algo ppo --env Hopper-v5 --steps 1000000 --every 50000 --seed 0 --out FILE.jsonl
    python bench/learn_sb3.py --library sbx --algo crossq --env Hopper-v5 --steps 100000 --every 5000 --seed 0 --out FILE.jsonl

Writes a row an evaluation: {"step", "return_mean", "return_std", "returns", "seconds"}.
Both libraries: one torch thread and 10 evaluation episodes unless told otherwise, with the mean action, on an environment of its
own that is seeded with 10,000 + seed. Random steps first: 10,000, unless --learning-starts says otherwise.
    SAC   batch 256, 2 x 256 ReLU, lr 3e-4, one update a step
    PPO   8 environments, 256 steps of each a rollout, 10 epochs of minibatches of 64, 2 x 64 tanh, lr 3e-4, observations and
          rewards normalised and within 10 (VecNormalize), and the other defaults of both, which are the same but for the value
          loss: here it has a weight of 0.5 and one gradient norm with the actor's
    others    the library's own defaults
"""

import argparse
import importlib
import json
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


class Evaluate(BaseCallback):
    def __init__(self, env: str, every: int, episodes: int, seed: int, path: Path):
        super().__init__()
        self.env, self.every, self.episodes, self.seed, self.path = gym.make(env), every, episodes, seed, path
        self.started = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            returns, normal = [], self.model.get_vec_normalize_env()
            for episode in range(self.episodes):
                obs, _ = self.env.reset(seed=10_000 + self.seed if episode == 0 else None)
                total, over = 0.0, False
                while not over:
                    action, _ = self.model.predict(normal.normalize_obs(obs) if normal else obs, deterministic=True)
                    obs, reward, terminated, truncated, _ = self.env.step(action)
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            row = {
                "step": self.num_timesteps,
                "return_mean": float(np.mean(returns)),
                "return_std": float(np.std(returns)),
                "returns": returns,
                "seconds": time.perf_counter() - self.started,
            }
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return True


def make(library: str, algo: str, env: str, seed: int, starts: int) -> BaseAlgorithm:
    if algo == "ppo":
        return PPO("MlpPolicy", VecNormalize(make_vec_env(env, 8, seed)), n_steps=256, batch_size=64, seed=seed, device="cpu")
    found = {a.lower(): a for a in ("SAC", "CrossQ", "TQC")}[algo]
    module = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[library])
    return getattr(module, found)("MlpPolicy", env, learning_starts=starts, seed=seed, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", choices=("sb3", "sbx"), default="sb3")
    parser.add_argument("--algo", choices=("sac", "ppo", "crossq", "tqc"), default="sac")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    parser.add_argument("--learning-starts", type=int, default=10_000, help="random steps first; not PPO's")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.unlink(missing_ok=True)
    model = make(args.library, args.algo, args.env, args.seed, args.learning_starts)
    model.learn(args.steps, callback=Evaluate(args.env, args.every, args.episodes, args.seed, args.out))


if __name__ == "__main__":
    main()
