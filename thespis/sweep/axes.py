"""What is swept: fields, the values that each takes, and the settings that these make together."""

from __future__ import annotations

import hashlib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thespis import api, config
from thespis.core import Fault
from thespis.engine.run import Run

NOT_SWEPT = {
    "env": "a sweep is of one environment",
    "seed": "every setting has the same seeds; give --seeds, and the first of them with --seed",
    "collectors": "a sweep trains whole runs side by side",
    "max_hours": "it is the time that the whole sweep may take",
    "ray_address": "it is where the sweep's runs are trained",
}
Values = dict[str, Any]
"""by the names of fields"""
Over = Mapping[str, str | Sequence[Any]]


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes: those listed or, of a range, all from the first to the second."""

    name: str
    values: tuple[Any, ...]
    range: bool = False

    @property
    def log(self) -> bool:
        """Of a range: more than a decade is searched on a logarithmic scale."""
        return self.range and self.values[0] > 0 and self.values[1] > 10 * self.values[0]

    def json(self) -> Any:
        values = [list(v) if isinstance(v, tuple) else v for v in self.values]
        return {"from": values[0], "to": values[1], "log": self.log} if self.range else values

    def of(self, value: Any, file: Path) -> Any:
        """A trial's value, from JSON. Raises Fault where it is none of these."""
        value = tuple(value) if isinstance(value, list) else value
        kinds = {str if isinstance(v, str) else type(v) for v in self.values}  # a schedule is text there
        if type(value) not in kinds or not (self.values[0] <= value <= self.values[1] if self.range else value in self.values):
            raise Fault(f"{file} is damaged: {self.name} is {value!r} in a trial")
        return value

    def __str__(self) -> str:
        if not self.range:
            return f"{self.name}: {', '.join(map(show, self.values))}"
        return f"{self.name}: from {show(self.values[0])} to {show(self.values[1])}{', on a log scale' if self.log else ''}"


def axis(algo: api.Algorithm, name: str, given: str | Sequence[Any], search: bool) -> Axis:
    """From the words of the command line, "1e-4,3e-4" or "1e-5..1e-2", or from a list of values."""
    hints = {c: typing.get_type_hints(c, include_extras=True) for c in (Run, algo.module.Config)}
    of_algo = name.startswith("algo.")
    known = hints[algo.module.Config] | ({} if of_algo else hints[Run])
    plain = name.removeprefix("algo.").replace("-", "_")
    if plain not in known:
        raise Fault(f"over: {name} is not an option of {algo.name}{config.near(plain, known)}")
    if not of_algo and plain in NOT_SWEPT:
        raise Fault(f"over: {name} cannot be swept: {NOT_SWEPT[plain]}")
    hint, words = known[plain], given.split(",") if isinstance(given, str) else given
    if not isinstance(words, Sequence):
        raise Fault(f"over: {name} is {given!r}; allowed: a list of values, or text as after --over")
    span = isinstance(given, str) and ".." in given and ("," not in given)
    if span:
        assert isinstance(given, str)
        words = given.split("..")
    values = []
    for word in words:
        try:
            values.append(config.read(hint, word.strip()) if isinstance(word, str) else config.fit(hint, word))
        except (ValueError, OverflowError):
            raise Fault(f"over: {name} is {word!r}; allowed: {config.words(hint)}") from None
    if span:
        if not search:
            raise Fault(f"over: {name} is the range {given!r}, which is for a search: give --search N, or list values")
        if len(values) != 2 or any(type(v) not in (int, float) for v in values) or not values[0] < values[1]:
            raise Fault(f"over: {name} is {given!r}; a range is LOW..HIGH, of numbers")
    if not values:
        raise Fault(f"over: {name} has no values")
    if twice := [v for i, v in enumerate(values) if v in values[:i]]:
        raise Fault(f"over: {name} has {show(twice[0])} twice")
    return Axis(plain, tuple(values), span)


@dataclass(frozen=True)
class Setting:
    """One combination of values, trained with every seed."""

    name: str
    """of its folder"""
    values: Values
    run: Run
    cfg: Any


def show(value: Any) -> str:
    """A value as it stands in names and lines."""
    if isinstance(value, tuple):
        return "x".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def folder_name(values: Values) -> str:
    """A folder's: "lr=0.0001,tau=0.005"; what cannot stand there is told apart by a digest."""
    plain = ",".join(f"{k}={show(v)}" for k, v in values.items())
    safe = re.sub(r"[^\w.=,+-]+", "-", plain)
    return safe if safe == plain and len(safe) <= 150 else f"{safe[:140]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
