"""The levels that a run trained on, for its page: those of its buffer that score highest, where a level is a square of cells."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from thespis.report.style import embedded

__all__ = ["card", "draw", "read"]

SHOWN = 18
CELLS = ListedColormap(["#ece8de", "#46423f", "#6ea050", "#d65420", "#5b8fd0", "#8a4fbf", "#c9a227", "#7a7f88"])
PLACES = ["#141414", "#face3c", "#d0408a"]


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Levels (n, C), their scores (n,), from the highest on, and how many of the n are data, of the newest checkpoint; None:
    there are none."""
    with suppress(OSError, SafetensorError, KeyError, ValueError, IndexError):
        newest = max((p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        with safe_open(newest / "tensors.safetensors", "np") as held:
            rows, score, given = (held.get_tensor(f"state.levels.{k}") for k in ("rows", "score", "given"))
        order = np.argsort(-score, kind="stable")[: int((score >= 0).sum())]
        if rows.ndim == 2 and len(order):
            return rows[order], score[order], int((order < given).sum())
    return None


def side(ns: list[int]) -> int:
    """Of the square whose cells come first, all with as many choices; then only places in it may follow. 0: it is none."""
    for k in range(int(len(ns) ** 0.5), 1, -1):
        if len(set(ns[: k * k])) == 1 and all(n == k * k for n in ns[k * k :]):
            return k
    return 0


def draw(axes: Any, level: np.ndarray, k: int) -> None:
    """One level: its cells by colour, and the places as dots."""
    axes.imshow(level[: k * k].reshape(k, k) % CELLS.N, cmap=CELLS, vmin=-0.5, vmax=CELLS.N - 0.5, interpolation="nearest")
    for place, colour in zip(level[k * k :].astype(int), PLACES, strict=False):
        axes.plot(place % k, place // k, "o", color=colour, ms=3, mec="#141414", mew=0.4)
    axes.set_axis_off()


def card(folder: Path) -> str:
    """The levels as a card; "" where there are none, or they are no squares of cells."""
    found, ns = read(folder), list[int]()
    with suppress(OSError, ValueError):
        ns = json.loads((folder / "config.json").read_text()).get("levels", [])
    if found is None or not (k := side(ns)) or found[0].shape[1] != len(ns):
        return ""
    rows, score, data = found
    picture = Figure(figsize=(7.2, 1.35 * -(-min(len(rows), SHOWN) // 6)), facecolor="none", layout="constrained")
    cells = picture.subplots(-(-min(len(rows), SHOWN) // 6), 6, squeeze=False).ravel()
    for place in cells:
        place.set_axis_off()
    for place, row in zip(cells, rows, strict=False):
        draw(place, row, k)
    svg = embedded(picture, "Levels that score highest")
    return (
        f'<div class="card"><h2>Levels<b>{len(rows):,} scored</b></h2>{svg}'
        f"<p>The {min(len(rows), SHOWN)} that score highest, from {score[0]:.3g} down; {data:,} of all are data. Start and exit,"
        " or what else has a place, are dots.</p></div>"
    )
