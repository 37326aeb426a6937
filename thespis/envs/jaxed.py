"""Simulators written in JAX, those of brax and of MuJoCo Playground: n environments are one jitted, vmapped program."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.config import nearest
from thespis.core import Fault
from thespis.envs.flat import numbers
from thespis.envs.observations import Floats
from thespis.envs.vector import Mask

__all__ = ["One", "Rows", "ours", "single"]


def ours(name: str) -> bool:
    """Whether an id is of this file: brax/ant, playground/CartpoleBalance."""
    return name.partition("/")[0] in SOURCES


def single(name: str) -> gym.Env[Floats, Floats]:
    """One environment, with its time limit. Fault: a package that is missing, an unknown name (near ones are named)."""
    return gym.wrappers.TimeLimit(One(name), simulator(name).limit)


# -------------------------------------------------------------------------------------------------------- the programs


@dataclass(frozen=True)
class Simulator:
    """A task as two programs over n rows, each compiled once for each n. A row that is not `asked`, (n,) bool, stays as it is."""

    obs_dim: int
    action_dim: int
    limit: int
    """steps after which an episode is cut off"""
    blank: Callable[[int], Any]
    """n -> a state of n rows in which no episode has begun"""
    reset: Callable[..., Any]
    """(state, seeds (n,) uint32, asked) -> (state, observations (n, obs_dim))"""
    step: Callable[..., Any]
    """(state, actions (n, action_dim) in [-1, 1], asked) -> (state, (observations, rewards, terminated, truncated))"""


@cache
def simulator(name: str) -> Simulator:
    """The programs of an id; batches of it share what was compiled. Fault: as `single`, and nothing to observe but images."""
    source, _, task = name.partition("/")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX takes three quarters of the learner's GPU
    try:
        import jax
        import jax.numpy as jnp

        tasks, load = SOURCES[source]()
    except ImportError as error:
        raise Fault(f'{name}: cannot be made: {source} is not installed ({error}): pip install "thespis[jax]"') from error
    if task not in tasks:
        near = [f"{source}/{like}" for like in nearest(task, tasks)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(tasks))}"
        raise Fault(f"env is {name!r}, which {source} does not have; {hint}")
    with warnings.catch_warnings(action="ignore"):  # brax says at each system that it is no longer developed
        env, limit = load(task)
        first = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
    if isinstance(first.obs, Mapping) and "state" not in first.obs:
        raise Fault(f"{name}: observes {', '.join(sorted(first.obs))}; it must have an observation of numbers, 'state'")

    def seen(state: Any) -> Any:  # what Playground calls privileged_state is hidden from the policy
        return jnp.ravel(state.obs["state"] if isinstance(state.obs, Mapping) else state.obs).astype(jnp.float32)

    def reset(state: Any, seed: Any, asked: Any) -> Any:
        state = jax.tree.map(partial(jnp.where, asked), env.reset(jax.random.PRNGKey(seed)), state)
        return state, seen(state)

    def step(state: Any, action: Any, asked: Any) -> Any:
        state = jax.tree.map(partial(jnp.where, asked), env.step(state, jnp.clip(action, -1, 1)), state)
        over, cut = state.done > 0, jnp.asarray(state.info.get("truncation", 0)) > 0
        return state, (seen(state), state.reward.astype(jnp.float32), over & ~cut, over & cut)

    def blank(n: int) -> Any:  # and of the types that a step gives, so that the first step is not compiled apart
        return jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), first)

    dim = jax.eval_shape(seen, first).size
    return Simulator(dim, env.action_size, limit, blank, jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step)))


def _brax() -> tuple[Sequence[str], Callable[[str], tuple[Any, int]]]:
    from brax import envs

    return list(envs._envs), lambda task: (envs.get_environment(task), 1000)  # 1000: what envs.create cuts off after


def _playground() -> tuple[Sequence[str], Callable[[str], tuple[Any, int]]]:
    from mujoco_playground import registry

    def load(task: str) -> tuple[Any, int]:
        config = registry.get_default_config(task)
        config.impl = "jax"  # Warp, the default, wants CUDA
        return registry.load(task, config=config), int(config.episode_length)

    return registry.ALL_ENVS, load


SOURCES = {"brax": _brax, "playground": _playground}
"""the part of an id before the slash -> the names of its tasks, and name -> (environment, steps of an episode)"""


class Rows:
    """n simulations. The state stays on JAX's device; what comes back shares JAX's memory where that is the CPU's: read only."""

    def __init__(self, name: str, n: int) -> None:
        self.programs = simulator(name)
        self.state = self.programs.blank(n)
        self.action_dim = self.programs.action_dim

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        keys = np.array([int(seed) % 2**32 for seed in seeds], np.uint32)
        return self._run(self.programs.reset, keys, asked)

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        return self._run(self.programs.step, actions, asked)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        """The task's own metrics."""
        import jax

        metrics = jax.device_get(getattr(self.state, "metrics", {}))
        return {i: numbers({name: x[i] for name, x in metrics.items()}) for i in rows}

    def close(self) -> None:
        """Lets go of the state: nothing else is held."""
        self.state = None

    def _run(self, program: Callable[..., Any], given: NDArray[Any], asked: Mask) -> Any:
        import jax

        self.state, out = program(self.state, given, asked)
        return jax.tree.map(np.from_dlpack, out) if jax.default_backend() == "cpu" else jax.device_get(out)


# ----------------------------------------------------------------------------------------------------- one, and several


class One(gym.Env[Floats, Floats]):
    """A batch of one as Gymnasium has it. Actions are in [-1, 1]; there is nothing to be rendered."""

    def __init__(self, name: str) -> None:
        self.rows, self.all = Rows(name, 1), np.ones(1, bool)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.rows.programs.obs_dim,), np.float32)
        self.action_space = spaces.Box(-1, 1, (self.rows.programs.action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        return self.rows.reset([int(self.np_random.integers(2**31)) if seed is None else seed], self.all)[0].copy(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated = self.rows.step(np.asarray(action, np.float32)[None], self.all)
        over = bool(terminated[0]), bool(truncated[0])
        return obs[0].copy(), float(reward[0]), *over, self.rows.infos([0])[0] if any(over) else {}
