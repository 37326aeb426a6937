"""How every picture looks: its colours, its axes, its numbers, and bars that stand for intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

__all__ = [
    "COLOURS",
    "DASHES",
    "DOTS",
    "INK",
    "MUTED",
    "RULE",
    "SIZE",
    "WIDE",
    "Bar",
    "bars",
    "brief",
    "dress",
    "embedded",
    "entitle",
    "short",
]

COLOURS = ("#1d5fd1", "#c4661f", "#2f8f5b", "#8a4fbf", "#b0324a", "#5f6b7a")
INK, MUTED, RULE, DOTS = "#1f2430", "#5b6270", "#e4e7ec", "#8a93a3"  # a page gives each of these a value for the dark
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
SIZE, WIDE = 13, 6.4  # points of most words in a picture of so many inches, which is to be read at 400 pixels

Bar = tuple[str, str, float | None, Sequence[float] | None, Sequence[float]]
"""(name, colour, middle, (low, high), single scores); None: there is none"""


def short(value: float, digits: int = 4) -> str:
    """250000 -> 250k, -1.5e6 -> −1.5M."""
    size, mark = next(((s, m) for s, m in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1, ""))
    return f"{value / size:.{digits}g}{mark}".replace("-", "\N{MINUS SIGN}")


def brief(text: str, longest: int = 44) -> str:
    """At most `most` characters; 44 are a line of a picture."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


class Short(Formatter):
    """Ticks in short, with as many digits as tell them apart."""

    def __call__(self, value: float, _: int | None = None) -> str:
        return short(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        tries = ([short(v, digits) for v in values] for digits in range(4, 17))
        return next((texts for texts in tries if len(set(texts)) == len(set(values))), [short(v) for v in values])


def dress(axes: Axes, x: str, y: str, size: int = SIZE, ticks: int = 5, whole: bool = False) -> Axes:
    """The labels, each with its unit, some `ticks` and a grid; `whole`: x is counted. An axis without a label has no numbers."""
    axes.set_xlabel(x, fontsize=size, color=MUTED)
    axes.set_ylabel(y, fontsize=size, color=MUTED)
    for axis, said, counted in ((axes.xaxis, x, whole), (axes.yaxis, y, False)):
        if said:
            axis.set_major_locator(MaxNLocator(ticks, integer=counted, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(Short())
    axes.tick_params(labelsize=size, colors=MUTED, length=0)
    axes.grid(color=RULE, lw=1, axis="both" if y else "x")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return axes


def entitle(axes: Axes, title: str, size: int = SIZE + 1, **place: float) -> None:
    axes.set_title(title, {"fontsize": size, "fontweight": "bold", "color": INK}, loc="left", **place)


def embedded(picture: Figure, label: str, **how: Any) -> str:
    """The picture as an SVG element for a page; `label` is what a reader who does not see it is told, `how` savefig's."""
    out = io.StringIO()
    picture.savefig(out, format="svg", metadata={"Date": None}, **how)
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def bars(axes: Axes, rows: Sequence[Bar]) -> None:
    """A line each: its name, and below it the interval as a bar, the middle as a stroke, single scores as dots."""
    axes.use_sticky_edges = False  # room beside the bars
    for i, (name, colour, middle, between, scores) in enumerate(rows):
        if between:
            axes.barh(-i - 0.12, between[1] - between[0], 0.3, between[0], color=colour, alpha=0.3)
        if middle is not None:
            axes.plot([middle] * 2, [-i - 0.3, -i + 0.06], color=colour, lw=3)
        axes.scatter(scores, [-i - 0.12] * len(scores), s=22, color=colour, zorder=4, linewidths=0)
        axes.annotate(name, (0.01, -i + 0.3), xycoords=("axes fraction", "data"), fontsize=SIZE, color=INK, va="center")
    axes.set(yticks=[], ylim=(-len(rows) + 0.45, 0.6))
    axes.margins(x=0.06)
