"""A run's archive of policies, for its page: the fitness of each cell, where the descriptor has two numbers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.numpy import load_file

from thespis.report.style import INK, embedded

__all__ = ["card", "draw", "read"]

SIDE = 200
"""pixels of a map's side"""


def read(folder: Path) -> dict[str, np.ndarray] | None:
    """centroids (K, D) and fitness (K,), NaN where a cell is empty, of a run's last policy; None: it has no archive."""
    with suppress(OSError, SafetensorError, KeyError, ValueError):
        found = load_file(folder / "policy" / "last.safetensors")
        centroids, fitness = found["centroids"], found["fitness"]
        if centroids.ndim == 2 and fitness.shape == centroids.shape[:1] and len(fitness):
            return {"centroids": centroids, "fitness": np.where(fitness > np.finfo(np.float32).min, fitness, np.nan)}
    return None


def draw(axes: Any, centroids: np.ndarray, fitness: np.ndarray, **limits: Any) -> Any:
    """Colours each place by the fitness of its cell, an empty one not at all; returns the picture, for a colour bar. `limits`
    are vmin and vmax."""
    low, high = centroids.min(0), centroids.max(0)
    edge = (high - low) / (2 * max(len(centroids) ** 0.5 - 1, 1))  # from the outermost centroids to the border
    axis = [np.linspace(a - e, b + e, SIDE) for a, b, e in zip(low, high, edge, strict=True)]
    places = np.stack(np.meshgrid(*axis, indexing="xy"), -1).reshape(-1, 2)
    cell = ((centroids**2).sum(1) - 2 * places @ centroids.T).argmin(1)
    extent = (axis[0][0], axis[0][-1], axis[1][0], axis[1][-1])
    return axes.imshow(fitness[cell].reshape(SIDE, SIDE), origin="lower", extent=extent, cmap="viridis", **limits)


def card(folder: Path) -> str:
    """The map as a card; "" where there is no archive, or its descriptors have other than two numbers."""
    found = read(folder)
    if found is None or found["centroids"].shape[1] != 2 or np.isnan(found["fitness"]).all():
        return ""
    picture = Figure(figsize=(5, 4.2), facecolor="none")
    axes = picture.add_subplot()
    bar = picture.colorbar(draw(axes, **found), ax=axes)
    for ticks in (axes, bar.ax):
        ticks.tick_params(labelsize=8, colors=INK)
    svg = embedded(picture, "Fitness over the descriptor", bbox_inches="tight")
    filled = int((~np.isnan(found["fitness"])).sum())
    return (
        f'<div class="card"><h2>Archive<b>{filled:,} of {len(found["fitness"]):,} cells</b></h2>{svg.replace(INK, "var(--ink)")}'
        "<p>The fittest policy of each cell, over the two numbers of the descriptor.</p></div>"
    )
