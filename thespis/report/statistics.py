"""Few runs, told honestly. Paper: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
arXiv:2108.13264.

Scores are a list with an array for each environment (stratum), (runs,): final scores, or (runs, points): curves. Environments may
have different numbers of runs. Every average is over all runs of all environments, so one with more of them weighs more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Scores", "improvement", "interquartile_mean", "interval", "profile", "resample"]

Scores = Sequence[np.ndarray]


def interquartile_mean(scores: Scores) -> np.ndarray:
    """The mean of the middle half of all runs, (points,) or 0-D. floor(n / 4) are left out at each end: of up to 3 runs none."""
    values = np.sort(np.concatenate(list(scores)), axis=0)
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean(axis=0)


def profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs whose score is above each threshold, (thresholds,): 1 - the distribution function."""
    return (np.concatenate(list(scores))[:, None] > thresholds).mean(axis=0)


def improvement(x: Scores, y: Scores) -> float:
    """P(a run of x beats one of y on the same environment), mean over environments; a tie counts one half (Mann-Whitney's U)."""
    wins = [((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()) for a, b in zip(x, y, strict=True)]
    return float(np.mean(wins))


def resample(scores: Scores, rng: np.random.Generator) -> list[np.ndarray]:
    """Runs drawn with replacement within each environment: the stratified bootstrap."""
    return [x[rng.integers(len(x), size=len(x))] for x in scores]


def interval(
    statistic: Callable[..., np.ndarray | float], *scores: Scores, draws: int = 2_000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of a statistic of one or more sets of scores: percentiles of its bootstrap. Needs two runs an environment."""
    assert all(len(x) > 1 for s in scores for x in s), "one run has no spread to resample"
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(*(resample(s, rng) for s in scores)) for _ in range(draws)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
