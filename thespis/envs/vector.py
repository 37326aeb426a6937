"""Several environments at once, in this process or in one each; the caller resets who has finished, with known seeds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thespis import ops
from thespis.core import Fault
from thespis.envs.apart import Apart, Nursery
from thespis.envs.flat import TASK_REWARD, Flat
from thespis.envs.statistics import Statistics
from thespis.envs.world import World

__all__ = ["Vector", "vector"]

Mask = NDArray[np.bool_]

IN_A_ROW = 10
"""faults of one environment, without a good step between them, that end what restarts would not mend"""
MEMORY = 500_000_000
"""bytes that environments which can be fewer may take together, where one takes less"""
GRACE = 5.0
"""seconds that processes have to close their environments, where no time limit is given"""


def vector(
    world: World, n: int, kind: str = "sync", timeout: float | None = None, restart: Callable[[Fault], None] | None = None,
    spare: bool = False,
) -> Vector:  # fmt: skip
    """`n` environments of a world, in this process ("sync") or in one process each ("async", or wherever there is a timeout).

    An environment fails where it breaks a rule of `Flat`, raises, takes its process with it, or takes more than `timeout`
    seconds. Then it is closed, or killed, and the fault is raised; or, with `restart`, which is told of each fault, the caller
    goes on: whoever `failed` must be reset, which makes it anew. The others never notice. `spare`: fewer than n will do, where no
    more can be made or they would take too much memory.

    Fault: n or kind out of range, an environment that cannot be made, processes for a world whose environments are one program;
    and see `Vector`.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise Fault(f"envs is {n!r}; it must be an integer of 1 or more")
    if kind not in ("sync", "async"):
        raise Fault(f"vector is {kind!r}; it must be 'sync' or 'async'")
    if world.batch is None:
        return Vector(world, n, kind == "async" or timeout is not None, timeout, restart, spare)
    if kind == "async":
        raise Fault(f"vector is 'async'; the environments of {world.name} are one program in this process, so it must be 'sync'")
    if timeout is not None:
        raise Fault(f"env_timeout is {timeout:g}; {world.name} has no processes of its own that could be killed: leave it out")
    return world.batch(world, n, restart)


class Vector:
    """n environments, each under a mask's control. All arrays are copies; a row that was not asked is as its last answer was."""

    def __init__(
        self,
        world: World,
        n: int,
        apart: bool,
        timeout: float | None,
        restart: Callable[[Fault], None] | None,
        spare: bool = False,
    ):
        """`spare`: fewer than n will do, where no more can be made or they would take more than MEMORY."""
        self._blank(world, n, restart)
        self.timeout = timeout
        self.nursery = Nursery(world.make) if apart else None
        self.envs: list[_Here | Apart | None] = []
        before, most = resident(), n
        try:
            while (made := len(self.envs)) < most:
                try:
                    self.envs.append(self._begin())
                    if spare:
                        self.envs[-1].ready(timeout)  # type: ignore[union-attr]
                except Fault:
                    if not spare or made == 0:
                        raise
                    if len(self.envs) > made:
                        self._close(made, time.monotonic())
                        self.envs.pop()
                    break
                if spare and len(self.envs) == 1 and (each := resident() - before) > 0:
                    most = min(n, max(MEMORY // each, 1))
            for env in self.envs:
                assert env is not None
                env.ready(timeout)
        except Fault as fault:
            self.close()
            raise Fault(self._named(str(fault))) from None
        if len(self.envs) < n:
            self._blank(world, len(self.envs), restart)

    def _blank(self, world: World, n: int, restart: Callable[[Fault], None] | None) -> None:
        self.world, self.num_envs, self.restart = world, n, restart
        self.in_a_row = np.zeros(n, np.int64)
        self.obs, self.reward = np.zeros((n, world.spec.obs.dim), np.float32), np.zeros((n, *ops.reward_shape(world.spec)))
        # of the newest step, in the task's own unit: before a wrapper normalised it, and before several were weighed
        self.task_reward = np.zeros((n, len(world.rewards)) if len(world.rewards) > 1 else n)
        self.terminated, self.truncated = np.zeros(n, bool), np.zeros(n, bool)
        self.infos: dict[int, dict[str, float]] = {}
        """by row, the numbers of `info` where the last step that was asked of it ended an episode, if there were any"""
        self.contexts: NDArray[np.float32] | None = None
        """by row, what the next reset is told of its episode, (n, C); None: nothing"""

    def reset(self, seed: Sequence[int], mask: Mask | None = None) -> tuple[NDArray[np.float32], Mask]:
        """Begins an episode, from its seed of n, for each under the mask (None: all): observations (n, dim), failed (n,)."""
        answers = self._ask(mask, lambda i: ("reset", (), {"seed": int(seed[i]), **self._options(i)}))
        for i, (obs, _) in answers.items():
            self.obs[i] = obs
        return self.obs.copy(), self._failed(mask, answers)

    def step(
        self, actions: NDArray[Any], mask: Mask | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Mask, Mask, Mask]:
        """Steps each under the mask (None: all) with its row of actions (n, ...). Nothing is reset by itself.

        Returns observations (n, dim), each the true last one where its episode ended, rewards (n,) or (n, R), terminated,
        truncated and failed, (n,) each. Whoever terminated, was truncated or failed must be reset before its next step.
        """
        answers = self._ask(mask, lambda i: ("step", (actions[i],), {}))
        for i, answer in answers.items():
            self.obs[i], self.reward[i], self.terminated[i], self.truncated[i], info = answer
            self.task_reward[i] = info.pop(TASK_REWARD, self.reward[i])
            self.in_a_row[i] = 0
            if info:
                self.infos[i] = info
            elif self.infos:
                self.infos.pop(i, None)
        failed = self._failed(mask, answers)
        return self.obs.copy(), self.reward.copy(), self.terminated.copy(), self.truncated.copy(), failed

    def reenact(
        self, seeds: Sequence[int], actions: Sequence[NDArray[Any]], mask: Mask | None = None,
        gathered: Sequence[Statistics] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
        """Brings episodes back, under the mask (None: all), the i-th from seeds[i] and its actions so far, actions[i] (T_i, dim),
        and from what its wrappers had gathered before it.

        Returns the last observations (n, dim), the returns so far (n,) or (n, R), and the steps taken (n,): fewer than T_i means
        that the environment does not do again what it did; -1, that it failed.
        """
        returns, steps = np.zeros_like(self.reward), np.full(self.num_envs, -1)
        more = [{"statistics": g} for g in gathered] if gathered else [{}] * self.num_envs
        answers = self._ask(
            mask,
            lambda i: ("reset", (), {"seed": int(seeds[i]), **self._options(i, reenact=actions[i], **more[i])}),
            [len(a) for a in actions],
        )
        for i, (obs, info) in answers.items():
            self.obs[i], returns[i], steps[i] = obs, info["return"], info["reenacted"]
        return self.obs.copy(), returns, steps

    def _options(self, i: int, **options: Any) -> dict[str, Any]:
        """Of a reset of environment i."""
        if self.contexts is not None:
            options["context"] = self.contexts[i].copy()
        return {"options": options} if options else {}

    def gathered(self) -> list[Statistics]:
        """What the wrappers of each have gathered that normalise observations or rewards; empty where there are none, and where
        the environment failed and is not made anew yet."""
        answers = self._ask(np.array([env is not None for env in self.envs]), lambda i: ("gathered", (), {}))
        return [answers.get(i, {}) for i in range(self.num_envs)]

    def use(self, gathered: Sequence[Statistics], frozen: bool, mask: Mask | None = None) -> None:
        """Gives the wrappers of each under the mask (None: all) what was gathered before: gathered further, or `frozen`."""
        self._ask(mask, lambda i: ("use", (gathered[i], frozen), {}))

    def close(self) -> None:
        """Closes all. Whoever takes longer than the time limit is killed."""
        deadline = time.monotonic() + (self.timeout or GRACE)
        for i in range(len(self.envs)):
            self._close(i, deadline)
        if self.nursery is not None:
            self.nursery.close()
            self.nursery = None

    def _ask(
        self, mask: Mask | None, call: Callable[[int], tuple[str, tuple[Any, ...], dict[str, Any]]], steps: Sequence[int] = ()
    ) -> dict[int, Any]:
        """The answers to call(i) of each under the mask, but for those who failed: they are closed by then, and told of.

        `steps` is how many each answer may take, where not one.
        """
        answers, faults = {}, {}
        asked = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        began, fresh = time.monotonic(), set()
        for i in asked:
            try:
                env = self.envs[i]
                if env is None:
                    fresh.add(i)
                    env = self.envs[i] = self._begin()
                name, args, options = call(i)
                env.send(name, *args, **options)
            except Fault as fault:
                faults[i] = fault
        for i in asked:
            env = self.envs[i]
            if env is None:
                continue
            limit = None
            if self.timeout is not None:
                limit = self.timeout * (1 + (i in fresh) + (steps[i] if steps else 0)) - (time.monotonic() - began)
            try:
                answers[i] = env.receive(limit)
            except Fault as fault:
                faults[i] = fault
        for i in faults:
            self._close(i, time.monotonic() + (self.timeout or GRACE))
        self._tell(faults)
        return answers

    def _tell(self, faults: dict[int, Fault]) -> None:
        """Counts the faults of environments, and raises one where nothing restarts them, or where that does not help."""
        for i, why in faults.items():
            self.in_a_row[i] += 1
            told = Fault(self._named(str(why)))
            if self.restart is None:
                raise told from why.__cause__
            self.restart(told)
            if self.in_a_row[i] >= IN_A_ROW:
                raise Fault(f"{told}; environment {i} has failed {IN_A_ROW} times in a row without a good step")

    def _begin(self) -> _Here | Apart:
        return _Here(self.world.make) if self.nursery is None else Apart(self.nursery)

    def _close(self, i: int, deadline: float) -> None:
        env, self.envs[i] = self.envs[i], None
        if env is not None:
            env.close(deadline)

    def _failed(self, mask: Mask | None, answers: dict[int, Any]) -> Mask:
        failed = np.ones(self.num_envs, bool) if mask is None else mask.copy()
        failed[list(answers)] = False
        return failed

    def _named(self, text: str) -> str:
        """What a process did is told without the environment's name."""
        return text if text.startswith(f"{self.world.name}: ") else f"{self.world.name}: {text}"


class _Here:
    """One environment in this process, called as `Apart` is."""

    def __init__(self, make: Callable[[], Flat]) -> None:
        self.env = make()

    def send(self, call: str, *args: Any, **options: Any) -> None:
        self.work = lambda: getattr(self.env, call)(*args, **options)

    def ready(self, limit: float | None = None) -> None:
        """It is made."""

    def receive(self, limit: float | None = None) -> Any:
        return self.work()

    def close(self, deadline: float) -> None:
        self.env.close()


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
