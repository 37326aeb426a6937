"""Datasets in Minari's format, read without Minari: JSON and HDF5, in which nothing can run code.

A dataset is ROOT/ID/data/{metadata.json, main_data.hdf5}, where ROOT is MINARI_DATASETS_PATH or ~/.minari/datasets.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from thespis.core import Fault
from thespis.data.episodes import Beyond, Convert, Dataset, Origin, acted, rows
from thespis.data.hdf5 import DAMAGE, Reader, opener

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""of an episode: observations (T + 1, obs), actions (T, ...), rewards (T,) or (T, R), terminated (T,)"""

MOST = 2**24
"""numbers that a space may hold; more is taken for damage"""


def read(folder: Path, observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert) -> Dataset:
    """As `dataset.read`."""
    h5py = opener(folder)
    about = _about(folder / "metadata.json")
    for field, space in ("observation_space", observation_space), ("action_space", action_space):
        if wrong := differs(about[field], space):
            raise Fault(f"data: {folder} was recorded with another {field} than the environment's: {wrong}")
    file, episodes, i, beyond = folder / "main_data.hdf5", [], 0, Beyond(action_space)
    if file.exists() and not file.is_file():
        raise Fault(f"data: {file} is not a file")
    try:
        with h5py.File(file, "r") as recorded:
            reader = Reader(file.stat().st_size)
            for i in range(about["total_episodes"]):
                part = functools.partial(reader.column, reader.node(recorded, f"episode_{i}"))
                episodes.append(_episode(part, observation_space, action_space, flatten, unscale, beyond))
    except Fault as fault:
        raise Fault(f"data: {file}: episode_{i}: {fault}") from None
    except DAMAGE as error:
        raise Fault(f"data: {file} is damaged: {' '.join(str(error).split())}") from None
    if not sum(len(reward) for _, _, reward, _ in episodes):
        raise Fault(f"data: {folder} holds no steps")
    obs, action, reward, terminated = zip(*(e for e in episodes if len(e[2])), strict=True)
    lengths, last = np.array([len(r) for r in reward]), np.stack([o[-1] for o in obs])
    first = np.concatenate([o[:-1] for o in obs])
    rows = (first, np.concatenate(action), np.concatenate(reward), np.concatenate(terminated))
    return Dataset(*rows, lengths, last, beyond.notes())


def origin(folder: Path) -> Origin:
    """As `dataset.origin`."""
    about = _about(folder / "metadata.json")
    name = folder.relative_to(root()).parent.as_posix() if folder.is_relative_to(root()) else folder.resolve().name
    try:
        env = json.loads(about["env_spec"])["id"] if about.get("env_spec") else None
        both = parsed(about["observation_space"]), parsed(about["action_space"])
    except (*DAMAGE, Fault) as error:
        raise Fault(f"data: {folder / 'metadata.json'} is damaged: {' '.join(str(error).split())}") from None
    name = folder.resolve().parent.name if name == "data" else name
    return Origin(name, env if isinstance(env, str) else None, *both)


class Episode(NamedTuple):
    """One to write, in its environment's own terms."""

    observations: Any
    """an array (T + 1, ...), or such arrays in the parts of a Dict or Tuple"""
    actions: Any
    """an array (T, ...), or such arrays in the parts of a Dict or Tuple"""
    rewards: np.ndarray
    """(T,), or (T, R) of several"""
    terminated: bool
    truncated: bool
    seed: int | None


def write(
    folder: Path, name: str, observation_space: Space[Any], action_space: Space[Any], episodes: Iterable[Episode],
    words: Mapping[str, Any],
) -> None:  # fmt: skip
    """A dataset in a new folder, as Minari reads it. `words` go to its metadata; None is left out."""
    h5py, count, steps = opener(folder), 0, 0
    folder.mkdir(parents=True)
    seen, acts = written(observation_space), written(action_space)  # told before anything is played
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for count, episode in enumerate(episodes, 1):
            group, length = file.create_group(f"episode_{count - 1}"), len(episode.rewards)
            group.attrs.update(
                {"id": count - 1, "total_steps": length} | ({} if episode.seed is None else {"seed": episode.seed})
            )
            flags = np.zeros((2, length), bool)
            flags[:, -1] = episode.terminated, episode.truncated
            _store(group, "observations", episode.observations)
            _store(group, "actions", episode.actions)
            for key, column in zip(("rewards", "terminations", "truncations"), (episode.rewards, *flags), strict=True):
                group.create_dataset(key, data=column)
            steps += length
    about = {"dataset_id": name, "total_episodes": count, "total_steps": steps, "data_format": "hdf5", "jpeg_encoding": False}
    about |= {"observation_space": json.dumps(seen), "action_space": json.dumps(acts), "minari_version": "0.5.4"}
    about |= {k: v for k, v in words.items() if v is not None}
    (folder / "metadata.json").write_text(json.dumps(about, indent=2))


def _store(group: Any, key: str, value: Any) -> None:
    if isinstance(value, dict | tuple):
        inner = group.create_group(key)
        for name, part in value.items() if isinstance(value, dict) else ((f"_index_{i}", x) for i, x in enumerate(value)):
            _store(inner, name, part)
    else:
        group.create_dataset(key, data=value, compression="gzip" if value.dtype == np.uint8 else None)


def root() -> Path:
    """Where Minari keeps datasets on this machine."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def _about(file: Path) -> dict[str, Any]:
    """metadata.json, with the spaces parsed."""
    try:
        about = json.loads(file.read_text())
        about |= {key: json.loads(about[key]) for key in ("observation_space", "action_space")}
        if type(about["total_episodes"]) is not int:
            raise TypeError("total_episodes is no whole number")
        if about.get("data_format", "hdf5") != "hdf5":
            raise Fault(f"data: {file.parent} is in the format {about['data_format']!r}; allowed: 'hdf5'")
    except DAMAGE as error:
        raise Fault(f"data: {file} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from None
    return about


def _episode(
    part: Callable[..., Any], observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert,
    beyond: Beyond,
) -> Columns:  # fmt: skip
    obs = rows(part("observations", observation_space), observation_space, flatten)
    action = acted(part("actions", action_space), action_space, unscale, beyond)
    reward, *flags = (part(key) for key in ("rewards", "terminations", "truncations"))
    if {x.ndim for x in flags} != {1} or reward.ndim not in (1, 2):
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


# ---------------------------------------------------------------------------------------------------------- its spaces


def written(space: Space[Any]) -> dict[str, Any]:
    """A space as Minari writes it. Fault: it has no form for that kind."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {k: written(part) for k, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [written(part) for part in space.spaces]}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        plain = {"nvec": space.nvec.tolist(), "start": np.asarray(space.start).tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **plain}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n}
    if isinstance(space, spaces.Box):
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
    raise Fault(f"a {type(space).__name__} has no form in a dataset")


def parsed(about: Any) -> Space[Any]:
    """The space that `written` wrote. Fault: it is damaged, or of a kind that is not read."""
    try:
        kind = about["type"]
        if kind == "Dict":
            return spaces.Dict({str(k): parsed(part) for k, part in about["subspaces"].items()})
        if kind == "Tuple":
            return spaces.Tuple([parsed(part) for part in about["subspaces"]])
        if kind == "Discrete":
            return spaces.Discrete(int(about["n"]), start=int(about["start"]))
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(about["nvec"], dtype=np.dtype(about["dtype"]).type, start=about["start"])
        if kind == "MultiBinary":
            return spaces.MultiBinary(about["n"])
        if kind == "Box":
            dtype = np.dtype(about["dtype"])
            low, high = (np.asarray(about[side], dtype) for side in ("low", "high"))
            if low.size > MOST or dtype.kind not in "iuf" or low.shape != tuple(about["shape"]):
                raise ValueError("a Box must hold numbers, as many bounds as its shape has")
            return spaces.Box(low, high, dtype=dtype.type)
    except (*DAMAGE, AssertionError) as error:
        raise Fault(f"a space is damaged ({type(error).__name__}: {short(error)})") from None
    raise Fault(f"a space is a {short(kind)}; allowed: Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple")


def differs(recorded: Any, space: Space[Any]) -> str:
    """How a recorded space is another than the environment's; nothing where it is the same."""
    kind = type(space).__name__
    found = recorded.get("type") if isinstance(recorded, dict) else recorded
    if found != kind:
        return f"it is a {short(found)}, not a {kind}"
    try:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            inner = recorded["subspaces"]
            mine, theirs = (dict(s.items() if isinstance(s, dict) else enumerate(s)) for s in (space.spaces, inner))
            if list(mine) != list(theirs):
                return f"it has the parts {short(list(theirs))}, not {short(list(mine))}"
            return next((f"part {k!r}: {wrong}" for k in mine if (wrong := differs(theirs[k], mine[k]))), "")
        for field in {"Box": ("shape", "low", "high"), "MultiDiscrete": ("nvec", "start")}.get(kind, ("n", "start")):
            if field == "start" and isinstance(space, spaces.MultiBinary):
                continue
            given = np.asarray(getattr(space, field))
            if not np.array_equal(np.asarray(recorded[field], given.dtype), given):
                return f"{field} is {short(recorded[field])}, not {short(given.tolist())}"
    except DAMAGE as error:
        return f"it is damaged ({type(error).__name__}: {error})"
    return ""


def short(value: object) -> str:
    return text if len(text := str(value)) <= 60 else f"{text[:57]}..."
