"""What is wrong with an environment, found before anything is trained on it."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from thespis import envs
from thespis.core import Fault
from thespis.engine.collect import random_actions
from thespis.envs.flat import FIVE, Flat, describe_error
from thespis.envs.observations import LARGEST, short

__all__ = ["Check", "check_env"]

SECONDS = 30.0  # that a check may take, about
SLOW = 1e-3  # seconds of a step from which environments pay that are stepped side by side


@dataclass
class Check:
    """What `check` found, each a line: "wrong" must be mended, "notes" are for you to judge."""

    name: str
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    """"steps", "episodes", "step_ms", "reset_ms", and the size of rewards and observations"""


def check_env(
    env: Any, args: Mapping[str, Any] | None = None, wrappers: Sequence[str] = (), *, steps: int = 1_000, seed: int = 0
) -> Check:  # fmt: skip
    """Steps an environment with random actions, and looks for what would spoil a training.

    `env` is what `train` takes; `args` are its arguments, `wrappers` go around it. It is stepped `steps` times, or for half a
    minute. Afterwards the same seed and actions are tried again, in another environment and in the same one.
    """
    try:
        world = envs.world(env, args, wrappers)
        flat = world.make()
    except Fault as fault:
        return Check(env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__), [str(fault)])
    found = Check(world.name)
    try:
        _Pass(world, flat, found, steps, seed)()
    finally:
        flat.close()
    if not found.wrong:
        _repeats(world, found, min(steps, 300), seed)
    return found


class _Pass:
    """One environment as it is, without our guard, which would tell of the first fault alone."""

    def __init__(self, world: envs.World, flat: Flat, found: Check, steps: int, seed: int):
        self.world, self.flat, self.env, self.found, self.steps, self.seed = world, flat, flat.env, found, steps, seed
        self.rng, self.obs = np.random.default_rng(seed), np.zeros(world.spec.obs.dim, np.float32)
        self.said: set[str] = set()
        self.when = ""
        self.rewards: list[float] = []
        self.largest = 0.0
        self.clocks: dict[str, list[float]] = {"reset": [], "step": []}

    def wrong(self, kind: str, text: str, call: str) -> None:
        """The first of each kind, with the line of the user's file."""
        if kind not in self.said:
            self.said.add(kind)
            self.found.wrong.append(f"{text} ({self.when}{_place(self.env, call)})")

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """None where it raises."""
        began = time.perf_counter()
        try:
            return getattr(self.env, name)(*args, **options)
        except Exception as error:
            self.wrong(f"{name} raised", f"{name} raised {describe_error(error)}", name)
            return None
        finally:
            self.clocks[name].append(time.perf_counter() - began)

    def __call__(self) -> None:
        began, done = time.perf_counter(), 0
        lengths: list[int] = []
        ends: list[tuple[bool, bool]] = []
        while done < self.steps and len(lengths) < 100 and time.perf_counter() - began < SECONDS:
            seeded = not lengths
            self.when = f"at reset({f'seed={self.seed}' if seeded else ''}) of episode {len(lengths) + 1}"
            if not self.reset(self.call("reset", **({"seed": self.seed} if seeded else {}))):
                return
            for length in range(1, self.steps - done + 1):
                self.when = f"at step {length} of episode {len(lengths) + 1}"
                end = self.step(self.call("step", self.action(done)))
                done += 1
                if end is None:
                    return
                if any(end):
                    ends.append(end)
                    break
                if time.perf_counter() - began > SECONDS:
                    break
            lengths.append(length)
        self.judge(lengths, ends, done)

    def action(self, step: int) -> Any:
        """A random one that is allowed; at first the lowest and the highest of a Box."""
        space = self.env.action_space
        if isinstance(space, gym.spaces.Box) and step in (1, 2) and space.is_bounded():
            return (space.low if step == 1 else space.high).copy()
        return self.flat._translate(random_actions(self.world.spec, self.obs[None], self.rng)[0])

    def reset(self, result: Any) -> bool:
        if result is None:
            return False
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            self.wrong("reset", f"reset returned {short(result)}; it must return 2 values: observation, info (a dict)", "reset")
            return False
        self.observe(result[0], "reset")
        return True

    def step(self, result: Any) -> tuple[bool, bool] | None:
        """(terminated, truncated); None where nothing can follow."""
        if result is None:
            return None
        if not isinstance(result, tuple) or len(result) != 5:
            count = f"{len(result)} values" if isinstance(result, tuple) else short(result)
            self.wrong("step", f"step returned {count}; it must return {FIVE}", "step")
            return None
        obs, reward, *flags, info = result
        self.observe(obs, "step")
        if not isinstance(info, dict):
            self.wrong("info", f"info is {short(info)}; it must be a dict", "step")
        self.reward(reward)
        for name, flag in zip(("terminated", "truncated"), flags, strict=True):
            if not isinstance(flag, bool | np.bool_) and not (isinstance(flag, int | np.integer) and flag in (0, 1)):
                self.wrong(name, f"{name} is {short(flag)}; it must be True or False", "step")
                return None
        return bool(flags[0]), bool(flags[1])

    def reward(self, reward: Any) -> None:
        names = self.world.spec.rewards
        try:
            x = np.asarray(reward)
            fits = x.dtype.kind in "fiub" and (x.size == 1 if len(names) == 1 else x.shape == (len(names),))
            numbers = x.astype(float).ravel().tolist() if fits else None
        except Exception:
            numbers = None
        if numbers is None:
            wanted = "one number" if len(names) == 1 else f"{len(names)} numbers: {', '.join(names)}"
            self.wrong("reward", f"reward is {short(reward)}; it must be {wanted}", "step")
            return
        for name, number in zip(names, numbers, strict=True):
            if not abs(number) <= LARGEST:
                self.wrong("reward finite", f"{name} is {number}; it must be finite", "step")
            else:
                self.rewards.append(number)

    def observe(self, obs: Any, call: str) -> None:
        space = self.env.observation_space
        with contextlib.suppress(Fault):
            self.obs = self.flat._flatten(obs)
        if why := _outside(space, obs, "observation"):
            self.wrong("observation", why, call)
        elif isinstance(obs, np.ndarray) and obs.size and obs.dtype.kind == "f":
            self.largest = max(self.largest, float(np.abs(obs).max()))

    def judge(self, lengths: list[int], ends: list[tuple[bool, bool]], done: int) -> None:
        """What is no fault, and yet may spoil a training."""
        found, sizes = self.found, np.abs(self.rewards) if self.rewards else np.zeros(1)
        step, reset = (float(np.median(self.clocks[name])) for name in ("step", "reset"))
        found.numbers = {
            "steps": done, "episodes": len(ends), "step_ms": 1e3 * step, "reset_ms": 1e3 * reset,
            "reward_mean_size": float(sizes.mean()), "reward_largest": float(sizes.max()), "observation_largest": self.largest,
        }  # fmt: skip
        whole = lengths[: len(ends)]
        terminated, truncated = (sum(end[i] for end in ends) for i in (0, 1))
        if not ends:
            found.notes.append(
                f"no episode ended in {done:,} steps: if the task has no end, register it with max_episode_steps, or evaluations"
                " are cut at 10,000 steps"
            )
        elif len(ends) >= 3 and terminated == len(ends) and len(set(whole)) == 1 and whole[0] > 1:
            found.notes.append(
                f"all {len(ends)} episodes were terminated at step {whole[0]}: if that is a time limit, return it as truncated,"
                f" or the critic learns that nothing follows{_place(self.env, 'step')}"
            )
        elif len(ends) >= 3 and truncated == len(ends) and len(set(whole)) > 1:
            found.notes.append(
                f"all {len(ends)} episodes were truncated, and at different steps: if the task is over then (a goal, a fall),"
                f" return it as terminated, or the critic learns of what would have followed{_place(self.env, 'step')}"
            )
        if self.rewards and len(set(self.rewards)) == 1:
            found.notes.append(f"every reward was {self.rewards[0]:g}: random actions tell no better from worse")
        elif self.rewards and (sizes.mean() > 100 or sizes.max() < 0.05):
            found.notes.append(
                f"rewards are {sizes.mean():.3g} in size on average, at most {sizes.max():.3g}: updates will divide them by a"
                " unit (--reward-unit)"
            )
        if self.largest >= 1e5:
            found.notes.append(f"observations reach {self.largest:.3g}: scale them, or give --normalise-obs")
        if step > SLOW:
            found.notes.append(
                f"a step takes {1e3 * step:.3g} ms, or {1e6 * step / 60:,.0f} minutes for 1,000,000: --num-envs 4 --vector async"
                " steps several side by side"
            )
        for box in _boxes(self.env.action_space):
            low, high = box.low.min(), box.high.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                found.notes.append(
                    "a number of the actions has no bound: SAC and its relatives refuse such a space; bounds help all"
                )
            elif max(abs(low), abs(high)) > 1e4:
                found.notes.append(
                    f"actions reach from {low:g} to {high:g}; exploration covers all of that: are the bounds right?"
                )


def _repeats(world: envs.World, found: Check, steps: int, seed: int) -> None:
    """The same seed and actions, three times: in two environments, and again in the first."""
    try:
        one, two = world.make(), world.make()
    except Fault as fault:
        found.notes.append(f"a second environment cannot be made ({fault}): evaluations will use the one that trains")
        return
    try:
        first = _trace(one, world.spec, steps, seed)
        for env, where in ((two, "in another environment"), (one, "in the same environment")):
            again = _trace(env, world.spec, steps, seed)
            for t, (a, b) in enumerate(zip(first, again, strict=False)):
                if what := next((n for n, x, y in zip(PARTS, a, b, strict=True) if not np.array_equal(x, y)), None):
                    call = "reset" if t == 0 else "step"
                    found.wrong.append(
                        f"{what} is another one {where} after the same seed and the same {t} actions: take random numbers from"
                        f" self.np_random, and let reset set back all that step changes ({call}{_place(env, call)})"
                    )
                    return
    except Fault as fault:
        found.wrong.append(str(fault))
    finally:
        one.close()
        two.close()


PARTS = ("observation", "reward", "terminated", "truncated")


def _trace(env: Flat, spec: Any, steps: int, seed: int) -> list[tuple[Any, ...]]:
    """(observation, reward, terminated, truncated) of one episode or of so many steps, the first after the reset."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = [(env.reset(seed=seed)[0], 0.0, False, False)]
    while len(rows) <= steps and not any(rows[-1][2:]):
        rows.append(env.step(random_actions(spec, rows[-1][0][None], rng)[0])[:4])
    return rows


def _boxes(space: gym.Space[Any]) -> list[gym.spaces.Box]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces
        return [box for part in parts for box in _boxes(part)]
    return [space] if isinstance(space, gym.spaces.Box) else []


def _outside(space: gym.Space[Any], obs: Any, name: str) -> str:
    """Why an observation is not in its space; "" where it is."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
            given = sorted(map(str, obs)) if isinstance(obs, Mapping) else short(obs)
            return f"{name} has {given}; its space has {sorted(map(str, space.spaces))}"
        return next((why for k, part in space.spaces.items() if (why := _outside(part, obs[k], f"{name}[{k!r}]"))), "")
    if isinstance(space, gym.spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            return f"{name} is {short(obs)}; its space is a Tuple of {len(space.spaces)}"
        return next((w for i, part in enumerate(space.spaces) if (w := _outside(part, obs[i], f"{name}[{i}]"))), "")
    if not isinstance(space, gym.spaces.Box):
        return "" if space.contains(obs) else f"{name} is {short(obs)}; its space is {space}"
    try:
        x = np.asarray(obs)
        numeric = x.dtype.kind in "fiub"
    except Exception:
        numeric = False
    if not numeric:
        return f"{name} is {short(obs)}; it must be numbers of shape {space.shape}"
    if x.shape != space.shape:
        return f"{name} has the shape {x.shape}; its space has {space.shape}"
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        return f"{name} has {x[~np.isfinite(x)][0]} in it; every number must be finite"
    if not np.can_cast(x.dtype, space.dtype, "same_kind"):
        return f"{name} has the dtype {x.dtype}; its space has {space.dtype}"
    if bad := [i for i in np.ndindex(*x.shape) if not space.low[i] <= x[i] <= space.high[i]] if x.size < 10_000 else []:
        i = bad[0]
        return f"{name}{list(i) or ''} is {x[i]:g}; its space goes from {space.low[i]:g} to {space.high[i]:g}"
    return ""


def _place(env: gym.Env[Any, Any], call: str) -> str:
    """'; FILE line N', where the environment's own `call` begins; "" for those that Gymnasium brings."""
    function = getattr(type(env.unwrapped), call, None)
    try:
        file, line = inspect.getsourcefile(function) or "", inspect.getsourcelines(function)[1]  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
    return "" if file.startswith(os.path.dirname(gym.__file__)) else f"; {os.path.basename(file)} line {line}"
