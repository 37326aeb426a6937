"""Whether observations and rewards have a size that can be learnt from: what is said of those that have not, and the unit that
rewards are brought to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import Space

from thespis.core import Batch, replace
from thespis.engine import team
from thespis.envs import spaces

OBSERVATION = 1e5
"""a float32 of this size keeps no difference below 0.008"""
REWARDS = (0.05, 100.0)
"""the largest of them is less than this, or their mean size more than that; values are up to 1 / (1 - gamma) times as large"""


class Sizes:
    """Looks at the first batch or rollout that it is given. `unit` is what rewards are divided by; None: that is found then. A
    learner that is `scaled` divides them by itself."""

    def __init__(self, observed: Space[Any], scaled: bool, unit: float | None, say: Callable[[str], None]):
        self.observed, self.unit, self.say = observed, 1.0 if scaled else unit, say
        self.said: list[str] | None = None

    def __call__(self, batch: Batch) -> Batch:
        """The same, its rewards in the unit."""
        if self.said is None:
            self.said = self._observations(batch.obs)
            if self.unit is None:
                self.unit, lines = self._unit(batch.reward)
                self.said += lines
            for line in self.said:
                self.say(line)
        unit = self.unit or 1.0
        return batch if unit == 1 else replace(batch, reward=batch.reward / unit)

    def _observations(self, obs: torch.Tensor) -> list[str]:
        largest = obs.flatten(end_dim=-2).abs().amax(0)
        if (size := float(largest.max())) < OBSERVATION:
            return []
        coarse = float(np.spacing(np.float32(size)))
        place = int(largest.argmax()) % spaces.flat_dim(self.observed)  # of one observation, where several stand side by side
        return [
            f"{spaces.column(self.observed, place)} reaches {size:.3g}: networks learn badly from such numbers, "
            f"and float32 keeps no difference below {coarse:.2g} there; subtract and divide in the environment, or see "
            "--normalise-obs"
        ]

    def _unit(self, reward: torch.Tensor) -> tuple[float, list[str]]:
        """1, or the power of ten that is next to the size of rewards that little can be learnt from, and what is said of it."""
        mean, largest = float(reward.abs().mean(dtype=torch.float64)), float(reward.abs().max())
        size = mean if mean >= REWARDS[1] else largest if 0 < largest < REWARDS[0] else 1.0
        unit = 10.0 ** float(team.first(torch.tensor(round(math.log10(size)))))
        if unit == 1:
            return unit, []
        words = f"{mean:.3g} in size on average" if unit > 1 else f"at most {largest:.3g} in size"
        return unit, [
            f"rewards are {words} until now, and step sizes and temperatures are made for rewards of about 1: "
            f"updates divide them by {unit:g} (--reward-unit 1: they do not)"
        ]
