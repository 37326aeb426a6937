"""The types that every room shares; imports nothing of ours but `Fault`.
Data flows one way round: env -> data -> Batch -> update -> State -> act -> env."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from dataclasses import replace as replace
from typing import Any, NamedTuple, TypeVar, dataclass_transform

from torch import Tensor
from torch.utils import _pytree

from thespis.fault import Fault as Fault

T = TypeVar("T")
Params = dict[str, Tensor]
Metrics = dict[str, Tensor]


@dataclass_transform(frozen_default=True)
def tree(cls: type[T]) -> type[T]:
    """A frozen dataclass of tensors that torch's transforms (compile, vmap, grad) see through."""
    cls = dataclass(frozen=True)(cls)
    _pytree.register_dataclass(cls, field_names=[f.name for f in fields(cls)])  # type: ignore[arg-type]
    return cls


def leaves(node: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor of a tree by its dotted name: {"critic.params.w0": ..., ...}."""
    if isinstance(node, Tensor):
        return {path: node}
    if hasattr(node, "tensors"):  # a language model, which owns its weights
        node = node.tensors()
    items = node.items() if isinstance(node, Mapping) else ((f.name, getattr(node, f.name)) for f in fields(node))
    return {k: v for name, child in items for k, v in leaves(child, f"{path}.{name}" if path else name).items()}


def rebuild(like: T, flat: Mapping[str, Tensor], path: str = "") -> T:
    """A tree of the shape of `like` with the tensors of `flat`, the inverse of `leaves`."""
    if isinstance(like, Tensor):
        return flat[path]  # type: ignore[return-value]
    if isinstance(like, dict):
        return {k: rebuild(v, flat, f"{path}.{k}" if path else k) for k, v in like.items()}  # type: ignore[return-value]
    assert is_dataclass(like)
    parts = {f.name: rebuild(getattr(like, f.name), flat, f"{path}.{f.name}" if path else f.name) for f in fields(like)}
    return type(like)(**parts)  # type: ignore[misc]


def tree_map(function: Callable[[Tensor], Tensor], node: T) -> T:
    return rebuild(node, {k: function(v) for k, v in leaves(node).items()})


class Box(NamedTuple):
    """Vectors of `dim` floats; as an action space, each in [-1, 1] (the environment rescales, and clips)."""

    dim: int


class Discrete(NamedTuple):
    """One of `n` choices."""

    n: int


class MultiDiscrete(NamedTuple):
    """Several choices at once, the i-th one of `ns[i]`."""

    ns: tuple[int, ...]


class Mixed(NamedTuple):
    """A vector as of a Box, and choices as of a MultiDiscrete. An action is one row of floats: the vector, then the choices."""

    dim: int
    ns: tuple[int, ...]


class Spec(NamedTuple):
    """All that an algorithm may know of the world. Observations are flat float32 vectors by the time it sees them."""

    obs: Box
    action: Box | Discrete | MultiDiscrete | Mixed
    rewards: tuple[str, ...] = ("reward",)  # the name of each that a step gives
    agents: int = 1
    horizon: int | None = None  # steps after which an episode is cut off, where there is such a limit
    images: tuple[tuple[int, int], ...] = ()  # (start, stop) of an observation's columns that are bytes / 255, as an image's
    shapes: tuple[tuple[int, ...], ...] = ()  # of each of these images, as the environment has it: (height, width, channels), ...
    bounded: bool = True  # whether every number of an action has two bounds; one that has not reaches the environment as it is
    mask: int = 0  # the last numbers of an observation that are its action mask, one a choice: 1 where it is allowed, else 0
    context: int = 0  # numbers that the world is given as an episode begins; see Learner.context
    levels: tuple[int, ...] = ()  # where these are choices, of how many each of them is


@tree
class Batch:
    """B transitions. `discount` is gamma^n * (1 - terminated): n-step returns, time limits and ends are the data's business."""

    obs: Tensor  # (B, obs)
    action: Tensor  # (B, dim) of a Box, (B,) of Discrete, (B, choices) of MultiDiscrete, (B, dim + choices) of Mixed
    reward: Tensor  # (B,), the discounted sum of n rewards; (B, R) where a step gives R
    discount: Tensor  # as reward
    next_obs: Tensor  # (B, obs)
    extra: dict[str, Tensor] = field(default_factory=dict)  # further columns that a learner `needs`, each (B, ...)


@tree
class Trained:
    """Parameters and the moments of the optimiser that trains them travel together."""

    params: Params
    m: Params  # first moments, shaped as params
    v: Params  # second moments, shaped as params
    t: Tensor  # (), steps taken


@dataclass(frozen=True)
class OffPolicy:
    """How an off-policy learner is fed; the numbers come from its Config."""

    gamma: float
    n_step: int
    batch_size: int
    replay_size: int
    warmup: int  # environment steps with uniformly random actions, and without updates, at the start
    updates_per_step: float  # updates for each environment step after the warm-up
    look_every: int = 1  # while collecting, steps between the observations that the policy sees
    reset_every: int | None = None  # updates after which every tensor of State starts anew; the replay stays
    demo_fraction: float = 0.0  # part of each batch that is drawn from the demonstrations of a run's dataset
    demo_slice: tuple[float, float] = (0.0, 1.0)  # which of its episodes these are: quantiles of return, 0 the worst
    pretrain: int = 0  # updates before the first step, where the run has a dataset
    frames: int = 1  # observations side by side in a row of a batch, the newest last (data/replay.py)


@dataclass(frozen=True)
class Learner:
    """An algorithm, as the engine sees it: functions only, every tensor in State."""

    init: Callable[[], Any]  # () -> State
    update: Callable[[Any, Batch, int], tuple[Any, Metrics]]
    """(state, batch, k) -> (state, metrics); pure, one graph for each k < period; metrics are 0-D tensors, and `ops.squared`'s"""
    policy: Callable[[Any], Any]  # state -> the tensors that `act` needs: what is published, exported and loaded
    act: Callable[..., Any]  # (policy, obs (N, obs), explore) -> action (N, action); with a memory, see there
    losses: dict[str, Callable[..., tuple[Tensor, Metrics]]]
    experience: Any  # how it is fed: OffPolicy, OnPolicy (data/rollout.py), or Offline (data/recorded.py)
    needs: frozenset[str] = frozenset()  # extra columns of Batch (data/replay.py says which there are)
    period: int = 1  # k runs through 0 .. period - 1: a delayed actor is period 2
    alike: Callable[[int], int] = lambda k: k  # k -> the first that does the same, so that they share a graph
    prepare: Callable[[Any, Batch], tuple[Any, Batch, Metrics]] | None = None
    """on-policy: (state, rollout (T, N, ...)) -> (state, the rows (T * N, ...) to draw from, metrics); see data/rollout.py"""
    memory: Callable[[int], Params] | None = None
    """N -> what acting remembers as an episode begins, each (N, ...). Then `act` is (policy, obs, explore, memory, look) ->
    (action, memory), where look (N,) tells whose obs is new: the others' is the one that they saw last"""
    value: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """(state, obs, action) -> the critics' mean (B,), in units of reward; and the entropy bonus at obs (B,). For the report"""
    context: Callable[[Any, int, bool], Tensor] | None = None  # (state, n, explore) -> (n, C) of n episodes: engine/contexts.py
    collect: Callable[[Any, Tensor, Tensor], Tensor] | None = None  # (state, obs (k, obs), rows (k,)) -> action: data/rollout.py
    given: Callable[[Any, Batch], Any] | None = None
    """(state, every row of the run's dataset) -> state, once, before the first update; see data/recorded.py"""
