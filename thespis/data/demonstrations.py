"""A dataset beside a run's own experience: a part of each batch from its demonstrations, the rest from all that there is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from thespis.core import Batch, OffPolicy, Spec, leaves, rebuild
from thespis.data.dataset import Dataset
from thespis.data.hindsight import Hindsight
from thespis.data.replay import Replay
from thespis.data.shards import Shards


class Demonstrations:
    """Samples as a Replay does, and with its generator. However old the run grows, the dataset stays whole.

    Of each batch, feed.demo_fraction is drawn from the demonstrations: the episodes whose returns lie between the quantiles
    feed.demo_slice. The others are drawn uniformly from the dataset and the replay, as if they were one.
    """

    def __init__(self, spec: Spec, data: Dataset, replay: Replay | Shards):
        self.replay, feed = replay, replay.feed
        self.given = filled(spec, data, feed, replay.needs - {"return_scale"}, replay.parts[0].device)
        if isinstance(goals := replay.parts[0].relabel, Hindsight):
            self.given.relabel, self.given.rng = Hindsight(self.given, goals.rule, goals.judge), replay.rng
        self.demos = torch.from_numpy(np.flatnonzero(np.repeat(between(data.returns(), *feed.demo_slice), data.lengths)))

    def sample(self) -> Batch:
        feed, rng, held = self.replay.feed, self.replay.rng, len(self.given)
        shown = round(feed.batch_size * feed.demo_fraction)
        demos = self.demos[torch.randint(len(self.demos), (shown,), generator=rng)]
        rest = torch.randint(held + len(self.replay), (feed.batch_size - shown,), generator=rng)
        parts = self.given.at(torch.cat([demos, rest[rest < held]])), self.replay.at(rest[rest >= held] - held)
        if "return_scale" in self.replay.needs:
            columns = self.replay.scale.columns(len(parts[0].reward))
            parts = replace(parts[0], extra={**parts[0].extra, **columns}), parts[1]
        first, second = map(leaves, parts)
        batch = rebuild(parts[0], {k: torch.cat([first[k], second[k]]) for k in first})
        if "demo" in self.replay.needs:
            batch.extra["demo"][:shown] = 1
        return batch


def filled(spec: Spec, data: Dataset, feed: Any, needs: frozenset[str], device: str = "cpu") -> Replay:
    """A Replay of the whole dataset, with gamma and n_step of `feed`."""
    steps, ends = len(data.reward), torch.from_numpy(np.cumsum(data.lengths) - 1)
    sized = OffPolicy(
        feed.gamma, feed.n_step, feed.batch_size, replay_size=steps, warmup=0, updates_per_step=1.0, frames=feed.frames
    )
    replay = Replay(spec, sized, needs=needs, device=device)
    columns = {k: torch.from_numpy(getattr(data, k)) for k in ("obs", "action", "reward", "terminated")}
    ended, finals = torch.zeros(steps, dtype=torch.bool).index_fill(0, ends, True), torch.from_numpy(data.last)
    replay.load([(0, {**columns, "ended": ended, "finals": finals, "next": finals[-1:]})], steps)
    return replay


def between(returns: np.ndarray, low: float, high: float) -> np.ndarray:
    """Which episodes lie between two quantiles of return, 0 the worst and 1 the best; at least one."""
    count = len(returns)
    first = min(math.floor(low * count + 1e-9), count - 1)
    stop = max(math.ceil(high * count - 1e-9), first + 1)
    inside = np.zeros(count, bool)
    inside[np.argsort(returns, kind="stable")[first:stop]] = True
    return inside
