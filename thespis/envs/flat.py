"""What the learner sees of one environment: flat float32 observations, actions in [-1, 1], and a guard on all that comes back."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Env, spaces
from numpy.typing import NDArray

from thespis import ops
from thespis.core import Fault
from thespis.envs import statistics
from thespis.envs.actions import learners, spec, translator
from thespis.envs.generators import Generators
from thespis.envs.observations import LARGEST, Floats, flat_dim, flattener, short

__all__ = ["MOST", "Flat", "numbers"]


class Flat(gym.Wrapper[Floats, Any, Any, Any]):
    """An environment as a learner sees it, guarded.

    Observations are float32 vectors, (dim,). Actions are (dim,) in [-1, 1] for a Box (scaled to the environment's bounds and
    clipped; as they are where a bound is missing), integers from 0 for choices, or both in one row; see `actions`. `info` is
    empty but for that of an episode's last step, which keeps the environment's numbers: see `numbers`.

    Fault, from `reset` and `step`, in one line with the step of the episode and the seed of its reset: an observation of the
    wrong shape, not finite or beyond 1e15, a reward that is no such number (of several, not one for each name), a flag that is
    no bool, a result of the wrong length, an action of the wrong shape or not finite, an action mask that allows nothing before
    the episode's end, a step after that end, and whatever the environment raises (chained as the cause).
    """

    def __init__(self, env: Env[Any, Any], name: str, rewards: tuple[str, ...] = ("reward",)) -> None:
        super().__init__(env)
        self.name = name
        self._rewards, self._from_info = rewards if len(rewards) > 1 else (), 0
        self._weights: NDArray[np.float64] | None = None
        kind = spec(env.observation_space, env.action_space)
        self._flatten = flattener(env.observation_space)
        self._translate = translator(env.action_space)
        self.observation_space = spaces.Box(-np.inf, np.inf, (kind.obs.dim,), np.float32)
        self.action_space: spaces.Space[Any] = learners(kind)
        ns, first = ops.sizes(kind.action)[1], kind.obs.dim - kind.mask
        ends = first + np.cumsum(ns)
        self._masks = [slice(end - n, end) for n, end in zip(ns, ends.tolist(), strict=True)] if kind.mask else []
        self._unmasked = bool(ns) and not kind.mask
        self._generators = Generators(env)
        self._task = statistics.task_reward(env)
        self._seed: int | None = None
        self._step = 0
        self._over = True

    def show(self, env: Env[Any, Any]) -> None:
        """From here on it observes what this wrapper of its environment does."""
        self.env, self._flatten = env, flattener(env.observation_space)
        self.observation_space = spaces.Box(-np.inf, np.inf, (flat_dim(env.observation_space),), np.float32)

    def weigh(self, rewards: tuple[str, ...], from_info: int, weights: NDArray[np.float64]) -> None:
        """From here on the reward is a sum by weights (R,), and `info` of each step has "task_reward", (R,). The last `from_info`
        of `rewards` are numbers of the environment's `info`."""
        self._rewards, self._from_info, self._weights = rewards, from_info, weights

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Starts an episode.

        options["reenact"]: learner's actions, (T, dim) or (T,), that are then stepped through, which brings an episode back
        from its seed. The observation is the last one, and info is {"reenacted": how many actions were taken, fewer than T
        where the episode ended sooner; "return": the sum of their rewards}. options["statistics"]: what wrappers had gathered
        before the episode. Other options are the environment's own.
        """
        options = dict(options or {})
        actions, gathered = options.pop("reenact", None), options.pop("statistics", None)
        if gathered:
            statistics.write(self.env, gathered)
        self._seed, self._step, self._over = None if seed is None else int(seed), 0, False
        try:
            with self._generators.reset(self._seed):
                result = self.env.reset(seed=self._seed, options=options or None)
        except (Exception, SystemExit) as error:
            raise self._raised("reset", error) from error
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise self._fault(f"reset returned {_parts(result)}; it must return 2 values: observation, info (a dict)")
        obs = self._observe(result[0])
        if self._masks:
            self._check_masks(obs)
        if actions is None:
            return obs, {}
        total: Any = 0.0
        for action in actions:
            obs, reward, terminated, truncated, _ = self.step(action)
            total += reward
            if terminated or truncated:
                break
        return obs, {"reenacted": self._step, "return": total}

    def step(self, action: Any) -> tuple[Floats, Any, bool, bool, dict[str, Any]]:
        """One step with a learner's action: (observation, reward, terminated, truncated, info). Several rewards are (R,)."""
        if self._over:
            raise self._fault("step was called on an episode that is over or not begun; reset must come first")
        self._step += 1
        try:
            act = self._translate(action)
        except Fault as fault:
            raise self._fault(str(fault)) from None
        try:
            with self._generators.step():
                result = self.env.step(act)
        except (Exception, SystemExit) as error:
            raise self._raised("step", error) from error
        if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
            raise self._fault(f"step returned {_parts(result)}; it must return {FIVE}")
        given, reward, terminated, truncated, info = result
        obs = self._observe(given)
        if self._rewards:
            reward = self._several(reward, info)
        elif not isinstance(reward, float) or not -LARGEST <= reward <= LARGEST:
            reward = self._number(reward)
        if terminated.__class__ is not bool:
            terminated = self._flag("terminated", terminated)
        if truncated.__class__ is not bool:
            truncated = self._flag("truncated", truncated)
        self._over = terminated or truncated
        if self._masks:
            self._check_masks(obs)
        elif self._unmasked and "action_mask" in info:
            self._unmasked = False
            warnings.warn(
                f"{self.name}: info has an action_mask after a step but not after reset, so it is not heeded", stacklevel=2
            )
        told: dict[str, Any] = numbers(info) if self._over else {}
        if self._weights is not None:
            told[TASK_REWARD] = reward if self._task is None else self._several(self._task.reward, info)
            reward = float(self._weights @ reward)
        elif self._task is not None:
            told[TASK_REWARD] = self._number(self._task.reward)
        return obs, reward if self._rewards else float(reward), terminated, truncated, told

    def gathered(self) -> statistics.Statistics:
        """What Gymnasium's normalising wrappers have gathered; empty where there are none."""
        return statistics.read(self.env)

    def use(self, gathered: statistics.Statistics, frozen: bool) -> None:
        """Other statistics from here on, which are gathered further unless `frozen`."""
        statistics.write(self.env, gathered)
        statistics.freeze(self.env, frozen)

    def close(self) -> None:
        """Closes the environment. What it raises is a warning: there is nothing left to lose."""
        try:
            super().close()
        except Exception as error:
            warnings.warn(f"{self.name}: close raised {describe_error(error)}", stacklevel=2)

    def _observe(self, obs: Any) -> Floats:
        try:
            return self._flatten(obs)
        except Fault as fault:
            raise self._fault(str(fault)) from None

    def _check_masks(self, obs: Floats) -> None:
        """Each choice has something that is allowed; or, at the end of an episode, is free."""
        for columns in self._masks:
            if not (obs[columns] > 0.5).any():
                if not self._over:
                    raise self._fault("the action mask allows nothing of a choice; each must have something that is allowed")
                obs[columns] = 1

    def _number(self, reward: Any) -> float:
        """A reward that is not simply a float: an int, a bool, or an array of one number will do."""
        try:
            x = np.asarray(reward)
            if x.dtype.kind in "fiub" and x.size == 1 and -LARGEST <= x.item() <= LARGEST:
                return float(x.item())
        except Exception:
            pass
        raise self._fault(f"reward is {short(reward)}; it must be a number, finite and at most {LARGEST:g} in size")

    def _several(self, reward: Any, info: Mapping[Any, Any]) -> NDArray[np.float64]:
        """(R,), of the reward and of those numbers of `info` that are rewards too."""
        for name in self._rewards[len(self._rewards) - self._from_info :]:
            if name not in info:
                raise self._fault(f"info has no {name!r}, which weights names: it must have it at every step, or weights not")
        if self._from_info:
            reward = [self._number(reward), *(info[name] for name in self._rewards[1:])]
        wrong = f"reward is {short(reward)}; it must be {len(self._rewards)} numbers: {', '.join(self._rewards)}"
        try:
            x = np.array(reward)
            good = x.dtype.kind in "fiub" and x.shape == (len(self._rewards),)
        except Exception:
            raise self._fault(wrong) from None
        if not good:
            raise self._fault(wrong)
        if not (sane := np.abs(x) <= LARGEST).all():
            i = int(sane.argmin())
            raise self._fault(f"reward[{i}] ({self._rewards[i]}) is {x[i]}; it must be finite and at most {LARGEST:g} in size")
        return x.astype(np.float64)

    def _flag(self, field: str, value: Any) -> bool:
        try:
            x = np.asarray(value)
            if x.dtype.kind in "biu" and x.size == 1 and x.item() in (0, 1):
                return bool(x.item())
        except Exception:
            pass
        raise self._fault(f"{field} is {short(value)}; it must be True or False")

    def _raised(self, call: str, error: BaseException) -> Fault:
        if isinstance(error, Fault):  # a guard further in has told it already
            return error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if call == "step" and "values to unpack" in str(error) and frame.filename.startswith(os.path.dirname(gym.__file__)):
            return self._fault(f"step returned a wrong number of values; it must return {FIVE}")  # a wrapper saw it before us
        return self._fault(f"{call} raised {describe_error(error)}")

    def _fault(self, what: str) -> Fault:
        seed = "without a seed" if self._seed is None else f"with seed {self._seed}"
        when = f"at step {self._step} after the reset {seed}" if self._step else f"at the reset {seed}"
        return Fault(f"{self.name}: {what} ({when})")


TASK_REWARD = "task_reward"
"""in `info` where a wrapper normalises rewards, or where they are weighed: those before that, in the task's own unit"""
MOST = 100
"""numbers of one `info`; those after them are left out"""
FIVE = "5 values: observation, reward, terminated, truncated, info (a dict)"


def describe_error(error: BaseException) -> str:
    """An exception on one line, with the place that raised it."""
    text = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    place = f", {os.path.basename(frames[-1].filename)} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text if len(text) <= 240 else text[:237] + '...'}{place}"


def _parts(result: object) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) and len(result) not in (2, 5) else f"{short(result)}"


def numbers(info: Mapping[Any, Any], prefix: str = "", depth: int = 2) -> dict[str, float]:
    """The finite numbers and flags of an `info` by name, arrays of one number among them; those of a dictionary in it are
    "name/inner". What else is there is passed over."""
    found: dict[str, float] = {}
    for key, value in info.items():
        if not isinstance(key, str) or not key.isprintable() or len(key) > 60 or isinstance(value, str | bytes | list | tuple):
            continue
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/", depth - 1) if depth else {}
            continue
        with contextlib.suppress(Exception):  # what an object of the user's does when it is asked for its numbers
            x = np.asarray(value)
            if x.size == 1 and x.dtype.kind in "biuf" and math.isfinite(number := float(x.item())):
                found[prefix + key] = number
    return dict(itertools.islice(found.items(), MOST))
