"""Ten choices make a memory controller: how long does it take over a trace of reads, and what power does it draw?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.fault import Fault
from thespis.worlds.ddr3 import answer

__all__ = ["CHOICES", "DRAM", "Parts", "parallel_env", "reads"]

Floats = NDArray[np.float64]
Designs = NDArray[np.integer[Any]]

SIZES = tuple(2**i for i in range(8))
CHOICES: dict[str, tuple[Any, ...]] = {
    "PagePolicy": ("Open", "OpenAdaptive", "Closed", "ClosedAdaptive"),
    "Scheduler": ("Fifo", "FrFcfsGrp", "FrFcfs"),
    "SchedulerBuffer": ("Bankwise", "ReadWrite", "Shared"),
    "RequestBufferSize": SIZES,
    "RespQueue": ("Fifo", "Reorder"),
    "RefreshPolicy": ("NoRefresh", "AllBank"),
    "RefreshMaxPostponed": (1, 2, 4, 8),
    "RefreshMaxPulledin": (1, 2, 4, 8),
    "Arbiter": ("Simple", "Fifo", "Reorder"),
    "MaxActiveTransactions": SIZES,
}
"""DRAMSys' names of the parameters, and their levels: 442,368 designs"""
LEVELS = tuple(map(len, CHOICES.values()))
TRACES, GOALS = ("stream", "random", "cloud"), ("power", "latency", "both")
WATTS, MILLISECONDS, MOST = 1.0, 0.1, 1_000.0
"""the targets, and the largest reward"""
_known: dict[Any, Floats] = {}
"""by trace, watts and milliseconds of every design, nan until it was asked for"""


def reads(trace: str, requests: int) -> NDArray[np.int64]:
    """The byte addresses (n,) of a trace, each of 64 bytes, over 1 GiB, the same at each call.

    "stream": one after the other. "random": anywhere. "cloud": blocks of 50 reads, by chance 1/2 the next of the stream, else
    anywhere. Otherwise a file in DRAMSys' format, lines of "cycle: read 0xADDRESS"; the cycle is passed over, and `requests`
    is the most that is taken. Fault: a file that cannot be read, or with lines of another form.
    """
    stream, anywhere = np.arange(requests) * 64, np.random.default_rng(0).integers(0, 2**24, requests) * 64
    if trace == "stream":
        return stream
    if trace == "random":
        return anywhere
    if trace == "cloud":
        go_on = np.random.default_rng(1).random(requests // 50 + 1).repeat(50)[:requests] < 0.5
        return np.where(go_on, (go_on.cumsum() - 1) * 64, anywhere)
    try:
        lines = [line.split() for line in Path(trace).read_text().splitlines() if line.strip()][:requests]
    except (OSError, UnicodeDecodeError) as error:
        near = ", ".join(TRACES)
        raise Fault(f"trace is {trace!r}; allowed: {near}, or a file of reads ({type(error).__name__})") from None
    found = np.zeros(len(lines), np.int64)
    for i, words in enumerate(lines):
        try:
            _, what, address = words
            found[i] = int(address, 16)
            if what != "read" or found[i] < 0:
                raise ValueError(what)
        except ValueError:
            raise Fault(f"trace: {trace} has the line {' '.join(words)!r}; allowed: 'cycle: read 0xADDRESS'") from None
    if len(found) == 0:
        raise Fault(f"trace: {trace} is empty; it must have lines of 'cycle: read 0xADDRESS'")
    return found


def plain(designs: Designs) -> NDArray[np.int64]:
    """Designs (..., 10) with choices that make no difference at their first level: with reads alone, both FrFcfs and both shared
    buffers are alike, and no refresh is ever ahead of its time; NoRefresh postpones none; the Simple arbiter has no limit of
    transactions; the Reorder arbiter answers in order, as the Fifo arbiter with the Reorder queue. 11,520 are left."""
    d = np.array(designs, np.int64)
    _, scheduler, buffer, _, queue, refresh, postponed, pulled, arbiter, active = (d[..., i : i + 1] for i in range(10))
    scheduler[scheduler == 1] = 2
    buffer[buffer == 1] = 2
    pulled[...] = postponed[refresh == 0] = 0
    active[arbiter == 0] = 0
    queue[arbiter == 2] = 1
    arbiter[arbiter == 2] = 1
    return d


class DRAM(gym.Env[Any, Any]):
    """Choose a controller of DDR3-1600 memory for a trace of reads.

    Observation: always 0. Action: the ten `CHOICES`, 4, 3, 3, 8, 2, 2, 4, 4, 3 and 8 levels.
    Reward: 1 / |1 - x| for x the mean power P in units of 1 W ("power"), the time L until the last answer in units of 0.1 ms
    ("latency"), or the product of both ("both"); at most 1,000. So the target is what pays, not the least.
    Ends: terminated after one step.

    `info` has "power_w", "latency_ms" and "energy_mj" of the design. Krishnan et al. 2022 (arXiv:2211.16385); the simulator is
    `ddr3`. Traces are those of `reads`. Answers are kept, for all worlds of a trace in this process.
    """

    def __init__(self, trace: str = "stream", goal: str = "both", requests: int = 10_000) -> None:
        if goal not in GOALS:
            raise Fault(f"goal is {goal!r}; allowed: {', '.join(GOALS)}")
        if not isinstance(requests, int) or requests < 1:
            raise Fault(f"requests is {requests!r}; allowed: a whole number of 1 or more")
        self.goal, self.trace = goal, reads(str(trace), requests)
        self.bank, self.row = self.trace >> 13 & 7, self.trace >> 16
        self.known = _known.setdefault(self.trace.tobytes(), np.full((np.prod(LEVELS), 2), np.nan))
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.MultiDiscrete([*LEVELS])

    def measured(self, designs: Designs) -> tuple[Floats, Floats]:
        """Watts and milliseconds (...) of designs (..., 10)."""
        each = plain(designs)
        index = np.ravel_multi_index(tuple(np.moveaxis(each, -1, 0)), LEVELS)
        for i in np.unique(index[np.isnan(self.known[index, 0])]):
            self.known[i] = self.simulated(np.array(np.unravel_index(i, LEVELS)))
        return self.known[index, 0], self.known[index, 1]

    def simulated(self, design: Designs) -> tuple[float, float]:
        """Watts and milliseconds of one design (10,), from the simulator."""
        level = {name: levels[i] for (name, levels), i in zip(CHOICES.items(), design, strict=True)}
        found = answer(
            self.bank, self.row, page=int(design[0]), first_ready=level["Scheduler"] != "Fifo",
            bankwise=level["SchedulerBuffer"] == "Bankwise", size=level["RequestBufferSize"],
            postponed=level["RefreshMaxPostponed"] if level["RefreshPolicy"] == "AllBank" else -1,
            limit=0 if level["Arbiter"] == "Simple" else level["MaxActiveTransactions"],
            in_order="Reorder" in (level["RespQueue"], level["Arbiter"]),
        )  # fmt: skip
        return found.watts, found.seconds * 1e3

    def reward(self, designs: Designs) -> Floats:
        """Of designs (..., 10): (...)."""
        watts, milliseconds = self.measured(designs)
        away = np.ones_like(watts)
        if self.goal != "latency":
            away = away * np.abs(1 - watts / WATTS)
        if self.goal != "power":
            away = away * np.abs(1 - milliseconds / MILLISECONDS)
        return 1 / np.maximum(away, 1 / MOST)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        watts, milliseconds = (float(x[0]) for x in self.measured(np.asarray(action)[None]))
        told = {"power_w": watts, "latency_ms": milliseconds, "energy_mj": watts * milliseconds}
        return np.zeros(1, np.float32), float(self.reward(np.asarray(action)[None])[0]), True, False, told


class Parts:
    """The same in PettingZoo's parallel form: an agent a choice, by its name in `CHOICES`; all get the design's reward."""

    metadata: ClassVar[dict[str, Any]] = {"name": "dram", "render_modes": []}
    render_mode = None

    def __init__(self, **args: Any) -> None:
        self.world, self.possible_agents = DRAM(**args), list(CHOICES)
        self.agents: list[str] = []
        self.observation_spaces = dict.fromkeys(CHOICES, self.world.observation_space)
        self.action_spaces = {name: spaces.Discrete(n) for name, n in zip(CHOICES, LEVELS, strict=True)}

    @property
    def unwrapped(self) -> Parts:
        return self

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents = list(self.possible_agents)
        obs, info = self.world.reset(seed=seed, options=options)
        return dict.fromkeys(self.agents, obs), {name: dict(info) for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        obs, reward, over, cut, info = self.world.step(np.array([actions[name] for name in self.agents]))
        each = dict.fromkeys(self.agents, obs), dict.fromkeys(self.agents, reward), dict.fromkeys(self.agents, over)
        answers = *each, dict.fromkeys(self.agents, cut), {name: dict(info) for name in self.agents}
        self.agents = []
        return answers

    def render(self) -> None:
        """There is nothing to see."""

    def close(self) -> None:
        """There is nothing to close."""


def parallel_env(**args: Any) -> Parts:
    """For `--env pettingzoo:thespis.worlds.dram`; the arguments are DRAM's."""
    return Parts(**args)
