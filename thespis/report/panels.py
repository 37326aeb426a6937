"""What a run's metrics show: a panel for each thing that is worth a picture, drawn as SVG or PNG."""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thespis.fault import Fault
from thespis.report.curve import rows
from thespis.report.reference import reference
from thespis.report.style import COLOURS, DASHES, DOTS, INK, MUTED, RULE, dress, entitle

__all__ = ["Line", "Panel", "Run", "below", "figure", "panels", "read", "svg"]

STEPS = "environment steps"
POINTS = 400  # of a line; more are averaged, so that a page of a long run stays small


@dataclass(frozen=True)
class Run:
    """A run directory, as its files tell it."""

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def algo(self) -> str:
        return Path(str(self.config["algo"])).stem

    @property
    def title(self) -> str:
        return f"{self.algo.upper().replace('_', '-')} on {self.config['run']['env']}, seed {self.config['run']['seed']}"

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of the rows where `name` is a finite number."""
        good = [r for r in self.rows if isinstance(r.get(name), int | float) and math.isfinite(r[name])]
        return [r["step"] for r in good], [r[name] for r in good]


def read(path: Path) -> Run:
    """Raises Fault where `path` is no run directory or its files are damaged."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
        assert isinstance(config["run"], dict)
        assert isinstance(config["algo_config"], dict)
        assert config["run"].keys() >= {"env", "seed", "steps"}
        assert isinstance(config["algo"], str)
        assert isinstance(config["run"]["seed"], int)
        assert all(isinstance(change["fields"], dict) and "step" in change for change in config.get("changes", []))
    except FileNotFoundError:
        raise Fault(f"{path} is not a run directory: it {'has no config.json' if path.exists() else 'does not exist'}") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise Fault(f"{file} is damaged, or was not written by Thespis") from None
    found = rows(path)
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in found):
        raise Fault(f"{path / 'metrics.jsonl'} is damaged, or was not written by Thespis")
    return Run(path, config, found)


def below(folder: Path) -> list[Path]:
    """Every run directory with metrics in `folder`, itself included; what lies inside one is not looked at."""
    found = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        if "config.json" in files:
            folders.clear()
            found += [Path(root)] if "metrics.jsonl" in files else []
    return found


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[tuple[float, float]] = ()
    """(low, high) at each x"""
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    name: str
    """of its file"""
    title: str
    x: str
    y: str
    lines: list[Line]
    dots: tuple[Sequence[float], Sequence[float]] = field(default=((), ()))
    """single training episodes"""
    says: str = ""


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Those that the runs have numbers for, each with a line a run."""
    one, found = len(runs) == 1, []
    band = "Band: one standard deviation of the evaluation's episodes. " if one else "Mean over the evaluation's episodes."

    steps = "updates" if all(r.config.get("clock") == "updates" for r in runs) else STEPS

    def add(name: str, title: str, y: str, lines: Iterable[Line], x: str = steps, says: str = "", dots: Any = ((), ())) -> None:
        if kept := [line for line in lines if len(line.x)]:
            found.append(Panel(name, title, x, y, kept, dots, says))

    def columns(metric: str) -> list[Line]:
        return [Line(r.path.name, *_thin(*r.column(metric)), colour=i) for i, r in enumerate(runs)]

    returns = [Line(r.path.name, *r.column("eval/return_mean"), _stds(r) if one else (), i) for i, r in enumerate(runs)]
    episodes = _thin(*runs[0].column("episode/return")) if one else ((), ())
    dots, beside = "Dots: training episodes. " if len(episodes[0]) else "", []
    if one and len(returns[0].x) and (found_of := reference(runs[0].config, max(row["step"] for row in runs[0].rows))):
        spread = list(zip(found_of.low, found_of.high, strict=True))
        beside = [Line("reference", found_of.steps, found_of.mean, spread, len(COLOURS) - 1)]
        dots += f"Reference: {found_of.says}, their mean and range."
    add("return", "Return over steps", "return of an episode", returns + beside, says=band + dots, dots=episodes)

    metrics = dict.fromkeys(k for r in runs for row in r.rows for k in row)
    names = [k.removeprefix("eval/return/") for k in metrics if k.startswith("eval/return/")]
    by_name = {name: columns(f"eval/return/{name}") for name in names}
    if one:
        lines = [replace(by_name[name][0], name=name, colour=i) for i, name in enumerate(names)]
        add("returns", "Return of each reward", "mean over episodes", lines, says="Evaluations; unweighted.")
    for i, name in enumerate(() if one else names):
        add(f"return-{i}", f"Return of {name}", "mean over episodes", by_name[name], says="Evaluations; unweighted.")
    for name in dict.fromkeys(k.rpartition("/")[2] for k in metrics if "/info/" in k and "success" in k):
        if one:
            both = [columns(f"{where}/info/{name}")[0] for where in ("eval", "episode")]
            lines = [replace(both[0], name="evaluations"), replace(both[1], name="training episodes", colour=1)]
        else:
            lines = columns(f"eval/info/{name}")
        title = name.removeprefix("is_").replace("_", " ").capitalize()
        add(f"info-{name}", title, "mean over episodes", lines, says=f"What the environment says as {name} at an episode's end.")

    unit, seconds = _unit(max((max(r.column("time/seconds")[1], default=0.0) for r in runs), default=0.0))
    clocked = []
    for run, line in zip(runs, returns, strict=True):
        at, clock = run.column("time/seconds")
        if clock:  # evaluations do not tell the time: it is read between the rows that do
            past = np.interp(line.x, [0, *at], [0, *clock]) / seconds
            clocked.append(Line(line.name, past.tolist(), line.y, line.spread, line.colour))
    apart = "Time spent stepping and learning, evaluations apart."
    add("clock", "Return over time", "return of an episode", clocked, unit, apart)

    came, said = ([r.column(f"eval/{name}") for r in runs] for name in ("discounted_mean", "value_mean"))
    what = "At the first steps of the evaluation's episodes. The return is discounted"
    what += ", and counts the entropy bonuses that the critic counts."
    if one:
        pair = [Line("critic's value", *said[0], colour=0), Line("return that came", *came[0], colour=1)]
        add("value", "Value against return", "discounted return", pair, says=what)
    else:
        bias = [Line(r.path.name, *_minus(s, c), colour=i) for i, (r, s, c) in enumerate(zip(runs, said, came, strict=True))]
        add("value", "Value bias", "value − discounted return", bias, says=what)

    told = {name: [r.column(f"data/{name}") for r in runs] for name in ("value", "policy_value", "return")}
    what = "At up to 1,000 recorded steps. The return is discounted; where an episode was cut off, the critic's word follows."
    if one:
        words = {"value": "recorded actions", "policy_value": "the policy's actions", "return": "return that came"}
        lines = [Line(words[name], *column[0], colour=i) for i, (name, column) in enumerate(told.items())]
        add("data-value", "Value against the data", "discounted return", lines, says=what)
    else:
        pairs = zip(runs, told["policy_value"], told["return"], strict=True)
        lines = [Line(r.path.name, *_minus(s, c), colour=i) for i, (r, s, c) in enumerate(pairs)]
        add("data-value", "Value of the policy's actions over the data's return", "difference", lines, says=what)

    add("entropy", "Entropy of the policy", "entropy, nats", columns("train/entropy"), says="On the batches that it learnt from.")
    add("temperature", "Temperature", "reward per nat", columns("train/alpha"), says="What a nat of entropy is worth.")
    names = list(dict.fromkeys(k for run in runs for row in run.rows for k in row if k.startswith("train/")))
    losses = sorted((n for n in names if n.endswith("loss")), key=lambda n: n != "train/critic_loss")
    others = [n for n in names if n not in (*losses, "train/entropy", "train/alpha")]
    for name in (*losses, *others):
        plain = name.removeprefix("train/")
        title = plain.replace("_", " ").capitalize()
        unit, says = "loss" if name in losses else plain, "Mean since the row before."
        if plain == "q":
            unit, says = "discounted return", "Mean of the critics on the batches that they learnt from."
        add(re.sub(r"[^\w.-]+", "-", plain), title, unit, columns(name), says=says)
    rates = [Line(r.path.name, *_thin(*_learning(r)), colour=i) for i, r in enumerate(runs)]
    add("throughput", "Throughput", f"{steps} / s", rates, says=apart + " The random steps at the start are left out.")
    return found


def _learning(run: Run) -> tuple[list[float], list[float]]:
    """Steps a second from the first row on with as many updates a step as is usual in the run: the random steps before, in which
    nothing is learnt, are up to a hundred times faster."""
    steps, rates = run.column("time/steps_per_second")
    done = dict(zip(*run.column("time/updates"), strict=True))
    updates = [(done.get(b, 0) - done.get(a, 0)) / max(b - a, 1) for a, b in zip([0, *steps], steps, strict=False)]
    usual = float(np.median([u for u in updates if u > 0] or [0.0]))
    first = next((i for i, u in enumerate(updates) if u >= 0.9 * usual), 0)
    return steps[first:], rates[first:]


def _stds(run: Run) -> list[tuple[float, float]]:
    spread = dict(zip(*run.column("eval/return_std"), strict=True))
    return [(m - spread.get(s, 0.0), m + spread.get(s, 0.0)) for s, m in zip(*run.column("eval/return_mean"), strict=True)]


def _minus(a: tuple[list[float], list[float]], b: tuple[list[float], list[float]]) -> tuple[list[float], list[float]]:
    other = dict(zip(*b, strict=True))
    both = [(x, y - other[x]) for x, y in zip(*a, strict=True) if x in other]
    return [x for x, _ in both], [y for _, y in both]


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most POINTS points, each the mean of its neighbours."""
    if len(x) <= POINTS:
        return list(x), list(y)
    parts = [np.array_split(np.asarray(v, float), POINTS) for v in (x, y)]
    return [float(p.mean()) for p in parts[0]], [float(p.mean()) for p in parts[1]]


def _unit(seconds: float) -> tuple[str, float]:
    return ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 120 else ("seconds", 1)


# --------------------------------------------------------------------------------------------------------------- drawing


def figure(panel: Panel, legend: bool = False, scale: float = 1.0) -> Figure:
    """The panel, 360 x 220 points; with `legend` its title and the names of its lines are in the picture."""
    picture = Figure(figsize=(360 / 72, (220 + 50 * legend) / 72), dpi=72 * scale, facecolor="none")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    picture.subplots_adjust(left=0.175, right=0.97, bottom=0.16 if legend else 0.185, top=0.77 if legend else 0.97)
    many = max(len(line.x) for line in panel.lines) > 30
    if len(panel.dots[0]):
        axes.scatter(*panel.dots, s=9, color=DOTS, alpha=0.45, linewidths=0, zorder=2)
    for line in panel.lines:
        colour, dash = COLOURS[line.colour % len(COLOURS)], DASHES[line.colour // len(COLOURS) % len(DASHES)]
        size = 0.0 if many and len(line.x) > 1 else 3.5
        axes.plot(line.x, line.y, color=colour, ls=dash, lw=1.7, marker="o", ms=size, zorder=4, label=line.name)
        if line.spread and len(line.x) > 1:
            low, high = zip(*line.spread, strict=True)
            axes.fill_between(line.x, low, high, color=colour, alpha=0.18, lw=0, zorder=3)
    dress(axes, panel.x, panel.y, size=11, whole=panel.x in (STEPS, "updates"))
    axes.patch.set_visible(False)
    picture.draw_without_rendering()
    if (box := axes.get_tightbbox()) and box.x0 < 0:  # numbers of many digits
        picture.subplots_adjust(left=0.175 + (2 * scale - box.x0) / picture.bbox.width)
    if legend:
        picture.set_facecolor("white")
        entitle(axes, panel.title, size=13, pad=28, x=-0.19)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.215, 0.98), ncols=4, fontsize=10, frameon=False, labelcolor=INK)
    return picture


def svg(panel: Panel) -> str:
    """The panel as an SVG element whose colours are variables of the page that holds it: var(--c0), var(--ink), ..."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.name, "text.parse_math": False, "path.simplify": True}):
        figure(panel).savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])  # those ids stand in each picture of a page
    text = re.sub(r"\s*\n\s*", " ", text).replace("<svg ", f'<svg role="img" aria-label="{html.escape(panel.title)}" ', 1)
    for i, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{i})")
    for name, colour in (("ink", INK), ("muted", MUTED), ("rule", RULE), ("dots", DOTS)):
        text = text.replace(colour, f"var(--{name})")
    return text
