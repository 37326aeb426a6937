"""A run that begins, and one that goes on: what is checked before, what is written of it, and what may change."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from thespis import config, envs, language
from thespis.algorithms import Algorithm, algorithm, digest, part_names, tell_images, tell_mask
from thespis.core import Fault, Learner, OffPolicy
from thespis.data import Dataset, Offline, Source, dataset, updates
from thespis.directory import (
    Env,
    Result,
    begun_with,
    clear,
    configured,
    describe,
    free,
    given_parts,
    open_run,
    path_of,
    place,
    quietly,
    steps_done,
    title,
    world_of,
)  # fmt: skip
from thespis.engine import checkpoint, contexts, fetch, loop, team
from thespis.engine import start as beginning
from thespis.engine.around import seen
from thespis.engine.callbacks import Callback, checked
from thespis.engine.lock import alone
from thespis.engine.run import FIXED, WATCHING, Run
from thespis.envs.flat import describe_error
from thespis.learner import ready, schedule_updates_of, side_by_side


def train(
    algo: str | Path = "sac",
    env: Env | None = None,
    *,
    data: Source | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    start_from: str | Path | Result | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    panel: bool | None = None,
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Trains an agent and leaves a run directory (default: runs/ALGO-ENV-SEED).

    `env` is a Gymnasium id, a callable that makes an environment, or one (default: the one of `data`, or HalfCheetah-v5).
    `data` is a dataset: the id or folder of one in Minari's format, a file of columns, or arrays by these columns' names, as
    data/columns.py has them. With `overwrite` a run that is in OUT already is deleted. `start_from` is a run, or hf://owner/name,
    whose networks this one begins with. `callback` is called with each row of metrics and can end the run (or a list of such;
    docs/python.md). `quiet` prints nothing. `options` are the fields of Run (steps, seed, num_envs, ...), of
    the algorithm's Config (lr, tau, ...), and the parts that its `make` takes (actor, critic). Raises Fault, in one line, for
    what you can mend.
    """
    if panel not in (None, True, False):
        raise Fault(f"panel is {panel!r}; allowed: True, False or None")
    found = algorithm(algo)
    _name_env_args(options)
    if language.writes(found):
        return language.train(found, env, data, out, overwrite, start_from, callback, panel, quiet, options)
    world = world_of(env, data, options.get("env_args", ()), options.get("wrappers", ()))
    parts = {k: options.pop(k) for k in part_names(found) if k in options}
    arrays = data if isinstance(data, Mapping) else None
    named = {} if data is None or arrays is not None else {"data": str(data)}
    run, cfg = configure(found, world, options | named)
    own_env = env is not None and not isinstance(env, str)
    given = found, cfg, run, world, out, parts, panel, own_env, arrays
    with quietly(quiet):
        return start(*given, overwrite=overwrite, start_from=start_from, callbacks=checked(callback))


def _name_env_args(options: dict[str, Any]) -> None:
    """The environment's arguments and the weights of its rewards, a dictionary each, as `Run` has them, in place."""
    if isinstance(args := options.get("env_args"), dict):
        options["env_args"] = tuple(f"{name}={json.dumps(value)}" for name, value in args.items())
    if isinstance(options.get("wrappers"), str):
        options["wrappers"] = (options["wrappers"],)
    if isinstance(weights := options.get("weights"), Mapping):
        options["weights"] = tuple(f"{name}={value}" for name, value in weights.items())
    elif weights is not None:
        options["weights"] = (weights,) if isinstance(weights, str) else tuple(map(str, weights))


def configure(
    algo: Algorithm, world: envs.World, options: dict[str, Any], run: Run | None = None, cfg: Any = None
) -> tuple[Run, Any]:
    """`configured`, where `run` and `cfg` may be those by default."""
    usual = algo.config if cfg is None else cfg
    return configured(algo, run or Run(), usual, options | {"env": world.name})


def start(
    algo: Algorithm, cfg: Any, run: Run, world: envs.World, out: str | Path | None, parts: dict[str, Any],
    panel: bool | None = None, own_env: bool = False, arrays: Mapping[str, Any] | None = None, *, overwrite: bool = False,
    start_from: str | Path | Result | None = None, callbacks: Sequence[Callback] = (),
) -> Result:  # fmt: skip
    """A new run directory, and the training in it."""
    run, world = dataclasses.replace(run, env=world.name), envs.weighted(world, run.weights)
    source = run.data if arrays is None else arrays
    learner = ready(algo, cfg, run, world, parts, source)  # every fault of the input is told before anything is written
    run = side_by_side(learner, algo.name, run)
    if getattr(cfg, "warmup", 0) is None and isinstance(feed := learner.experience, OffPolicy):
        cfg = dataclasses.replace(cfg, warmup=min(feed.warmup, run.steps // 100))  # a short run does not spend itself at random
        learner = dataclasses.replace(learner, experience=dataclasses.replace(feed, warmup=cfg.warmup))
    tell_mask(algo, world)
    tell_images(algo, world, parts)
    data = _dataset(source, world, learner)
    if run.data and not (kept := dataset.find(run.data)).is_relative_to(dataset.root()):
        run = dataclasses.replace(run, data=str(kept.resolve()))  # a folder is found again from anywhere
    begin = None if start_from is None else _begin(learner, start_from)
    label = re.sub(r"[^\w.-]+", "-", f"{Path(algo.name).stem}-{world.name}-{run.seed}")
    folder = Path("runs") / label if out in (None, "") else place(out)
    leads = team.rank() == 0
    if leads:
        free(folder, overwrite)
    about = describe(algo, cfg, run, world, sorted(parts), own_env, data, arrays is not None)
    about |= {"clock": "updates"} if isinstance(learner.experience, Offline) else {}
    if count := schedule_updates_of(cfg, learner, run):
        about["schedule_updates"] = count
    if begin:
        about["start"] = begun_with(start_from or "", begin)
    if not leads:
        return _train(learner, world, run, folder, about, False, panel, data, begin=begin, callbacks=callbacks)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        clear(folder)
        try:
            checkpoint.write_json(folder / "config.json", about)
            return _train(learner, world, run, folder, about, False, panel, data, begin=begin, callbacks=callbacks)
        except Fault:
            if not checkpoint.has_saved(folder) and not steps_done(folder):  # it never began: the same command may be given again
                shutil.rmtree(folder) if made else clear(folder)
                (folder / ".lock").unlink(missing_ok=True)
            raise


def _begin(learner: Learner, path: str | Path | Result) -> beginning.Start:
    """What a run is to begin with. Raises Fault where it does not fit the learner."""
    begin = beginning.read(path_of(fetch.local(path)))
    with torch.random.fork_rng(devices=[]):
        begin.graft(learner, learner.init())
    return begin


def resume(
    path: str | Path | Result,
    steps: int | None = None,
    *,
    env: Env | None = None,
    data: Mapping[str, Any] | None = None,
    algo: str | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    panel: bool | None = None,
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Continues a run from its newest checkpoint, to `steps` in all (default: as many as it was started for).

    `options` are those of `train` that are to be other than before, and the parts of one's own again; docs/runs.md says what
    may change. `data`: the arrays again, where it learns from some. `callback`: as `train` has it; a run that one has ended goes
    on only with another option or with a callback.
    """
    folder, callbacks = path_of(path), checked(callback)
    _name_env_args(options)
    if language.is_written(folder):
        return language.resume(folder, steps, env=env, panel=panel, quiet=quiet, **options)
    about, found, cfg, run, world = open_run(folder, env, algo, options.get("env_args"), options.get("wrappers"))
    checkpoint.no_links(folder)
    parts = {k: options.pop(k) for k in (*about["own_parts"], *part_names(found)) if k in options}
    before, old_run, old_cfg = json.loads(json.dumps(about)), run, cfg
    if steps is not None:
        options["steps"] = steps
    run, cfg = configure(found, world, options, run, cfg)
    if alien := [f"{k} is {v!r}" for k, v in config.functions(type(cfg), vars(cfg)).items() if k not in options]:
        raise Fault(f"{alien[0]}, which is code that {folder} names: name it again, as --{alien[0].split()[0]} or in Python")
    if (about.get("own_data") is True) != (data is not None):
        what = "was given arrays for data" if data is None else "was given none"
        raise Fault(f"data: {folder} {what}; give {'them again, from Python' if data is None else 'none'}")
    source, parts = run.data if data is None else data, given_parts(found, about, parts)
    fields = _changed(about, found, old_run, run, cfg)
    if any(isinstance(getattr(cfg, name, None), config.Schedule) for name in fields):
        about.pop("schedule_updates", None)
    learner = ready(found, cfg, run, world, parts, source, about.get("schedule_updates"))
    tell_mask(found, world)
    rows = _dataset(source, world, learner)
    if rows and rows.digest() != about.get("data"):
        raise Fault(f"data: {run.data or 'it'} has changed since {folder} began; the run can only go on with what it began with")
    with alone(folder) if team.rank() == 0 else nullcontext(), quietly(quiet):
        done = [int(c.name) for c in checkpoint.checkpoints(folder)]
        if steps and done and done[-1] > steps:
            raise Fault(f"steps is {steps}; {folder} has done {done[-1]} already")
        at, notes, begin = done[-1] if done else 0, list[str](), None
        if cfg != old_cfg and done:
            old = found.module.make(config.over(old_cfg, 1), seen(world.spec, run), **parts).experience
            counts = [updates(feed, at, run.num_envs) for feed in (old, learner.experience)]
            if counts[0] != counts[1] and not isinstance(learner.experience, Offline):
                raise Fault(
                    f"{', '.join(fields)}: {folder} has made {counts[0]:,} updates by step {at:,}, and this would have been"
                    f" {counts[1]:,}; it cannot change on the way: begin a new run with --start-from {folder} (start_from=)"
                )
        if fields:
            about["changes"] = [*about.get("changes", []), {"step": at, "fields": fields}]
            words = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in fields.items())
            notes.append(f"{words}: from step {at:,} on it is another run than the one that began here")
        about["algo_config"] = config.to_json(cfg)
        about["run"] |= {k: v for k, v in config.to_json(run).items() if k in options or k == "env"}
        if env is not None and run.env != old_run.env:
            about["own_env"] = not isinstance(env, str)
            about["title"] = title(found, world.name, run.seed)
        if (count := schedule_updates_of(cfg, learner, run)) and "schedule_updates" not in about:
            about["schedule_updates"] = count
        if not checkpoint.has_saved(folder) and isinstance(start_from := about.get("start"), dict):
            begin = _begin(learner, str(start_from.get("run")))
        if about != before and team.rank() == 0:
            checkpoint.write_json(folder / "config.json", about)
        if (run != old_run or cfg != old_cfg or callbacks) and done and team.rank() == 0:
            with suppress(Fault):  # a damaged one is told when it is read
                checkpoint.amend(checkpoint.checkpoints(folder)[-1], lambda meta: meta["progress"].update(ended=None))
        try:
            return _train(learner, world, run, folder, about, True, panel, rows, notes, begin, callbacks)
        except Fault:
            if about != before and team.rank() == 0 and done == [int(c.name) for c in checkpoint.checkpoints(folder)]:
                checkpoint.write_json(folder / "config.json", before)  # as what did not fit: it goes on as it was
            raise


def _changed(about: dict[str, Any], algo: Algorithm, old: Run, run: Run, cfg: Any) -> dict[str, list[Any]]:
    """What is other than before and bears on what is learnt, {name: [old, new]}. Raises Fault over what cannot change."""
    found = {}
    for names, was, now in ("run", config.to_json(old), config.to_json(run)), ("", about["algo_config"], config.to_json(cfg)):
        for name in now:
            if now[name] == was.get(name, now[name]) or (names and name in WATCHING):
                continue
            if names and name == "env" and str(now[name]).rpartition(":")[2] == str(was[name]).rpartition(":")[2]:
                continue  # the same id, with or without the module that registers it
            if names and name in FIXED:
                raise Fault(
                    f"{name} is {now[name]!r} and was {was[name]!r}; a run cannot change it: begin another with --start-from"
                    " (start_from=)"
                )
            found[name] = [was[name], now[name]]
    if about.get("algo_sha256", digest(algo)) != digest(algo):
        found["algo_sha256"] = [about["algo_sha256"], digest(algo)]
        about["algo_sha256"] = digest(algo)
    return found


def _dataset(source: Source | None, world: envs.World, learner: Learner) -> Dataset | None:
    levels = learner.given is not None and world.spec.context > 0
    if source is None and world.recorded and (levels or isinstance(learner.experience, Offline)):
        source = world.recorded()
    if source is None:
        return None
    spaces = world.observation_space, world.action_space
    return dataset.read(source, *spaces, envs.spaces.flatten, envs.spaces.unscale_action).weighted(world.rewards, world.weights)


def _train(
    learner: Learner, world: envs.World, run: Run, folder: Path, about: dict[str, Any], resuming: bool, panel: bool | None,
    data: Dataset | None, notes: Sequence[str] = (), begin: beginning.Start | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:  # fmt: skip
    world = contexts.world_of(learner, world, run, about["algo"], data)
    about = {k: v for k, v in about.items() if k != "origin"}  # what goes on to policies and sinks does not name this machine
    given = learner, world, run, folder, about, resuming, panel, data, notes, begin, callbacks
    if team.rank() > 0:
        stopped = loop.train(*given)
        return Result(folder, stopped is None, None, stopped)
    try:
        stopped = loop.train(*given)
    except BaseException:
        with suppress(Fault):  # what stopped it is what must be told
            if (folder / "metrics.jsonl").exists():
                _draw(folder)
        raise
    _draw(folder)
    last = checkpoint.read_json(folder / "policy" / "last.json")
    return Result(folder, stopped is None, last["return_mean"], stopped or last.get("ended"))


def _draw(folder: Path) -> None:
    """The run's pictures, from what it has written."""
    from thespis.report import curve, page  # here, as matplotlib would delay the start of a run

    curve.curve(folder)
    try:
        page.page([folder])
    except Exception as error:  # what was learnt matters more
        print(f"{folder / 'report'}: not drawn, as {describe_error(error)}", file=sys.stderr)
