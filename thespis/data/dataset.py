"""Where recorded episodes come from: a dataset in Minari's format, a file of columns, or arrays from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import Space

from thespis.config import near
from thespis.core import Fault
from thespis.data import columns, minari
from thespis.data.episodes import Convert, Dataset, Origin
from thespis.data.minari import root

__all__ = ["Dataset", "Origin", "Source", "find", "origin", "read", "root"]

Source = str | Path | Mapping[str, Any]
"""the id of a dataset in Minari's folder, the path of a dataset's folder, the path of a file of columns (data/columns.py), or
arrays by these columns' names"""


def read(source: Source, observation_space: Space[Any], action_space: Space[Any], flatten: Convert, unscale: Convert) -> Dataset:
    """The dataset, for an environment with these spaces.

    `flatten` and `unscale` are what live observations and actions go through. Fault: no such dataset; other
    spaces than the environment's; numbers that are not finite; files that are cut, damaged or in another format.
    """
    room, place = _room(source)
    return room.read(place, observation_space, action_space, flatten, unscale)


def origin(source: Source) -> Origin:
    """Where it is from and what it holds, as it says itself. Fault: it is damaged, or there is none."""
    room, place = _room(source)
    return room.origin(place)


def find(name: str | Path) -> Path:
    """The folder of a dataset's files, or the file of columns."""
    given = Path(name).expanduser()
    if given.is_file() and given.suffix in columns.SUFFIXES:
        return given
    for place in (given, root() / name) if str(name) else ():
        for folder in (place / "data", place):
            if (folder / "metadata.json").is_file():
                return folder
    if str(name) and given.exists():
        what = "a folder without metadata.json" if given.is_dir() else "not a file of columns"
        raise Fault(
            f"data is {str(name)!r}, {what}; allowed: a folder in Minari's format, or a file {' or '.join(columns.SUFFIXES)}"
        )
    known = [f.parents[1].relative_to(root()).as_posix() for f in root().glob("**/data/metadata.json")]
    hint = near(str(name), known) if known else ""
    raise Fault(f"data is {str(name)!r}; there is no such folder, and no such dataset in {root()}{hint}")


def _room(source: Source) -> tuple[Any, Any]:
    """Who reads it, and from where."""
    if isinstance(source, Mapping):
        return columns, source
    place = find(source)
    return (columns, place) if place.is_file() else (minari, place)
