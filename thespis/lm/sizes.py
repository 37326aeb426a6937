"""Sizes in a name, such as tiny:dim=64,layers=2."""

from __future__ import annotations

import re
from typing import Any

from thespis import config
from thespis.fault import Fault


def sized(kind: Any, words: str, wrong: str, field: str) -> Any:
    """The dataclass `kind` with the whole numbers of `words`, dim=64,layers=2. Fault: `wrong`, where kind is None or words are of
    another form; or, after `field`, a number that is not allowed."""
    pairs = [re.fullmatch(r"\s*(\w+)=([0-9]+)\s*", word) for word in words.split(",")] if words else []
    if kind is None or not all(pairs):
        raise Fault(wrong)
    return config.build(kind, {p[1]: int(p[2]) for p in pairs if p}, field)
