"""Whether observations and rewards have a size that can be learnt from: what is said of those that have not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import Space

from thespis.core import Batch
from thespis.envs import spaces

OBSERVATION = 1e5
"""a float32 of this size keeps no difference below 0.008"""
REWARDS = (0.05, 100.0)
"""the largest of them is less than this, or their mean size more than that; values are up to 1 / (1 - gamma) times as large"""


class Sizes:
    """Looks at the first batch or rollout that it is given. `scaled`: the learner divides rewards by itself."""

    def __init__(self, observed: Space[Any], scaled: bool, say: Callable[[str], None]):
        self.observed, self.scaled, self.say = observed, scaled, say
        self.said: list[str] | None = None

    def __call__(self, batch: Batch) -> None:
        if self.said is None:
            self.said = [*self._observations(batch.obs), *([] if self.scaled else self._rewards(batch.reward))]
            for line in self.said:
                self.say(line)

    def _observations(self, obs: torch.Tensor) -> list[str]:
        largest = obs.flatten(end_dim=-2).abs().amax(0)
        if (size := float(largest.max())) < OBSERVATION:
            return []
        coarse = float(np.spacing(np.float32(size)))
        return [
            f"{spaces.column(self.observed, int(largest.argmax()))} reaches {size:.3g}: networks learn badly from such numbers, "
            f"and float32 keeps no difference below {coarse:.2g} there; subtract and divide in the environment, or see "
            "--normalise-obs"
        ]

    def _rewards(self, reward: torch.Tensor) -> list[str]:
        mean, largest = float(reward.abs().mean(dtype=torch.float64)), float(reward.abs().max())
        if mean < REWARDS[1] and not 0 < largest < REWARDS[0]:
            return []
        size = f"{mean:.3g} in size on average" if mean >= REWARDS[1] else f"at most {largest:.3g} in size"
        return [
            f"rewards are {size} until now: step sizes and temperatures are made for rewards of about 1, so learning may be very "
            "slow; scale them in the environment, as gymnasium.wrappers.TransformReward does, or see --normalise-reward"
        ]
