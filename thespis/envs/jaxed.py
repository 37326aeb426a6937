"""Simulators written in JAX, those of brax and of MuJoCo Playground: n environments are one jitted, vmapped program."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.config import nearest
from thespis.core import Fault
from thespis.envs.flat import told
from thespis.envs.spaces import LARGEST, Floats, at
from thespis.envs.vector import Mask, Vector

if TYPE_CHECKING:
    from thespis.envs.world import World

__all__ = ["Batch", "One", "ours", "single"]


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

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        keys = np.array([int(seed) % 2**32 for seed in seeds], np.uint32)
        return self._run(self.programs.reset, keys, asked)

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        return self._run(self.programs.step, actions, asked)

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
        return obs[0].copy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


class Batch(Vector):
    """`Vector`, and the guards of `Flat`, for n environments that are one program."""

    def __init__(self, world: World, n: int, restart: Callable[[Fault], None] | None) -> None:
        self._blank(world, n, restart)
        self.rows, self.limit = Rows(world.name, n), world.spec.horizon
        self.seeds, self.steps, self.over = np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, bool)

    def reset(self, seed: Sequence[int], mask: Mask | None = None) -> tuple[Floats, Mask]:
        asked = self._asked(mask)
        self.seeds[asked], self.steps[asked] = np.asarray(seed)[asked], 0
        obs = self._called("reset", seed, asked)
        good = self._good(asked, observation=obs)
        self.obs = np.where(good[:, None], obs, self.obs)
        self.over[asked] = ~good[asked]
        return self.obs.copy(), asked & ~good

    def step(self, actions: NDArray[Any], mask: Mask | None = None) -> tuple[Floats, NDArray[np.float64], Mask, Mask, Mask]:
        asked, actions = self._asked(mask), np.asarray(actions, np.float32)
        if actions.shape != (shape := (self.num_envs, self.rows.programs.action_dim)):
            raise Fault(f"{self.world.name}: actions have the shape {actions.shape}; it must be {shape}")
        if (early := asked & self.over).any():
            raise self._fault(
                int(early.argmax()), "step was called on an episode that is over or not begun; reset must come first"
            )
        self.steps += asked
        obs, reward, terminated, truncated = self._called("step", actions, asked)
        good = self._good(asked, action=actions, observation=obs, reward=reward)
        self.in_a_row[good] = 0
        late = self.steps >= self.limit if self.limit else np.zeros(self.num_envs, bool)
        self.obs, self.reward = np.where(good[:, None], obs, self.obs), np.where(good, reward, self.reward)
        self.terminated = np.where(good, terminated, self.terminated)
        self.truncated = np.where(good, truncated | late, self.truncated)
        self.over = np.where(asked, ~good | self.terminated | self.truncated, self.over)
        return self.obs.copy(), self.reward.copy(), self.terminated.copy(), self.truncated.copy(), asked & ~good

    def reenact(
        self, seeds: Sequence[int], actions: Sequence[NDArray[Any]], mask: Mask | None = None
    ) -> tuple[Floats, NDArray[np.float64], NDArray[np.int64]]:
        asked, lengths = self._asked(mask), np.array([len(a) for a in actions])
        past = np.zeros((int(lengths.max(initial=0)), self.num_envs, self.rows.programs.action_dim), np.float32)
        for i in np.flatnonzero(asked).tolist():
            past[: lengths[i], i] = actions[i]
        failed, returns = self.reset(seeds, asked)[1], np.zeros(self.num_envs)
        for t, action in enumerate(past):
            if not (going := asked & ~self.over & (t < lengths)).any():
                break
            _, reward, *_, lost = self.step(action, going)
            returns[going] += reward[going]
            failed |= lost
        return self.obs.copy(), np.where(asked & ~failed, returns, 0.0), np.where(asked & ~failed, self.steps, -1)

    def close(self) -> None:
        """Lets go of the state: nothing else is held."""
        self.rows.state = None

    def _called(self, call: str, *given: Any) -> Any:
        try:
            return getattr(self.rows, call)(*given)
        except Exception as error:  # of JAX: out of memory, a state that changes its shape
            raise Fault(f"{self.world.name}: {call} raised {told(error)}") from error

    def _asked(self, mask: Mask | None) -> Mask:
        return np.ones(self.num_envs, bool) if mask is None else mask.copy()

    def _good(self, asked: Mask, **fields: NDArray[Any]) -> Mask:
        """Who was asked and is sound, (n,); the others are told of."""
        faults: dict[int, Fault] = {}
        for field, values in fields.items():
            sane = np.abs(values.reshape(self.num_envs, -1)) <= LARGEST  # not where it is nan
            for i in np.flatnonzero(asked & ~sane.all(-1)).tolist():
                k = int(sane[i].argmin())
                what = f"{at(field, k, values.shape[1:])} is {values[i].flat[k]}"
                faults.setdefault(i, self._fault(i, f"{what}; it must be finite and at most {LARGEST:g} in size"))
        self._tell(faults)
        good = asked.copy()
        good[list(faults)] = False
        return good

    def _fault(self, i: int, what: str) -> Fault:
        when = f"at step {self.steps[i]} after the reset" if self.steps[i] else "at the reset"
        return Fault(f"{self.world.name}: {what} ({when} with seed {self.seeds[i]})")
