"""Labels as worlds: what is seen is a row, what is done is to name its class. Handwritten digits."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.fault import Fault

__all__ = ["Digits", "Labelled", "digits", "enlarged"]

Rows = NDArray[Any]
Classes = NDArray[np.int64]
Split = Literal["train", "test"]


class Labelled(gym.Env[Any, np.int64]):
    """Rows (n, ...) of numbers, or of bytes as images are, with a class each, from 0 to classes - 1.

    Observation: one of them, drawn at random. Action: a class. Reward: 1 where it is the row's, so that the mean return is the
    accuracy. Ends: terminated after one step. `train`: rows and classes that a learner from data has where it is given none.
    """

    def __init__(self, rows: Rows, labels: Classes, classes: int, train: tuple[Rows, Classes] | None = None) -> None:
        self.rows, self.labels, self.train, self.at = rows, labels, train or (rows, labels), 0
        low, high = (0, 255) if rows.dtype == np.uint8 else (-np.inf, np.inf)
        self.observation_space = spaces.Box(low, high, rows.shape[1:], rows.dtype.type)
        self.action_space = spaces.Discrete(classes)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Rows, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(len(self.labels)))
        return self.rows[self.at].copy(), {}

    def step(self, action: np.int64) -> tuple[Rows, float, bool, bool, dict[str, Any]]:
        return self.rows[self.at].copy(), float(action == self.labels[self.at]), True, False, {}

    def recorded(self) -> dict[str, Any]:
        """`train` as columns of whole episodes: the right class of each row, which earned 1."""
        rows, labels = self.train
        ones = np.ones(len(labels), np.float32)
        return {"observations": rows, "actions": labels, "rewards": ones, "terminals": ones}


class Digits(Labelled):
    """scikit-learn's digits, 0 to 9: 897 that are held out, or with split="train" the 900 to train on, which `recorded` gives.

    `size`: pixels along a side, 8 or a multiple of it.
    """

    def __init__(self, split: Split = "test", size: int = 8) -> None:
        train, seen = ((to_bytes(enlarged(pictures, size)), labels) for pictures, labels in (digits("train"), digits(split)))
        super().__init__(*seen, 10, train)


@cache
def digits(split: Split) -> tuple[NDArray[np.float32], Classes]:
    """Pictures (n, 8, 8) within [0, 1], and their classes (n,): the same ones always, in the same order."""
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; allowed: 'train' or 'test'")
    if find_spec("sklearn") is None:
        raise Fault("the worlds of digits are made of scikit-learn's: pip install 'thespis[worlds]'")
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    rows = order[:900] if split == "train" else order[900:]
    return (found.images[rows] / 16).astype(np.float32), found.target[rows].astype(np.int64)


def enlarged(pictures: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(n, 8, 8) -> (n, size, size), linear between the centres of the pixels."""
    if size < 8 or size % 8:
        raise ValueError(f"size is {size}; allowed: 8 or a multiple of it")
    place = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    weight = np.maximum(1 - np.abs(place[:, None] - np.arange(8)), 0).astype(np.float32)  # (size, 8)
    return weight @ pictures @ weight.T


def to_bytes(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, height, width) within [0, 1] -> (n, height, width, 1)."""
    return np.rint(255 * pictures).astype(np.uint8)[..., None]
