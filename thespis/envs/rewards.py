"""Several rewards of one step: their names, and the weighted sum that a learner of one reward is given instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from thespis.config import near
from thespis.core import Fault
from thespis.envs.flat import Flat
from thespis.envs.generators import wrappers
from thespis.envs.world import World

__all__ = ["counts", "names", "weighted"]

ONE = ("reward",)


def names(env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """Of what a step's reward is made of: as many as MO-Gymnasium's `reward_space`, a Box (R,), has numbers; called as
    metadata["reward_names"] says, or else reward_0, reward_1, ... Where there is no such space there is one reward.

    Fault: another kind of `reward_space`, names that are not R different words.
    """
    space = env.get_wrapper_attr("reward_space") if env.has_wrapper_attr("reward_space") else None
    if space is None or any(type(wrapper).__name__ == "LinearReward" for wrapper in wrappers(env)):  # MO-Gymnasium's own sum
        return ONE
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise Fault(f"reward_space is {' '.join(repr(space).split())}; allowed: a Box of shape (R,), R rewards a step")
    many = space.shape[0]
    if many == 1:
        return ONE
    given = (env.metadata or {}).get("reward_names", [f"reward_{i}" for i in range(many)])
    good = isinstance(given, list | tuple) and all(isinstance(name, str) and name.isprintable() and name for name in given)
    if not good or len(set(given)) != many or len(given) != many or any({*"=,/ "} & set(name) for name in given):
        raise Fault(f"metadata['reward_names'] is {given!r}; allowed: {many} different names without space, comma, = and /")
    return tuple(given)


def counts(env: gym.Env[Any, Any], names: Sequence[str]) -> tuple[float, ...]:
    """What each of several rewards counts in a return: metadata["reward_weights"], a number each; none where there is no such
    entry. Fault: other than that."""
    given = (env.metadata or {}).get("reward_weights") if len(names) > 1 else None
    if given is None:
        return ()
    try:
        found = tuple(map(float, given))
    except (TypeError, ValueError):
        found = ()
    if len(found) != len(names) or not np.isfinite(found).all():
        raise Fault(f"metadata['reward_weights'] is {given!r}; allowed: {len(names)} numbers, one for each of {', '.join(names)}")
    return found


def weighted(world: World, weights: Sequence[str]) -> World:
    """The world whose one reward is the sum of its rewards by `weights`. Each text is a number or name=number, or several of them
    with commas between; names that are left out weigh 0. Where the world has one reward, called reward, other names are numbers
    of each step's `info`. No weights: the world as it is.

    Fault: what is no such text, a number for each is missing, a name that there is not.
    """
    if not weights:
        return world
    texts, known = [text.strip() for part in weights for text in part.split(",")], world.spec.rewards
    if world.batch is not None and len(known) == 1:
        raise Fault(f"weights: {world.name} has one reward, and its numbers of each step are not told; leave weights out")
    pairs = [text.partition("=") for text in texts]
    named = all(equals for _, equals, _ in pairs)
    try:
        numbers = [float(value if named else text) for text, (_, _, value) in zip(texts, pairs, strict=True)]
    except ValueError:
        numbers = [math.nan]
    if not np.isfinite(numbers).all():
        raise Fault(f"weights is {','.join(texts)!r}; allowed: numbers, as 1,0.5, or name=number, as {known[0]}=1")
    if not world.simulated and not named:
        known = tuple(f"reward_{i}" for i in range(len(numbers)))
    if not named:
        if len(numbers) != len(known):
            raise Fault(f"weights has {len(numbers)} numbers; {world.name} has {len(known)} rewards: {', '.join(known)}")
        return _weighted(world, known, (), numbers)
    by_name = dict(zip((name.strip() for name, *_ in pairs), numbers, strict=True))
    others = tuple(name for name in by_name if name not in known)
    if others and len(known) > 1:
        raise Fault(f"weights names {others[0]!r}; the rewards of {world.name} are {', '.join(known)}{near(others[0], known)}")
    return _weighted(world, known, others, [by_name.get(name, 0.0) for name in (*known, *others)])


def _weighted(world: World, known: tuple[str, ...], others: tuple[str, ...], weights: Sequence[float]) -> World:
    if len(weights) == 1:
        raise Fault(f"weights: {world.name} has one reward; name a number of its info beside it, as reward=1,cost=-0.1")

    def make(render_mode: str | None = None) -> Flat:
        env = world.make(render_mode)
        env.weigh((*known, *others), len(others), np.array(weights))
        return env

    return replace(world, make=make, spec=world.spec._replace(rewards=ONE), rewards=(*known, *others), weights=tuple(weights))
