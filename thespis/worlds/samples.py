"""Worlds of one step for generators: an observation ends with noise, the action is the sample, the reward its judge's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.worlds.digits import digits

__all__ = ["DrawnDigits", "Gaussians", "Samples", "Talking", "columns", "normal", "uniform"]

Floats = NDArray[np.float32]
Array = NDArray[Any]
MIX = tuple(np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(seeds: Array, count: int, stream: int) -> NDArray[np.float64]:
    """Numbers in (0, 1) that follow from each seed, (n,) -> (n, count): splitmix64, each row by itself."""
    at = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)
    with np.errstate(over="ignore"):
        x = np.asarray(seeds).astype(np.uint64)[:, None] * MIX[1] + at * MIX[0]
        for shift, factor in ((30, MIX[1]), (27, MIX[2])):
            x = (x ^ (x >> np.uint64(shift))) * factor
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def normal(seeds: Array, count: int, stream: int) -> NDArray[np.float64]:
    """The same, normally distributed (Box and Muller 1958)."""
    u = uniform(seeds, 2 * count, stream)
    return np.asarray(np.sqrt(-2 * np.log(u[:, :count])) * np.cos(2 * np.pi * u[:, count:]))


class Samples(gym.Env[Floats, Floats]):
    """A subclass has `condition` and `judge`; n rows at a time, for one environment as for many (`batched`)."""

    dim: int
    """numbers of a sample, each in [-1, 1]"""

    def __init__(self, condition: int = 0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (condition + self.dim,), np.float32)
        self.action_space = spaces.Box(-1, 1, (self.dim,), np.float32)

    def condition(self, seeds: Array) -> Array:
        """What is asked for in the episodes of seeds (n,): (n, C)."""
        return np.zeros((len(seeds), 0))

    def judge(self, condition: Array, x: Array, seeds: Array) -> dict[str, Array]:
        """Scores (n,) of samples x (n, D) by name. The first is the reward; the others are told and not learnt from."""
        raise NotImplementedError

    def seen(self, seeds: Array) -> Floats:
        """The observations (n, C + D) of episodes."""
        return np.concatenate([self.condition(seeds), normal(seeds, self.dim, 0)], 1).astype(np.float32)

    def scores(self, obs: Floats, action: Array, seeds: Array) -> dict[str, Array]:
        return self.judge(obs[:, : -self.dim], np.clip(np.asarray(action, np.float64), -1, 1), seeds)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds = np.array([self.np_random.integers(2**31) if seed is None else seed])
        self.obs = self.seen(self.seeds)
        return self.obs[0].copy(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        (_, reward), *others = self.scores(self.obs, action[None], self.seeds).items()
        return self.obs[0].copy(), float(reward[0]), True, False, {k: float(v[0]) for k, v in others}

    def batched(self, n: int) -> Rows:
        """n of them in one: envs/rows.py."""
        return Rows(self, n)


class Rows:
    """n environments that are stepped at once (envs/rows.py)."""

    def __init__(self, world: Samples, n: int) -> None:
        self.world, self.action_dim = world, world.dim
        self.seeds, self.obs = np.zeros(n, np.int64), world.seen(np.zeros(n, np.int64))
        self.others: dict[str, Array] = {}

    def reset(self, seeds: Sequence[int], asked: NDArray[np.bool_]) -> Floats:
        self.seeds = np.where(asked, np.asarray(seeds), self.seeds)
        self.obs = self.world.seen(self.seeds)
        return self.obs

    def step(self, actions: Floats, asked: NDArray[np.bool_]) -> tuple[Floats, Floats, Array, Array]:
        (_, reward), *others = self.world.scores(self.obs, actions, self.seeds).items()
        self.others = dict(others)
        return self.obs, reward.astype(np.float32), np.ones(len(actions), bool), np.zeros(len(actions), bool)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        return {i: {k: float(v[i]) for k, v in self.others.items()} for i in rows}

    def close(self) -> None: ...


class Gaussians(Samples):
    """Points of a plane as of eight round clouds on a circle; the judge likes three of the clouds, one more than another.

    Observation: two normal numbers.
    Action: a point, each number in [-1, 1].
    Reward: the largest of h exp(-d^2 / (2 * 0.15^2)) over the distances d to the clouds 0, 3 and 5, whose h are 1, 0.8 and
    0.6; and with `noise` a normal number of that spread. Info: `true`, the reward without noise, and `held_out`, of another
    judge of the same clouds, the largest of h / (1 + (d / 0.2)^2).
    Ends: terminated after one step.

    `recorded`: points of all eight clouds alike, whose centres are at 0.75 from the middle and whose spread is 0.06.
    """

    dim = 2
    centres = 0.75 * np.stack([np.cos(np.pi / 4 * np.arange(8)), np.sin(np.pi / 4 * np.arange(8))], 1)
    spread, liked, heights = 0.06, [0, 3, 5], np.array([1.0, 0.8, 0.6])

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def judge(self, condition: Array, x: Array, seeds: Array) -> dict[str, Array]:
        square = np.square(x[:, None] - self.centres[self.liked]).sum(-1)
        true = (self.heights * np.exp(-square / (2 * 0.15**2))).max(1)
        reward = true + self.noise * normal(seeds, 1, 1)[:, 0] if self.noise else true
        return {"reward": reward, "true": true, "held_out": (self.heights / (1 + square / 0.2**2)).max(1)}

    def recorded(self, count: int = 20_000) -> Mapping[str, Any]:
        """Columns (data/columns.py), each row an episode."""
        rng = np.random.default_rng(0)
        points = self.centres[rng.integers(8, size=count)] + self.spread * rng.normal(size=(count, 2))
        return columns(self, self.seen(np.arange(count)), np.clip(points, -1, 1))

    def draw(self, obs: Floats, action: Array) -> NDArray[np.uint8]:
        """Samples (n, 2) as a picture (height, width, 3): a dot each, circles round the clouds that the judge likes."""
        size = 400
        place = np.mgrid[1 : -1 : size * 1j, -1 : 1 : size * 1j][::-1]
        far = np.sqrt(np.square(place[..., None] - self.centres.T[:, None, None]).sum(0)) - 3 * self.spread
        picture = np.full((size, size, 3), 255, np.uint8)
        picture[(np.abs(far) < 0.006).any(-1)] = 200
        picture[(np.abs(far[..., self.liked]) < 0.008).any(-1)] = (196, 102, 31)
        at = ((np.clip(action, -1, 1) * [1, -1] + 1) / 2 * (size - 3) + 1).round().astype(int)
        for dx in (-1, 0, 1):
            picture[at[:, 1], np.clip(at[:, 0] + dx, 0, size - 1)] = (31, 95, 209)
            picture[np.clip(at[:, 1] + dx, 0, size - 1), at[:, 0]] = (31, 95, 209)
        return picture


class DrawnDigits(Samples):
    """Handwritten digits to be drawn as asked; the judge wants them legible and bold.

    Observation: the digit that is asked for, as ten numbers of which one is 1, and 64 normal numbers.
    Action: a picture of 8 x 8, row by row, from -1 (paper) to 1 (ink).
    Reward: the chance that a judge gives to the digit asked for, the judge being a linear discriminant of scikit-learn's digits,
    times the ink over 0.6 of the paper, at most 1; and with `noise` a normal number of that spread. Info: `true`, the reward
    without noise, and `held_out`, of another judge, who compares with the nearest pictures of other people's digits, and for
    whom ink is the share of pixels that are more than half black.
    Ends: terminated after one step.

    `recorded`: the digits that the first judge knows, each several times, asked for by their own class.
    """

    dim, classes, ridge, width, bold = 64, 10, 0.3, 1.5, 0.6

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__(self.classes)
        self.noise = noise
        (known, self.labels), (others, self.told) = ((2 * p.reshape(-1, 64) - 1.0, k) for p, k in map(digits, ("train", "test")))
        self.known, self.others = known.astype(np.float64), others.astype(np.float64)
        means = np.stack([self.known[self.labels == k].mean(0) for k in range(self.classes)])
        centred = self.known - means[self.labels]
        self.weights = np.linalg.solve(centred.T @ centred / len(centred) + self.ridge * np.eye(64), means.T)
        self.bias = -0.5 * (means.T * self.weights).sum(0)

    def condition(self, seeds: Array) -> Array:
        return np.eye(self.classes)[(self.classes * uniform(seeds, 1, 2)[:, 0]).astype(int)]

    def judge(self, condition: Array, x: Array, seeds: Array) -> dict[str, Array]:
        asked = np.asarray(condition).argmax(1)
        true = chance(x @ self.weights + self.bias, asked) * ((1 + x).mean(1) / 2 / self.bold).clip(max=1)
        square = np.square(x).sum(1)[:, None] + np.square(self.others).sum(1) - 2 * x @ self.others.T
        nearest = np.stack([square[:, self.told == k].min(1) for k in range(self.classes)], 1)
        reward = true + self.noise * normal(seeds, 1, 1)[:, 0] if self.noise else true
        other = chance(-nearest / (2 * self.width**2), asked) * ((x > 0).mean(1) / self.bold).clip(max=1)
        return {"reward": reward, "true": true, "held_out": other}

    def recorded(self, count: int = 20_000) -> Mapping[str, Any]:
        """Columns (data/columns.py), each row an episode."""
        seeds = np.arange(count)
        obs, rng = self.seen(seeds), np.random.default_rng(0)
        asked, points = obs[:, : self.classes].argmax(1), np.empty((count, 64))
        for k in range(self.classes):
            rows = np.flatnonzero(self.labels == k)
            points[asked == k] = self.known[rng.choice(rows, (asked == k).sum())]
        return columns(self, obs, points)

    def draw(self, obs: Floats, action: Array) -> NDArray[np.uint8]:
        """A row for each digit, of up to 20 samples that were asked to be it."""
        scale, many = 3, 20
        page = np.full((self.classes, many, 10, 10), 1.0)
        asked = np.asarray(obs)[:, : self.classes].argmax(1)
        for k in range(self.classes):
            shown = np.clip(action[asked == k][:many], -1, 1).reshape(-1, 8, 8)
            page[k, : len(shown), 1:9, 1:9] = (1 - shown) / 2
        flat = page.transpose(0, 2, 1, 3).reshape(10 * self.classes, 10 * many)
        big = np.rint(255 * flat).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
        return np.repeat(big[..., None], 3, -1)


def chance(logits: Array, asked: Array) -> Array:
    """The softmax of logits (n, K) at asked (n,)."""
    logits = logits - logits.max(1, keepdims=True)
    return np.asarray(np.exp(np.take_along_axis(logits, asked[:, None], 1)[:, 0]) / np.exp(logits).sum(1))


class Talking(Samples):
    """Two signals of 16 frames, how far a mouth is open and how a head moves, beside a voice; three judges.

    Observation: how loud the voice is in each frame, from -1 to 1, and the noise, fresh for each take.
    Action: the mouth in 16 frames, then the head.
    Reward: `lip_sync`, the correlation of mouth and voice; `motion`, -|log(speed / 0.15)| of the head's root mean square speed,
    less its jerk over its speed, a quarter of it; `quality`, minus the root mean square of both signals' second differences.
    Ends: terminated after two takes of one voice.

    `recorded`: mouths that follow the voice late, too weakly and with noise, and heads that sway and tremble.
    """

    frames, takes = 16, 2
    dim = 2 * frames
    metadata = {"render_modes": [], "reward_names": ["lip_sync", "motion", "quality"]}  # noqa: RUF012
    batched = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(self.frames)
        self.reward_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def condition(self, seeds: Array) -> Array:
        u, time = uniform(seeds, 6, 2), np.arange(self.frames) / self.frames
        waves = np.sin(2 * np.pi * (time * np.arange(1, 4)[:, None] + u[:, :3, None])) * u[:, 3:, None]
        return np.tanh(2 * waves.sum(1))

    def judge(self, condition: Array, x: Array, seeds: Array) -> dict[str, Array]:
        mouth, head = x[:, : self.frames], x[:, self.frames :]
        a, b = (y - y.mean(1, keepdims=True) for y in (mouth, condition))
        match = (a * b).sum(1) / np.sqrt(np.square(a).sum(1) * np.square(b).sum(1) + 1e-12)
        speed, jerk = (np.sqrt(np.square(np.diff(head, n, axis=1)).mean(1)) + 1e-6 for n in (1, 3))
        rough = np.sqrt((np.square(np.diff(mouth, 2, axis=1)) + np.square(np.diff(head, 2, axis=1))).mean(1))
        return {"lip_sync": match, "motion": -np.abs(np.log(speed / 0.15)) - 0.25 * jerk / speed, "quality": -rough}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        self.take = 0
        return super().reset(seed=seed)

    def step(self, action: Floats) -> Any:
        told = self.scores(self.obs, action[None], self.seeds)
        self.take += 1
        self.obs[:, self.frames :] = normal(self.seeds, self.dim, 2 * self.take + 1)
        return self.obs[0].copy(), np.array([v[0] for v in told.values()]), self.take == self.takes, False, {}

    def recorded(self, count: int = 20_000) -> Mapping[str, Any]:
        rng, seeds, time = np.random.default_rng(0), np.arange(count), np.arange(self.frames) / self.frames
        voice, late = self.condition(seeds), rng.integers(3, size=count)
        place = np.maximum(np.arange(self.frames) - late[:, None], 0)
        mouth = rng.uniform(0.3, 0.8, (count, 1)) * np.take_along_axis(voice, place, 1) + 0.15 * rng.normal(size=voice.shape)
        rate, phase, size = (rng.uniform(low, high, (count, 1)) for low, high in ((0.5, 2.5), (0, 1), (0.0, 0.5)))
        head = size * np.sin(2 * np.pi * (rate * time + phase)) + 0.08 * rng.normal(size=voice.shape)
        return columns(self, self.seen(seeds), np.clip(np.concatenate([mouth, head], 1), -1, 1), 3)


def columns(world: gym.Env[Any, Any], obs: Array, action: Array, rewards: int = 1) -> Mapping[str, Any]:
    """Rows of a dataset each of which is an episode, with rewards of 0: what a generator learns from has none."""
    once = {"rewards": np.zeros((len(obs), rewards)), "terminals": np.ones(len(obs), bool)}
    spaces_of = {"observation_space": world.observation_space, "action_space": world.action_space}
    return {"observations": obs, "actions": action.astype(np.float32), "next_observations": obs, **once, **spaces_of}
