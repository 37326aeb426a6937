"""Pictures and pages are written whole or not at all."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["whole"]


def whole(path: Path, fill: Callable[[Path], object]) -> Path:
    """`fill` writes a file aside, which then takes the place of `path`; where that fails nothing half-written is left."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        fill(aside)
        return aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
