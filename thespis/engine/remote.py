"""Collecting in other processes, on this machine or on many: Ray moves the bytes, restarts nothing and retries nothing.

What happens once is what happens here: a collector sends segments, numbered by the steps it has made; the learner takes each in
whole or not at all. A collector that dies takes at most the segment under way with it, and a new one begins new episodes.
"""

from __future__ import annotations

import copyreg
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from thespis.core import Fault, Learner, OffPolicy, Spec, tree_map
from thespis.data import Replay, Shards
from thespis.engine.act import Actor
from thespis.engine.cluster import first_line
from thespis.engine.collect import Collector
from thespis.engine.progress import Episode
from thespis.engine.run import Run
from thespis.envs import World, vector

# cloudpickle takes `ops` in a function that names `torch` too for torch.ops, which it cannot pickle
copyreg.pickle(type(torch.ops), lambda _: (getattr, (torch, "ops")))

SEGMENT = 32  # steps of each environment between two looks at the newest parameters
DEATHS = 5  # of one collector in a row, before it is taken for a fault of the environment


class Segment(NamedTuple):
    version: int
    """updates that the policy had seen"""
    number: int
    """steps that this collector had made before"""
    rows: tuple[np.ndarray, ...]
    """the arguments of Replay.add, each (T, num_envs, ...)"""
    cuts: list[int]
    """environments whose episode ended, as by a time limit, with the last step of the segment before"""
    episodes: list[Episode]
    """those that ended"""
    faults: list[str]
    """of environments that were made anew"""


# ------------------------------------------------------------------------------------------------- in a collector's process


class Tape(Replay):
    """Holds what is to be sent, and nothing else."""

    def __init__(self, spec: Spec, feed: OffPolicy, num_envs: int):
        super().__init__(spec, replace(feed, replay_size=num_envs), num_envs)
        self.rows: list[tuple[np.ndarray, ...]] = []
        self.cuts: list[int] = []

    def add(self, *row: np.ndarray) -> None:
        self.rows.append(tuple(map(np.array, row)))  # copies: the collector goes on in its own
        self.steps += 1

    def cut(self, env: int) -> None:
        if self.rows:
            *_, truncated, _ = self.rows[-1]
            truncated[env] = True
        elif self.steps:
            self.cuts.append(env)


class Worker:
    """Steps environments of its own, on one thread."""

    def begin(self, version: str, shipped: list[Any], seeds: tuple[int, int]) -> Fault | None:
        """`shipped` holds Ray's reference to (Learner, World, Run), which only the same version can be sure to understand."""
        import ray

        if (here := _version()) != version:
            return Fault(f"thespis is {here} on {socket.gethostname()}, the learner's {version}; install the same")
        learner, world, run = ray.get(shipped[0])
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        torch.manual_seed(seeds[0])
        self.faults: list[str] = []
        skip = (lambda fault: self.faults.append(str(fault))) if run.on_env_error == "restart" else None
        try:
            envs = vector(world, run.num_envs, run.vector, run.env_timeout, skip)
        except Fault as fault:
            return fault
        self.tape = Tape(world.spec, learner.experience, run.num_envs)
        self.actor = Actor(learner, run.num_envs, learner.experience.look_every)
        self.collector = Collector(envs, world.spec, self.tape, seeds[1], self.actor.begin)
        return None

    def collect(self, steps: int, explore: bool, published: tuple[int, Any]) -> Segment | Fault:
        """`steps` steps of every environment with the policy `published`, or with random actions."""
        version, policy = published
        number, episodes = self.tape.steps, []
        try:
            for _ in range(steps):
                episodes += self.collector.step((lambda obs, rows: self.actor(policy, obs, True, rows)) if explore else None)
        except Fault as fault:
            return fault
        rows = tuple(np.stack(column) for column in zip(*self.tape.rows, strict=True))
        cuts, faults, self.tape.rows, self.tape.cuts, self.faults[:] = self.tape.cuts, [*self.faults], [], [], []
        return Segment(version, number, rows, cuts, episodes, faults)


# --------------------------------------------------------------------------------------------------- in the learner's process


@dataclass
class _Slot:
    """A collector's place: who holds it now, and what is asked of them."""

    part: Replay
    life: int = 0
    """how many held it before"""
    actor: Any = None
    asked: Any = None
    """Ray's reference to the answer that is awaited"""
    steps: int = 0
    """of each environment, asked for in `asked`; 0 while beginning"""
    sent: int = 0
    """segments that the learner had taken in when it asked"""
    made: int = 0
    """steps taken in from this life"""
    deaths: int = 0
    """since the last segment that arrived"""


class Collectors:
    """`run.collectors` processes of `run.num_envs` environments, each with a replay and seeds of its own.

    Each is asked for one segment at a time, with the newest parameters, as soon as the one before has arrived; so they step while
    the learner learns, and wait if it falls behind. While one segment is made, fewer than 2 * collectors others are taken in.
    """

    def __init__(
        self, learner: Learner, world: World, run: Run, replay: Shards, seed: int, say: Callable[[str], None],
        skip: Callable[[Fault], None] | None,
    ):  # fmt: skip
        """`skip` is told each fault of an environment that was made anew."""
        import ray

        self.ray, self.run, self.replay, self.seed, self.say, self.skip = ray, run, replay, seed, say, skip
        self.warmup, self.name = learner.experience.warmup, world.name
        self.slots = [_Slot(part) for part in replay.parts]
        self.taken = 0
        self.lags: list[int] = []
        self.published: tuple[int, Any] = (-1, None)
        if not (name := learner.update.__module__).startswith("thespis."):  # a file of your own, which the others cannot import
            ray.cloudpickle.register_pickle_by_value(sys.modules[name])
        try:
            self.shipped = ray.put((learner, world, run))
        except Exception as error:
            raise Fault(f"env: {self.name} cannot be sent to the collectors ({first_line(error)})") from error

    def step(self, policy: Callable[[], Any], version: int) -> list[Episode]:
        """Takes a segment in, if one arrives within a second, and asks its collector for the next, by the policy of this
        version. Returns the episodes that ended in it."""
        for i, slot in enumerate(self.slots):
            if slot.actor is None:
                self._begin(i, slot)
        ready = self._arrived()
        if ready is None:
            return []
        i, slot = ready
        try:
            answer = self.ray.get(slot.asked)
        except self.ray.exceptions.RayTaskError as error:
            if slot.steps:
                raise
            raise Fault(f"env: {self.name} cannot be made by the collectors ({first_line(error.cause)})") from error
        except self.ray.exceptions.RayError as error:  # the process, its machine, or the way there is gone
            self._bury(i, slot, error)
            return []
        if isinstance(answer, Fault):
            raise Fault(f"collector {i}: {answer}")
        episodes = []
        if answer is not None:
            episodes = self._take(slot, answer, version)
            for fault in answer.faults:
                assert self.skip is not None
                self.skip(Fault(f"collector {i}: {fault}"))
        self._ask(slot, policy, version)
        return episodes

    def _arrived(self) -> tuple[int, _Slot] | None:
        """Whose answer is there: the one asked first, and nobody else where that one is late."""
        asked = sorted((slot.sent, i) for i, slot in enumerate(self.slots) if slot.asked is not None)
        late = [i for sent, i in asked if self.slots[i].steps and self.taken - sent >= len(self.slots)]
        among = {self.slots[i].asked: i for i in (late[:1] or [i for _, i in asked])}
        ready, _ = self.ray.wait(list(among), num_returns=1, timeout=1.0)
        return (among[ready[0]], self.slots[among[ready[0]]]) if ready else None

    def _take(self, slot: _Slot, segment: Segment, version: int) -> list[Episode]:
        if segment.number != slot.made:
            raise RuntimeError(f"a collector sent step {segment.number} where {slot.made} was due")
        for env in segment.cuts:
            slot.part.cut(env)
        for row in zip(*map(np.array, segment.rows), strict=True):  # copies: Ray's memory cannot be written
            slot.part.add(*row)
        slot.made += len(segment.rows[0])
        slot.deaths = 0
        self.taken += 1
        self.lags.append(version - segment.version)
        return segment.episodes

    def _ask(self, slot: _Slot, policy: Callable[[], Any], version: int) -> None:
        """For a segment that ends where the warm-up or the run does; for none where the others' do."""
        slot.asked, slot.steps = None, 0
        n = self.run.num_envs
        promised = self.replay.added + n * sum(other.steps for other in self.slots)
        goal = min(self.warmup, self.run.steps) if promised < self.warmup else self.run.steps
        slot.steps = max(min(SEGMENT, -((promised - goal) // n)), 0)
        if slot.steps == 0:
            return
        if self.published[0] != version:
            self.published = version, self.ray.put((version, tree_map(lambda x: x.detach().cpu(), policy())))
        slot.sent = self.taken
        slot.asked = slot.actor.collect.remote(slot.steps, promised >= self.warmup, self.published[1])

    def _begin(self, i: int, slot: _Slot) -> None:
        seeds = np.random.SeedSequence([self.seed, i, slot.life]).generate_state(2).tolist()
        actor = self.ray.remote(Worker).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        slot.actor, slot.steps, slot.made, slot.sent = actor.remote(), 0, 0, self.taken
        slot.asked = slot.actor.begin.remote(_version(), [self.shipped], seeds)

    def _bury(self, i: int, slot: _Slot, error: Exception) -> None:
        """What it was asked for is lost, its episodes end as by a time limit, and another takes its place."""
        slot.deaths += 1
        if slot.deaths > DEATHS:
            raise Fault(f"collector {i} died {slot.deaths} times without a step in between ({first_line(error)})") from error
        self.say(f"collector {i} died; another takes its place, with new episodes")
        self._forget(slot)
        slot.life += 1
        self._begin(i, slot)

    def _forget(self, slot: _Slot) -> None:
        with suppress(Exception):
            self.ray.kill(slot.actor)
        for env in range(self.run.num_envs):
            slot.part.cut(env)

    def metrics(self) -> dict[str, float]:
        """How many updates older than the learner the policies were by which the newest segments were made."""
        if not self.lags:
            return {}
        row = {"collect/staleness_mean": float(np.mean(self.lags)), "collect/staleness_max": float(max(self.lags))}
        self.lags = []
        return row

    def close(self) -> None:
        for slot in self.slots:
            if slot.actor is not None:
                with suppress(Exception):
                    self.ray.kill(slot.actor)

    # -------------------------------------------------------------------------------------------------- stop and go on

    def reseed(self, seed: int) -> None:
        """Collectors that begin from now on are of another seed."""
        self.seed = seed

    def save(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"lives": [slot.life for slot in self.slots]}, {}

    def restore(self, json: dict[str, Any], tensors: dict[str, torch.Tensor], say: Callable[[str], None]) -> None:
        """New collectors, with new seeds. What the old ones' episodes would have led to is not known: they are cut."""
        for slot, life in zip(self.slots, json["lives"], strict=True):
            slot.life = life + 1
            for env in range(self.run.num_envs):
                slot.part.cut(env)


def _version() -> str:
    return str(sys.modules["thespis"].__version__)
