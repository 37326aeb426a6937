"""Steps the environments, feeds replay, and can bring every environment back to where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis.core import Box, Discrete, Spec
from thespis.data import Replay, Rollout
from thespis.envs import reenact

Act = Callable[[Tensor], Tensor]


class Collector:
    """`num_envs` environments in lockstep. An episode is its reset seed and its actions: enough to re-enact it."""

    def __init__(self, envs: Any, spec: Spec, replay: Replay | Rollout, seed: int):
        self.envs, self.spec, self.replay, self.n = envs, spec, replay, envs.num_envs
        self.rng = np.random.default_rng(seed)
        self.seeds = [0] * self.n
        self.actions: list[list[np.ndarray]] = [[] for _ in range(self.n)]
        self.returns = np.zeros(self.n)
        self.obs = np.zeros((self.n, spec.obs.dim), np.float32)
        self.over = np.ones(self.n, bool)  # whose next step begins with a reset

    def step(self, act: Act | None) -> list[tuple[float, int]]:
        """One step of every environment, with random actions where `act` is None: (return, length) of each episode that ended."""
        if self.over.any():
            self._reset()
        action = act(torch.from_numpy(self.obs)).cpu().numpy() if act else self._random()
        last, reward, terminated, truncated, _ = self.envs.step(action)
        self.replay.add(self.obs, action, reward, terminated, truncated, last)
        self.returns += reward
        for i in range(self.n):
            self.actions[i].append(action[i])
        self.obs, self.over = last, terminated | truncated
        return [(float(self.returns[i]), len(self.actions[i])) for i in np.flatnonzero(self.over)]

    def _reset(self) -> None:
        """A new episode, from a new seed, for whoever's is over."""
        for i in np.flatnonzero(self.over):
            self.seeds[i], self.actions[i], self.returns[i] = int(self.rng.integers(2**31)), [], 0.0
        self.obs = self.envs.reset(seed=self.seeds, options=None if self.over.all() else {"reset_mask": self.over})[0]
        self.over = np.zeros(self.n, bool)

    def _random(self) -> np.ndarray:
        if isinstance(self.spec.action, Box):
            return self.rng.uniform(-1, 1, (self.n, self.spec.action.dim)).astype(np.float32)
        if isinstance(self.spec.action, Discrete):
            return self.rng.integers(self.spec.action.n, size=self.n)
        return self.rng.integers(self.spec.action.ns, size=(self.n, len(self.spec.action.ns)))

    # -------------------------------------------------------------------------------------------------- stop and go on

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything needed to go on, as JSON and as tensors."""
        none = self.replay.action[:0]
        episodes = {f"actions.{i}": torch.from_numpy(np.array(a)) if a else none for i, a in enumerate(self.actions)}
        json = {"rng": self.rng.bit_generator.state, "seeds": self.seeds, "returns": self.returns.tolist()}
        return json | {"over": self.over.tolist()}, {"obs": torch.from_numpy(self.obs.copy()), **episodes}

    def restore(self, json: dict[str, Any], tensors: dict[str, Tensor], say: Callable[[str], None]) -> None:
        """Re-enacts each current episode: its reset seed, then its actions. Where that leads elsewhere, a new one begins."""
        self.rng.bit_generator.state = json["rng"]
        self.seeds, self.returns = list(json["seeds"]), np.array(json["returns"])
        episodes = [tensors[f"actions.{i}"].numpy() for i in range(self.n)]
        self.actions, self.over = [list(actions) for actions in episodes], np.array(json["over"])
        past = [a[:0] if over else a for a, over in zip(episodes, self.over, strict=True)]
        self.obs, _, steps = reenact(self.envs, self.seeds, past)
        moved = (self.obs != tensors["obs"].numpy()).any(-1) | (steps < [len(a) for a in past])
        for i in np.flatnonzero(moved & ~self.over):
            say(f"environment {i} is not deterministic: re-enacting its episode led elsewhere, so a new episode begins")
            self.replay.cut(int(i))
            self.over[i] = True
