"""Gymnasium's action spaces as the learner sees them: one row of numbers, whatever the nesting, and back.

The vector of a row is the numbers of every Box, each in [-1, 1] where it has both bounds. Its choices are those of all other
spaces, counted from 0; a MultiBinary is choices of two. Both stand in the order of the space's parts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import ArrayLike, NDArray

from thespis import core, ops
from thespis.core import Fault
from thespis.envs.observations import KINDS, Floats, array, at, choices, flat_dim, images, masking, ordered, shapes, short

__all__ = [
    "affine",
    "choice_sizes",
    "leaves",
    "learners",
    "missing_bound",
    "scale_action",
    "spec",
    "translator",
    "unscale_action",
]

Translate = Callable[[Floats, NDArray[np.int64]], Any]
"""(the vector, the choices) of a space -> an action of it"""


def spec(observation_space: Space[Any], action_space: Space[Any]) -> core.Spec:
    """All that an algorithm may know of a world with these spaces. Its mask is the part "action_mask" of a Dict of observations.

    Fault: a kind of space that is not supported, nothing to observe or to do, a Box of actions with no width, an integer one
    without a bound, a mask that has not one number for each choice.
    """
    dim = flat_dim(observation_space)
    if dim == 0:
        raise Fault("observation_space is empty; it must hold at least one number")
    flat_dim(action_space, "action_space")
    parts = list(leaves(action_space, "action_space"))
    kind, bounded = _kind(parts), all(_bounded(field, part) for field, part in parts if isinstance(part, spaces.Box))
    many = sum(sum(choice_sizes(part)) for _, part in parts)
    mask = 0
    if many and (part := masking(observation_space)) is not None:
        mask = flat_dim(part)
        if mask != many:
            raise Fault(f"observation_space['action_mask'] has {mask} numbers; it must have one for each choice: {many}")
        if mask == dim:
            raise Fault("observation_space has the part 'action_mask' alone; it must hold something to observe too")
    seen = ordered(observation_space)
    return core.Spec(core.Box(dim), kind, images=images(seen), shapes=shapes(seen), bounded=bounded, mask=mask)


def leaves(space: Space[Any], field: str = "action") -> Iterator[tuple[str, Any]]:
    """The name and the space of every part that is no Dict or Tuple. Fault: an action cannot have such a part."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in _parts(space):
            yield from leaves(part, f"{field}[{key!r}]")
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield field, space
    else:
        raise Fault(f"{field} is a {type(space).__name__}; it must be a {KINDS}")


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, Space[Any]]]:
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))


def choice_sizes(space: Space[Any]) -> list[int]:
    """Of how many each choice of a part is; of a Box, none."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    return [2] * flat_dim(space) if isinstance(space, spaces.MultiBinary) else []


def _dim(space: Space[Any]) -> int:
    return flat_dim(space) if isinstance(space, spaces.Box) else 0


def _kind(parts: list[tuple[str, Any]]) -> core.Box | core.Discrete | core.MultiDiscrete | core.Mixed:
    dim, ns = sum(_dim(part) for _, part in parts), tuple(n for _, part in parts for n in choice_sizes(part))
    if not dim and not ns:
        raise Fault("action_space is empty; it must hold at least one number")
    if dim:
        return core.Mixed(dim, ns) if ns else core.Box(dim)
    alone = len(parts) == 1 and isinstance(parts[0][1], spaces.Discrete)
    return core.Discrete(ns[0]) if alone else core.MultiDiscrete(ns)


def learners(spec: core.Spec) -> Space[Any]:
    """The space of a learner's rows."""
    kind, (dim, ns) = spec.action, ops.sizes(spec.action)
    if isinstance(kind, core.Discrete):
        return spaces.Discrete(kind.n)
    if isinstance(kind, core.MultiDiscrete):
        return spaces.MultiDiscrete(list(ns))
    end = 1 if spec.bounded else np.inf
    low, high = [-end] * dim + [0] * len(ns), [end] * dim + [n - 1 for n in ns]
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


def _bounded(field: str, space: spaces.Box) -> bool:
    """Whether every number has both bounds. Fault: one of an integer has not; there is no width between them."""
    whole = space.dtype.kind != "f"
    for side, bound in ("low", space.low), ("high", space.high):
        # an integer Box without bounds carries its dtype's extremes; beyond 2^53 a float64 cannot tell integers apart anyway
        wrong = np.abs(bound.astype(np.float64)) > 2**53 if whole else np.zeros(bound.shape, bool)
        if wrong.any():
            i = int(wrong.argmax())
            raise Fault(f"{at(f'{field}.{side}', i, space.shape)} is {bound.flat[i]}; bounds of integers must be finite")
    if (space.low == space.high).any():
        i = int((space.low == space.high).argmax())
        raise Fault(f"{at(field, i, space.shape)} has low = high = {space.low.flat[i]}; low must be less than high")
    return bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())


def missing_bound(space: Space[Any]) -> str:
    """The first bound of an action that is not finite, in words: "action_space.high[1] is inf"."""
    for field, part in leaves(space, "action_space"):
        for side in ("low", "high") if isinstance(part, spaces.Box) else ():
            bound = getattr(part, side)
            if not np.isfinite(bound).all():
                i = int(np.isfinite(bound).argmin())
                return f"{at(f'{field}.{side}', i, part.shape)} is {bound.flat[i]}"
    return "every bound is finite"


# --------------------------------------------------------------------------------------------------- to the environment


def translator(space: Space[Any]) -> Callable[[Any], Any]:
    """A function from a learner's row, laid out as core.Batch says, to an action of `space`, of the types that its `sample` has.

    Fault: as `spec` when made; when called, a wrong shape, a number that is not finite, a choice that does not exist.
    """
    kind = _kind(list(leaves(space, "action_space")))
    if isinstance(space, spaces.Box):
        _bounded("action_space", space)
        return _scaler(space)
    if isinstance(space, spaces.Discrete):
        return _chooser(space)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        several = _several(space, "action")
        return lambda row: several(np.empty(0, np.float32), row)
    build, (dim, ns) = _builder(space, "action"), ops.sizes(kind)
    check = array(spaces.Box(-1, 1, (dim + len(ns),)), "action")

    def split(row: Any) -> Any:
        if dim:
            row = check(row)
        elif np.shape(row) != (() if isinstance(kind, core.Discrete) else (len(ns),)):
            raise Fault(f"action is {short(row)}; it must be {len(ns)} integers")
        flat = np.atleast_1d(row)
        return build(flat[:dim], flat[dim:].astype(np.int64) if dim else flat)

    return split


def _builder(space: Space[Any], field: str) -> Translate:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = _parts(space)
        keys, builds = [key for key, _ in parts], [_builder(part, f"{field}[{key!r}]") for key, part in parts]
        sizes = [[(_dim(leaf), len(choice_sizes(leaf))) for _, leaf in leaves(part)] for _, part in parts]
        ends = np.cumsum([np.sum(part, 0, dtype=int) if part else (0, 0) for part in sizes], 0).reshape(-1, 2).tolist()
        spans = list(zip([(0, 0), *map(tuple, ends)], ends, strict=False))

        def build(vector: Floats, taken: NDArray[np.int64]) -> Any:
            each = [make(vector[v:w], taken[c:d]) for make, ((v, c), (w, d)) in zip(builds, spans, strict=True)]
            return dict(zip(keys, each, strict=True)) if isinstance(space, spaces.Dict) else tuple(each)

        return build
    if isinstance(space, spaces.Box):
        scale = _scaler(space)
        return lambda vector, _: scale(vector)
    if isinstance(space, spaces.Discrete):
        choose = _chooser(space, field)
        return lambda _, taken: choose(taken[0])
    return _several(space, field)


def _chooser(space: spaces.Discrete[Any], field: str = "action") -> Callable[[Any], Any]:
    n, first, kind = int(space.n), int(space.start), np.dtype(space.dtype).type

    def choose(choice: Any) -> Any:
        try:
            i = choice = operator.index(choice)
        except TypeError:
            i = -1
        if not 0 <= i < n:
            raise Fault(f"{field} is {short(choice)}; it must be an integer from 0 to {n - 1}")
        return kind(i + first)

    return choose


def _several(space: Any, field: str) -> Translate:
    """Of a MultiDiscrete or a MultiBinary."""
    ns, start = np.array(choice_sizes(space), np.int64), getattr(space, "start", 0)
    check, shape, dtype = choices(ns, field), space.shape, space.dtype
    return lambda _, taken: (check(taken, ns.shape, 0).reshape(shape) + start).astype(dtype)


def scale_action(space: spaces.Box, action: ArrayLike) -> NDArray[Any]:
    """A learner's vector, (dim,), in the bounds, shape and dtype of `space`. From [-1, 1] to its bounds where it has both, else
    as it is; then clipped, so that neither rounding nor a number beyond [-1, 1] leaves the bounds. Integers are rounded.

    Fault: a wrong shape, a number that is not finite.
    """
    result: NDArray[Any] = translator(space)(action)
    return result


def affine(space: spaces.Box) -> tuple[NDArray[np.float64], ...]:
    """(middle, half of the width, low, high), each (dim,); 0 and 1 where a bound is missing, which is then infinite.

    Halved before they are added: the widest bounds would overflow.
    """
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    both = np.isfinite(low) & np.isfinite(high)
    first, last = np.where(both, low, 0), np.where(both, high, 0)
    return first / 2 + last / 2, np.where(both, last / 2 - first / 2, 1), low, high


def _scaler(space: spaces.Box) -> Callable[[Any], NDArray[Any]]:
    middle, half, low, high = affine(space)
    flat = array(spaces.Box(-1, 1, (low.size,)), "action")
    shape, dtype, whole = space.shape, space.dtype, space.dtype.kind in "iub"

    def scale(action: Any) -> NDArray[Any]:
        x = flat(action) * half  # float64 from here: casting to dtype is monotone, so what is clipped here stays in the bounds
        x += middle
        np.maximum(x, low, out=x)
        np.minimum(x, high, out=x)
        return (np.rint(x) if whole else x).astype(dtype).reshape(shape)

    return scale


# ----------------------------------------------------------------------------------------------------- to the learner


def unscale_action(space: Space[Any], action: Any) -> NDArray[Any]:
    """An action of `space` as a learner's row: the inverse of `translator`. Fault: it is none of the space's."""
    if isinstance(space, spaces.Box):
        return _unscaled(space, action, "action")
    kind, found = _kind(list(leaves(space, "action_space"))), list(_taken(space, action, "action"))
    vector = np.concatenate([np.empty(0, np.float32), *(x for x, _ in found)])
    taken = np.concatenate([np.empty(0, np.int64), *(c for _, c in found)])
    if isinstance(kind, core.Mixed):
        return np.concatenate([vector, taken.astype(np.float32)])
    return vector if isinstance(kind, core.Box) else taken.reshape(() if isinstance(kind, core.Discrete) else -1)


def _unscaled(space: spaces.Box, action: Any, field: str) -> Floats:
    middle, half, low, high = affine(space)
    array(space, field)(action)  # only its checks: float32 is too coarse for float64 bounds
    x = (np.asarray(action, np.float64).ravel() - middle) / half
    both = np.isfinite(low) & np.isfinite(high)
    return np.where(both, np.clip(x, -1, 1), x).astype(np.float32)


def _taken(space: Space[Any], action: Any, field: str) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """(vector, choices) of every part."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts, keyed = _parts(space), isinstance(space, spaces.Dict)
        fits = isinstance(action, Mapping if keyed else tuple | list) and len(action) == len(parts)
        if not fits or (keyed and not all(key in action for key, _ in parts)):
            raise Fault(f"{field} is {short(action)}; it must have the parts {[key for key, _ in parts]!r}")
        for key, part in parts:
            yield from _taken(part, action[key], f"{field}[{key!r}]")
    elif isinstance(space, spaces.Box):
        yield _unscaled(space, action, field), np.empty(0, np.int64)
    else:
        shape, start = space.shape, getattr(space, "start", 0)
        assert shape is not None
        yield np.empty(0, np.float32), choices(np.array(choice_sizes(space), np.int64), field)(action, shape, start)
