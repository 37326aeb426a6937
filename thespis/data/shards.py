"""Several replays as one: what steps apart is stored apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from thespis.core import Batch, OffPolicy, Spec, leaves, rebuild
from thespis.data.replay import Replay, updates


class Shards:
    """`count` replays of `num_envs` environments each, which need not be in step. They hold feed.replay_size transitions
    together, are sampled uniformly over all of these, and share the moments of the return."""

    def __init__(
        self, spec: Spec, feed: OffPolicy, count: int, num_envs: int = 1, seed: int = 0, needs: frozenset[str] = frozenset()
    ):
        each = replace(feed, replay_size=max(feed.replay_size // count, 1))
        self.parts = [Replay(spec, each, num_envs, needs=needs) for _ in range(count)]
        self.feed, self.needs, self.scale = feed, needs, self.parts[0].scale
        self.rng = torch.Generator().manual_seed(seed)
        for part in self.parts:
            part.scale.moments, part.rng = self.scale.moments, self.rng

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def steps(self) -> list[int]:
        """Of each replay, the steps ever added."""
        return [part.steps for part in self.parts]

    @property
    def added(self) -> int:
        """Transitions ever added."""
        return sum(part.added for part in self.parts)

    def due(self, steps: int) -> int:
        """Updates that so many environment steps call for."""
        return updates(self.feed, steps)

    def sample(self) -> Batch:
        """A batch drawn uniformly."""
        return self.at(torch.randint(len(self), (self.feed.batch_size,), generator=self.rng))

    def at(self, row: Tensor) -> Batch:
        """The transitions of these rows (B,), counted through one replay after the other."""
        held = torch.tensor([len(part) for part in self.parts])
        ends = held.cumsum(0)
        which = torch.bucketize(row, ends, right=True)
        found = [part.at(row[which == i] - (ends[i] - held[i])) for i, part in enumerate(self.parts)]
        back = which.argsort(stable=True).argsort()
        columns = [leaves(batch) for batch in found]
        return rebuild(found[0], {k: torch.cat([c[k] for c in columns])[back] for k in columns[0]})

    def save(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, part in enumerate(self.parts) for k, v in part.save().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        for i, part in enumerate(self.parts):
            part.restore({k.removeprefix(f"{i}."): v for k, v in saved.items() if k.startswith(f"{i}.")})
