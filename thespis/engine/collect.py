"""Steps the environments, feeds replay, and can bring every environment back to where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis import ops
from thespis.core import Discrete, Spec
from thespis.data import Recorded, Replay, Rollout
from thespis.data.replay import empty_actions
from thespis.engine.diverge import sound
from thespis.engine.progress import Episode
from thespis.envs import Vector
from thespis.envs.statistics import Statistics

Act = Callable[[Tensor, Tensor | None], Tensor]  # (observations, the numbers of their environments or None: all) -> actions


def random_actions(spec: Spec, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform actions, of choices among those that the action masks of `obs` (n, obs) allow."""
    kind, n, mask = spec.action, len(obs), spec.mask
    dim, ns = ops.sizes(kind)
    vector = rng.uniform(-1, 1, (n, dim)).astype(np.float32)
    if not ns:
        return vector
    if mask:  # the largest of numbers in (0, 1], where those of forbidden choices are 0
        chance = np.split((1 - rng.uniform(size=(n, mask))) * obs[:, -mask:], np.cumsum(ns)[:-1], axis=1)
        choices = np.stack([part.argmax(1) for part in chance], 1)
    else:
        choices = rng.integers(kind.n if isinstance(kind, Discrete) else ns, size=(n, len(ns)))
    if dim:
        return np.concatenate([vector, choices.astype(np.float32)], 1)
    return choices[:, 0] if isinstance(kind, Discrete) else choices


class Collector:
    """`num_envs` environments in lockstep. An episode is its reset seed and its actions: enough to re-enact it."""

    def __init__(
        self, envs: Vector, spec: Spec, replay: Replay | Rollout, seed: int, begin: Callable[[Tensor], None] | None = None,
        draw: Callable[[int], np.ndarray] | None = None,
    ):  # fmt: skip
        """`begin` is told the numbers (k,) of the environments in which an episode begins; `draw` gives their contexts (k, C)."""
        self.envs, self.spec, self.replay, self.n, self.begin = envs, spec, replay, envs.num_envs, begin
        self.rng = np.random.default_rng(seed)
        self.seeds = [0] * self.n
        self.actions: list[list[np.ndarray]] = [[] for _ in range(self.n)]
        self.returns = np.zeros_like(envs.task_reward)
        self.obs = np.zeros((self.n, spec.obs.dim), np.float32)
        self.over = np.ones(self.n, bool)  # whose next step begins with a reset
        self.gathered = envs.gathered()  # by wrappers that normalise, before each current episode
        self.draw, self.contexts = draw, None if draw is None else envs.contexts

    def step(self, act: Act | None) -> list[Episode]:
        """One step of every environment, with random actions where `act` is None: the episodes that ended.

        Where an environment fails and may be made anew, its episode ends as a time limit would end it at its last good step,
        and this step is the first of a new one. Diverged: an action that is not finite.
        """
        action, todo = empty_actions(self.spec, self.n), np.ones(self.n, bool)
        while todo.any():
            if self.over.any():
                self._reset()
            obs, rows = (self.obs, None) if todo.all() else (self.obs[todo], torch.from_numpy(np.flatnonzero(todo)))
            chosen = act(torch.from_numpy(obs), rows).cpu().numpy() if act else random_actions(self.spec, obs, self.rng)
            action[todo] = sound(chosen)
            last, reward, terminated, truncated, todo = self.envs.step(action, todo)
            self._cut(todo)
        self.replay.add(self.obs, action, reward, terminated, truncated, last)
        self.returns += self.envs.task_reward
        for i in range(self.n):
            self.actions[i].append(action[i])
        self.obs, self.over = last, terminated | truncated
        return [self._episode(i) for i in np.flatnonzero(self.over).tolist()]

    def _episode(self, i: int) -> Episode:
        world, infos = self.envs.world, self.envs.infos.get(i, {})
        return float(world.total(self.returns[i])), len(self.actions[i]), world.named(self.returns[i]) | infos

    def _reset(self) -> None:
        """A new episode, from a new seed, for whoever's is over."""
        if self.begin:
            self.begin(torch.from_numpy(np.flatnonzero(self.over)))
        if self.gathered[0]:
            self._keep_gathered()
        while self.over.any():
            for i in np.flatnonzero(self.over):
                self.seeds[i], self.actions[i], self.returns[i] = int(self.rng.integers(2**31)), [], 0.0
            if self.draw:
                self._draw(self.draw)
            obs, failed = self.envs.reset(self.seeds, self.over)
            self.obs[self.over], self.over = obs[self.over], failed

    def _draw(self, draw: Callable[[int], np.ndarray]) -> None:
        """A context for each episode that begins; the others' stay, to re-enact them from. Of those that a world takes, row i is
        for environment i, so that a level may stay there for a rollout."""
        drawn = draw(self.n)[self.over] if self.spec.context else draw(int(self.over.sum()))
        if self.contexts is None:
            self.contexts = np.zeros((self.n, drawn.shape[1]), np.float32)
        self.contexts[self.over] = drawn
        self.envs.contexts = self.contexts

    def _keep_gathered(self) -> None:
        """What wrappers had gathered before an episode is kept, to re-enact it from; and given to environments made anew."""
        now = self.envs.gathered()
        gone = self.over & np.array([not each for each in now])
        if gone.any():
            self.envs.use(self.gathered, False, gone)
        for i in np.flatnonzero(self.over & ~gone):
            self.gathered[i] = now[i]

    def gathered_now(self) -> list[Statistics]:
        """What wrappers have gathered until now; of an environment that failed, before its last episode."""
        if not self.gathered[0]:
            return self.gathered
        return [each or before for each, before in zip(self.envs.gathered(), self.gathered, strict=True)]

    def interrupt(self) -> None:
        """Every episode under way ends as a time limit would end it: others use the environments."""
        self._cut(~self.over)

    def _cut(self, rows: np.ndarray) -> None:
        """The episodes of these, (n,) bool, go no further."""
        for i in np.flatnonzero(rows):
            self.replay.cut(int(i))
            self.over[i] = True

    # -------------------------------------------------------------------------------------------------- stop and go on

    def reseed(self, seed: int) -> None:
        """What is drawn from now on is of another seed."""
        self.rng = np.random.default_rng(seed)

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything needed to go on, as JSON and as tensors."""
        none = empty_actions(self.spec, 0)
        episodes = {f"actions.{i}": torch.from_numpy(np.array(a) if a else none) for i, a in enumerate(self.actions)}
        now = self.gathered_now()  # whose episode is over is not re-enacted
        parts = [now[i] if over else self.gathered[i] for i, over in enumerate(self.over.tolist())]
        episodes |= {f"gathered.{i}.{k}": torch.as_tensor(v) for i, part in enumerate(parts) for k, v in part.items()}
        if self.contexts is not None:
            episodes["contexts"] = torch.from_numpy(self.contexts.copy())
        json = {"rng": self.rng.bit_generator.state, "seeds": self.seeds, "returns": self.returns.tolist()}
        return json | {"over": self.over.tolist()}, {"obs": torch.from_numpy(self.obs.copy()), **episodes}

    def restore(self, json: dict[str, Any], tensors: dict[str, Tensor], say: Callable[[str], None]) -> None:
        """Re-enacts each current episode: its reset seed, then its actions. Where that leads elsewhere, a new one begins."""
        self.rng.bit_generator.state = json["rng"]
        shape, self.returns = self.returns.shape, np.array(json["returns"], float)
        self.seeds = [int(seed) for seed in json["seeds"]]
        episodes = [tensors[f"actions.{i}"].numpy() for i in range(self.n)]
        self.actions, self.over = [list(actions) for actions in episodes], np.array(json["over"], bool)
        if {(len(self.seeds),), self.over.shape} != {(self.n,)} or self.returns.shape != shape:
            raise ValueError(f"there must be {self.n} seeds, returns and flags")
        self.obs = tensors["obs"].numpy().reshape(self.obs.shape).copy()
        names = [[k for k in tensors if k.startswith(f"gathered.{i}.")] for i in range(self.n)]
        if [len(each) for each in names] != [len(each) for each in self.gathered]:
            raise ValueError("the wrappers that normalise are other ones")
        self.gathered = [{k.split(".", 2)[2]: tensors[k].numpy() for k in each} for each in names]
        if self.gathered[0]:
            self.envs.use(self.gathered, frozen=False)
        if self.draw and "contexts" in tensors:
            self.contexts = self.envs.contexts = tensors["contexts"].numpy().reshape(self.n, -1).copy()
        obs, _, steps = self.envs.reenact(self.seeds, episodes, ~self.over, self.gathered if self.gathered[0] else None)
        moved = ~self.over & ((obs != self.obs).any(-1) | (steps < [len(a) for a in episodes]))
        for i in np.flatnonzero(moved):
            what = f"environment {i} is not deterministic, or another environment than before"
            say(f"{what}: re-enacting its episode led elsewhere, so a new episode begins")
        self._cut(moved)


class Still:
    """Steps nothing: where a run learns from a dataset alone, its clock ticks once for each update."""

    def __init__(self, recorded: Recorded):
        self.recorded = recorded

    def step(self, act: Act | None) -> list[Episode]:
        self.recorded.steps += 1
        return []

    def reseed(self, seed: int) -> None:
        pass

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, {}

    def restore(self, json: dict[str, Any], tensors: dict[str, Tensor], say: Callable[[str], None]) -> None:
        pass
