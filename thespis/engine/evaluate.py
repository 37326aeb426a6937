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
from thespis.engine.diverge import sound
from thespis.envs import World, vector

Act = Callable[[Tensor, Tensor], Tensor]  # (observations, the numbers of their episodes) -> actions
AT_ONCE = 10  # episodes that share one forward pass


ATTEMPTS = 10  # at one episode


class Evaluator:
    """Keeps its environments. Episode i always starts from reset seed `seeds[i]`, so there is nothing to save.

    Where an environment fails and may be made anew (`timeout` and `restart` are those of `envs.vector`), its episode is begun
    again from its seed, once; if it fails there too, from the next seeds, since an episode may lead to its fault every time.
    """

    def __init__(
        self, world: World, episodes: int, seed: int, timeout: float | None = None, restart: Callable[[Fault], None] | None = None
    ):
        self.seeds = [int(x) for x in np.random.default_rng(seed).integers(2**31, size=episodes)]
        self.envs = vector(world, min(episodes, AT_ONCE), "sync", timeout, restart)

    def __call__(self, act: Act, begin: Callable[[Tensor], None] = lambda rows: None) -> dict[str, Any]:
        """The returns and lengths of every episode, and their moments. Draws nothing from the run's generators.

        `begin` is told the numbers (k,) of the episodes that begin again. Diverged: an action that is not finite.
        """
        returns, lengths = np.zeros(len(self.seeds)), np.zeros(len(self.seeds), int)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for first in range(0, len(self.seeds), self.envs.num_envs):
                group = slice(first, first + self.envs.num_envs)
                returns[group], lengths[group] = self._group(act, begin, first, self.seeds[group])
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "returns": returns.tolist(),
            "length_mean": float(lengths.mean()),
        }

    def _group(self, act: Act, begin: Callable[[Tensor], None], first: int, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The returns and lengths of the episodes from number `first` on, side by side, an environment each."""
        envs, n = self.envs, self.envs.num_envs
        returns, lengths, failures = np.zeros(n), np.zeros(n, int), np.zeros(n, int)
        running = fresh = np.arange(n) < len(seeds)
        while running.any():
            while fresh.any():
                starts = [seed + max(k - 1, 0) for seed, k in zip(seeds, failures.tolist(), strict=False)]
                obs, fresh = envs.reset(starts, fresh)
                self._again(fresh, failures)
            rows = np.flatnonzero(running)
            chosen = sound(act(torch.from_numpy(obs[rows]), torch.from_numpy(first + rows)).cpu().numpy())
            actions = np.zeros((n, *chosen.shape[1:]), chosen.dtype)
            actions[rows] = chosen
            obs, reward, terminated, truncated, fresh = envs.step(actions, running)
            returns[running], lengths[running] = returns[running] + reward[running], lengths[running] + 1
            running = running & (fresh | ~(terminated | truncated))
            if fresh.any():
                self._again(fresh, failures)
                returns[fresh], lengths[fresh] = 0.0, 0
                begin(torch.from_numpy(first + np.flatnonzero(fresh)))
        return returns[: len(seeds)], lengths[: len(seeds)]

    def _again(self, failed: np.ndarray, failures: np.ndarray) -> None:
        failures += failed
        if failures.max() >= ATTEMPTS:
            raise Fault(f"{self.envs.world.name}: an episode of the evaluation failed {ATTEMPTS} times")

    def close(self) -> None:
        self.envs.close()


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
