"""How far a run is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any


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
    episodes: list[tuple[float, int]] = field(default_factory=list)
    """(return, length) of the episodes that ended since the last row of metrics"""
    faults: dict[str, int] = field(default_factory=dict)
    """what was survived: faults of environments, in "train" and in "eval", and "rollbacks" after divergence"""

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Progress:
        """What a checkpoint says; ValueError or TypeError where no run wrote that."""
        p = cls(**saved)
        whole, numbers = (p.steps, p.updates, p.evaluated), [p.seconds, *(x for x in (p.best, p.last) if x is not None)]
        pairs = [(float(r), int(n)) for r, n in p.episodes]
        if any(type(x) is not int for x in whole) or min(whole) < -1 or not all(math.isfinite(x) for x in numbers):
            raise ValueError("progress is not as a run writes it")
        return replace(p, episodes=pairs, faults={str(name): int(count) for name, count in p.faults.items()})
