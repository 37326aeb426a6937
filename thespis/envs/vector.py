"""Several environments at once, by gymnasium's own vector environments; the caller resets who has finished, with known seeds."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs.flat import told
from thespis.envs.world import World

__all__ = ["reenact", "vector"]


def vector(world: World, n: int, kind: str = "sync") -> VectorEnv[Any, Any, Any]:
    """`n` environments of a world, in this process ("sync") or in one process each ("async").

    Nothing is reset by itself: the observation that `step` returns is always the last of its episode, (n, dim) float32, and
    rewards are (n,) float64. Before the next step, whoever has terminated or been truncated must be reset:

        obs, info = envs.reset(seed=seeds, options={"reset_mask": done})    # seeds: n ints; only those under the mask count

    The first reset must be of all, without a mask. gymnasium takes "reset_mask" out of the dict, so it must be a new one each
    time. All arrays are copies.

    Fault: n or kind out of range; from `reset` and `step`, what `Flat` finds, and the death of a worker process; after a
    Fault the environments can only be closed.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise Fault(f"envs is {n!r}; it must be an integer of 1 or more")
    if kind not in ("sync", "async"):
        raise Fault(f"vector is {kind!r}; it must be 'sync' or 'async'")
    if kind == "sync":
        return SyncVectorEnv([world.make] * n, autoreset_mode=AutoresetMode.DISABLED)
    return _Async(world, n)


def reenact(
    envs: VectorEnv[Any, Any, Any], seeds: Sequence[int], actions: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Brings n episodes back, the i-th from `seeds[i]` and its actions so far, `actions[i]` (T_i, dim).

    Returns the last observations (n, dim), the returns so far (n,) and the steps taken (n,): fewer than T_i means that the
    environment does not do again what it did.
    """
    given: Any = list(seeds)
    obs, _ = envs.reset(seed=given)
    returns, steps = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
    for i, past in enumerate(actions):  # one by one, since gymnasium gives all under the mask the same options
        if len(past):
            mask = np.arange(envs.num_envs) == i
            obs, info = envs.reset(seed=given, options={"reset_mask": mask, "reenact": past})
            returns[i], steps[i] = info["return"][i], info["reenacted"][i]
    return obs, returns, steps


class _Async(AsyncVectorEnv):
    """Adds to gymnasium's: a Fault arrives as it left the worker, and without a traceback on the screen; the death of a worker
    is a Fault; Ctrl-C is the parent's business alone."""

    def __init__(self, world: World, n: int) -> None:
        self.name = world.name
        self.processes = []
        with self._guarded():
            super().__init__([world.make] * n, autoreset_mode=AutoresetMode.DISABLED, worker=_worker)

    def reset_async(self, *args: Any, **kwargs: Any) -> None:
        with self._guarded():
            super().reset_async(*args, **kwargs)

    def reset_wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._guarded():
            return super().reset_wait(*args, **kwargs)

    def step_async(self, actions: Any) -> None:
        with self._guarded():
            super().step_async(actions)

    def step_wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._guarded():
            return super().step_wait(*args, **kwargs)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1  # gymnasium prints the worker's traceback
        try:
            yield
        except Fault as fault:
            raise Fault(str(fault)) from None
        except (EOFError, OSError) as error:
            workers = [process for process in self.processes if process.pid is not None]
            ended = wait([process.sentinel for process in workers], timeout=1)  # who died needs a moment to have an exit code
            for process in workers:
                process.join(1 if process.sentinel in ended else 0)
            dead = [f"{i} (exit code {process.exitcode})" for i, process in enumerate(workers) if process.exitcode is not None]
            for process in workers:
                process.terminate()
            self._state, self.closed = AsyncState.DEFAULT, True  # nobody is left to talk to
            which = f"worker {' and '.join(dead)}" if dead else "a worker"
            raise Fault(
                f"{self.name}: {which} of {len(self.processes)} died ({told(error)}): out of memory, or a crash that 'sync' shows"
            ) from error
        finally:
            gym.logger.min_level = level


def _worker(index: int, make: Any, pipe: Any, parent_pipe: Any, memory: Any, errors: Any, *rest: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _async_worker(index, make, pipe, parent_pipe, memory, errors, *rest)
    except Fault as fault:  # while making the environment; gymnasium sees only to what comes later
        pipe.recv()
        errors.put((index, Fault, fault, ""))
        pipe.send((None, False))
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone, with nobody to tell
