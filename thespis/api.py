"""Thespis from Python: train, resume, evaluate, report, compare, load, algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

import thespis
from thespis import config, language
from thespis.algorithms import Algorithm, algorithm, algorithms, header
from thespis.core import Fault
from thespis.directory import Env, Result, describe, open_run, path_of, place, same_spaces, world_of
from thespis.engine import evaluate as evaluation
from thespis.engine import fetch, team
from thespis.engine.act import Actor
from thespis.engine.film import record
from thespis.engine.progress import Progress
from thespis.engine.run import Run
from thespis.envs import vector
from thespis.envs.contexts import widened
from thespis.learner import ready
from thespis.policy import Policy, gathered, load
from thespis.training import configure, quietly, resume, start, train

__all__ = [
    "Algorithm", "Env", "Policy", "Result", "algorithm", "algorithms", "compare", "configure", "describe", "evaluate", "header",
    "load", "open_run", "path_of", "quietly", "ready", "report", "resume", "start", "team", "thespis", "train", "world_of",
]  # fmt: skip

# ----------------------------------------------------------------------------------------------------------- evaluating


@dataclass(frozen=True)
class _Episodes:
    episodes: config.Count
    seed: config.Natural | None
    every: config.Count
    steps: config.Count | None


def evaluate(
    path: str | Path | Result, episodes: int = 10, seed: int | None = None, *,
    every: int = 1, explore: bool = False, steps: int | None = None, which: str = "last", video: bool = False,
    render: Literal["human"] | None = None, env: Env | None = None, wrappers: Sequence[str] | None = None,
    algo: str | None = None, **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Whole episodes with the mean action: {"mean_return", "std_return", "returns", "mean_length", "cut", "info", "step",
    "every"}; and with `video` the paths of "stills" and, where imageio-ffmpeg is installed, of a "video".

    With `explore` actions are sampled as in training. An episode of more than `steps` steps is "cut" (default: as in the run's
    evaluations). With `every` the policy sees a new observation only every so many steps. In between it goes on with the
    sequence that it planned (srl) or, if it has no memory, repeats its action. "info" has the mean of each number that the
    environment says in `info` at an episode's last step. Of several rewards, a return is their weighted sum, or their sum
    without weights, and "mean_returns" has the mean of each by name. With `render="human"` the episodes are shown in a window,
    one by one. `wrappers` are the run's own again, where they are code of yours.
    """
    if render not in (None, "human"):
        raise Fault(f"render is {render!r}; allowed: 'human'")
    config.check(_Episodes(episodes, seed, every, steps))
    if video and fetch.named(path):
        raise Fault(f"video: it would be part of a run directory; bring the policy into one first: thespis load {path} --out DIR")
    folder = path_of(fetch.local(path))
    if language.is_written(folder):
        return language.evaluate(folder, episodes, seed, explore=explore, which=which, env=env)
    policy = load(folder, which, algo=algo, **parts)
    *_, run, world = open_run(folder, env, algo, None, wrappers)
    same_spaces(world, policy.about, f"{folder}'s policy")
    seed = config.build(Run, policy.about["run"]).seed + 1_000_000 if seed is None else seed

    step, film, about = policy.about["step"], {}, policy.contexts
    if about is not None:
        world, about = widened(world, about.shape[1]), np.resize(about, (episodes, about.shape[1]))
    kind, longest = evaluation.kind(world, run), steps or run.eval_steps
    window = vector(replace(world, make=partial(world.make, "human"), batch=None), 1) if render else None
    evaluator = evaluation.Evaluator(world, episodes, seed, run.env_timeout, kind=kind, longest=longest, envs=window)
    carried, learner = gathered(policy.about, folder / "policy" / f"{which}.json"), policy.learner
    if evaluator.envs.gathered()[0].keys() == carried.keys() != set():  # the wrappers that training had: they do it again
        evaluator.envs.use([carried] * evaluator.envs.num_envs, frozen=True)
        learner = policy.unnormalised or learner

    def acting(count: int) -> evaluation.Act:
        actor = Actor(learner, count, every)
        return lambda obs, rows: actor(policy.params, obs, explore, rows)

    try:
        if video:  # first: where nothing can be drawn, that is told at once
            name = f"step-{step:09d}-{which}"
            film = record(world, acting(1), folder / "videos", name, evaluator.seeds[0], evaluator.longest, carried, about)
        result = evaluator(acting(episodes), contexts=about)
    finally:
        evaluator.close()
        if window:
            window.close()
    out = {"mean_return": result["return_mean"], "std_return": result["return_std"], "returns": result["returns"]}
    out |= {"mean_length": result["length_mean"], "cut": result["cut"], "info": Progress().means(result["infos"])}
    if rewards := {name.removeprefix("return/"): x for name, x in result.items() if name.startswith("return/")}:
        out["mean_returns"] = rewards
    return out | {"step": step, "every": every} | film


# -------------------------------------------------------------------------------------------------------------- looking


def report(
    *runs: str | Path | Result,
    out: str | Path | None = None,
    video: bool = False,
    env: Env | None = None,
    wrappers: Sequence[str] | None = None,
    algo: str | None = None,
) -> Path:
    """One HTML page of a run, or of several overlaid, and each of its pictures as PNG beside it; returns the page.

    OUT is RUN/report for one run and the folder `report` beside the first of several. `video` records an episode with the first
    policy and one with the last, to RUN/videos, where they stand on every later page of the run.
    """
    from thespis.report import page

    if not runs:
        raise Fault("report: no run is named")
    folders = [path_of(r) for r in runs]
    for folder in folders if video else ():
        for which in ("first", "last"):
            if (folder / "policy" / f"{which}.json").exists():
                evaluate(folder, 1, which=which, video=True, env=env, wrappers=wrappers, algo=algo)
    file = page.page(folders, None if out is None else place(out))
    page.pngs(folders, file.parent)
    return file


def compare(*runs: str | Path | Result, normalise: str | None = None, out: str | Path | None = None) -> dict[str, Any]:
    """Groups of seeds side by side: {"groups", "improvement", "notes", ..., "picture", "csv"}; see docs/report.md.

    `runs` are run directories or folders that hold some. `normalise` is "min-max" or a JSON file of {environment: [score 0,
    score 1]}; None is returns on one environment and min-max on several. OUT is the folder `compare` in the folder named, or
    beside the first run named.
    """
    from thespis.report import compare as comparison

    if not runs:
        raise Fault("compare: no run is named")
    folders = [path_of(r) for r in runs]
    found = comparison.compare(folders, normalise)
    first = folders[0].resolve()
    folder = place(out) if out else (first.parent if (first / "config.json").exists() else first) / "compare"
    words = found.json()
    folder.mkdir(parents=True, exist_ok=True)
    found.picture(folder / "compare.png")
    found.csv(folder / "compare.csv")
    return words | {"picture": str(folder / "compare.png"), "csv": str(folder / "compare.csv")}
