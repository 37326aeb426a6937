"""Thespis from Python: train, resume, evaluate, report, compare, load, algorithms."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import thespis
from thespis import config, envs
from thespis.algorithms import Algorithm, algorithm, algorithms, fitting, header, part_names
from thespis.core import Fault, Learner, OffPolicy
from thespis.data import Dataset, Offline, OnPolicy, Source, dataset, offline, updates
from thespis.directory import Env, Result, given_parts, open_run, path_of, same_spaces, world_of
from thespis.engine import checkpoint, fetch, loop, memory, team
from thespis.engine import evaluate as evaluation
from thespis.engine.act import Actor
from thespis.engine.film import record
from thespis.engine.lock import alone
from thespis.engine.normalise import normalised
from thespis.engine.progress import Progress
from thespis.engine.run import Run
from thespis.envs.flat import describe_error
from thespis.policy import Policy, gathered, load

__all__ = [
    "Algorithm", "Env", "Policy", "Result", "algorithm", "algorithms", "compare", "configure", "describe", "evaluate", "header",
    "load", "open_run", "path_of", "ready", "report", "resume", "start", "train", "world_of",
]  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- training


def train(
    algo: str | Path = "sac",
    env: Env | None = None,
    *,
    data: Source | None = None,
    out: str | Path | None = None,
    panel: bool | None = None,
    **options: Any,
) -> Result:
    """Trains an agent and leaves a run directory (default: runs/ALGO-ENV-SEED).

    `env` is a Gymnasium id, a callable that makes an environment, or one (default: the one of `data`, or HalfCheetah-v5).
    `data` is a dataset: the id or folder of one in Minari's format, a file of columns, or arrays by these columns' names, as
    data/columns.py has them. `options` are the fields of Run (steps, seed, num_envs, ...), of the algorithm's Config (lr, tau,
    ...), and the parts that its `make` takes (actor, critic). Raises Fault, in one line, for what you can mend.
    """
    found = algorithm(algo)
    if isinstance(args := options.get("env_args"), dict):
        options["env_args"] = tuple(f"{name}={json.dumps(value)}" for name, value in args.items())
    world = world_of(env, data, options.get("env_args", ()))
    parts = {k: options.pop(k) for k in part_names(found) if k in options}
    arrays = data if isinstance(data, Mapping) else None
    named = {} if data is None or arrays is not None else {"data": str(data)}
    run, cfg = configure(found, world, options | named)
    return start(found, cfg, run, world, out, parts, panel, env is not None and not isinstance(env, str), arrays)


def configure(algo: Algorithm, world: envs.World, options: dict[str, Any]) -> tuple[Run, Any]:
    """The run and the Config that the names of `options` belong to. Raises Fault on an unknown name or a wrong value."""
    runs, fields = ({f.name for f in dataclasses.fields(c)} for c in (Run, algo.module.Config))
    for name in options:
        if name not in runs | fields:
            raise Fault(f"{name} is not an option of {algo.name}{config.near(name, runs | fields)}")
    run = config.build(Run, {k: v for k, v in options.items() if k in runs - fields} | {"env": world.name})
    return run, config.check(dataclasses.replace(algo.config, **{k: v for k, v in options.items() if k in fields}))


def start(
    algo: Algorithm,
    cfg: Any,
    run: Run,
    world: envs.World,
    out: str | Path | None,
    parts: dict[str, Any],
    panel: bool | None = None,
    own_env: bool = False,
    arrays: Mapping[str, Any] | None = None,
) -> Result:
    """A new run directory, and the training in it."""
    run = dataclasses.replace(run, env=world.name)
    source = run.data if arrays is None else arrays
    learner = ready(algo, cfg, run, world, parts, source)  # every fault of the input is told before anything is written
    data = _dataset(source, world)
    if run.data and not (place := dataset.find(run.data)).is_relative_to(dataset.root()):
        run = dataclasses.replace(run, data=str(place.resolve()))  # a folder is found again from anywhere
    label = re.sub(r"[^\w.-]+", "-", f"{Path(algo.name).stem}-{world.name}-{run.seed}")
    folder = Path(out).expanduser() if out else Path("runs") / label
    if team.rank() == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Fault(f"out: {folder} exists; continue it with 'thespis resume {folder}', or give another with --out")
    about = describe(algo, cfg, run, world, sorted(parts), own_env, data, arrays is not None)
    about |= {"clock": "updates"} if isinstance(learner.experience, Offline) else {}
    if count := _schedule_updates(cfg, learner, run):
        about["schedule_updates"] = count
    if team.rank() > 0:
        return _train(learner, world, run, folder, about, False, panel, data)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            checkpoint.write_json(folder / "config.json", about)
            return _train(learner, world, run, folder, about, False, panel, data)
        except Fault:
            if not checkpoint.has_saved(folder) and not _steps(folder):
                for path in [folder] if made else folder.iterdir():  # it never began: the same command may be given again
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise


def _steps(folder: Path) -> int:
    """Of the newest row of metrics that a run has written."""
    from thespis.report import curve

    return max((row["step"] for row in curve.rows(folder)), default=0) if (folder / "metrics.jsonl").exists() else 0


def ready(
    algo: Algorithm, cfg: Any, run: Run, world: envs.World, parts: dict[str, Any], source: Source | None = None,
    schedule_updates: int | None = None,
) -> Learner:  # fmt: skip
    """The learner, whose schedules go over so many updates unless they say otherwise; None: over those of the run.

    Raises Fault for what algorithm, configuration, run and environment cannot be together.
    """
    _check_device(run.device)
    if run.ray_address and not run.collectors:
        raise Fault(f"ray_address is {run.ray_address!r}; it says where collectors are: give collectors too")
    try:
        learner = algo.module.make(cfg, world.spec, **parts)
    except Fault as fault:
        if algo.family == "own" or algo.name in fitting(world.spec):
            raise
        raise Fault(f"{fault}; 'thespis list --for {world.name}' names the algorithms that fit") from None
    if run.offline and isinstance(learner.experience, OffPolicy):
        learner = dataclasses.replace(learner, experience=offline(learner.experience))
    if isinstance(learner.experience, Offline):
        if source is None:
            raise Fault(f"data: {algo.name} learns from recorded data here: name a dataset with data")
        others = {"collectors": run.collectors, "num_envs": run.num_envs > 1, "torchrun's learners": team.many()}
        if name := next((name for name, value in others.items() if value), None):
            raise Fault(f"{name}: a run that learns from data alone takes no steps, and has one learner; leave it out")
    elif run.offline:
        raise Fault(f"offline: {algo.name} is on-policy, and cannot learn from data alone; take an off-policy algorithm")
    elif not world.simulated:
        raise Fault(f"env: {algo.name} takes steps, and {world.name} is recorded data: name an environment, or give offline")
    if isinstance(learner.experience, OnPolicy):
        taken = source is not None and learner.given is None
        others = {"data": taken, "collectors": run.collectors, "torchrun's learners": team.many()}
        if name := next((name for name, value in others.items() if value), None):
            raise Fault(
                f"{name}: an on-policy algorithm learns from its own newest steps; leave it out, or take an off-policy one"
            )
    if run.data is not None:
        dataset.find(run.data)
    memory.check_experience(learner, world.spec, run)
    widths = {f: n if isinstance(n, tuple) else (n,) for f, n in vars(cfg).items() if "hidden" in f and n}
    if large := {f: n for f, n in widths.items() if max(n) >= 5_000}:
        memory.check_networks(learner, run.device, ", ".join(f"{f} is {n}" for f, n in large.items()))
    if count := schedule_updates or _schedule_updates(cfg, learner, run):
        made = algo.module.make(config.over(cfg, count), world.spec, **parts)
        learner = dataclasses.replace(made, experience=learner.experience)
    return normalised(learner, algo.name, world.spec, run)


def _schedule_updates(cfg: Any, learner: Learner, run: Run) -> int | None:
    """The updates that schedules without a number of their own go over: those of the run, or from one reset of State to the
    next. None: there are no such schedules."""
    if config.over(cfg, 1) == cfg:
        return None
    feed = learner.experience
    count = updates(feed, run.steps, run.num_envs) + (feed.pretrain if run.data else 0)
    return max(min(count, feed.reset_every or count), 1)


def describe(
    algo: Algorithm, cfg: Any, run: Run, world: envs.World, own_parts: Sequence[str] = (), own_env: bool = False,
    data: Dataset | None = None, own_data: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What config.json says of a run."""
    return {
        "title": f"{algo.name} on {world.name}, seed {run.seed}",
        "algo": algo.name,
        "algo_config": config.to_json(cfg),
        "algo_defaults": config.to_json(algo.config),
        "run": config.to_json(run),
        "own_parts": list(own_parts),
        "own_env": own_env,
        "no_env": not world.simulated,
        "own_data": own_data,
        "data": data and data.digest(),
        "observation_space": envs.spaces_json.to_json(world.observation_space),
        "action_space": envs.spaces_json.to_json(world.action_space),
        "thespis": thespis.__version__,
    }


def resume(
    path: str | Path | Result,
    steps: int | None = None,
    *,
    max_hours: float | None = None,
    ray_address: str | None = None,
    env: Env | None = None,
    data: Mapping[str, Any] | None = None,
    algo: str | None = None,
    panel: bool | None = None,
    **parts: Any,
) -> Result:
    """Continues a run from its newest checkpoint, to `steps` in all (default: as many as it was started for), for `max_hours` at
    most. Its collectors join the Ray cluster at `ray_address` from now on (default of both: as before). `data`: the arrays
    again, where it learns from some."""
    folder = path_of(path)
    about, found, cfg, run, world = open_run(folder, env, algo)
    checkpoint.no_links(folder)
    given = {"steps": steps, "max_hours": max_hours, "ray_address": ray_address}
    changed: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    run = config.check(dataclasses.replace(run, **changed))
    if (about.get("own_data") is True) != (data is not None):
        what = "was given arrays for data" if data is None else "was given none"
        raise Fault(f"data: {folder} {what}; give {'them again, from Python' if data is None else 'none'}")
    source = run.data if data is None else data
    learner = ready(found, cfg, run, world, given_parts(found, about, parts), source, about.get("schedule_updates"))
    rows = _dataset(source, world)
    if rows and rows.digest() != about.get("data"):
        raise Fault(f"data: {run.data or 'it'} has changed since {folder} began; the run can only go on with what it began with")
    with alone(folder) if team.rank() == 0 else nullcontext():
        if steps and (done := [int(c.name) for c in checkpoint.checkpoints(folder) if int(c.name) > steps]):
            raise Fault(f"steps is {steps}; {folder} has done {done[-1]} already")
        about["run"] |= changed
        if changed and team.rank() == 0:
            checkpoint.write_json(folder / "config.json", about)
        return _train(learner, world, run, folder, about, True, panel, rows)


def _dataset(source: Source | None, world: envs.World) -> Dataset | None:
    if source is None:
        return None
    spaces = world.observation_space, world.action_space
    return dataset.read(source, *spaces, envs.spaces.flatten, envs.spaces.unscale_action)


def _train(
    learner: Learner, world: envs.World, run: Run, folder: Path, about: dict[str, Any], resuming: bool, panel: bool | None,
    data: Dataset | None,
) -> Result:  # fmt: skip
    if team.rank() > 0:
        stopped = loop.train(learner, world, run, folder, about, resuming, panel, data)
        return Result(folder, stopped is None, None, stopped)
    try:
        stopped = loop.train(learner, world, run, folder, about, resuming, panel, data)
    except BaseException:
        with suppress(Fault):  # what stopped it is what must be told
            if (folder / "metrics.jsonl").exists():
                _draw(folder)
        raise
    _draw(folder)
    last = checkpoint.read_json(folder / "policy" / "last.json")
    return Result(folder, stopped is None, last["return_mean"], stopped)


def _draw(folder: Path) -> None:
    """The run's pictures, from what it has written."""
    from thespis.report import curve, page  # here, as matplotlib would delay the start of a run

    curve.curve(folder)
    try:
        page.page([folder])
    except Exception as error:  # what was learnt matters more
        print(f"{folder / 'report'}: not drawn, as {describe_error(error)}", file=sys.stderr)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise Fault(f"device is {device!r}: {str(error).splitlines()[0].partition('. ')[0]}") from None


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
    env: Env | None = None, algo: str | None = None, **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Whole episodes with the mean action: {"mean_return", "std_return", "returns", "mean_length", "cut", "info", "step",
    "every"}; and with `video` the paths of "stills" and, where imageio-ffmpeg is installed, of a "video".

    With `explore` actions are sampled as in training. An episode of more than `steps` steps is "cut" (default: as in the run's
    evaluations). With `every` the policy sees a new observation only every so many steps. In between it goes on with the
    sequence that it planned (srl) or, if it has no memory, repeats its action. "info" has the mean of each number that the
    environment says in `info` at an episode's last step.
    """
    config.check(_Episodes(episodes, seed, every, steps))
    if video and fetch.named(path):
        raise Fault(f"video: it would be part of a run directory; bring the policy into one first: thespis load {path} --out DIR")
    folder = path_of(fetch.local(path))
    policy = load(folder, which, algo=algo, **parts)
    *_, run, world = open_run(folder, env, algo)
    same_spaces(world, policy.about, f"{folder}'s policy")
    seed = config.build(Run, policy.about["run"]).seed + 1_000_000 if seed is None else seed

    step, film = policy.about["step"], {}
    kind, longest = evaluation.kind(world, run), steps or run.eval_steps
    evaluator = evaluation.Evaluator(world, episodes, seed, run.env_timeout, kind=kind, longest=longest)
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
            film = record(world, acting(1), folder / "videos", name, evaluator.seeds[0], evaluator.longest, carried)
        result = evaluator(acting(episodes))
    finally:
        evaluator.close()
    out = {"mean_return": result["return_mean"], "std_return": result["return_std"], "returns": result["returns"]}
    out |= {"mean_length": result["length_mean"], "cut": result["cut"], "info": Progress().means(result["infos"])}
    return out | {"step": step, "every": every} | film


# -------------------------------------------------------------------------------------------------------------- looking


def report(
    *runs: str | Path | Result,
    out: str | Path | None = None,
    video: bool = False,
    env: Env | None = None,
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
                evaluate(folder, 1, which=which, video=True, env=env, algo=algo)
    file = page.page(folders, None if out is None else Path(out).expanduser())
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
    folder = Path(out).expanduser() if out else (first.parent if (first / "config.json").exists() else first) / "compare"
    words = found.json()
    folder.mkdir(parents=True, exist_ok=True)
    found.picture(folder / "compare.png")
    found.csv(folder / "compare.csv")
    return words | {"picture": str(folder / "compare.png"), "csv": str(folder / "compare.csv")}
