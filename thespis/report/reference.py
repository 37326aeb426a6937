"""What an algorithm is known to reach on an environment: a stored curve to stand beside a run's own.

`references.json` is made from bench/results by `python bench/learning.py report ROW`, of the rows that name a curve for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FILE", "Reference", "reference"]

FILE = Path(__file__).with_name("references.json")


@dataclass(frozen=True)
class Reference:
    says: str
    """what it is, in a few words"""
    steps: list[float]
    mean: list[float]
    """over seeds, of evaluations"""
    low: list[float]
    """the lowest seed's"""
    high: list[float]
    """the highest seed's"""


def reference(config: dict[str, Any], last: float) -> Reference | None:
    """The curve of a run's algorithm on its environment, up to step `last`; of several the one whose settings are most like."""
    same = [r for r in _stored() if (r["env"], r["algo"]) == (config["run"]["env"], config["algo"])]
    if not same:
        return None
    usual = config.get("algo_defaults", {})
    unlike = [sum((usual | r["settings"]).get(k) != v for k, v in config["algo_config"].items()) for r in same]
    found = same[int(np.argmin(unlike))]
    end = min(last, found["steps"][-1])
    steps = [s for s in found["steps"] if s < end] + [end]
    values = ([float(y) for y in np.interp(steps, found["steps"], found[name])] for name in ("mean", "low", "high"))
    return Reference(found["says"], steps, *values) if len(steps) > 1 else None


@cache
def _stored() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["references"]
    return found
