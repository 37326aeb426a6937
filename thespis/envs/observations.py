"""Gymnasium's spaces of observations as the learner sees them: flat and float32.

A value that breaks its space is a `core.Fault` that names the entry, so flattening is also the guard of what a world says.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from thespis.core import Fault

__all__ = [
    "array", "at", "choices", "flat_dim", "flatten", "flattener", "image", "masking", "ordered", "short",
]  # fmt: skip

Floats = NDArray[np.float32]

LARGEST = 1e15
"""the largest size of an observation or a reward: so the square of a return of a thousand such rewards is finite in float32"""

LIMIT = 2**24
"""the most numbers that a space may flatten to; more is taken for a mistake (or for a damaged file)"""

KINDS = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"


def short(value: object) -> str:
    """What was given, on one line."""
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def at(field: str, index: int, shape: tuple[int, ...]) -> str:
    """The name of a flat index's entry in an array of that shape: observation[1, 2]."""
    return f"{field}[{', '.join(str(i) for i in np.unravel_index(index, shape))}]" if shape else field


# -------------------------------------------------------------------------------------------------------- observations


def flat_dim(space: Space[Any], field: str = "observation_space") -> int:
    """How many numbers `flatten` gives. Fault: a kind of space that cannot be flattened, or more than LIMIT numbers."""
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        dim = math.prod(space.shape)
    elif isinstance(space, spaces.Discrete):
        dim = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        dim = sum(space.nvec.ravel().tolist())
    elif isinstance(space, spaces.Dict):
        dim = sum(flat_dim(part, f"{field}[{key!r}]") for key, part in space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        dim = sum(flat_dim(part, f"{field}[{i}]") for i, part in enumerate(space.spaces))
    else:
        raise Fault(f"{field} is a {type(space).__name__}; it must be a {KINDS}")
    if dim > LIMIT:
        raise Fault(f"{field} has {dim} numbers when flat; at most {LIMIT} are allowed")
    return dim


def flatten(space: Space[Any], obs: Any) -> Floats:
    """An observation of `space` as a fresh float32 vector (flat_dim,): images (uint8 from 0 to 255) scaled to [0, 1], other
    arrays cast, choices one-hot, the parts of a Dict or Tuple joined in the space's order, but a Dict's "action_mask" last.

    Fault: a wrong shape or kind, a part that is missing, a number that is not finite, a choice that does not exist.
    """
    return flattener(space)(obs)


def flattener(space: Space[Any]) -> Callable[[Any], Floats]:
    """`flatten` for one space, with all that depends on the space alone done once."""
    flat_dim(space)
    return _flattener(ordered(space), "observation")


def masking(space: Space[Any]) -> Space[Any] | None:
    """The part "action_mask" of a Dict of observations, where PettingZoo has it too."""
    return space.spaces.get("action_mask") if isinstance(space, spaces.Dict) else None


def ordered(space: Space[Any]) -> Space[Any]:
    """A space of observations with its action mask last, as `flatten` has it."""
    if not isinstance(space, spaces.Dict) or "action_mask" not in space.spaces:
        return space
    return spaces.Dict(sorted(space.spaces.items(), key=lambda item: item[0] == "action_mask"))


def _flattener(space: Space[Any], field: str) -> Callable[[Any], Floats]:
    if isinstance(space, spaces.Discrete):
        return _one_hot(space, field)
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hots(space, field)
    if isinstance(space, spaces.Dict):
        return _joined([(key, _flattener(part, f"{field}[{key!r}]")) for key, part in space.spaces.items()], Mapping, field)
    if isinstance(space, spaces.Tuple):
        return _joined([(i, _flattener(part, f"{field}[{i}]")) for i, part in enumerate(space.spaces)], (tuple, list), field)
    return array(space, field)


def unflatten(space: Space[Any], rows: NDArray[Any]) -> Any:
    """The inverse of `flatten`, for rows (T, flat_dim) at once: an array (T, ...) of the space's dtype, in the parts of a Dict or
    Tuple where it has some."""
    count, space = len(rows), ordered(space)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else list(space.spaces)
        cut = np.cumsum([flat_dim(part) for part in parts])[:-1]
        values = [unflatten(part, x) for part, x in zip(parts, np.split(rows, cut, axis=1), strict=True)]
        return dict(zip(space.spaces, values, strict=True)) if isinstance(space, spaces.Dict) else tuple(values)
    if isinstance(space, spaces.Discrete):
        return rows.argmax(1) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        ns = space.nvec.astype(int).ravel()
        picks = [x.argmax(1) for x in np.split(rows, np.cumsum(ns)[:-1], axis=1)]
        return (np.stack(picks, 1).reshape(count, *space.shape) + space.start).astype(space.dtype)
    x = np.rint(rows * 255) if image(space) else rows
    x = np.rint(x) if np.dtype(space.dtype).kind in "iub" else x
    return x.astype(space.dtype).reshape(count, *space.shape)  # type: ignore[misc]


def image(space: Space[Any]) -> bool:
    """Whether `flatten` scales it to [0, 1]: a Box of uint8 from 0 to 255."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and bool((space.high - space.low == 255).all())


def images(space: Space[Any]) -> tuple[tuple[int, int], ...]:
    """(start, stop) of each image in what `flatten` gives."""
    return tuple((start, start + flat_dim(part)) for start, part in _images(space, 0))


def shapes(space: Space[Any]) -> tuple[tuple[int, ...], ...]:
    """The shape of each of `images`."""
    return tuple(part.shape or () for _, part in _images(space, 0))


def _images(space: Space[Any], start: int) -> Iterator[tuple[int, Space[Any]]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _images(part, start)
            start += flat_dim(part)
    elif image(space):
        yield start, space


def column(space: Space[Any], i: int, field: str = "observation") -> str:
    """The name of number i of what `flatten` gives: observation['arm'][1]."""
    space = ordered(space)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            if i < flat_dim(part):
                return column(part, i, f"{field}[{key!r}]")
            i -= flat_dim(part)
    return at(field, i, space.shape) if isinstance(space, spaces.Box | spaces.MultiBinary) else field


def array(space: Space[Any], field: str) -> Callable[[Any], Floats]:
    """`flatten` for a Box or a MultiBinary."""
    shape = space.shape
    assert shape is not None
    scaled = image(space)

    def flat(obs: Any) -> Floats:
        try:
            x = np.array(obs, dtype=np.float32)  # a copy, always: many worlds reuse the array that they return
        except Exception:
            raise Fault(f"{field} is {short(obs)}; it must be numbers of shape {shape}") from None
        if x.shape != shape:
            raise Fault(f"{field} has the shape {x.shape}; it must have {shape}")
        sane = np.abs(x) <= LARGEST  # not where it is nan
        if not sane.all():
            i = int(sane.argmin())
            raise Fault(f"{at(field, i, shape)} is {x.flat[i]}; it must be finite and at most {LARGEST:g} in size")
        return x.ravel() / np.float32(255) if scaled else x.ravel()

    return flat


def _one_hot(space: spaces.Discrete[Any], field: str) -> Callable[[Any], Floats]:
    n, start = int(space.n), int(space.start)

    def flat(obs: Any) -> Floats:
        try:
            i = operator.index(obs) - start
        except TypeError:
            i = -1
        if not 0 <= i < n:
            raise Fault(f"{field} is {short(obs)}; it must be an integer from {start} to {start + n - 1}")
        x = np.zeros(n, np.float32)
        x[i] = 1
        return x

    return flat


def _one_hots(space: spaces.MultiDiscrete[Any], field: str) -> Callable[[Any], Floats]:
    shape, ns = space.shape, space.nvec.astype(np.int64).ravel()
    offset = np.cumsum(ns) - ns
    checked = choices(ns, field)

    def flat(obs: Any) -> Floats:
        x = np.zeros(int(ns.sum()), np.float32)
        x[offset + checked(obs, shape, space.start)] = 1
        return x

    return flat


def choices(ns: NDArray[np.int64], field: str) -> Callable[[Any, tuple[int, ...], Any], NDArray[np.int64]]:
    """(integers of that shape, the shape, where they start) -> as many choices, each counted from 0, the i-th one of ns[i]."""

    def checked(given: Any, shape: tuple[int, ...], start: Any) -> NDArray[np.int64]:
        try:
            x = np.asarray(given)
        except Exception:
            x = np.empty(0)
        if x.dtype.kind not in "iub" or x.shape != shape:
            raise Fault(f"{field} is {short(given)}; it must be {'integers' if shape else 'an integer'} of shape {shape}")
        i = (x.astype(np.int64) - start).ravel()
        wrong = (i < 0) | (i >= ns)
        if wrong.any():
            k = int(wrong.argmax())
            low = int(np.broadcast_to(start, shape).flat[k])
            raise Fault(f"{at(field, k, shape)} is {x.flat[k]}; it must be an integer from {low} to {low + ns[k] - 1}")
        return i

    return checked


def _joined(parts: list[tuple[Any, Callable[[Any], Floats]]], kind: Any, field: str) -> Callable[[Any], Floats]:
    names = [key for key, _ in parts]

    def flat(obs: Any) -> Floats:
        if not isinstance(obs, kind) or len(obs) != len(parts) or (kind is Mapping and not all(key in obs for key in names)):
            given = f"has the parts {list(obs)!r}" if isinstance(obs, Mapping) else f"is {short(obs)}"
            raise Fault(f"{field} {given}; it must have the parts {names!r}")
        return np.concatenate([part(obs[key]) for key, part in parts]) if parts else np.empty(0, np.float32)

    return flat
