"""What Gymnasium's NormalizeObservation and NormalizeReward gather while an environment steps: read, carried, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from numpy.typing import NDArray

from thespis.envs.generators import wrappers
from thespis.envs.masks import Masked

__all__ = ["Statistics", "TaskReward", "freeze", "gathering", "outermost", "pooled", "read", "task_reward", "write"]

Statistics = dict[str, NDArray[Any]]
"""by the wrapper's place from outside and the name: "0.mean", "0.var", "0.count"; of rewards "0.past" too; and "0.epsilon" of the
one that makes what the learner sees"""


class TaskReward(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers the reward before it is normalised: that of the task's own unit."""

    reward: Any = 0.0

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.reward = result[1]
        return result


def task_reward(env: gym.Env[Any, Any]) -> TaskReward | None:
    """Put under the innermost wrapper that normalises rewards, if there is one; once."""
    below = [w for w in gathering(env) if isinstance(w, NormalizeReward)]
    if not below:
        return None
    if not isinstance(below[-1].env, TaskReward):
        below[-1].env = TaskReward(below[-1].env)
    return below[-1].env


def gathering(env: gym.Env[Any, Any]) -> list[NormalizeObservation[Any, Any, Any] | NormalizeReward[Any, Any]]:
    """The wrappers that gather statistics, from outside; classes that are derived from the two count."""
    return [w for w in wrappers(env) if isinstance(w, NormalizeObservation | NormalizeReward)]


def _moments(wrapper: Any) -> Any:
    return wrapper.obs_rms if isinstance(wrapper, NormalizeObservation) else wrapper.return_rms


def read(env: gym.Env[Any, Any]) -> Statistics:
    found: Statistics = {}
    for i, wrapper in enumerate(gathering(env)):
        moments = _moments(wrapper)
        found |= {f"{i}.{name}": np.array(getattr(moments, name), np.float64) for name in ("mean", "var", "count")}
        if wrapper is outermost(env):
            found[f"{i}.epsilon"] = np.array(wrapper.epsilon)  # a policy can do without that wrapper
        if isinstance(wrapper, NormalizeReward):
            found[f"{i}.past"] = np.array(wrapper.discounted_reward, np.float64)
    return found


def write(env: gym.Env[Any, Any], statistics: Statistics) -> None:
    """Raises KeyError or ValueError where they are of other wrappers."""
    for i, wrapper in enumerate(gathering(env)):
        moments = _moments(wrapper)
        for name in ("mean", "var"):
            old = np.asarray(getattr(moments, name))
            setattr(moments, name, statistics[f"{i}.{name}"].astype(old.dtype).reshape(old.shape))
        moments.count = float(statistics[f"{i}.count"])
        if isinstance(wrapper, NormalizeReward):
            wrapper.discounted_reward = statistics[f"{i}.past"].copy()


def freeze(env: gym.Env[Any, Any], frozen: bool) -> None:
    """Whether they are only used, or gathered too."""
    for wrapper in gathering(env):
        wrapper.update_running_mean = not frozen


def pooled(several: Sequence[Statistics]) -> Statistics:
    """Those of several environments as one's (Chan et al. 1983)."""
    out = {name: x.copy() for name, x in several[0].items()}
    for other in several[1:]:
        for mean in (name for name in out if name.endswith(".mean")):
            var, count = mean.replace("mean", "var"), mean.replace("mean", "count")
            (m, v, n), (m2, v2, n2) = ([part[name] for name in (mean, var, count)] for part in (out, other))
            total, shift = n + n2, m2 - m
            out[mean] = m + shift * n2 / total
            out[var] = (n * v + n2 * v2 + shift**2 * n * n2 / total) / total
            out[count] = total
    return out


def outermost(env: gym.Env[Any, Any]) -> NormalizeObservation[Any, Any, Any] | None:
    """The wrapper that makes the observation which the learner sees, where that is one of Gymnasium's that normalises."""
    for wrapper in wrappers(env):
        if type(wrapper) is NormalizeObservation:
            return wrapper
        if isinstance(wrapper, Masked):  # it adds to what is observed, and changes nothing
            continue
        if isinstance(wrapper, gym.ObservationWrapper) or wrapper.observation_space is not wrapper.env.observation_space:
            return None
    return None
