"""Recorded episodes, from a dataset in Minari's format, as a learner sees live ones.

The format is JSON and HDF5, read here without Minari: nothing in a dataset can run code, and h5py is all that is needed.
A dataset is ROOT/ID/data/{metadata.json, main_data.hdf5}, where ROOT is MINARI_DATASETS_PATH or ~/.minari/datasets.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from thespis.config import near
from thespis.core import Fault

Convert = Callable[[Any, Any], np.ndarray]
"""(space, a value of it) -> (dim,) float32, or a Fault"""
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""of an episode: observations (T + 1, obs), actions (T, ...), rewards (T,), terminated (T,)"""
DAMAGE = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)
"""what json, numpy and h5py raise over a file that is cut or overwritten"""
PACKED = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""HDF5's filters that may be in use, by number: those that come with it"""
DENSEST = 1032
"""times that deflate can make a run of bytes shorter"""
MARGIN = 2**22
"""bytes that a chunk may have beyond what is stored"""


@dataclass(frozen=True)
class Dataset:
    """Whole episodes, one after another. A row is a step, but in `lengths` and `last` an episode."""

    obs: np.ndarray
    """(T, obs)"""
    action: np.ndarray
    """(T, ...)"""
    reward: np.ndarray
    """(T,)"""
    terminated: np.ndarray
    """(T,)"""
    lengths: np.ndarray
    """(episodes,), the steps of each"""
    last: np.ndarray
    """(episodes, obs), the observation that each ends with"""

    def returns(self) -> np.ndarray:
        """(episodes,), undiscounted."""
        return np.add.reduceat(self.reward.astype(np.float64), np.cumsum(self.lengths) - self.lengths)

    def digest(self) -> str:
        """A checksum of all its numbers: with the same one, the same is learnt."""
        total = hashlib.sha256()
        for field in fields(self):
            total.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
        return total.hexdigest()


def read(name: str, observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert) -> Dataset:
    """The dataset of that id, or in that folder, for an environment with these spaces.

    `flatten` and `unscale` are what live observations, and live actions of a Box, go through. Fault: no such dataset; other
    spaces than the environment's; numbers that are not finite; files that are cut, damaged or in another format.
    """
    try:
        import h5py
    except ImportError:
        raise Fault(f"data is {name!r}; to read a dataset, install h5py: pip install 'thespis[data]'") from None
    folder = find(name)
    about = _about(folder / "metadata.json")
    if about.get("data_format", "hdf5") != "hdf5":
        raise Fault(f"data: {folder} is in the format {about['data_format']!r}; allowed: 'hdf5'")
    for field, space in ("observation_space", observation_space), ("action_space", action_space):
        if wrong := _differs(about[field], space):
            raise Fault(f"data: {folder} was recorded with another {field} than the environment's: {wrong}")
    file, episodes, i = folder / "main_data.hdf5", [], 0
    if file.exists() and not file.is_file():
        raise Fault(f"data: {file} is not a file")
    try:
        with h5py.File(file, "r") as recorded:
            reader = _Reader(file.stat().st_size)
            for i in range(about["total_episodes"]):
                part = functools.partial(reader.column, reader.node(recorded, f"episode_{i}"))
                episodes.append(_episode(part, observation_space, action_space, flatten, unscale))
    except Fault as fault:
        raise Fault(f"data: {file}: episode_{i}: {fault}") from None
    except DAMAGE as error:
        raise Fault(f"data: {file} is damaged: {' '.join(str(error).split())}") from None
    if not sum(len(reward) for _, _, reward, _ in episodes):
        raise Fault(f"data: {folder} holds no steps")
    obs, action, reward, terminated = zip(*(e for e in episodes if len(e[2])), strict=True)
    lengths, last = np.array([len(r) for r in reward]), np.stack([o[-1] for o in obs])
    first = np.concatenate([o[:-1] for o in obs])
    return Dataset(first, np.concatenate(action), np.concatenate(reward), np.concatenate(terminated), lengths, last)


def root() -> Path:
    """Where Minari keeps datasets on this machine."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def find(name: str) -> Path:
    """The folder of a dataset's files."""
    for place in (Path(name).expanduser(), root() / name) if name else ():
        for folder in (place / "data", place):
            if (folder / "metadata.json").is_file():
                return folder
    known = [f.parents[1].relative_to(root()).as_posix() for f in root().glob("**/data/metadata.json")]
    hint = near(name, known) if known else ""
    raise Fault(f"data is {name!r}; there is no such folder, and no such dataset in {root()}{hint}")


# ------------------------------------------------------------------------------------------------------------ its spaces


def _about(file: Path) -> dict[str, Any]:
    """metadata.json, with the spaces parsed."""
    try:
        about = json.loads(file.read_text())
        about |= {key: json.loads(about[key]) for key in ("observation_space", "action_space")}
        if type(about["total_episodes"]) is not int:
            raise TypeError("total_episodes is no whole number")
    except DAMAGE as error:
        raise Fault(f"data: {file} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from None
    return about


def _differs(recorded: Any, space: Space[Any]) -> str:
    """How a recorded space is another than the environment's; nothing where it is the same."""
    kind = type(space).__name__
    found = recorded.get("type") if isinstance(recorded, dict) else recorded
    if found != kind:
        return f"it is a {_short(found)}, not a {kind}"
    try:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            inner = recorded["subspaces"]
            mine, theirs = (dict(s.items() if isinstance(s, dict) else enumerate(s)) for s in (space.spaces, inner))
            if list(mine) != list(theirs):
                return f"it has the parts {_short(list(theirs))}, not {_short(list(mine))}"
            return next((f"part {k!r}: {wrong}" for k in mine if (wrong := _differs(theirs[k], mine[k]))), "")
        for field in {"Box": ("shape", "low", "high"), "MultiDiscrete": ("nvec", "start")}.get(kind, ("n", "start")):
            if field == "start" and isinstance(space, spaces.MultiBinary):
                continue
            given = np.asarray(getattr(space, field))
            if not np.array_equal(np.asarray(recorded[field], given.dtype), given):
                return f"{field} is {_short(recorded[field])}, not {_short(given.tolist())}"
    except DAMAGE as error:
        return f"it is damaged ({type(error).__name__}: {error})"
    return ""


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------------------------------------ its episodes


class _Reader:
    """Hands out the arrays of an HDF5 file, having looked at what each declares: only plain numbers that lie in this file, and
    in all no more of them than it has room for. What is not asked for is never touched."""

    def __init__(self, room: int) -> None:
        self.room = room

    def column(self, group: Any, name: str, space: Space[Any] | None = None) -> Any:
        """The array of that name, or one for each part of a Dict ("name") or of a Tuple ("_index_0")."""
        node = self.node(group, name)
        if isinstance(space, spaces.Dict):
            return {k: self.column(node, str(k), part) for k, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return {f"_index_{i}": self.column(node, f"_index_{i}", part) for i, part in enumerate(space.spaces)}
        return self.array(node, name)

    def node(self, group: Any, name: str) -> Any:
        import h5py

        for part in name.split("/"):
            if not isinstance(group, h5py.Group) or group.get(part, getlink=True) is None:
                raise ValueError(f"{group.name.rstrip('/')}/{part} is missing")
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                raise Fault(f"{name} is a link to another place; it must be in this file")
            group = group[part]
        return group

    def array(self, node: Any, name: str) -> np.ndarray:
        import h5py

        if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biuf":
            raise Fault(f"{name} must be numbers")
        plan = node.id.get_create_plist()
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if node.is_virtual or node.external or filters - PACKED.keys():
            raise Fault(f"{name} must be in this file, in no packing but {', '.join(PACKED.values())}")
        stored = node.id.get_storage_size()
        self.room -= stored
        chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
        if self.room < 0 or max(node.nbytes, chunk // MARGIN) > stored * (DENSEST if filters - {2, 3} else 1):
            raise Fault(f"{name} declares {node.nbytes} bytes, more than there can be in this file")
        return np.asarray(node[()])


def _episode(
    part: Callable[..., Any], observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert
) -> Columns:
    obs = _rows(part("observations", observation_space), observation_space, flatten)
    given = part("actions", action_space)
    action = _rows(given, action_space, unscale) if isinstance(action_space, spaces.Box) else _choices(given, action_space)
    reward, *flags = (part(key) for key in ("rewards", "terminations", "truncations"))
    if {x.ndim for x in (reward, *flags)} != {1}:
        raise Fault("rewards, terminations and truncations must be one number a step")
    terminated, truncated = (flag.astype(bool) for flag in flags)
    steps = len(reward)
    columns = {"observations": obs, "actions": action, "terminations": terminated, "truncations": truncated}
    for field, column in columns.items():
        if len(column) != (wanted := steps + (field == "observations")):
            raise Fault(f"{field} are {len(column)}; with {steps} rewards they must be {wanted}")
    with np.errstate(over="ignore"):
        reward = reward.astype(np.float32)
    if not np.isfinite(reward).all():
        raise Fault("rewards must be one number a step, finite in float32")
    if (over := (terminated | truncated)[:-1]).any():
        raise Fault(f"it goes on after its end at step {int(over.argmax()) + 1}")
    return obs, action, reward, terminated


def _rows(column: Any, space: Space[Any], convert: Convert) -> np.ndarray:
    """Each row of a column, converted: (T, dim). To `convert`, T values of a Box are one of a higher Box."""
    if isinstance(space, spaces.Box):
        low, high = (np.broadcast_to(bound, (len(column), *space.shape)) for bound in (space.low, space.high))
        higher = spaces.Box(low, high, dtype=space.dtype)
        return convert(higher, column).reshape(len(column), -1)
    return np.stack([convert(space, _at(column, space, t)) for t in range(_length(column))])


def _length(column: Any) -> int:
    return _length(next(iter(column.values()))) if isinstance(column, dict) else len(column)


def _at(column: Any, space: Space[Any], t: int) -> Any:
    """Row t of a column, as a value of the space."""
    if isinstance(space, spaces.Dict):
        return {k: _at(column[k], part, t) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_at(column[f"_index_{i}"], part, t) for i, part in enumerate(space.spaces))
    return column[t]


def _choices(column: Any, space: Any) -> np.ndarray:
    """Actions of a Discrete, (T,), or of a MultiDiscrete, (T, choices), counted from 0."""
    count = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    action = np.asarray(column)
    if action.dtype.kind not in "iu" or action.shape[1:] != count.shape:
        raise Fault(f"actions are {action.dtype} of shape {action.shape}; they must be rows of {space}")
    action = action.astype(np.int64) - space.start
    if ((action < 0) | (action >= count)).any():
        raise Fault(f"actions are not all in {space}")
    return action.reshape(len(action), -1) if count.ndim else action
