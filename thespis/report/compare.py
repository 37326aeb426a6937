"""Runs side by side: seeds of one algorithm, configuration and environment make a group; groups are compared at a common step."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from thespis.fault import Fault
from thespis.report.files import whole
from thespis.report.panels import Run, below, read
from thespis.report.statistics import Scores, improvement, interquartile_mean, interval, profile
from thespis.report.style import COLOURS, DASHES, INK, MUTED, SIZE, WIDE, Bar, bars, brief, dress, entitle

__all__ = ["Comparison", "compare", "find"]

FEW = 10  # seeds; docs/report.md has what intervals of fewer cover
ASIDE = {
    "env", "seed", "steps", "vector", "ray_address", "on_env_error", "env_timeout", "on_divergence", "eval_every",
    "eval_episodes", "log_every", "checkpoint_every", "keep", "sinks", "device", "threads", "compile_after", "max_hours",
    "wandb_project", "wandb_entity", "wandb_group", "wandb_tags",
}  # fmt: skip
"""options of `train` in which the runs of a group may differ: they bear on how a run is done and seen, not on what is learnt"""


def find(paths: Sequence[Path]) -> list[Path]:
    """The run directories named, and every one below a folder named, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise Fault(f"{path} is not a directory")
        if not (runs := below(path)):
            raise Fault(f"{path} is no run directory with metrics, and holds none")
        found |= {p.resolve(): p for p in runs}
    return list(found.values())


@dataclass(frozen=True)
class Group:
    """An algorithm with one configuration: its seeds on each environment."""

    name: str
    runs: dict[str, list[Run]]
    """by environment"""

    @property
    def seeds(self) -> int:
        """Fewest on an environment."""
        return min(map(len, self.runs.values()))


@dataclass(frozen=True)
class Comparison:
    groups: list[Group]
    envs: list[str]
    """those that every group was run on"""
    steps: list[int]
    """those of the curves: every run was evaluated there"""
    scale: dict[str, tuple[float, float]] | None
    """the returns that are score 0 and score 1 on each environment; None: scores are returns"""
    notes: list[str]
    """what a reader must know"""
    draws: int = 2_000

    @property
    def axis(self) -> str:
        return "return of an evaluation" if self.scale is None else "normalised score"

    def curves(self, group: Group) -> Scores:
        """(seeds, steps) for each environment."""
        found = []
        for env in self.envs:
            low, high = self.scale[env] if self.scale else (0.0, 1.0)
            tables = [dict(zip(*run.column("eval/return_mean"), strict=True)) for run in group.runs[env]]
            found.append((np.array([[t[s] for s in self.steps] for t in tables]) - low) / (high - low))
        return found

    @cached_property
    def scores(self) -> dict[str, list[np.ndarray]]:
        """(seeds,) for each environment, at the last common step."""
        return {g.name: [c[:, -1] for c in self.curves(g)] for g in self.groups}

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """A row a group; an interval is None where an environment has a single seed."""
        rows = []
        for group in self.groups:
            scores = self.scores[group.name]
            low, high = interval(interquartile_mean, scores, draws=self.draws) if group.seeds > 1 else (None, None)
            values = np.concatenate(scores)
            rows.append({
                "group": group.name, "environments": self.envs, "seeds": group.seeds, "step": self.steps[-1],
                "iqm": float(interquartile_mean(scores)),
                "interval95": None if low is None or high is None else [float(low), float(high)],
                "mean": float(values.mean()), "scores": {e: s.tolist() for e, s in zip(self.envs, scores, strict=True)},
                "returns": self._returns(group),
            })  # fmt: skip
        return rows

    def _returns(self, group: Group) -> dict[str, float]:
        """Of several rewards, the mean return of each by name over seeds and environments, at the last common step."""
        found: dict[str, list[float]] = {}
        for run in (run for env in self.envs for run in group.runs[env]):
            for row in (row for row in run.rows if row["step"] == self.steps[-1]):
                for name in (k for k in row if k.startswith("eval/return/")):
                    found.setdefault(name.removeprefix("eval/return/"), []).append(row[name])
        return {name: float(np.mean(values)) for name, values in found.items()}

    @cached_property
    def improvements(self) -> list[dict[str, Any]]:
        """P(group > other) of each pair where both have more than one seed everywhere."""
        many = [g for g in self.groups if g.seeds > 1]
        rows = []
        for i, one in enumerate(many):
            for other in many[i + 1 :]:
                x, y = self.scores[one.name], self.scores[other.name]
                low, high = interval(improvement, x, y, draws=self.draws)
                between = [float(low), float(high)]
                rows.append({"group": one.name, "other": other.name, "probability": improvement(x, y), "interval95": between})
        return rows

    def json(self) -> dict[str, Any]:
        found = {"groups": self.table, "improvement": self.improvements, "axis": self.axis, "scale": self.scale}
        return found | {"bootstrap_draws": self.draws, "notes": self.notes}

    def csv(self, file: Path) -> None:
        """A line for each group, environment and step of the curve, with the score of each seed; where there are several
        environments, also lines of all together. Without an interval, or without a seed, the cell is empty."""
        names = sorted({run.config["run"]["seed"] for g in self.groups for env in self.envs for run in g.runs[env]})
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["group", "environment", "step", "iqm", "low95", "high95", "seeds", *(f"seed {n}" for n in names)])
            for group in self.groups:
                curves = self.curves(group)
                parts = [(env, [curve]) for env, curve in zip(self.envs, curves, strict=True)]
                for env, part in parts if len(parts) == 1 else [*parts, ("all", curves)]:
                    middle, low, high = self._band(part)
                    single = dict(zip((r.config["run"]["seed"] for r in group.runs.get(env, ())), part[0], strict=False))
                    for i, step in enumerate(self.steps):
                        between = ["", ""] if low is None or high is None else [low[i], high[i]]
                        scores = [single[n][i] if n in single else "" for n in names]
                        writer.writerow([group.name, env, step, middle[i], *between, min(map(len, part)), *scores])

    def band(self, group: Group) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        return self._band(self.curves(group))

    def _band(self, curves: Scores) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The interquartile mean over the steps and its interval; None where an environment has a single seed."""
        many = min(map(len, curves)) > 1
        low, high = interval(interquartile_mean, curves, draws=self.draws) if many else (None, None)
        return interquartile_mean(curves), low, high

    # ------------------------------------------------------------------------------------------------------ the picture

    def picture(self, file: Path) -> None:
        """Curves, and below them intervals, profiles and probabilities: only of groups with more than one seed."""
        many = [g for g in self.groups if g.seeds > 1]
        parts = [(3.6, self._curves)]
        if many:
            parts += [(1.2 + 0.62 * len(self.groups), self._intervals), (3.0, self._profiles)]
        if self.improvements:
            parts += [(1.2 + 0.62 * len(self.improvements), self._improvements)]
        heights = [height for height, _ in parts]
        figure = Figure(figsize=(WIDE, sum(heights)), dpi=160, facecolor="white", layout=ConstrainedLayoutEngine(hspace=0.06))
        FigureCanvasAgg(figure)
        for axes, (_, draw) in zip(figure.subplots(len(parts), height_ratios=heights, squeeze=False)[:, 0], parts, strict=True):
            draw(axes)
        whole(file, lambda aside: figure.savefig(aside, format="png"))

    def _style(self, group: Group) -> dict[str, Any]:
        i = self.groups.index(group)
        return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}

    def _curves(self, axes: Axes) -> None:
        dress(axes, "environment steps", self.axis, whole=True)
        said = "interquartile mean, 95% interval" if any(g.seeds > 1 for g in self.groups) else "one seed each: no interval"
        entitle(axes, f"{brief(', '.join(self.envs))}\n{said}")
        for group in self.groups:
            middle, low, high = self.band(group)
            name = f"{brief(group.name)}  ({group.seeds})"
            marker: dict[str, Any] = {"marker": "o", "ms": 4 if len(self.steps) < 30 else 0, "lw": 2 if group.seeds > 1 else 1}
            axes.plot(self.steps, middle, label=name, **self._style(group), **marker)
            if low is not None and high is not None:
                axes.fill_between(self.steps, low, high, color=self._style(group)["color"], alpha=0.18, lw=0)
        axes.legend(
            frameon=False,
            fontsize=SIZE - 2,
            labelcolor=INK,
            loc="best",
            title="(number of seeds)",
            title_fontsize=SIZE - 2,
            alignment="left",
        )

    def _intervals(self, axes: Axes) -> None:
        entitle(axes, f"At step {self.steps[-1]:,}")
        lines: list[Bar] = []
        for group, row in zip(self.groups, self.table, strict=True):
            between, scores = row["interval95"], np.concatenate(self.scores[group.name])
            lines.append(
                (brief(group.name), self._style(group)["color"], row["iqm"] if between else None, between, scores.tolist())
            )
        bars(dress(axes, self.axis, ""), lines)

    def _profiles(self, axes: Axes) -> None:
        dress(axes, f"{self.axis}, τ", "share of runs > τ")
        entitle(axes, "Performance profile")
        every = np.concatenate([x for scores in self.scores.values() for x in scores])
        low, high = every.min(), every.max()
        edge = 0.05 * (high - low) or 1.0
        taus = np.linspace(low - edge, high + edge, 201)
        for group in (g for g in self.groups if g.seeds > 1):
            scores, style = self.scores[group.name], self._style(group)
            axes.plot(taus, profile(scores, taus), lw=1.8, **style)
            axes.fill_between(
                taus, *interval(lambda s: profile(s, taus), scores, draws=self.draws), color=style["color"], alpha=0.15, lw=0
            )
        axes.set_ylim(-0.02, 1.02)

    def _improvements(self, axes: Axes) -> None:
        entitle(axes, "Probability of improvement")
        lines: list[Bar] = [
            (f"{brief(r['group'], 21)} > {brief(r['other'], 21)}", COLOURS[0], r["probability"], r["interval95"], ())
            for r in self.improvements
        ]
        axes.axvline(0.5, color=MUTED, lw=1)
        bars(dress(axes, "P(X > Y)", ""), lines)
        axes.set_xlim(-0.02, 1.02)


# ---------------------------------------------------------------------------------------------------- from runs to groups


def compare(paths: Sequence[Path], normalise: str | None = None, draws: int = 2_000) -> Comparison:
    """Raises Fault where the runs cannot be compared: no common environment or step, one seed twice, a scale that is none."""
    runs = [run for run in map(read, find(paths)) if run.column("eval/return_mean")[0]]
    if not runs:
        raise Fault("no run that is named has an evaluation yet")
    groups = _groups(runs)
    notes = _edited(groups)
    envs = [e for e in dict.fromkeys(_env(r) for r in runs) if all(e in g.runs for g in groups)]
    if not envs:
        raise Fault(f"no environment has runs of every group: {'; '.join(f'{g.name} on ' + ', '.join(g.runs) for g in groups)}")
    if left := sorted({_env(r) for r in runs} - set(envs)):
        notes.append(f"left out, as not every group was run on it: {', '.join(left)}")
    used = [run for g in groups for e in envs for run in g.runs[e]]
    common = sorted(set.intersection(*(set(run.column("eval/return_mean")[0]) for run in used)))
    if not common:
        raise Fault("no step at which every run was evaluated; give them one --eval-every")
    if any(max(run.column("eval/return_mean")[0]) > common[-1] for run in used):
        notes.append(f"compared at step {common[-1]:,}, the last at which every run was evaluated")
    steps = [int(s) for s in common]
    if one := [g.name for g in groups if g.seeds == 1]:
        notes.append(f"one seed, so only the curve is shown and nothing can be concluded: {'; '.join(one)}")
    if few := [g.name for g in groups if 1 < g.seeds < FEW]:
        notes.append(f"fewer than {FEW} seeds, so the intervals are too narrow to be called 95%: {'; '.join(few)}")
    return Comparison(groups, envs, steps, _scale(used, envs, steps[-1], normalise, notes), notes, draws)


def _env(run: Run) -> str:
    return str(run.config["run"]["env"])


def _same(run: Run) -> str:
    """What makes two runs the same but for seed, length and environment, as text. An algorithm is the text of its file, wherever
    that lies; runs from before its digest was kept have the name alone."""
    about = run.config
    changes = [fields for c in about.get("changes", []) if (fields := {k: v for k, v in c["fields"].items() if k not in ASIDE})]
    more = [about.get(name) for name in ("data", "start", "schedule_updates")] + [about.get("own_parts", []), changes]
    return json.dumps([about.get("algo_sha256", about["algo"]), about["algo_config"], _learning(run), *more], sort_keys=True)


def _learning(run: Run) -> dict[str, Any]:
    """The options of `train` that bear on what is learnt, where they are not the default."""
    defaults = run.config.get("run_defaults", {"num_envs": 1})
    return {k: v for k, v in run.config["run"].items() if k not in ASIDE and v != defaults.get(k, v)}


def _groups(runs: Sequence[Run]) -> list[Group]:
    kinds: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        kinds.setdefault(_same(run), {}).setdefault(_env(run), []).append(run)
    for by_env in kinds.values():
        for same in by_env.values():
            seeds: dict[Any, Run] = {}
            for run in same:
                if twice := seeds.get(run.config["run"]["seed"]):
                    raise Fault(f"{twice.path} and {run.path} are one seed of one thing: name one of them")
                seeds[run.config["run"]["seed"]] = run
    named = [max(itertools.chain(*by_env.values()), key=lambda run: len(run.config["run"])) for by_env in kinds.values()]
    names = _names(named)  # by the newest of each: an older version may have had fewer options
    return [Group(name, by_env) for name, by_env in zip(names, kinds.values(), strict=True)]


def _names(runs: Sequence[Run]) -> list[str]:
    """The algorithm, and of several groups of one algorithm the settings in which they differ."""
    names = []
    for run in runs:
        others = [_settings(r) for r in runs if r.algo == run.algo]
        differ = {k: v for k, v in _settings(run).items() if any(other.get(k, v) != v for other in others)}
        names.append(", ".join([run.algo, *(f"{k}={v}" for k, v in differ.items() if v)]))
    return [n if names.count(n) == 1 else f"{n} #{names[:i].count(n) + 1}" for i, n in enumerate(names)]


def _settings(run: Run) -> dict[str, str]:
    about = run.config
    options = {k: v for k, v in about["run"].items() if k not in ASIDE}
    more = {"own": " ".join(about.get("own_parts", [])), "start": (about.get("start") or {}).get("run", "")}
    more["schedule_updates"] = about.get("schedule_updates", "")
    more["changed"] = ", ".join(f"{k}={v[1]} at {c['step']}" for c in about.get("changes", []) for k, v in c["fields"].items())
    values = about["algo_config"] | {"num_envs": 1, "data": None} | options | more
    return {k: "×".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in values.items()}


def _edited(groups: Sequence[Group]) -> list[str]:
    """A note for each algorithm whose file was not the same in all its runs."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in (run for group in groups for runs in group.runs.values() for run in runs):
        found.setdefault(run.algo, {}).setdefault(run.config.get("algo_sha256", ""), []).append(run)
    notes = []
    for algo, by_digest in found.items():
        if len(by_digest) > 1:
            texts = [f"{digest[:8] or 'not recorded'} in {_few(runs)}" for digest, runs in by_digest.items()]
            notes.append(
                f"the file of {algo} was not the same in all runs, so they are separate groups: sha256 {'; '.join(texts)}"
            )
    return notes


def _few(runs: Sequence[Run]) -> str:
    names = [run.path.name for run in runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scale(
    runs: Sequence[Run], envs: list[str], step: int, normalise: str | None, notes: list[str]
) -> dict[str, tuple[float, float]] | None:
    """The returns of score 0 and 1: none wanted, the lowest and highest of all runs at the step, or those of a JSON file."""
    if normalise is None and len(envs) == 1:
        return None
    if normalise in (None, "min-max"):
        scale = {}
        for env in envs:
            last = [dict(zip(*run.column("eval/return_mean"), strict=True))[step] for run in runs if _env(run) == env]
            if min(last) == max(last):
                raise Fault(f"normalise: every run on {env} has the same return, so min-max has no scale; give a file of scores")
            scale[env] = min(last), max(last)
        notes.append("normalised by min-max: 0 is the lowest and 1 the highest return of these runs, on each environment")
        return scale
    assert normalise is not None
    try:
        given = json.loads(Path(normalise).read_text(encoding="utf-8"))
        scale = {env: (float(given[env][0]), float(given[env][1])) for env in envs}
    except FileNotFoundError:
        raise Fault(f"normalise is {normalise!r}; allowed: min-max, or a JSON file {{environment: [score 0, score 1]}}") from None
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise Fault(f"normalise: {normalise} has no [score 0, score 1] for {error}") from None
    if bad := [e for e, (low, high) in scale.items() if not (math.isfinite(low) and math.isfinite(high) and low < high)]:
        raise Fault(f"normalise: {normalise}: the scores of {bad[0]} are not two numbers, the lower one first")
    notes.append(f"normalised by {normalise}: " + ", ".join(f"{e} 0 is {a:g}, 1 is {b:g}" for e, (a, b) in scale.items()))
    return scale
