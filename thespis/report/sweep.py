"""What came of a sweep: a table of its settings, as CSV, and one picture."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from thespis.report.files import whole
from thespis.report.statistics import interquartile_mean, interval
from thespis.report.style import COLOURS, DOTS, WIDE, bars, brief, dress, entitle, short

__all__ = ["best", "picture", "row", "table", "word", "words"]

MOST = 20  # settings in a picture


def word(value: Any) -> str:
    """A value of a setting, short."""
    if isinstance(value, list | tuple):
        return "x".join(map(word, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={word(value)}" for name, value in values.items())


def row(values: Mapping[str, Any], folder: str, scores: Mapping[int, float]) -> dict[str, Any]:
    """A setting and its scores by seed: the last evaluation of each run. Without a run its statistics are None, without two its
    interval is."""
    found = np.array(list(scores.values()))
    low, high = interval(interquartile_mean, [found]) if len(found) > 1 else (None, None)
    return {
        "name": words(values) or "as it is", "values": dict(values), "folder": folder, "seeds": len(found),
        "iqm": float(interquartile_mean([found])) if len(found) else None,
        "interval95": None if low is None or high is None else [float(low), float(high)],
        "mean": float(found.mean()) if len(found) else None, "scores": {str(k): v for k, v in scores.items()},
    }  # fmt: skip


def best(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings that have a score, best first: of a grid by the interquartile mean, of a search by what it maximised."""
    by = "mean" if found["search"] else "iqm"
    return sorted((r for r in found["settings"] if r[by] is not None), key=lambda r: -r[by])


def table(found: dict[str, Any], file: Path) -> None:
    """A line a setting, best first; empty where there is no number."""
    names = list(found["over"])
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([*names, "seeds", "iqm", "low95", "high95", "mean", "folder"])
        for r in best(found):
            writer.writerow(
                [
                    *(word(v) if isinstance(v, list) else v for v in r["values"].values()),
                    r["seeds"],
                    r["iqm"],
                    *(r["interval95"] or ["", ""]),
                    r["mean"],
                    r["folder"],
                ]
            )


def picture(found: dict[str, Any], file: Path) -> None:
    """Of a grid the final return of each setting; of a search the score over trials and over each value."""
    figure = _search(found) if found["search"] else _grid(found)
    FigureCanvasAgg(figure)
    whole(file, lambda aside: figure.savefig(aside, format="png"))


def _grid(found: dict[str, Any]) -> Figure:
    rows = best(found)
    top = rows[:MOST]
    figure = Figure(figsize=(WIDE, 1.5 + 0.62 * len(top)), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    first = f"The best {MOST} of {len(rows)} settings, " if len(rows) > MOST else ""
    entitle(axes, f"{_what(found)}\n{first}mean of the middle half, 95% interval")
    lines = [
        (f"{brief(r['name'])}  ({r['seeds']})", COLOURS[0], r["iqm"], r["interval95"], list(r["scores"].values())) for r in top
    ]
    bars(dress(axes, "return of the last evaluation (number of seeds)", "", ticks=4), lines)
    return figure


def _search(found: dict[str, Any]) -> Figure:
    rows = [(i, r) for i, r in enumerate(found["settings"]) if r["mean"] is not None]
    numbers, scores = [i for i, _ in rows], np.array([r["mean"] for _, r in rows])
    names, top = list(found["over"]), int(np.argmax(scores))
    down = 1 + (len(names) + 1) // 2
    figure = Figure(figsize=(WIDE, 0.7 + 2.9 * down), dpi=160, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(down, 2)
    axes = figure.add_subplot(grid[0, :])
    entitle(axes, f"{_what(found)}\nmean over seeds; the line is the best so far")
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color=COLOURS[0], lw=2)
    _dots(axes, numbers, scores, top)
    axes.margins(x=0.06, y=0.1)
    dress(axes, "trial", "return", whole=True)
    for i, name in enumerate(names):
        axes = figure.add_subplot(grid[1 + i // 2, i % 2] if i < len(names) - 1 or i % 2 else grid[1 + i // 2, :])
        over, values = found["over"][name], [r["values"][name] for _, r in rows]
        listed = isinstance(over, list)
        _dots(axes, [over.index(v) for v in values] if listed else values, scores, top)
        axes.margins(x=0.1, y=0.1)
        dress(axes, name, "return", ticks=4)
        if listed:
            axes.set_xticks(range(len(over)), [textwrap.shorten(word(v), 12, placeholder="…") for v in over])
            axes.set_xlim(-0.5, len(over) - 0.5)
        elif over["log"]:
            axes.set_xscale("log")
            axes.set_xlim(over["from"] / 1.3, over["to"] * 1.3)
            axes.xaxis.set_major_locator(LogLocator(10, numticks=4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"1e{round(np.log10(v))}".replace("-", "\N{MINUS SIGN}")))
            axes.tick_params(which="minor", length=0)
            axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def _dots(axes: Axes, x: list[Any], scores: np.ndarray, top: int) -> None:
    axes.scatter(x, scores, s=34, color=DOTS, linewidths=0, zorder=3)
    axes.scatter([x[top]], [scores[top]], s=90, color=COLOURS[1], linewidths=0, zorder=4)


def _what(found: dict[str, Any]) -> str:
    return f"{Path(found['algo']).stem} on {found['env']}, {short(found['steps'])} steps"
