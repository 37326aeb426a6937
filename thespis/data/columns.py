"""Recorded steps as columns, a row a step: D4RL's files (.hdf5, .npz) and arrays from Python.

    observations (T, ...)       what was seen before the action
    actions (T, ...)            numbers, or whole numbers where they are choices
    rewards (T,), or (T, R) of several
    terminals (T,)              1 where the episode ended there by itself (also: terminations)
    timeouts (T,)               1 where it was cut off there (also: truncations); may be absent
    next_observations (T, ...)  what was seen after it; may be absent
    contexts (T, C)             what its episode was about, as a level; may be absent

Arrays may come with "observation_space" and "action_space", of gymnasium, and "env", an id. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from thespis.core import Fault
from thespis.data.episodes import Beyond, Convert, Dataset, Origin, acted, rows
from thespis.data.hdf5 import DAMAGE, DENSEST, Reader, opener

SUFFIXES = (".npz", ".hdf5", ".h5")
NAMES = {
    "observations": ("observations",), "actions": ("actions",), "rewards": ("rewards",),
    "terminals": ("terminals", "terminations"), "timeouts": ("timeouts", "truncations"),
    "next_observations": ("next_observations",), "contexts": ("contexts",),
}  # fmt: skip
NEEDED = ("observations", "actions", "rewards", "terminals")
BESIDE = ("observation_space", "action_space", "env")
"""what arrays may come with"""
Source = Path | Mapping[str, Any]


def read(source: Source, observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert) -> Dataset:
    """As `dataset.read`. An episode goes on while each row begins with what the row before it led to, if both say so.

    Without next_observations, the step at which an episode was cut off is left out, as nothing tells where it led.
    """
    where = _where(source)
    found = _columns(source)
    try:
        return _dataset(found, observation_space, action_space, flatten, unscale)
    except Fault as fault:
        raise Fault(f"{where}: {fault}") from None
    except (*DAMAGE, AssertionError) as error:
        raise Fault(f"{where}: its columns do not fit together: {' '.join(str(error).split())}") from None


def origin(source: Source) -> Origin:
    """As `dataset.origin`: what arrays come with; else observations without bounds, and actions within [-1, 1] where all are, or
    else within the least and the largest recorded."""
    found, where = _columns(source), _where(source)
    given = source if isinstance(source, Mapping) else {}
    for name in ("observation_space", "action_space"):
        if name in given and not isinstance(given[name], Space):
            raise Fault(f"{where}: {name} is a {type(given[name]).__name__}; it must be a space of gymnasium")
    seen = given.get("observation_space") or _seen(found["observations"])
    acts = given.get("action_space") or _acts(found["actions"], where)
    return Origin("arrays" if isinstance(source, Mapping) else source.stem, given.get("env"), seen, acts)


def _where(source: Source) -> str:
    return "data" if isinstance(source, Mapping) else f"data: {source}"


def _columns(source: Source) -> dict[str, np.ndarray]:
    """The columns by their first names. Fault: one is missing, or is no array of numbers."""
    where = _where(source)
    try:
        given = source if isinstance(source, Mapping) else _npz(source) if source.suffix == ".npz" else _hdf5(source)
    except Fault as fault:
        raise Fault(f"{where}: {fault}") from None
    except (*DAMAGE, zipfile.BadZipFile, EOFError) as error:
        raise Fault(f"{where} is damaged: {' '.join(str(error).split())}") from None
    if isinstance(source, Mapping) and (
        unknown := set(map(str, source)) - {n for ns in NAMES.values() for n in ns} - set(BESIDE)
    ):
        allowed = ", ".join((*(n for ns in NAMES.values() for n in ns), *BESIDE))
        raise Fault(f"{where}: {min(unknown)!r} is not a column; allowed: {allowed}")
    found = {}
    for name, aliases in NAMES.items():
        here = [alias for alias in aliases if alias in given]
        if not here and name in NEEDED:
            raise Fault(f"{where}: the column {name} is missing; there must be {', '.join(NEEDED)}")
        if here:
            try:
                found[name] = np.asarray(given[here[0]])
            except DAMAGE:
                raise Fault(f"{where}: {here[0]} must be an array of numbers") from None
            if found[name].dtype.kind not in "biuf" or not found[name].ndim:
                raise Fault(f"{where}: {here[0]} must be an array of numbers, it is {found[name].dtype}")
    steps = len(found["rewards"])
    for name, column in found.items():
        if len(column) != steps:
            raise Fault(f"{where}: {name} has {len(column)} rows; with {steps} rewards it must have as many")
    if not steps:
        raise Fault(f"{where}: there are no steps")
    several = found["rewards"].ndim == 2 and found["rewards"].shape[1] > 1
    for name in ("terminals", "timeouts") if several else ("rewards", "terminals", "timeouts"):
        if name in found and found[name].size != steps:
            raise Fault(f"{where}: {name} must be one number a step, it has the shape {found[name].shape}")
        if name in found:
            found[name] = found[name].reshape(steps)
    return found


def _hdf5(file: Path) -> dict[str, np.ndarray]:
    h5py, found = opener(file), {}
    with h5py.File(file, "r") as recorded:
        reader = Reader(file.stat().st_size)
        for alias in (n for ns in NAMES.values() for n in ns):
            if recorded.get(alias, getlink=True) is not None:
                found[alias] = reader.column(recorded, alias)
    return found


def _npz(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz that have a column's name: plain numbers, and no more than the file has room for."""
    found, room = {}, file.stat().st_size
    with zipfile.ZipFile(file) as packed:
        for alias in (n for ns in NAMES.values() for n in ns):
            if f"{alias}.npy" not in packed.namelist():
                continue
            entry = packed.getinfo(f"{alias}.npy")
            if entry.file_size > DENSEST * entry.compress_size or entry.compress_size > room:
                raise Fault(f"{alias} declares {entry.file_size} bytes, more than there can be in this file")
            with packed.open(entry) as data:
                version = np.lib.format.read_magic(data)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"{alias} is in version {version} of the format")
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(data)
                if dtype.hasobject or dtype.kind not in "biuf":
                    raise Fault(f"{alias} must be numbers, it is {dtype}")
                if np.prod(shape, dtype=object) * dtype.itemsize > entry.file_size:
                    raise Fault(f"{alias} declares more numbers than there are in this file")
            with packed.open(entry) as data:
                found[alias] = np.lib.format.read_array(data, allow_pickle=False)
    return found


def _seen(column: np.ndarray) -> spaces.Box:
    """Images of uint8 are from 0 to 255; nothing is known of other numbers."""
    if column.dtype == np.uint8 and column.ndim > 2:
        return spaces.Box(0, 255, column.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, column.shape[1:] or (1,), np.float32)


def _acts(column: np.ndarray, where: str) -> Space[Any]:
    if column.dtype.kind in "biu":
        flat = column.reshape(len(column), -1).astype(np.int64)
        if flat.min() < 0:
            raise Fault(f"{where}: actions are whole numbers, one of them {flat.min()}; choices are counted from 0")
        counts = flat.max(0) + 1
        return spaces.Discrete(int(counts[0])) if flat.shape[1] == 1 else spaces.MultiDiscrete(counts)
    if not np.isfinite(column).all():
        raise Fault(f"{where}: actions must be finite")
    shape = column.shape[1:] or (1,)
    if np.abs(column).max() <= 1 + 1e-4:
        return spaces.Box(-1, 1, shape, np.float32)
    low, high = (bound.reshape(shape).astype(np.float32) for bound in (column.min(0), column.max(0)))
    if (low == high).any():
        raise Fault(f"{where}: one of the actions' numbers is always {low[low == high][0]:g}; leave it out, or give action_space")
    return spaces.Box(low, high, dtype=np.float32)


def _dataset(
    found: dict[str, np.ndarray], observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert
) -> Dataset:
    steps, beyond, notes = len(found["rewards"]), Beyond(action_space), []
    if isinstance(observation_space, spaces.Dict | spaces.Tuple):
        raise Fault("the environment's observations have parts; a file of columns holds none, a dataset in Minari's format may")
    if isinstance(action_space, spaces.Dict | spaces.Tuple):
        raise Fault("the environment's actions have parts; a file of columns holds none, a dataset in Minari's format may")
    shape = observation_space.shape or ()
    obs = rows(_fitting(found["observations"], shape, "observations"), observation_space, flatten)
    actions = found["actions"]
    if isinstance(action_space, spaces.Discrete):
        actions = actions.reshape(steps) if actions.size == steps else actions
        actions = actions.astype(np.int64) if actions.dtype.kind == "b" else actions
    action = acted(_fitting(actions, action_space.shape or (), "actions"), action_space, unscale, beyond)
    with np.errstate(over="ignore"):
        reward = found["rewards"].astype(np.float32)
    if not (sane := np.isfinite(reward.reshape(steps, -1)).all(1)).all():
        raise Fault(f"rewards[{sane.argmin()}] is {found['rewards'][sane.argmin()]}; it must be finite in float32")
    for name in ("terminals", "timeouts"):
        if name in found and not np.isin(found[name], (0, 1)).all():
            raise Fault(f"{name} must be 0 or 1")
    terminated = found["terminals"].astype(bool)
    over = terminated | found.get("timeouts", np.zeros(steps)).astype(bool)
    over[-1] = True
    if "next_observations" in found:
        after = rows(_fitting(found["next_observations"], shape, "next_observations"), observation_space, flatten)
        over[:-1] |= (after[:-1] != obs[1:]).any(1)
        last = after[over]
        kept = np.ones(steps, bool)
    else:
        kept = ~over | terminated  # where it was cut off, its last observation is known to be the row's own
        last = obs[over]
        if not kept.all():
            notes.append(f"data: {int((~kept).sum()):,} steps at which an episode was cut off are left out: "
                         "there are no next_observations to say where they led")  # fmt: skip
    lengths = np.diff(kept.cumsum()[over], prepend=0)  # of each episode
    if not lengths.sum():
        raise Fault("no step has a next observation")
    context = found.get("contexts")
    if context is not None and (context.ndim != 2 or not np.isfinite(context).all()):
        raise Fault(f"contexts have the shape {context.shape}; they must be rows of finite numbers, (T, C)")
    return Dataset(
        obs[kept], action[kept], reward[kept], terminated[kept], lengths[lengths > 0], last[lengths > 0],
        (*notes, *beyond.notes()), None if context is None else context[kept].astype(np.float32),
    )  # fmt: skip


def _fitting(column: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """As rows of that shape: one number a step may stand alone."""
    if column.shape[1:] != shape and column.ndim == 1 and shape == (1,):
        column = column[:, None]
    if column.shape[1:] != shape:
        raise Fault(f"{name} are rows of the shape {column.shape[1:]}; the environment's have {shape}")
    return column
