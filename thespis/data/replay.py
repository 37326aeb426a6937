"""A ring of transitions that stores each observation once, and knows gamma and n-step returns but no algorithm.

N environments step together: row t * N + i is environment i's step t, and the observation after it is the one that row
(t + 1) * N + i holds. Only where an episode ended does it stand apart, among the `finals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis import ops
from thespis.core import Batch, Discrete, OffPolicy, Spec
from thespis.data.images import observations, stored

EXTRAS = ("previous", "return_scale", "demo")
"""What `Learner.needs` may name. "previous" (B, action): the action before, zeros at an episode's start.
"return_scale": "return_std" and "return_max", as reward, of the discounted return so far over all steps of the run.
"demo" (B,): 1 where drawn as a demonstration (data/demonstrations.py), else 0."""
COLUMNS = ("obs", "action", "reward", "terminated", "ended")


class Replay:
    """Holds feed.replay_size transitions of `num_envs` environments: 102 MB for a million of HalfCheetah's.

    What is large lies on `device`, and batches are gathered there; what a row means is known on the host.
    """

    behind = 0  # steps that are held before the oldest that is drawn
    columns: tuple[str, ...] = COLUMNS

    def __init__(
        self, spec: Spec, feed: OffPolicy, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset(),
        device: str = "cpu",
    ):  # fmt: skip
        if unknown := needs.difference(EXTRAS):
            raise ValueError(f"a learner needs {sorted(unknown)}; a replay gives {EXTRAS}")
        self.spec, self.feed, self.num_envs, self.needs, self.device = spec, feed, num_envs, needs, device
        self.scale = ReturnScale(num_envs, feed.gamma, ops.reward_shape(spec))
        self.context = max(feed.frames - 1, self.behind)  # steps that are held for what later ones show of them, and not drawn
        self.length = max(feed.replay_size // num_envs, 1) + self.context  # steps that are held
        rows = (self.length + 1) * num_envs  # one step more, for the observations after the newest
        self.there: Callable[[np.ndarray], Any] = partial(Resident, device=device) if device != "cpu" else lambda zeros: zeros
        self.observations: Callable[[int], Any] = partial(observations, spec, self.there)
        self.obs = self.observations(rows)
        self.action = self.there(empty_actions(spec, rows))
        self.reward = np.zeros((rows, *ops.reward_shape(spec)), np.float32)
        self.terminated = np.zeros(rows, bool)
        self.ended = np.zeros(rows, bool)  # terminated or cut off
        self.final_at = np.zeros(rows, np.int32)  # where ended: the place in `finals`
        self.finals = self.observations(0)
        self.free: list[int] = []  # places in `finals`
        self.steps = 0  # ever added
        self.rng = torch.Generator().manual_seed(seed)
        self.relabel: Callable[[np.ndarray, Batch], Batch] | None = None  # of data/hindsight.py

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return min(self.steps, self.length - self.context) * self.num_envs

    @property
    def added(self) -> int:
        """Transitions ever added."""
        return self.steps * self.num_envs

    def due(self, steps: int) -> int:
        """Updates that so many environment steps call for."""
        return updates(self.feed, steps)

    @property
    def parts(self) -> list[Replay]:
        """The replays that it consists of (data/shards.py has several)."""
        return [self]

    def _rows(self, step: int) -> slice:
        first = step % (self.length + 1) * self.num_envs
        return slice(first, first + self.num_envs)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        last: np.ndarray,
    ) -> None:
        """One step of every environment: obs and last (N, obs), action (N, ...), reward (N,) or (N, R), the others (N,).

        `last` is what the step returned: where an episode ended, its true last observation, never the next one's first.
        """
        now, after = self._rows(self.steps), self._rows(self.steps + 1)
        if self.ended[after].any():  # the oldest step makes room
            self.free += self.final_at[after][self.ended[after]].tolist()
            self.ended[after] = False
        self.obs[now], self.obs[after] = obs, last
        self.action[now], self.reward[now], self.terminated[now] = action, reward, terminated
        self.steps += 1
        ended = terminated | truncated
        if "return_scale" in self.needs:
            self.scale.add(reward, ended)
        if ended.any():
            self._end(now.start + np.flatnonzero(ended), last[ended])

    def cut(self, env: int) -> None:
        """Ends the newest step of one environment as a time limit would: what follows is another episode."""
        row = self._rows(self.steps - 1).start + env
        if self.steps and not self.ended[row]:
            self._end(np.array([row]), stored(self.obs)[self._rows(self.steps)][env : env + 1])
            self.scale.past[env] = 0.0

    def _end(self, rows: np.ndarray, last: np.ndarray | Tensor) -> None:
        if len(self.free) < len(rows):
            held = len(self.finals)
            room = max(held, len(rows), 64)
            longer = self.observations(held + room)
            longer[:held] = stored(self.finals)[:held]
            self.finals = longer
            self.free += range(held, held + room)
        places = [self.free.pop() for _ in rows]
        self.finals[places], self.final_at[rows] = last, places
        self.ended[rows] = True

    def sample(self) -> Batch:
        """A batch drawn uniformly."""
        return self.at(torch.randint(len(self), (self.feed.batch_size,), generator=self.rng))

    def at(self, age: Tensor) -> Batch:
        """The transitions of these rows (B,), counted from the oldest held, with n-step rewards; a window stops at an episode's
        end and at the newest step."""
        feed, n_envs, ring, held = self.feed, self.num_envs, len(self.obs), len(self)
        young = age.numpy()
        row = (young + (self.steps * n_envs - held)) % ring
        last, reward = row, self.reward[row]
        discount = np.full(len(row), feed.gamma, np.float32)
        for n in range(1, feed.n_step):
            on = ~self.ended[last] & (young + n * n_envs < held)
            last = np.where(on, (last + n_envs) % ring, last)
            reward = reward + np.where(on, discount * self.reward[last].T, np.float32(0)).T
            discount = np.where(on, discount * np.float32(feed.gamma), discount)
        next_obs, ended = self.obs[(last + n_envs) % ring], self.ended[last]
        if ended.any():
            next_obs[ended] = self.finals[self.final_at[last[ended]]]
        extra = {}
        if "previous" in self.needs:
            before = (row - n_envs) % ring
            previous = self.action[before]
            previous[self.ended[before] | ((young < n_envs) & (held == min(self.steps, self.length) * n_envs))] = 0
            extra["previous"] = torch.as_tensor(previous)
        if "return_scale" in self.needs:
            extra = extra | self.scale.columns(len(row))
        if "demo" in self.needs:
            extra["demo"] = torch.zeros(len(row))
        discount = discount * ~self.terminated[last]
        if reward.ndim > 1:
            discount = np.repeat(discount[:, None], reward.shape[1], 1)
        obs = self.obs[row] if feed.frames == 1 else self._frames(row, feed.frames)
        if feed.frames > 1:
            next_obs = torch.cat([self._frames(last, feed.frames - 1), torch.as_tensor(next_obs)], -1)
        columns = obs, self.action[row], reward, discount, next_obs
        batch = Batch(*map(torch.as_tensor, columns), extra)  # type: ignore[call-arg, arg-type]
        return self.relabel(young, batch) if self.relabel else batch

    def _frames(self, row: np.ndarray, count: int) -> Tensor:
        """(B, count * obs): what was seen at each row (B,) and before it in its episode, the newest last; an episode's first
        observation stands for those that are missing."""
        ring, first = len(self.reward), (self.steps - self.length) * self.num_envs if self.steps > self.length else 0
        age = (row - first) % ring  # counted from the oldest held
        rows = [row]
        for _ in range(count - 1):
            before = (rows[0] - self.num_envs) % ring
            age = age - self.num_envs
            rows.insert(0, np.where(self.ended[before] | (age < 0), rows[0], before))
        return torch.as_tensor(self.obs[np.stack(rows, 1)]).flatten(1)

    # ------------------------------------------------------------------------------------------------- to and from disk

    def save(self) -> dict[str, Tensor]:
        """What is neither in the segments nor in a generator."""
        return self.scale.tensors() if "return_scale" in self.needs else {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        if "return_scale" in self.needs:
            self.scale.restore(saved)

    def oldest(self) -> int:
        """The first step still held."""
        return max(self.steps - self.length, 0)

    def segment(self, start: int, stop: int) -> dict[str, Tensor]:
        """Steps start <= t < stop: the columns (T * N, ...), the last observations of ended rows, and the next ones."""
        rows = np.arange(start * self.num_envs, stop * self.num_envs) % len(self.obs)
        out = {name: stored(getattr(self, name))[rows] for name in self.columns}
        out["before"] = self.ended[self._rows(start - 1)].copy()  # it may have been cut after it was written
        after = np.arange(stop * self.num_envs, (stop + 1) * self.num_envs) % len(self.obs)
        out |= {"finals": stored(self.finals)[self.final_at[rows[out["ended"]]]], "next": stored(self.obs)[after]}
        return {name: torch.as_tensor(x).cpu() for name, x in out.items()}

    def can(self, action: Tensor) -> bool:
        """Whether these are actions of the environment; a vector always is."""
        choices, ns = ops.parts(self.spec.action, action)[1], ops.sizes(self.spec.action)[1]
        return all(bool(((choice >= 0) & (choice < n)).all()) for choice, n in zip(choices, ns, strict=True))

    def load(self, segments: Iterable[tuple[int, Mapping[str, Tensor]]], stop: int) -> None:
        """Fills an empty ring from (start, segment) pairs in order, up to step `stop`; what it cannot hold is passed over."""
        n = self.num_envs
        for start, part in segments:
            skip = max(stop - self.length - start, 0) * n  # older than the ring is long
            take = min(stop - start, len(part["ended"]) // n) * n
            if skip >= take:
                continue
            rows = (np.arange(skip, take) + start * n) % len(self.obs)
            if skip == 0 and self.steps == start > 0:  # an episode may have been cut after its last step was written
                for env in part["before"].nonzero().flatten().tolist():
                    self.cut(env)
            for name in self.columns:
                getattr(self, name)[rows] = part[name][skip:take]
            ended = part["ended"].numpy()
            if ended[skip:take].any():
                finals = part["finals"][int(ended[:skip].sum()) : int(ended[:take].sum())]
                self._end(rows[ended[skip:take]], finals.numpy())
            self.steps = start + take // n
            after = part["next"] if take == len(ended) else part["obs"][take : take + n]
            self.obs[self._rows(self.steps)] = after


class Resident:
    """Rows on a device, taken and set as a NumPy array's are; what is taken is a tensor there."""

    def __init__(self, zeros: np.ndarray, device: str):
        self.shape, self.device = zeros.shape, device
        self.rows = torch.zeros(zeros.shape, dtype=torch.from_numpy(zeros[:0]).dtype, device=device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Tensor:
        return self.rows[self._place(rows)]

    def __setitem__(self, rows: Any, new: Any) -> None:
        self.rows[self._place(rows)] = torch.as_tensor(new, dtype=self.rows.dtype, device=self.device)

    def _place(self, rows: Any) -> Any:
        return rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.device)


def updates(feed: OffPolicy, steps: int) -> int:
    return math.floor(max(steps - feed.warmup, 0) * feed.updates_per_step)


class ReturnScale:
    """Spread and largest magnitude of each step's discounted return so far, G <- gamma G + r, afresh in each episode; of each
    reward by itself."""

    def __init__(self, num_envs: int, gamma: float, shape: tuple[int, ...] = ()):
        self.gamma, self.past = gamma, np.zeros((num_envs, *shape))
        self.moments = np.zeros((4, *shape))  # count, mean, sum of squared deviations, largest magnitude

    def add(self, reward: np.ndarray, ended: np.ndarray) -> None:
        """One step of every environment: reward (N,) or (N, R), ended (N,)."""
        now, new = self.gamma * self.past + reward, len(reward)
        count, mean, squares, largest = self.moments
        total, center = count + new, now.sum(0) / new  # Chan et al. 1983: the moments of two groups, joined
        shift = center - mean
        moments = self.moments  # in place: shards share them
        moments[2] = squares + np.square(now - center).sum(0) + shift**2 * count * new / total
        moments[0], moments[1], moments[3] = total, mean + shift * new / total, np.maximum(largest, np.abs(now).max(0))
        now[ended] = 0
        self.past = now

    def columns(self, rows: int) -> dict[str, Tensor]:
        count, _, squares, largest = self.moments
        std = np.sqrt(squares / np.maximum(count, 1))
        return {
            k: torch.as_tensor(v).float().expand(rows, *v.shape).clone()
            for k, v in (("return_std", std), ("return_max", largest))
        }

    def tensors(self) -> dict[str, Tensor]:
        return {"past": torch.from_numpy(self.past.copy()), "moments": torch.from_numpy(self.moments.copy())}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        self.past[...], self.moments[...] = saved["past"].numpy(), saved["moments"].numpy()


def empty_actions(spec: Spec, rows: int) -> np.ndarray:
    """Room for actions, laid out as core.Batch says: floats where they have a vector, else integers."""
    dim, ns = ops.sizes(spec.action)
    shape = (rows,) if isinstance(spec.action, Discrete) else (rows, dim + len(ns))
    return np.zeros(shape, np.float32 if dim else np.int64)
