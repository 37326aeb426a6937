"""The learning curve of one run: run/metrics.jsonl in, run/curve.png out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from thespis.fault import Fault
from thespis.report.files import whole
from thespis.report.reference import Reference, reference
from thespis.report.style import COLOURS, DOTS, INK, MUTED, dress, entitle

__all__ = ["curve", "figure", "rows"]

BEYOND = 1e100
"""numbers that no picture shows"""


def curve(run: Path) -> Path:
    """Draws run/curve.png, 1280 x 720, anew and whole or not at all; returns its path."""
    found, path = rows(run), run / "curve.png"
    picture = figure(found, _title(run), _reference(run, found))
    try:
        return whole(path, lambda aside: picture.savefig(aside, format="png"))
    except OSError as error:  # a full disk
        raise Fault(f"{path} could not be drawn: {error.strerror}; all else of the run stands") from error


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of run/metrics.jsonl in their order, {"step": int, "group/name": number, list or None}; none yet is []."""
    if not run.is_dir():
        raise Fault(f"run: {run} is not a directory")
    file, found = run / "metrics.jsonl", []
    if file.exists() and not file.is_file():
        raise Fault(f"{file} is not a file")
    lines = file.read_bytes().splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):  # the last one may be torn: the run is writing it, or was killed
                raise Fault(f"{file}: line {number} is not JSON") from None
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < 2**63:
            raise Fault(f"{file}: line {number} is not a row of metrics: it has no step")
        found.append(row)
    return found


def figure(rows: list[dict[str, Any]], title: str, beside: Reference | None = None) -> Figure:
    """Evaluations (mean and a band of one standard deviation) over the returns of single training episodes, and the curve
    `beside` them."""
    evaluations = _columns(rows, "eval/return_mean", "eval/return_std")
    episodes = _columns(rows, "episode/return")
    picture = Figure(figsize=(8, 4.5), dpi=160, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    if evaluations:
        steps, means, stds = zip(*evaluations, strict=True)
        low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
        marker = 6 if len(steps) < 30 else 0
        axes.plot(
            steps, means, color=COLOURS[0], linewidth=2.4, marker="o", markersize=marker, zorder=4, label="evaluation, mean"
        )
        edge = 0 if len(steps) > 1 else 3  # a band of one point has no width
        axes.fill_between(
            steps, low, high, color=COLOURS[0], alpha=0.22, linewidth=edge, zorder=3, label="± 1 std of its episodes"
        )
    else:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        middle: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center", "bbox": box}
        axes.text(0.5, 0.5, "no evaluations yet", fontsize=18, color=MUTED, **middle)
    if episodes:
        steps, returns = zip(*episodes, strict=True)
        size, alpha = (20.0, 0.5) if len(episodes) < 1000 else (5.0, 0.3)  # many dots are to be a haze
        axes.scatter(steps, returns, size, DOTS, alpha=alpha, linewidths=0, zorder=2)
        axes.scatter([], [], 30, DOTS, linewidths=0, label="training episodes")  # a dot one can see, for the legend
    if beside:
        axes.plot(beside.steps, beside.mean, color=MUTED, ls="--", lw=1.8, zorder=2.5, label=f"reference: {beside.says}")
        axes.fill_between(beside.steps, beside.low, beside.high, color=MUTED, alpha=0.13, lw=0, zorder=1)
    _dress(axes, title, max((row["step"] for row in rows), default=0))
    if not (evaluations or episodes):
        axes.set(xticks=[], yticks=[])
    return picture


def _columns(rows: list[dict[str, Any]], needed: str, also: str | None = None) -> list[tuple[float, ...]]:
    """(step, needed) or (step, needed, also or 0) of the rows where `needed` is a number."""
    good = [r for r in rows if _finite(r.get(needed))]
    if also is None:
        return [(r["step"], r[needed]) for r in good]
    return [(r["step"], r[needed], r[also] if _finite(r.get(also)) else 0.0) for r in good]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < BEYOND


def _dress(axes: Axes, title: str, last: int) -> None:
    dress(axes, "environment steps", "return of an episode", size=14, whole=True)
    handles = axes.get_legend_handles_labels()[0]
    entitle(axes, title, size=16, pad=38 if len(handles) < 4 else 58)
    axes.set_xlim(-0.015 * max(last, 1), 1.02 * max(last, 1))
    if handles:  # between the title and the curve, where it hides nothing
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.015, 1.0), "ncols": 3 if len(handles) < 4 else 2}
        axes.legend(fontsize=12, frameon=False, labelcolor=INK, handlelength=1.5, handletextpad=0.5, columnspacing=1.2, **place)


def _reference(run: Path, rows: list[dict[str, Any]]) -> Reference | None:
    try:
        return reference(json.loads((run / "config.json").read_text()), max((row["step"] for row in rows), default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # no config, or another one


def _title(run: Path) -> str:
    try:
        config = json.loads((run / "config.json").read_text())
        return f"{Path(config['algo']).stem.upper().replace('_', '-')} on {config['run']['env']}, seed {config['run']['seed']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return run.resolve().name  # no config, or another one
