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

__all__ = [
    "CORRUPTIONS",
    "CorruptedDigits",
    "Digits",
    "Labelled",
    "TwoDigits",
    "canvases",
    "corrupted",
    "digits",
    "enlarged",
    "moved",
]

Rows = NDArray[Any]
Classes = NDArray[np.int64]
Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


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

    Observation: a picture (size, size, 1) of bytes; `size`: 8 or a multiple of it. Action: a class. Reward: 1 where it is right.
    Ends: terminated after one step.
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


class TwoDigits(Labelled):
    """Two digits on a canvas, one higher than the other, and it is the higher one that is to be named: a part of the picture
    says little before it is known what is elsewhere. `pictures`: canvases, of held-out digits to see, of the others to train on.

    Observation: a picture (size, size, 1) of bytes. Action: a class. Reward: 1 where it is that of the higher digit. Ends:
    terminated after one step.
    """

    def __init__(self, size: int = 32, pictures: int = 6_000, seed: int = 0) -> None:
        train, seen = (canvases(split, pictures, size, np.random.default_rng([seed, i])) for i, split in enumerate(SPLITS))
        super().__init__(*seen, 10, train)


def canvases(split: Split, count: int, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Classes]:
    """Pictures (count, size, size, 1) of two digits of 8 x 8 in places that share no row, and the higher one's class (count,)."""
    if size < 16:
        raise ValueError(f"size is {size}; allowed: 16 or more, so that two digits find room")
    pictures, labels = digits(split)
    which = rng.integers(len(labels), size=(2, count))
    row = np.sort(rng.integers(0, size - 15, (2, count)), 0)
    row[1] += 8
    column = rng.integers(0, size - 7, (2, count))
    canvas, each = np.zeros((count, size, size), np.float32), np.arange(count)[:, None, None]
    for i in range(2):
        canvas[each, row[i][:, None, None] + np.arange(8)[:, None], column[i][:, None, None] + np.arange(8)] = pictures[which[i]]
    return to_bytes(canvas), labels[which[0]]


CORRUPTIONS = ("noise", "impulse", "blur", "contrast", "fog", "inversion")


class CorruptedDigits(Labelled):
    """The held-out digits, each several times, moved by up to one pixel and spoilt in one way: noise, impulse, blur, contrast,
    fog or inversion. `recorded` gives the training digits as they are. `repeats`: pictures made of each digit.

    Observation: a picture (size, size, 1) of bytes. Action: a class. Reward: 1 where it is right. Ends: terminated after one
    step.
    """

    def __init__(self, corruption: str = "noise", repeats: int = 1, size: int = 16, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        (train, told), (test, labels) = ((enlarged(pictures, size), k) for pictures, k in map(digits, ("train", "test")))
        pictures = np.concatenate([corrupted(moved(test, rng), corruption, rng) for _ in range(repeats)])
        super().__init__(to_bytes(pictures), np.tile(labels, repeats), 10, (to_bytes(train), told))


def moved(pictures: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, height, width), each by up to one pixel in both directions; what moves in is 0."""
    around, (n, height, width) = np.pad(pictures, ((0, 0), (1, 1), (1, 1))), pictures.shape
    row, column = rng.integers(0, 3, (2, n, 1, 1))
    return around[np.arange(n)[:, None, None], np.arange(height)[:, None] + row, np.arange(width) + column]


def corrupted(pictures: NDArray[np.float32], corruption: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, height, width) within [0, 1], spoilt, and within [0, 1] again."""
    x: NDArray[Any] = pictures
    n, height, width = x.shape
    if corruption == "noise":
        x = x + 0.45 * rng.normal(size=x.shape)
    elif corruption == "impulse":
        x = np.where(rng.random(x.shape) < 0.24, rng.integers(0, 2, x.shape), x)
    elif corruption == "blur":
        around = np.pad(x, ((0, 0), (2, 2), (2, 2)), mode="edge")
        x = np.mean([around[:, i : i + height, j : j + width] for i in range(5) for j in range(5)], 0)
    elif corruption == "contrast":
        x = 0.25 * x + 0.75 * x.mean((1, 2), keepdims=True)
    elif corruption == "fog":  # a bright plane across the picture, of random slope
        slope = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
        fog = 0.5 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)
        x = 0.4 * x + 0.6 * fog
    elif corruption == "inversion":  # a square of half the height, somewhere
        row, column = rng.integers(0, height // 2 + 1, (2, n, 1, 1))
        inside = (abs(np.arange(height)[:, None] - row - height / 4 + 0.5) < height / 4) & (
            abs(np.arange(width) - column - width / 4 + 0.5) < width / 4
        )
        x = np.where(inside, 1 - x, x)
    else:
        raise ValueError(f"corruption is {corruption!r}; allowed: {', '.join(CORRUPTIONS)}")
    return np.clip(x, 0, 1).astype(np.float32)
