"""A dataset and nothing else: what a run learns from that takes no steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thespis.core import Batch, OffPolicy, Spec, tree_map
from thespis.data.dataset import Dataset
from thespis.data.demonstrations import between, filled
from thespis.data.replay import EXTRAS


@dataclass(frozen=True)
class Offline:
    """How a learner is fed that takes no steps: a batch of the dataset for each tick of the run's clock, which counts updates."""

    gamma: float
    n_step: int
    batch_size: int
    reset_every: int | None = None
    """as in OffPolicy, and so are those below"""
    demo_fraction: float = 0.0
    demo_slice: tuple[float, float] = (0.0, 1.0)
    frames: int = 1
    warmup: ClassVar[int] = 0
    look_every: ClassVar[int] = 1
    pretrain: ClassVar[int] = 0


def offline(feed: OffPolicy) -> Offline:
    """How an off-policy learner is fed where its run takes no steps."""
    return Offline(feed.gamma, feed.n_step, feed.batch_size, feed.reset_every, feed.demo_fraction, feed.demo_slice, feed.frames)


class Recorded:
    """Samples as a Replay does, uniformly over a dataset; `steps`, its clock, and the generator are all that is saved."""

    num_envs = 1
    length = 0  # nothing of it is kept on disk

    def __init__(
        self, spec: Spec, feed: Offline, data: Dataset, seed: int = 0, needs: frozenset[str] = frozenset(), device: str = "cpu"
    ):
        if unknown := needs.difference(EXTRAS):
            raise ValueError(f"a learner needs {sorted(unknown)}; a dataset gives {EXTRAS}")
        self.feed, self.needs, self.steps = feed, needs, 0
        self.data, self.device, self.rng = data, device, torch.Generator().manual_seed(seed)
        rows = _rows(spec, feed, data, needs - {"return_scale"})
        if "return_scale" in needs:
            rows.extra.update(_scale(data, feed.gamma))
        self.rows = tree_map(lambda x: x.to(device), rows)
        self.demos = torch.from_numpy(np.flatnonzero(np.repeat(between(data.returns(), *feed.demo_slice), data.lengths)))

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return len(self.rows.reward)

    @property
    def added(self) -> int:
        """Ticks of the clock."""
        return self.steps

    def due(self, steps: int) -> int:
        """Updates that so many ticks call for: as many."""
        return steps

    @property
    def parts(self) -> list[Recorded]:
        """As a Replay's: itself."""
        return [self]

    def sample(self) -> Batch:
        """A batch drawn uniformly; of a learner that tells demonstrations apart, a part of it from these."""
        size = self.feed.batch_size
        shown = round(size * self.feed.demo_fraction) if "demo" in self.needs else 0
        row = torch.randint(len(self), (size - shown,), generator=self.rng)
        if shown:
            row = torch.cat([self.demos[torch.randint(len(self.demos), (shown,), generator=self.rng)], row])
        row = row.to(self.device)
        batch = tree_map(lambda x: x[row], self.rows)
        if shown:
            batch.extra["demo"][:shown] = 1
        return batch

    # ------------------------------------------------------------------------------------------------- to and from disk

    def save(self) -> dict[str, Tensor]:
        return {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        pass

    def oldest(self) -> int:
        """No step is kept on disk."""
        return self.steps

    def segment(self, start: int, stop: int) -> dict[str, Tensor]:
        return {}

    def can(self, action: Tensor) -> bool:
        """Whether a segment may hold these actions."""
        return False

    def load(self, segments: Iterable[tuple[int, Any]], stop: int) -> None:
        self.steps = stop


class Probe:
    """Up to 1,000 rows of a dataset, evenly spread, at which a critic is held against what came."""

    def __init__(self, recorded: Recorded):
        rows, data, gamma = recorded.rows, recorded.data, recorded.feed.gamma
        ends = np.cumsum(data.lengths) - 1
        row = np.unique(np.linspace(0, len(data.reward) - 1, 1000).astype(int))
        last = ends[np.searchsorted(ends, row)]
        came = np.array([gamma ** np.arange(b - a) @ data.reward[a:b].astype(np.float64) for a, b in zip(row, last, strict=True)])
        self.obs, self.action = rows.obs[row], rows.action[row]
        self.last_obs, self.last_action = rows.obs[last], rows.action[last]
        self.came, self.left = torch.from_numpy(came), torch.from_numpy(gamma ** (last - row).astype(np.float64))
        self.reward, self.over = torch.from_numpy(data.reward[last]), torch.from_numpy(data.terminated[last])

    def __call__(self, value: Callable[[Tensor, Tensor], Tensor], act: Callable[[Tensor], Tensor] | None) -> dict[str, float]:
        """Means of `value` (obs, action) -> (B,): "value" of the recorded actions, "policy_value" of those of `act`; and
        "return", the discounted one that came, with the critic's word on its last step where an episode was cut off."""
        end = torch.where(self.over, self.reward, value(self.last_obs, self.last_action).cpu())
        told = {"value": float(value(self.obs, self.action).mean()), "return": float((self.came + self.left * end).mean())}
        return told | ({"policy_value": float(value(self.obs, act(self.obs)).mean())} if act else {})


def every_row(spec: Spec, feed: Any, data: Dataset) -> Batch:
    """What `Learner.given` takes: every row, in order, with extra "episode_return" (T,), undiscounted, and "context" (T, C) of a
    dataset that has them."""
    extra = {"episode_return": torch.from_numpy(np.repeat(data.returns(), data.lengths)).float()}
    if data.context is not None:
        extra["context"] = torch.from_numpy(data.context)
    return replace(_rows(spec, feed, data, frozenset()), extra=extra)


def _rows(spec: Spec, feed: Any, data: Dataset, needs: frozenset[str]) -> Batch:
    replay = filled(spec, data, feed, needs)
    return replay.at(torch.arange(len(replay)))


def _scale(data: Dataset, gamma: float) -> dict[str, Tensor]:
    """ "return_std" and "return_max" (T,), as in data/replay.py, over the whole dataset."""
    ends = np.cumsum(data.lengths)
    past, place, all_past = np.zeros((len(ends), *data.reward.shape[1:])), ends - data.lengths, np.zeros(data.reward.shape)
    for t in range(int(data.lengths.max())):  # a step of every episode that is as long
        on = t < data.lengths
        past[on] = gamma * past[on] + data.reward[place[on] + t]
        all_past[place[on] + t] = past[on]
    found = {"return_std": all_past.std(0), "return_max": np.abs(all_past).max(0)}
    return {k: torch.as_tensor(v).float().expand(all_past.shape).clone() for k, v in found.items()}
