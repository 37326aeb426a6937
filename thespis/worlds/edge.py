"""Mobile edge computing: to which server each task goes, where servers share their processors among their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["EdgeComputing", "Servers", "served"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
STEPS, USERS, SLOTS, BINS, WIDE = 100, 10, 4, 20, 2.0
"""seconds; users; places for edge servers; bins of a histogram, and Mbit that each is wide, the last without an end"""
LEAST, MOST, MHZ, WATT, JOULE = 0.1, 100.0, 16.6, 0.01, 5e-4
"""Mbit of a task; bandwidth; power of a user's radio; energy of a Mbit at 1 GHz (5e-31 J s^2 a cycle, 1,000 cycles a bit)"""


class EdgeComputing(gym.Env[NDArray[np.float32], np.int64]):
    """A cloud and up to four edge servers; each second a task waits, and is sent to one of them.

    Observation: a row of 27 numbers for each of five servers, the cloud first. 1; GHz; how many edge servers there are; the size
    of the task that waits, in 10 Mbit; 1 if there is one, else 0; the rate of its link to this server, in 100 Mbit/s; the tasks
    that run there, in tens; and how many of them have 0 to 2 Mbit left, 2 to 4, ..., 38 or more. One that is not there has -1.
    Action: the server; one that is not there stands for the cloud.
    Reward: two numbers, both negative. "delay": by how much the task makes the summed delays of all tasks longer, if none came
    after it. "energy": what it takes to send and compute it. `units` are the seconds and joules of one. 0 where no task waits.
    Ends: cut off after 100 steps, of 1 s each.

    Each of 10 users has 0.1 tasks a second, in the mean; those that come together wait in line, which counts in no reward. Sizes
    are exponential, and in the mean what all servers do in a second; from 0.1 to 100 Mbit. The cloud has 3.5 to 4.5 GHz and is 1
    to 2 km away, an edge server 1.75 to 2.25 GHz and 50 to 500 m; 1 GHz does 1 Mbit/s, shared equally by the tasks of a server. A
    task joins them when it has been sent. `edges` is a number of edge servers, or the least and the most, drawn for an episode;
    they stand in random places of the four. `ghz` gives the ranges of cloud and edge servers.

    Yang, Wen, Zhang, Tang 2025, arXiv:2509.10474; the rates of links are our own (docs/edge.md).
    """

    metadata = {"render_modes": [], "reward_names": ["delay", "energy"]}  # noqa: RUF012

    def __init__(
        self,
        edges: int | Sequence[int] = SLOTS,
        ghz: Sequence[Sequence[float]] = ((3.5, 4.5), (1.75, 2.25)),
        units: tuple[float, float] = (20.0, 0.05),
    ) -> None:
        low, high = (edges, edges) if isinstance(edges, int) else edges
        if not 0 <= low <= high <= SLOTS:
            raise ValueError(f"edges is {edges}; allowed: a number from 0 to {SLOTS}, or the least and the most of them")
        self.given, self.units = ((low, high), ghz), np.asarray(units, float)
        self.servers = self.many(1)
        self.observation_space = spaces.Box(-1, np.inf, ((1 + SLOTS) * (7 + BINS),), np.float32)
        self.action_space = spaces.Discrete(1 + SLOTS)
        self.reward_space = spaces.Box(-np.inf, 0, (2,), np.float64)

    def many(self, n: int) -> Servers:
        """n of them as one object."""
        return Servers(n, *self.given)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return self.servers.reset([int(self.np_random.integers(2**31))])[0], {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        obs, reward = self.servers.step(np.array([action]))
        return obs[0], reward[0] / self.units, False, False, {}


class Servers:
    """n episodes side by side, each as in `EdgeComputing`. In seconds, Mbit, GHz and joules."""

    def __init__(
        self, n: int, edges: tuple[int, int] = (SLOTS, SLOTS), ghz: Sequence[Sequence[float]] = ((3.5, 4.5), (1.75, 2.25))
    ) -> None:
        self.n, self.edges, self.ranges, self.rows = n, edges, np.asarray(ghz, float), np.arange(n)

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Begins all anew, each from its seed. All that chance decides is drawn here, so that actions change none of it."""
        n, s = self.n, 1 + SLOTS
        self.t = 0
        self.there, self.ghz, self.rates = np.zeros((n, s), bool), np.ones((n, s)), np.ones((n, USERS, s))
        self.sizes, self.users, come = np.zeros((n, STEPS)), np.zeros((n, STEPS), int), np.zeros((n, STEPS), int)
        cloud, edge = self.ranges
        for i, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            count = int(rng.integers(self.edges[0], self.edges[1] + 1))
            self.there[i, [0, *(1 + rng.permutation(SLOTS)[:count])]] = True
            self.ghz[i] = np.where(np.arange(s) == 0, rng.uniform(*cloud), rng.uniform(edge[0], edge[1], s))
            metres = np.where(np.arange(s) == 0, rng.uniform(1000, 2000, (USERS, 1)), rng.uniform(50, 500, (USERS, s)))
            fading = rng.exponential(size=(USERS, s))
            self.rates[i] = MHZ * np.log2(1 + fading * 1e6 * (metres / 100) ** -3.5)
            self.sizes[i] = rng.exponential(self.ghz[i, self.there[i]].sum(), STEPS)
            self.users[i], come[i] = rng.integers(USERS, size=STEPS), rng.poisson(0.1 * USERS, STEPS)
        line = np.zeros(n, int)
        for t in range(STEPS):  # one that has come is sent in each step
            line += come[:, t]
            self.sizes[:, t] = np.where(line > 0, self.sizes[:, t].clip(LEAST, MOST), 0)
            line -= line > 0
        self.rates = self.rates.clip(MOST)  # so that a task is sent within its step
        self.left = np.zeros((n, s, 8))
        """what each task has to do yet, (n, servers, places), ascending; 0: none"""
        return self._seen()

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], Floats]:
        """Servers (n,) -> observations (n, obs); rewards (n, 2), of a second and a joule."""
        at = self.rows, np.where(self.there[self.rows, action], action, 0)
        size, rate, ghz = self._task(), self._rate()[at], self.ghz[at]
        joined, cost = self._met(self.left[at], size, rate, ghz)
        if (joined[:, 0] > 0).any():
            joined = np.concatenate([np.zeros((self.n, 8)), joined], -1)
        joined[:, 0] = size
        joined.sort(-1)
        rest = served(self.left, self.ghz, np.ones_like(self.ghz))
        rest = np.concatenate([np.zeros((*self.ghz.shape, joined.shape[-1] - rest.shape[-1])), rest], -1)
        rest[at] = served(joined, ghz, 1 - size / rate)
        self.left = rest[..., 8:] if rest.shape[-1] > 8 and not rest[..., :9].any() else rest
        self.t += 1
        return self._seen(), -cost

    def costs(self) -> Floats:
        """Seconds and joules of the task that waits, (n, servers, 2), at each server; inf where there is none."""
        size = np.broadcast_to(self._task()[:, None], self.ghz.shape)
        return np.where(self.there[..., None], self._met(self.left, size, self._rate(), self.ghz)[1], np.inf)

    def _met(self, left: Floats, size: Floats, rate: Floats, ghz: Floats) -> tuple[Floats, Floats]:
        """What a task finds when it has been sent, and its cost. Where tasks share a processor the time of task i is the sum over
        all j of min(left_i, left_j), over the speed."""
        sent = size / rate
        joined = served(left, ghz, sent)
        delay = sent + (size + 2 * np.minimum(joined, size[..., None]).sum(-1)) / ghz
        return joined, np.stack([np.where(size > 0, delay, 0), WATT * sent + JOULE * ghz**2 * size], -1)

    def _task(self) -> Floats:
        return self.sizes[:, self.t] if self.t < STEPS else np.zeros(self.n)

    def _rate(self) -> Floats:
        return self.rates[self.rows, self.users[:, min(self.t, STEPS - 1)]]

    def _seen(self) -> NDArray[np.float32]:
        size, (n, s) = self._task()[:, None], self.ghz.shape
        found = 1 + (self.left / WIDE).astype(int).clip(0, BINS - 1)
        found[self.left == 0] = 0
        place = np.arange(n * s)[:, None] * (BINS + 1)
        histogram = np.bincount((place + found.reshape(n * s, -1)).ravel(), minlength=n * s * (BINS + 1)).reshape(n, s, -1)[
            ..., 1:
        ]
        seen = np.empty((n, s, 7 + BINS), np.float32)
        seen[..., 0], seen[..., 1], seen[..., 2] = 1, self.ghz, self.there.sum(-1, keepdims=True) - 1
        seen[..., 3], seen[..., 4], seen[..., 5] = size / 10, size > 0, self._rate() / 100
        seen[..., 6], seen[..., 7:] = histogram.sum(-1) / 10, histogram
        seen[~self.there] = -1
        return seen.reshape(n, -1)


def served(left: Floats, speed: Floats, seconds: Floats) -> Floats:
    """What is left of tasks (..., places), ascending, after seconds (...) of a processor of speed (...) that they share."""
    places = left.shape[-1]
    start = np.concatenate([np.zeros((*left.shape[:-1], 1)), left], -1)
    work = np.zeros_like(start)  # done in all until each of them is done
    np.cumsum(np.diff(start) * np.arange(places, 0, -1), -1, out=work[..., 1:])
    budget = (seconds * speed)[..., None]
    done = (work[..., 1:] <= budget).sum(-1, keepdims=True)
    level = np.take_along_axis(start, done, -1) + (budget - np.take_along_axis(work, done, -1)) / np.maximum(places - done, 1)
    return np.maximum(left - level, 0)
