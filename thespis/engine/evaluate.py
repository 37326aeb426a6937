"""Whole episodes with a policy, on environments of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from thespis.core import Fault
from thespis.envs import World

Act = Callable[[Tensor, Tensor], Tensor]  # (observations, the numbers of their episodes) -> actions
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (observations, actions) -> value, and what it counts besides reward
AT_ONCE = 10  # episodes that share one forward pass


class Evaluator:
    """Keeps its environments. Episode i always starts from reset seed `seeds[i]`, so there is nothing to save."""

    def __init__(self, world: World, episodes: int, seed: int):
        self.seeds = [int(x) for x in np.random.default_rng(seed).integers(2**31, size=episodes)]
        self.envs = [world.make() for _ in range(min(episodes, AT_ONCE))]

    def __call__(self, act: Act, value: Value | None = None, gamma: float = 1.0) -> dict[str, Any]:
        """The returns and lengths of every episode, and their moments. Draws nothing from the run's generators.

        With `value` also "value_mean", what it says of the first steps, and "discounted_mean", what came of them: see `came`.
        """
        returns, lengths = np.zeros(len(self.seeds)), np.zeros(len(self.seeds), int)
        paths: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in self.seeds]
        values = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for first in range(0, len(self.seeds), len(self.envs)):
                group = range(first, min(first + len(self.envs), len(self.seeds)))
                obs = {i: self.envs[i - first].reset(seed=self.seeds[i])[0] for i in group}
                while obs:
                    actions = act(torch.from_numpy(np.stack(list(obs.values()))), torch.tensor(list(obs))).cpu().numpy()
                    for i, action in zip(list(obs), actions, strict=True):
                        before = obs[i]
                        obs[i], reward, terminated, truncated, _ = self.envs[i - first].step(action)
                        returns[i] += float(reward)
                        lengths[i] += 1
                        if value:
                            paths[i].append((before, action, float(reward)))
                        if terminated or truncated:
                            del obs[i]
                            if value:
                                values.append(came(paths[i], value, gamma, bool(terminated)))
                                paths[i] = []
        told = dict(zip(("value_mean", "discounted_mean"), np.mean(values, 0).tolist(), strict=True)) if values else {}
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "returns": returns.tolist(),
            "length_mean": float(lengths.mean()),
            **told,
        }

    def close(self) -> None:
        for env in self.envs:
            env.close()


def came(path: list[tuple[np.ndarray, np.ndarray, float]], value: Value, gamma: float, terminated: bool) -> tuple[float, float]:
    """What the critic says of an episode's first step, and what came of it: its (obs, action, reward), discounted.

    Besides the rewards of all steps it counts, as the critic does, the entropy bonus of all but the first. Where the episode was
    cut off, not ended, the critic's own word on the last step stands for what would have followed from there.
    """
    obs, actions, rewards = zip(*path, strict=True)
    q, bonus = (x.double().cpu().tolist() for x in value(torch.from_numpy(np.stack(obs)), torch.from_numpy(np.stack(actions))))
    total = rewards[-1] if terminated else q[-1]
    for t in reversed(range(len(path) - 1)):
        total = rewards[t] + gamma * (bonus[t + 1] + total)
    return q[0], total


def record(world: World, act: Act, folder: Path, name: str, seed: int) -> Path:
    """A video of one episode, FOLDER/NAME.mp4. Raises Fault where the environment or this machine cannot draw."""
    try:
        import moviepy  # noqa: F401
    except ImportError:
        raise Fault('videos need moviepy: pip install "thespis[video]"') from None
    drawn = world.make(render_mode="rgb_array")
    with warnings.catch_warnings(action="ignore"):  # that the folder holds other videos
        env = gym.wrappers.RecordVideo(drawn, str(folder), name_prefix=name, episode_trigger=lambda _: True, disable_logger=True)
    try:
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, _, terminated, truncated, _ = env.step(
                act(torch.from_numpy(obs)[None], torch.zeros(1, dtype=torch.int64)).cpu().numpy()[0]
            )
            over = terminated or truncated
    finally:
        env.close()
    path = folder / f"{name}.mp4"
    (folder / f"{name}-episode-0.mp4").replace(path)
    return path
