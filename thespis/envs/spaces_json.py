"""Gymnasium's spaces as strict JSON, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from thespis.core import Fault
from thespis.envs.observations import LIMIT, flat_dim, short

__all__ = ["from_json", "to_json"]

FLOATS = {"float16", "float32", "float64"}
WHOLE = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
FIELDS = {
    "box": {"kind", "shape", "dtype", "low", "high"},
    "discrete": {"kind", "n", "start", "dtype"},
    "multi_discrete": {"kind", "shape", "n", "start", "dtype"},
    "multi_binary": {"kind", "shape"},
    "dict": {"kind", "parts"},
    "tuple": {"kind", "parts"},
}


def to_json(space: Space[Any]) -> dict[str, Any]:
    """A space as strict JSON, exactly: two spaces are the same to a learner if and only if their JSON is equal.

    An array is one number where all its numbers are equal, else a flat list; an infinite bound is "inf" or "-inf".
    Fault: as `flat_dim`; a dtype that JSON cannot hold.
    """
    flat_dim(space, "space")
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "parts": [[_key(key), to_json(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "tuple", "parts": [to_json(part) for part in space.spaces]}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "multi_binary", "shape": list(space.shape)}
    assert isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete)
    dtype = np.dtype(space.dtype).name
    if dtype not in FLOATS | WHOLE:
        raise Fault(f"space.dtype is {dtype}; it must be one of {', '.join(sorted(FLOATS | WHOLE))}")
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start), "dtype": dtype}
    if isinstance(space, spaces.MultiDiscrete):
        ns, start = _listed(space.nvec), _listed(space.start)
        return {"kind": "multi_discrete", "shape": list(space.shape), "n": ns, "start": start, "dtype": dtype}
    low, high = _listed(space.low, ~space.bounded_below, "-inf"), _listed(space.high, ~space.bounded_above, "inf")
    return {"kind": "box", "shape": list(space.shape), "dtype": dtype, "low": low, "high": high}


def _key(key: object) -> str | int:
    if type(key) is not str and type(key) is not int:
        raise Fault(f"space has a part named {short(key)}; a name must be a str or an int")
    return key


def _listed(array: NDArray[Any], infinite: NDArray[np.bool_] | None = None, sign: str = "") -> Any:
    """An array as one number or a flat list. Where integers have no bound it holds their dtype's extreme; `infinite` tells."""
    infinite = np.zeros(array.shape, bool) if infinite is None else infinite
    if array.size == 0:
        return 0
    if (array == array.flat[0]).all() and (infinite == infinite.flat[0]).all():
        array, infinite = array.ravel()[:1], infinite.ravel()[:1]
    values = [int(v) if isinstance(v, bool) else str(v) if math.isinf(v) else v for v in array.ravel().tolist()]
    values = [sign if inf else v for v, inf in zip(values, infinite.ravel().tolist(), strict=True)]
    return values[0] if len(values) == 1 else values


def from_json(data: Any) -> Space[Any]:
    """The space that `to_json` wrote. Fault: anything else, or a space of more than LIMIT numbers (before they are made)."""
    try:
        return _parse(data, [LIMIT])
    except Fault:
        raise
    except Exception as error:  # gymnasium and numpy refuse nonsense in many ways
        raise Fault(f"space is damaged ({type(error).__name__}: {short(str(error))}); it must be as it was written") from error


def _parse(data: Any, room: list[int]) -> Space[Any]:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise Fault(f"space is {short(data)}; it must be an object whose kind is one of {', '.join(FIELDS)}")
    if set(data) != FIELDS[kind]:
        raise Fault(f"space ({kind}) has the fields {sorted(map(str, data))}; it must have {sorted(FIELDS[kind])}")
    if kind == "dict":
        parts = {_key(key): _parse(part, room) for key, part in data["parts"]}
        if len(parts) != len(data["parts"]):
            raise Fault("space (dict) names a part twice; each name must be its own")
        return spaces.Dict(list(parts.items()))  # type: ignore[arg-type]
    if kind == "tuple":
        return spaces.Tuple([_parse(part, room) for part in data["parts"]])
    if kind == "discrete":
        _take(room, _whole(data["n"]))
        dtype = _dtype(data, WHOLE)
        other: Any = {} if dtype == np.int64 else {"dtype": dtype}  # older gymnasiums know no other
        return spaces.Discrete(data["n"], start=_whole(data["start"]), **other)
    shape = tuple(_whole(n) for n in data["shape"])
    if any(n < 0 for n in shape):
        raise Fault(f"space.shape is {short(data['shape'])}; it must be sizes of 0 or more")
    _take(room, math.prod(shape))
    if kind == "multi_binary":
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "multi_discrete":
        dtype = _dtype(data, WHOLE)
        ns = _numbers(data, "n", shape, dtype)[0]
        _take(room, sum(ns.ravel().tolist()))
        return spaces.MultiDiscrete(ns, dtype=dtype, start=_numbers(data, "start", shape, dtype)[0])
    dtype = _dtype(data, FLOATS | WHOLE)
    low, below = _numbers(data, "low", shape, dtype, "-inf")
    high, above = _numbers(data, "high", shape, dtype, "inf")
    box = spaces.Box(low, high, dtype=dtype)
    box.bounded_below, box.bounded_above = ~below, ~above
    return box


def _take(room: list[int], n: int) -> None:
    if n > room[0]:
        raise Fault(f"space declares {n} numbers; at most {LIMIT} are allowed in all")
    room[0] -= max(n, 0)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise Fault(f"space has {short(value)} where an integer must be")
    return value


def _dtype(data: dict[str, Any], allowed: set[str]) -> np.dtype[Any]:
    if data["dtype"] not in allowed:
        raise Fault(f"space.dtype is {short(data['dtype'])}; it must be one of {', '.join(sorted(allowed))}")
    return np.dtype(data["dtype"])


def _numbers(
    data: dict[str, Any], field: str, shape: tuple[int, ...], dtype: np.dtype[Any], sign: str = ""
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(the array, where it is infinite in the direction of `sign`), both of `shape`."""
    given = data[field]
    values = given if isinstance(given, list) else [given]
    floats = dtype.kind == "f"
    for v in values:
        infinity = v in ("inf", "-inf") if floats else sign and dtype.kind == "i" and v == sign
        if type(v) is not int and not (floats and type(v) is float) and not infinity:
            raise Fault(f"space.{field} has {short(v)}; it must be numbers of {dtype}")
    infinite = np.array([v == sign for v in values])
    extreme = 0 if dtype.kind != "i" else np.iinfo(dtype).min if sign == "-inf" else np.iinfo(dtype).max
    numbers = [float(v) if floats else extreme if v == sign else v for v in values]
    with np.errstate(over="ignore"):
        array = np.array(numbers).astype(dtype) if floats else np.array(numbers, dtype)
    if array.tolist() != numbers:  # a damaged number must not be rounded into a sound one
        raise Fault(f"space.{field} is {short(given)}; it must be numbers of {dtype}")
    if not isinstance(given, list):
        return np.full(shape, array[0], dtype), np.full(shape, infinite[0])
    return array.reshape(shape), infinite.reshape(shape)
