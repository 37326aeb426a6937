"""Several agents as one environment: PettingZoo's parallel API behind Gymnasium's."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs import masks
from thespis.envs.observations import flat_dim, flattener

__all__ = ["PREFIX", "Agents", "joined", "maker"]

PREFIX = "pettingzoo:"
"""of an id: what follows is a module that has `parallel_env`, as pettingzoo:mpe2.simple_spread_v3"""


def maker(name: str) -> Callable[..., Any]:
    """`parallel_env` of the module that an id names. Fault: there is none."""
    module = name.removeprefix(PREFIX)
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's, which some begin with; without it SDL complains of a screen
    try:
        found = importlib.import_module(module)
    except Exception as error:
        extra = "; pip install 'thespis[agents]'" if module.startswith(("mpe2", "pettingzoo")) else ""
        raise Fault(f"env is {name!r}; its module cannot be imported ({type(error).__name__}: {error}){extra}") from error
    if not callable(make := getattr(found, "parallel_env", None)):
        raise Fault(f"env is {name!r}; {module} has no function parallel_env, which PettingZoo's environments have")
    return make


def joined(env: Any) -> Any:
    """What a maker made: an environment of PettingZoo's parallel API as one of Gymnasium, anything else as it is."""
    parallel = not isinstance(env, gym.Env | type) and all(hasattr(env, name) for name in ("possible_agents", "reset", "step"))
    return Agents(env) if parallel else env


class Agents(gym.Env[Any, Any]):
    """All agents of `env`, in the order of its `possible_agents`, observe and act at once.

    Observation: (A, o), a row an agent: its observation as a flat vector, zeros where others have more numbers, and 1 while it is
    alive, else 0; then zeros stand before it. Where actions are choices and one agent has fewer than another, or has an action
    mask (in its observation or `info`), {"observation": that, "action_mask": (A * n,)}.
    Action: (A,) choices, or (A, d) of a Box. Those of agents that are no longer there are passed over; a choice that an agent
    has not is taken as its last.
    Reward: (A,), by the agents' names; 0 of who is not there.
    Ends: with the last agent. Truncated if one of those that were left was; such an agent counts as alive in the last
    observation. One that is truncated before the others counts as terminated.

    Fault: agents without names, actions that are neither choices nor equal Boxes.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.names = env, list(env.possible_agents)
        if not self.names:
            raise Fault("possible_agents is empty; it must name every agent that there can be")
        seen, acts = [env.observation_space(a) for a in self.names], [env.action_space(a) for a in self.names]
        self.in_obs = [masks.split(space) for space in seen]
        seen = [space["observation"] if split else space for space, split in zip(seen, self.in_obs, strict=True)]
        self.flatten, self.many = [flattener(space) for space in seen], len(self.names)
        self.dim = max(map(flat_dim, seen)) + 1
        self.observation_space: Any = spaces.Box(-np.inf, np.inf, (self.many, self.dim), np.float32)
        self.acts, self.masked = acts, False
        if all(isinstance(space, spaces.Discrete) for space in acts):
            self._choices(max(int(space.n) for space in acts))
        elif all(isinstance(space, spaces.Box) and space == acts[0] for space in acts):
            low, high = (np.stack([bound.ravel()] * self.many) for bound in (acts[0].low, acts[0].high))
            self.action_space: Any = spaces.Box(low, high, dtype=acts[0].dtype)
        else:
            given = "; ".join(dict.fromkeys(" ".join(repr(space).split()) for space in acts))
            raise Fault(f"the agents' action spaces are {given}; allowed: each a Discrete, or Boxes that are equal")
        names = [str(name).translate(str.maketrans("=,/ ", "____")) for name in self.names]
        self.reward_space = spaces.Box(-np.inf, np.inf, (self.many,), np.float32)
        modes = (getattr(env, "metadata", None) or {}).get("render_modes", [])
        self.metadata = {"render_modes": list(modes), "reward_names": names, "agents": self.many}
        self.render_mode = getattr(getattr(env, "unwrapped", env), "render_mode", None)
        self._max_episode_steps = getattr(getattr(env, "unwrapped", env), "max_cycles", None)

    def _choices(self, most: int) -> None:
        self.action_space = spaces.MultiDiscrete([most] * self.many) if self.many > 1 else spaces.Discrete(most)
        infos = self.env.reset(seed=0)[1]
        in_info = any("action_mask" in info for info in infos.values())
        self.masked = in_info or any(self.in_obs) or any(int(space.n) < most for space in self.acts)
        if self.masked:
            mask = spaces.MultiBinary(self.many * most)
            self.observation_space = spaces.Dict([("observation", self.observation_space), ("action_mask", mask)])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, infos = self.env.reset(seed=seed, options=options)
        return self._seen(obs, infos, {name for name in self.names if name in obs}), infos

    def step(self, action: Any) -> tuple[Any, NDArray[np.float64], bool, bool, dict[str, Any]]:
        action = np.asarray(action).reshape(self.many, -1)
        there = [name for name in self.names if name in self.env.agents]
        obs, reward, terminated, truncated, infos = self.env.step({name: self._act(action, name) for name in there})
        cut = any(truncated[name] and not terminated[name] for name in there)
        over = not self.env.agents or all(terminated[name] or truncated[name] for name in there)
        alive = {name for name in there if not terminated[name] and (over or not truncated[name])}
        told = {str(name): info for name, info in infos.items()}
        rewards = np.array([reward[name] if name in there else 0 for name in self.names], np.float64)
        return self._seen(obs, infos, alive), rewards, over and not cut, over and cut, told

    def _act(self, action: NDArray[Any], name: Any) -> Any:
        i = self.names.index(name)
        space = self.acts[i]
        if isinstance(space, spaces.Discrete):
            return min(int(action[i, 0]), int(space.n) - 1) + int(space.start)
        return action[i].reshape(space.shape).astype(space.dtype)

    def _seen(self, obs: Any, infos: Any, alive: set[Any]) -> Any:
        rows = np.zeros((self.many, self.dim), np.float32)
        most = int(self.action_space.nvec[0] if self.many > 1 else self.action_space.n) if self.masked else 0
        allowed = np.ones((self.many, most), np.int8)
        for i, name in enumerate(self.names):
            if name not in alive:
                continue
            mine = obs[name]
            mask = mine["action_mask"] if self.in_obs[i] else infos.get(name, {}).get("action_mask") if self.masked else None
            flat = self.flatten[i](mine["observation"] if self.in_obs[i] else mine)
            rows[i, : len(flat)], rows[i, -1] = flat, 1
            if self.masked:
                n = int(self.acts[i].n)
                allowed[i, :n], allowed[i, n:] = masks.of(self.acts[i], mask, f"action_mask of {name}"), 0
        return {"observation": rows, "action_mask": allowed.ravel()} if self.masked else rows

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()
