"""What a run directory says of itself, and which algorithm, settings and environment it was made with."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym

import thespis
from thespis import config, envs
from thespis.algorithms import Algorithm, algorithm, digest, part_names
from thespis.core import Fault
from thespis.data import Dataset, Source, dataset
from thespis.engine import checkpoint, fetch
from thespis.engine.language_run import LanguageRun
from thespis.engine.origin import origin
from thespis.engine.run import Run
from thespis.engine.start import Start

R = TypeVar("R", Run, LanguageRun)
Env = str | gym.Env | Callable[[], gym.Env]
USUAL = "HalfCheetah-v5"


@dataclass(frozen=True)
class Result:
    """What `train` and `resume` return: where the run is, and how it ended."""

    path: Path
    """the run directory"""
    finished: bool
    """False where it is to go on: a signal or the clock stopped it before its last step"""
    return_mean: float | None
    """mean return of the last evaluation; None before the first, and in a process that does not lead (torchrun)"""
    stopped: str | None = None
    """why, where it was stopped: "signal", "max_hours", or in words what `stop_at` or a callback ended it for"""

    def metrics(self) -> dict[str, list[Any]]:
        """metrics.jsonl by columns, with one entry for each step: "step" and every name; None where a step has no such value.
        pandas.DataFrame takes it as it is."""
        from thespis.report.curve import rows

        by_step: dict[int, dict[str, Any]] = {}
        for row in rows(self.path):
            by_step.setdefault(row["step"], {}).update(row)
        steps = [by_step[step] for step in sorted(by_step)]
        return {name: [row.get(name) for row in steps] for name in {"step": 0} | {k: 0 for row in steps for k in row}}


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Nothing on standard output; faults are raised as ever."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def configured(algo: Algorithm, run: R, cfg: Any, options: dict[str, Any]) -> tuple[R, Any]:
    """The run and the Config with these options, each where its name belongs. Fault: an unknown name, or a wrong value."""
    runs, fields = ({f.name for f in dataclasses.fields(c)} for c in (type(run), algo.module.Config))
    for name in options:
        if name not in runs | fields:
            raise Fault(f"{name} is not an option of {algo.name}{config.near(name, runs | fields)}")
    run = config.check(dataclasses.replace(run, **{k: v for k, v in options.items() if k in runs - fields}))
    return run, config.check(dataclasses.replace(cfg, **{k: v for k, v in options.items() if k in fields}))


def world_of(
    env: Env | None, source: Source | None = None, args: Sequence[str] = (), wrappers: Sequence[str] = ()
) -> envs.World:  # fmt: skip
    """The environment that is named, made with `args`, each name=value, in `wrappers`; else the dataset's own, or only its spaces
    where there is none such here; else the usual."""
    if env is not None:
        return envs.world(env, {} if isinstance(env, gym.Env) else envs.arguments(args), wrappers)
    if source is None:
        return envs.world(USUAL, envs.arguments(args), wrappers)
    origin = dataset.origin(source)
    if origin.env and envs.known(origin.env):
        return envs.world(origin.env, envs.arguments(args), wrappers)
    try:
        return envs.unsimulated(origin.name, origin.observation_space, origin.action_space)
    except Fault as fault:
        raise Fault(f"data: {origin.name}: {fault}") from None


def title(algo: Algorithm, env: str, seed: int) -> str:
    """What a run is called; no path of an own algorithm's file is in it."""
    return f"{Path(algo.name).name} on {env}, seed {seed}"


def describe(
    algo: Algorithm, cfg: Any, run: Run, world: envs.World, own_parts: Sequence[str] = (), own_env: bool = False,
    data: Dataset | None = None, own_data: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What config.json says of a run."""
    return {
        "title": title(algo, world.name, run.seed),
        "algo": algo.name,
        "algo_sha256": digest(algo),
        "algo_config": config.to_json(cfg),
        "algo_defaults": config.to_json(algo.config),
        "run": config.to_json(run),
        "run_defaults": config.to_json(Run()),
        "own_parts": list(own_parts),
        "own_env": own_env,
        "no_env": not world.simulated,
        "own_data": own_data,
        "context": world.spec.context,
        "levels": list(world.spec.levels),
        "data": data and data.digest(),
        "observation_space": envs.spaces_json.to_json(world.observation_space),
        "action_space": envs.spaces_json.to_json(world.action_space),
        "rewards": list(world.spec.rewards),
        "agents": world.spec.agents,
        "horizon": world.spec.horizon,
        "thespis": thespis.__version__,
        "origin": origin(),
    }


def begun_with(start_from: str | Path | Result, begin: Start) -> dict[str, Any]:
    """What config.json says of the run whose networks this one begins with."""
    where = start_from if fetch.named(start_from) else str(path_of(start_from).resolve())
    return {"run": where, "title": str(begin.about.get("title")), "step": begin.step}


def path_of(path: str | Path | Result) -> Path:
    """Of a run. Raises Fault for what is neither a path nor what `train` returned."""
    return path.path if isinstance(path, Result) else place(path, "run", " of a run directory, or what train returned")


def place(path: str | Path, field: str = "out", more: str = "") -> Path:
    """The path that `field` names. Raises Fault for what is none, and for one below a file."""
    if not isinstance(path, str | Path):
        raise Fault(f"{field} is {envs.spaces.short(path)}; allowed: a path{more}")
    found = Path(path).expanduser()
    if file := next((p for p in found.parents if p.is_file()), None):
        raise Fault(f"{field} is {found}; {file} is a file")
    return found


WRITTEN = {
    "config.json", "metrics.jsonl", "transcripts.jsonl", "curve.png", "report", "policy", "checkpoints", "replay", "tensorboard",
    "videos", "wandb", "wandb.id",
}  # fmt: skip
"""what a run writes in its directory, besides .lock"""


def is_run(folder: Path) -> bool:
    with suppress(Fault):
        read_about(folder / "config.json")
        return True
    return False


def clear(folder: Path) -> None:
    """Deletes what a run has written there, and nothing else. A link goes, and not what it stands for."""
    for path in folder.iterdir():
        if path.name in WRITTEN or (path.name.startswith(".") and path.name.endswith(".tmp")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def free(folder: Path, overwrite: bool) -> None:
    """Raises Fault where a new run must not write: a file; what is no run; and without `overwrite` a run that has done a step."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise Fault(f"out: {folder} exists and is a file; give a directory")
    if not any(path.name != ".lock" for path in folder.iterdir()):
        return
    if not is_run(folder):
        raise Fault(f"out: {folder} exists and is no run directory, so nothing in it is deleted; give another with --out (out=)")
    if not overwrite and (checkpoint.has_saved(folder) or steps_done(folder)):
        raise Fault(
            f"out: {folder} exists; continue it with 'thespis resume {shlex.quote(str(folder))}', delete it with --overwrite"
            " (overwrite=True), or give another with --out (out=)"
        )


def steps_done(folder: Path) -> int:
    """Of the newest row of metrics that a run has written."""
    from thespis.report import curve

    return max((row["step"] for row in curve.rows(folder)), default=0) if (folder / "metrics.jsonl").exists() else 0


def open_run(
    folder: Path, env: Env | None, algo: str | None, args: Sequence[str] | None = None, wrappers: Sequence[str] | None = None
) -> tuple[dict[str, Any], Algorithm, Any, Run, envs.World]:
    """What a run directory says of itself; `args` and `wrappers` are those of the environment where they are to be other
    ones. Nothing that it names is run unless it is ours or you name it too."""
    file = folder / "config.json"
    if not file.is_file():
        raise Fault(f"{folder} is not a run directory: it {'has no config.json' if folder.exists() else 'does not exist'}")
    about = read_about(file)
    control(about, folder)
    found = algorithm(algo or built_in(folder, about["algo"]))
    cfg, run = config.build(found.module.Config, about["algo_config"], f"{file}: "), config.build(Run, about["run"], f"{file}: ")
    if env is None and about.get("no_env"):
        both = (envs.spaces_json.from_json(about.get(f"{kind}_space")) for kind in ("observation", "action"))
        return about, found, cfg, run, envs.weighted(envs.unsimulated(run.env or "data", *both), run.weights)
    if env is None and (about["own_env"] or not envs.known(run.env or "")):
        why = "an environment of your own" if about["own_env"] else "which is not registered here"
        raise Fault(f"{folder} was trained on {run.env}, {why}: give it again, env=... in Python (or --env, if it has an id)")
    args = () if isinstance(env, gym.Env) else run.env_args if args is None else args  # an instance has them already
    world = world_of(run.env if env is None else env, None, args, named_again(run, wrappers, env, folder))
    same_spaces(world, about, folder)
    return about, found, cfg, run, envs.weighted(world, run.weights)


def named_again(run: Run, wrappers: Sequence[str] | None, env: Env | None, where: object) -> Sequence[str]:
    """The run's wrappers, or those that you name. Fault: code that only the run names. An instance has them already."""
    if wrappers is not None or isinstance(env, gym.Env):
        return wrappers or ()
    if alien := envs.wrappers.foreign(run.wrappers):
        raise Fault(f"wrappers has {alien[0]!r}, which is code that {where} names: name all again, with --wrappers (wrappers=)")
    return run.wrappers


def same_spaces(world: envs.World, about: dict[str, Any], where: object) -> None:
    """Raises Fault where the environment has other spaces, bounds and types included, than `about` says (older runs may not)."""
    for kind in ("observation", "action"):
        space, words = getattr(world, f"{kind}_space"), about.get(f"{kind}_space")
        if words is not None and envs.spaces_json.to_json(space) != words:
            was = " ".join(repr(envs.spaces_json.from_json(words)).split())
            now = " ".join(repr(space).split())
            raise Fault(f"env: {world.name} has other {kind}s than {where} was trained on: {now}; allowed: {was}")


def read_about(file: Path, **more: type) -> dict[str, Any]:
    """What config.json or a policy's JSON says, with all in it that is read from it here."""
    about, kinds = checkpoint.read_json(file), {"algo": str, "algo_config": dict, "run": dict, "own_parts": list, "own_env": bool}
    if not isinstance(about, dict) or not all(isinstance(about.get(k), kind) for k, kind in (kinds | more).items()):
        raise Fault(f"{file} is damaged, or was not written by Thespis")
    if not all(isinstance(part, str) for part in about["own_parts"]):
        raise Fault(f"{file} is damaged: own_parts must be names")
    if type(count := about.get("schedule_updates", 1)) is not int or count < 1:
        raise Fault(f"{file} is damaged: schedule_updates is {count!r}")
    return about


def control(about: dict[str, Any], where: object) -> None:
    """Fault: what `about` tells of is a run whose actor writes."""
    if not (name := about["algo"]).endswith(".py") and algorithm(name).family == "language":
        raise Fault(
            f"{where} is of {name}, whose actor writes: train, resume, evaluate, report and compare take it, and nothing else"
        )


def built_in(folder: Path, name: str) -> str:
    if name.endswith(".py"):
        raise Fault(
            f"{folder} was made by your own {name}: name it again, --algo {name} (a run directory never runs code by itself)"
        )
    return name


def given_parts(found: Algorithm, about: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(parts) - set(part_names(found))):
        raise Fault(f"{unknown[0]} is not a part of {found.name}{config.near(unknown[0], part_names(found))}")
    if missing := sorted(set(about["own_parts"]) - set(parts)):
        raise Fault(f"this run was made with your own {' and '.join(missing)}: give it again, from Python")
    return parts
