"""Train Stable-Baselines3's SAC at the paper's settings and record its evaluations: a peer for `bench/learning.py`.

    python bench/learn_sb3.py --env HalfCheetah-v5 --steps 100000 --seed 0 --out FILE.jsonl

Writes a row an evaluation: {"step", "return_mean", "return_std", "returns", "seconds"}.
Both libraries: one torch thread, batch 256, 2 x 256 ReLU, lr 3e-4, 10,000 random steps first, one update a step,
10 evaluation episodes with the mean action on an environment of its own, seeded with 10,000 + seed.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback


class Evaluate(BaseCallback):
    def __init__(self, env: str, every: int, seed: int, path: Path):
        super().__init__()
        self.env, self.every, self.seed, self.path = gym.make(env), every, seed, path
        self.started = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            returns = []
            for episode in range(10):
                obs, _ = self.env.reset(seed=10_000 + self.seed if episode == 0 else None)
                total, over = 0.0, False
                while not over:
                    action, _ = self.model.predict(obs, deterministic=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.unlink(missing_ok=True)
    model = SAC("MlpPolicy", args.env, learning_starts=10_000, seed=args.seed, device="cpu")
    model.learn(args.steps, callback=Evaluate(args.env, args.every, args.seed, args.out))


if __name__ == "__main__":
    main()
