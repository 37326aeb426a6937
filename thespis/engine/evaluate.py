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
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (observations, actions) -> value, and what it counts besides reward
Steps = list[tuple[np.ndarray, np.ndarray, float]]  # (observation, action, reward) of an episode
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

    def __call__(
        self, act: Act, begin: Callable[[Tensor], None] = lambda rows: None, value: Value | None = None, gamma: float = 1.0
    ) -> dict[str, Any]:
        """The returns and lengths of every episode, and their moments. Draws nothing from the run's generators.

        `begin` is told the numbers (k,) of the episodes that begin again. With `value` also "value_mean", what it says of the
        first steps, and "discounted_mean", what came of them: see `came`. Diverged: an action that is not finite.
        """
        returns, lengths = np.zeros(len(self.seeds)), np.zeros(len(self.seeds), int)
        values: list[tuple[float, float]] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for first in range(0, len(self.seeds), self.envs.num_envs):
                group = slice(first, first + self.envs.num_envs)
                paths: list[Steps] = [[] for _ in self.seeds[group]]
                returns[group], lengths[group], ended = self._group(
                    act, begin, first, self.seeds[group], paths if value else None
                )
                if value:
                    values += [came(path, value, gamma, over) for path, over in zip(paths, ended.tolist(), strict=True)]
        values_came = dict(zip(("value_mean", "discounted_mean"), np.mean(values, 0).tolist(), strict=True)) if values else {}
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "returns": returns.tolist(),
            "length_mean": float(lengths.mean()),
            **values_came,
        }

    def _group(
        self, act: Act, begin: Callable[[Tensor], None], first: int, seeds: list[int], paths: list[Steps] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The returns and lengths of the episodes from number `first` on, side by side, an environment each, and whether they
        terminated. Their steps go to `paths`, where they are wanted."""
        envs, n = self.envs, self.envs.num_envs
        returns, lengths, failures, ended = np.zeros(n), np.zeros(n, int), np.zeros(n, int), np.zeros(n, bool)
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
            before = obs
            obs, reward, terminated, truncated, fresh = envs.step(actions, running)
            if paths is not None:
                for i in rows:
                    if fresh[i]:
                        paths[i].clear()
                    else:
                        paths[i].append((before[i], actions[i], float(reward[i])))
            returns[running], lengths[running] = returns[running] + reward[running], lengths[running] + 1
            ended |= terminated & running
            running = running & (fresh | ~(terminated | truncated))
            if fresh.any():
                self._again(fresh, failures)
                returns[fresh], lengths[fresh] = 0.0, 0
                begin(torch.from_numpy(first + np.flatnonzero(fresh)))
        return returns[: len(seeds)], lengths[: len(seeds)], ended[: len(seeds)]

    def _again(self, failed: np.ndarray, failures: np.ndarray) -> None:
        failures += failed
        if failures.max() >= ATTEMPTS:
            raise Fault(f"{self.envs.world.name}: an episode of the evaluation failed {ATTEMPTS} times")

    def close(self) -> None:
        self.envs.close()


def came(path: Steps, value: Value, gamma: float, terminated: bool) -> tuple[float, float]:
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
