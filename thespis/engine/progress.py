"""How far a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thespis.engine.language_run import LanguageRun
from thespis.engine.run import Run

NAMES = 100
"""of numbers that a run's environments say in `info`; those that come after them are left out"""
Episode = tuple[float, int, dict[str, float]]
"""an episode's return, its length, and the numbers of its last `info` by name; of several rewards "return/NAME" too"""


@dataclass
class Progress:
    """The counters of a run; a checkpoint holds them all."""

    steps: int = 0
    updates: int = 0
    seconds: float = 0.0
    """spent stepping and learning; evaluations and checkpoints apart"""
    best: float | None = None
    """highest mean evaluation return"""
    last: float | None = None
    """newest mean evaluation return"""
    evaluated: int = -1
    """step of the newest evaluation"""
    ended: str | None = None
    """why a callback or stop_at has ended the run"""
    reward_unit: float | None = None
    """what updates divide rewards by; None: there was none yet"""
    episodes: list[Episode] = field(default_factory=list)
    """those that ended since the last row of metrics"""
    names: list[str] = field(default_factory=list)
    """of all numbers of `info` that were logged"""
    faults: dict[str, int] = field(default_factory=dict)
    """what was survived: faults of environments, in "train" and in "eval", and "rollbacks" after divergence"""

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Progress:
        """What a checkpoint says; ValueError or TypeError where no run wrote that."""
        p = cls(**saved)
        whole, numbers = (
            (p.steps, p.updates, p.evaluated),
            [p.seconds, *(x for x in (p.best, p.last, p.reward_unit) if x is not None)],
        )
        episodes = [_episode(*e) for e in p.episodes]
        if (
            not isinstance(p.ended, str | None)
            or any(type(x) is not int for x in whole)
            or min(whole) < -1
            or not all(math.isfinite(x) for x in numbers)
        ):
            raise ValueError("progress is not as a run writes it")
        names = [str(name) for name in p.names]
        return replace(p, episodes=episodes, names=names, faults={str(name): int(count) for name, count in p.faults.items()})

    def owes_evaluation(self, run: Run | LanguageRun) -> bool:
        """Whether one that is due at this step, or was before, is not done."""
        due = self.steps if self.steps >= run.steps else self.steps - self.steps % run.eval_every
        return run.eval_episodes > 0 and self.evaluated < due

    def of_episodes(self) -> dict[str, float]:
        """The means over those that ended since this was asked last, as metrics."""
        if not self.episodes:
            return {}
        returns, lengths, infos = zip(*self.episodes, strict=True)
        self.episodes = []
        means = {"return": float(np.mean(returns)), "length": float(np.mean(lengths))} | self.metrics(infos)
        return {f"episode/{name}": mean for name, mean in means.items()}

    def survived(self) -> dict[str, float]:
        """The counts of faults, as metrics."""
        return {f"faults/{name}": float(count) for name, count in self.faults.items()}

    def means(self, infos: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Of each number, over those of `infos` that have it."""
        found: dict[str, list[float]] = {}
        for info in infos:
            for name, value in info.items():
                if name not in self.names and len(self.names) < NAMES:
                    self.names.append(name)
                if name in self.names:
                    found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def metrics(self, infos: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """`means` by the names of metrics: "info/NAME", and of rewards "return/NAME"."""
        return {k if k.startswith("return/") else f"info/{k}": mean for k, mean in self.means(infos).items()}


def _episode(total: float, length: int, info: Mapping[str, float] | None = None) -> Episode:
    return float(total), int(length), {str(name): float(value) for name, value in (info or {}).items()}
