"""Whole episodes with a policy, on environments of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thespis.core import Fault
from thespis.engine.collect import Collector
from thespis.engine.diverge import sound
from thespis.engine.process import seeded
from thespis.engine.run import Run
from thespis.envs import Vector, World, vector
from thespis.envs.statistics import pooled

Act = Callable[[Tensor, Tensor], Tensor]  # (observations, the numbers of their episodes) -> actions
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (observations, actions) -> value, and what it counts besides reward
AT_ONCE = 10  # episodes that share one forward pass
ATTEMPTS = 10  # at one episode
LONGEST = 10_000  # steps after which an episode is cut, where neither the user nor a longer time limit says otherwise
CHUNK = 1_000  # steps that are kept until the critic is asked of them


def kind(world: World, run: Run) -> Literal["sync", "async"]:
    """Where the environments of evaluations are: in processes of their own where those of training are."""
    return "async" if world.batch is None and (run.vector == "async" or run.collectors) else "sync"


class Evaluator:
    """Keeps its environments. Episode i always starts from reset seed `seeds[i]`, so there is nothing to save.

    Where an environment fails and may be made anew (`timeout`, `restart` and `kind` are those of `envs.vector`), its episode is
    begun again from its seed, once; if it fails there too, from the next seeds, since an episode may lead to its fault every
    time. An episode of more than `longest` steps (None: LONGEST, or the environment's own limit where that is longer) is cut.
    """

    def __init__(
        self, world: World, episodes: int, seed: int, timeout: float | None = None,
        restart: Callable[[Fault], None] | None = None, kind: str = "sync", longest: int | None = None, device: str = "cpu",
        envs: Vector | None = None,
    ):  # fmt: skip
        """`device` is where `act` draws its numbers. Without `envs`, which are those that train, it makes its own: fewer than
        there are episodes where so many cannot be made or take too much memory."""
        self.seeds = [int(x) for x in np.random.default_rng(seed).integers(2**31, size=episodes)]
        self.longest = max(LONGEST, world.spec.horizon or 0) if longest is None else longest
        self.device = device
        self.own, self.starts = envs is None, dict[int, np.ndarray]()
        self.gathers = False  # wrappers show one state otherwise each time
        self.differs = False  # a reset gave another first observation than an earlier one with the same seed
        self.envs = vector(world, min(episodes, AT_ONCE), kind, timeout, restart, spare=True) if envs is None else envs

    def __call__(
        self, act: Act, begin: Callable[[Tensor], None] = lambda rows: None, value: Value | None = None, gamma: float = 1.0,
        watch: Callable[[int, int], None] = lambda ended, step: None, contexts: np.ndarray | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The returns and lengths of every episode, their moments, how many were "cut", and the "infos" of the others. Draws
        nothing from the run's generators. `contexts` (episodes, C): what each episode is about.

        `begin` is told the numbers (k,) of the episodes that begin again. With `value` also "value_mean", what it says of the
        first steps, and "discounted_mean", what came of them: see `Course.came`. Of several rewards, returns are their weighted
        sum, or their sum, and "return/NAME" is the mean of each. Before each step `watch` is told how many
        episodes have ended and how long the others are; what it raises ends the evaluation. Diverged: an action that is not
        finite.
        """
        every, lengths = np.zeros((len(self.seeds), *self.envs.task_reward.shape[1:])), np.zeros(len(self.seeds), int)
        values: list[tuple[float, float]] = []
        cut, infos = 0, list[dict[str, float]]()
        with seeded(self.device, 0), torch.no_grad():
            for first in range(0, len(self.seeds), self.envs.num_envs):
                group = slice(first, first + self.envs.num_envs)
                courses = [Course(value) for _ in self.seeds[group]] if value else []
                if contexts is not None:
                    self.envs.contexts = np.resize(contexts[group], (self.envs.num_envs, contexts.shape[1]))
                found = self._group(act, begin, first, self.seeds[group], courses, infos, watch)
                every[group], lengths[group], terminated, longest = found
                cut += int(longest.sum())
                values += [course.came(gamma, over) for course, over in zip(courses, terminated.tolist(), strict=False)]
        values_came = dict(zip(("value_mean", "discounted_mean"), np.mean(values, 0).tolist(), strict=True)) if values else {}
        returns = self.envs.world.total(every)
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "returns": returns.tolist(),
            "length_mean": float(lengths.mean()),
            "cut": cut,
            "infos": infos,
            **self.envs.world.named(every.mean(0)),
            **values_came,
        }

    def _group(
        self, act: Act, begin: Callable[[Tensor], None], first: int, seeds: list[int], courses: list[Course],
        infos: list[dict[str, float]], watch: Callable[[int, int], None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """The returns and lengths of the episodes from number `first` on, side by side, an environment each, whether they
        terminated, and whether they were cut. Their steps go to `courses`, where these are wanted, and what they end with to
        `infos`."""
        envs, n = self.envs, self.envs.num_envs
        returns, lengths, failures = np.zeros_like(envs.task_reward), np.zeros(n, int), np.zeros(n, int)
        ended, cut = np.zeros(n, bool), np.zeros(n, bool)
        running = fresh = np.arange(n) < len(seeds)
        while running.any():
            while fresh.any():
                starts = [seed + max(k - 1, 0) for seed, k in zip(seeds, failures.tolist(), strict=False)]
                asked, (obs, fresh) = fresh, envs.reset(starts, fresh)
                self._compare(starts, obs, asked & ~fresh)
                self._again(fresh, failures)
            rows = np.flatnonzero(running)
            watch(first + len(seeds) - len(rows), int(lengths[rows].max()))
            chosen = sound(act(torch.from_numpy(obs[rows]), torch.from_numpy(first + rows)).cpu().numpy())
            actions = np.zeros((n, *chosen.shape[1:]), chosen.dtype)
            actions[rows] = chosen
            before = obs
            obs, reward, terminated, truncated, fresh = envs.step(actions, running)
            earned = envs.task_reward
            for i in rows if courses else ():
                if fresh[i]:
                    courses[i].clear()
                else:
                    courses[i].add(before[i], actions[i], float(reward[i]))
            returns[running], lengths[running] = returns[running] + earned[running], lengths[running] + 1
            ended |= terminated & running
            over = terminated | truncated
            infos += [envs.infos[i] for i in rows.tolist() if over[i] and not fresh[i] and i in envs.infos]
            cut |= running & ~fresh & ~over & (lengths >= self.longest)
            running = running & (fresh | ~(over | cut))
            if fresh.any():
                self._again(fresh, failures)
                returns[fresh], lengths[fresh] = 0.0, 0
                begin(torch.from_numpy(first + np.flatnonzero(fresh)))
        k = len(seeds)
        return returns[:k], lengths[:k], ended[:k], cut[:k]

    def _again(self, failed: np.ndarray, failures: np.ndarray) -> None:
        failures += failed
        if failures.max() >= ATTEMPTS:
            raise Fault(f"{self.envs.world.name}: an episode of the evaluation failed {ATTEMPTS} times")

    def _compare(self, seeds: list[int], obs: np.ndarray, rows: np.ndarray) -> None:
        """Whether a seed begins the episode that it began before; `differs` tells."""
        for i in np.flatnonzero(rows):
            before = self.starts.setdefault(seeds[i], obs[i].copy())
            self.differs |= not self.gathers and self.envs.contexts is None and not np.array_equal(before, obs[i])

    def close(self) -> None:
        if self.own:
            self.envs.close()


@contextmanager
def lent(collector: Collector, evaluator: Evaluator) -> Iterator[None]:
    """What an evaluation has of training: what its wrappers have gathered, frozen; and where it has no environments of its own,
    these. Their episodes end before it as a time limit would end them."""
    gathered, shared = collector.gathered_now(), evaluator.envs is collector.envs
    if shared:
        collector.interrupt()
    if gathered[0]:
        evaluator.gathers = True
        evaluator.envs.use([pooled(gathered)] * evaluator.envs.num_envs, frozen=True)
    try:
        yield
    finally:
        if shared and gathered[0]:
            evaluator.envs.use(gathered, frozen=False)


class Course:
    """What the critic says along an episode, and what came of it. Of its steps only numbers are kept."""

    def __init__(self, value: Value):
        self.value = value
        self.clear()

    def clear(self) -> None:
        """The episode begins again."""
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []  # of which the critic was not asked yet
        self.rewards: list[float] = []
        self.values: list[float] = []
        self.bonuses: list[float] = []

    def add(self, obs: np.ndarray, action: np.ndarray, reward: float) -> None:
        self.steps.append((obs, action))
        self.rewards.append(reward)
        if len(self.steps) == CHUNK:
            self._ask()

    def _ask(self) -> None:
        if self.steps:
            obs, actions = (torch.from_numpy(np.stack(x)) for x in zip(*self.steps, strict=True))
            values, bonuses = (x.double().cpu().tolist() for x in self.value(obs, actions))
            self.values, self.bonuses, self.steps = self.values + values, self.bonuses + bonuses, []

    def came(self, gamma: float, terminated: bool) -> tuple[float, float]:
        """What the critic says of the first step, and what came of it, discounted.

        Besides the rewards of all steps it counts, as the critic does, the entropy bonus of all but the first. Where the episode
        was cut off, not ended, the critic's own word on the last step stands for what would have followed from there.
        """
        self._ask()
        total = self.rewards[-1] if terminated else self.values[-1]
        for t in reversed(range(len(self.rewards) - 1)):
            total = self.rewards[t] + gamma * (self.bonuses[t + 1] + total)
        return self.values[0], total
