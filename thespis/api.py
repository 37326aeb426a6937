"""Thespis from Python: train, resume, evaluate, report, compare, load, algorithms."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import torch

import thespis.algos
from thespis import config, envs
from thespis.core import Fault, Learner, leaves, rebuild
from thespis.data import Dataset, OnPolicy, dataset
from thespis.engine import checkpoint, fetch, loop, team
from thespis.engine import evaluate as evaluation
from thespis.engine.act import Actor
from thespis.engine.lock import alone
from thespis.engine.run import Run
from thespis.envs.flat import told
from thespis.report import compare as comparison
from thespis.report import curve, page

Env = str | gym.Env | Callable[[], gym.Env]


# ---------------------------------------------------------------------------------------------------------- algorithms


@dataclass(frozen=True)
class Algorithm:
    name: str
    family: str
    paper: str
    summary: str
    module: ModuleType
    config: Any
    """its defaults: Config(), or a preset's"""


def algorithms() -> dict[str, Algorithm]:
    """Every algorithm by name: the name is its module's, the words are its header's; and every preset by its own name."""
    found: dict[str, Algorithm] = {}
    for family in pkgutil.iter_modules(thespis.algos.__path__):
        package = importlib.import_module(f"thespis.algos.{family.name}")
        for entry in pkgutil.iter_modules(package.__path__):
            algo = _describe(importlib.import_module(f"{package.__name__}.{entry.name}"), entry.name, family.name)
            found[entry.name] = algo
            papers = [part.strip().partition(", ") for part in header(algo.module).get("Presets", "").split(";")]
            for name, preset in getattr(algo.module, "PRESETS", {}).items():
                paper = next((paper for first, _, paper in papers if first == name), algo.paper)
                summary = f"{entry.name} with {_changes(preset)}"
                found[name] = dataclasses.replace(algo, name=name, paper=paper, summary=summary, config=preset)
    return found


def _changes(preset: Any) -> str:
    """What a preset sets otherwise than its Config does: "critics=1, delay=1"."""
    fields = [f for f in dataclasses.fields(preset) if getattr(preset, f.name) != f.default]
    return ", ".join(f"{f.name}={getattr(preset, f.name)}" for f in fields)


def algorithm(name: str | Path) -> Algorithm:
    """By its name, or by the path of a Python file of your own that declares Config, State and make."""
    name = str(name)
    if not name.endswith(".py"):
        if name not in (known := algorithms()):
            raise Fault(f"algorithm {name!r} is neither a .py file nor known{config.near(name, known)}")
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise Fault(f"algorithm {name}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own algorithm {path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        code = compile(path.read_bytes(), str(path), "exec")  # not exec_module, which leaves a __pycache__ beside the file
        exec(code, module.__dict__)
    except SyntaxError as error:
        raise Fault(f"algorithm {name} is not Python: {error}") from error
    except (Exception, SystemExit) as error:
        raise Fault(f"algorithm {name} raised {told(error)}") from error
    if missing := [n for n in ("Config", "State", "make") if not callable(getattr(module, n, None))]:
        raise Fault(f"algorithm {name} does not declare {', '.join(missing)}")
    try:
        return _describe(module, name, "own")
    except TypeError as error:
        raise Fault(f"algorithm {name}: every field of Config needs a default ({error})") from error


def _takes(found: Algorithm) -> list[str]:
    """The parts that a user may give to its `make`, after cfg and spec."""
    return list(inspect.signature(found.module.make).parameters)[2:]


def _describe(module: ModuleType, name: str, family: str) -> Algorithm:
    summary = inspect.cleandoc(module.__doc__ or "").split("\n")[0].rstrip(".")
    return Algorithm(name, family, header(module).get("Paper", ""), summary, module, module.Config())


def header(module: ModuleType) -> dict[str, str]:
    """What a file's header says by its first words: {"Paper": ..., "Parent": ...}, each as one line without its full stop."""
    parts = re.split(r"^([A-Z]\w+):", inspect.cleandoc(module.__doc__ or ""), flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


# -------------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Result:
    path: Path
    """the run directory"""
    finished: bool
    """False where it was stopped before its last step"""
    return_mean: float | None
    """of the last evaluation; None in a learner that does not lead"""


def train(
    algo: str | Path = "sac",
    env: Env = "HalfCheetah-v5",
    *,
    out: str | Path | None = None,
    panel: bool | None = None,
    **options: Any,
) -> Result:
    """Trains an agent and leaves a run directory (default: runs/ALGO-ENV-SEED).

    `env` is a Gymnasium id, a callable that makes an environment, or an environment. `options` are the fields of Run
    (steps, seed, num_envs, ...), of the algorithm's Config (lr, tau, ...), and the parts that its `make` takes (actor, critic).
    Raises Fault, in one line, for what you can mend.
    """
    found = algorithm(algo)
    world = envs.world(env)
    parts = {k: options.pop(k) for k in _takes(found) if k in options}
    run, cfg = configure(found, world, options)
    return start(found, cfg, run, world, out, parts, panel, own_env=not isinstance(env, str))


def configure(algo: Algorithm, world: envs.World, options: dict[str, Any]) -> tuple[Run, Any]:
    """The run and the Config that the names of `options` belong to. Raises Fault on an unknown name or a wrong value."""
    runs, fields = ({f.name for f in dataclasses.fields(c)} for c in (Run, algo.module.Config))
    for name in options:
        if name not in runs | fields:
            raise Fault(f"{name} is not an option of {algo.name}{config.near(name, runs | fields)}")
    run = config.build(Run, {k: v for k, v in options.items() if k in runs} | {"env": world.name})
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
) -> Result:
    """A new run directory, and the training in it."""
    learner = ready(algo, cfg, run, world, parts)  # every fault of the input is told before anything is written
    data = _dataset(learner, run, world)
    if run.data and not (place := dataset.find(run.data)).is_relative_to(dataset.root()):
        run = dataclasses.replace(run, data=str(place.resolve()))  # a folder is found again from anywhere
    label = re.sub(r"[^\w.-]+", "-", f"{Path(algo.name).stem}-{world.name}-{run.seed}")
    folder = Path(out).expanduser() if out else Path("runs") / label
    if team.rank() == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Fault(f"out: {folder} exists; continue it with 'thespis resume {folder}', or give another with --out")
    about = describe(algo, cfg, run, world, sorted(parts), own_env, data)
    if team.rank() > 0:
        return _train(learner, world, run, folder, about, False, panel, data)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            checkpoint.write_json(folder / "config.json", about)
            return _train(learner, world, run, folder, about, False, panel, data)
        except Fault:
            rows = folder / "metrics.jsonl"
            if not checkpoint.begun(folder) and not (rows.exists() and rows.stat().st_size):
                for path in [folder] if made else folder.iterdir():  # it never began: the same command may be given again
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise


def ready(algo: Algorithm, cfg: Any, run: Run, world: envs.World, parts: dict[str, Any]) -> Learner:
    """The learner. Raises Fault for what algorithm, configuration, run and environment cannot be together."""
    _check_device(run.device)
    if run.ray_address and not run.collectors:
        raise Fault(f"ray_address is {run.ray_address!r}; it says where collectors are: give collectors too")
    learner = algo.module.make(cfg, world.spec, **parts)
    if isinstance(learner.experience, OnPolicy):
        others = {"data": run.data, "collectors": run.collectors, "torchrun's learners": team.many()}
        if name := next((name for name, value in others.items() if value), None):
            raise Fault(
                f"{name}: an on-policy algorithm learns from its own newest steps; leave it out, or take an off-policy one"
            )
    if run.data is not None:
        dataset.find(run.data)
    return learner


def describe(
    algo: Algorithm, cfg: Any, run: Run, world: envs.World, own_parts: Sequence[str] = (), own_env: bool = False,
    data: Dataset | None = None,
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
        "data": data and data.digest(),
        "observation_space": envs.spaces.to_json(world.observation_space),
        "action_space": envs.spaces.to_json(world.action_space),
        "thespis": thespis.__version__,
    }


def resume(
    path: str | Path | Result,
    steps: int | None = None,
    *,
    ray_address: str | None = None,
    env: Env | None = None,
    algo: str | None = None,
    panel: bool | None = None,
    **parts: Any,
) -> Result:
    """Continues a run from its newest checkpoint, to `steps` in all (default: as many as it was started for). Its collectors join
    the Ray cluster at `ray_address` from now on (default: as before)."""
    folder = _folder(path)
    about, found, cfg, run, world = _open(folder, env, algo)
    checkpoint.own(folder)
    changed: dict[str, Any] = {k: v for k, v in {"steps": steps, "ray_address": ray_address}.items() if v is not None}
    run = config.check(dataclasses.replace(run, **changed))
    learner = ready(found, cfg, run, world, _parts(found, about, parts))
    data = _dataset(learner, run, world)
    if data and data.digest() != about.get("data"):
        raise Fault(
            f"data: {run.data} has changed since {folder} began; the run can only go on with the dataset that it began with"
        )
    with alone(folder) if team.rank() == 0 else nullcontext():
        if steps and (done := [int(c.name) for c in checkpoint.checkpoints(folder) if int(c.name) > steps]):
            raise Fault(f"steps is {steps}; {folder} has done {done[-1]} already")
        about["run"] |= changed
        if changed and team.rank() == 0:
            checkpoint.write_json(folder / "config.json", about)
        return _train(learner, world, run, folder, about, True, panel, data)


def _dataset(learner: Learner, run: Run, world: envs.World) -> Dataset | None:
    if run.data is None:
        return None
    spaces = world.observation_space, world.action_space
    return dataset.read(run.data, *spaces, envs.spaces.flatten, envs.spaces.unscale_action)


def _train(
    learner: Learner, world: envs.World, run: Run, folder: Path, about: dict[str, Any], resuming: bool, panel: bool | None,
    data: Dataset | None,
) -> Result:  # fmt: skip
    if team.rank() > 0:
        return Result(folder, loop.train(learner, world, run, folder, about, resuming, panel, data), None)
    try:
        finished = loop.train(learner, world, run, folder, about, resuming, panel, data)
    except BaseException:
        with suppress(Fault):  # what stopped it is what must be told
            if (folder / "metrics.jsonl").exists():
                _draw(folder)
        raise
    _draw(folder)
    last = checkpoint.read_json(folder / "policy" / "last.json")
    return Result(folder, finished, last["return_mean"])


def _draw(folder: Path) -> None:
    """The run's pictures, from what it has written."""
    curve.curve(folder)
    try:
        page.page([folder])
    except Exception as error:  # what was learnt matters more
        print(f"{folder / 'report'}: not drawn, as {told(error)}", file=sys.stderr)


def _folder(path: str | Path | Result) -> Path:
    return path.path if isinstance(path, Result) else Path(path)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise Fault(f"device is {device!r}: {str(error).splitlines()[0].partition('. ')[0]}") from None


def _open(folder: Path, env: Env | None, algo: str | None) -> tuple[dict[str, Any], Algorithm, Any, Run, envs.World]:
    """What a run directory says of itself. Nothing that it names is run unless it is ours or you name it too."""
    file = folder / "config.json"
    if not file.is_file():
        raise Fault(f"{folder} is not a run directory: it has no config.json")
    about = _about(file)
    found = algorithm(algo or _ours(folder, about["algo"]))
    cfg, run = config.build(found.module.Config, about["algo_config"], f"{file}: "), config.build(Run, about["run"], f"{file}: ")
    if env is None and (about["own_env"] or not envs.known(run.env)):
        why = "an environment of your own" if about["own_env"] else "which is not registered here"
        raise Fault(f"{folder} was trained on {run.env}, {why}: give it again, env=... in Python (or --env, if it has an id)")
    return about, found, cfg, run, envs.world(run.env if env is None else env)


def _about(file: Path, **more: type) -> dict[str, Any]:
    """What config.json or a policy's JSON says, with all in it that is read from it here."""
    about, kinds = checkpoint.read_json(file), {"algo": str, "algo_config": dict, "run": dict, "own_parts": list, "own_env": bool}
    if not isinstance(about, dict) or not all(isinstance(about.get(k), kind) for k, kind in (kinds | more).items()):
        raise Fault(f"{file} is damaged, or was not written by Thespis")
    if not all(isinstance(part, str) for part in about["own_parts"]):
        raise Fault(f"{file} is damaged: own_parts must be names")
    return about


def _ours(folder: Path, name: str) -> str:
    if name.endswith(".py"):
        raise Fault(
            f"{folder} was made by your own {name}: name it again, --algo {name} (a run directory never runs code by itself)"
        )
    return name


def _parts(found: Algorithm, about: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(parts) - set(_takes(found))):
        raise Fault(f"{unknown[0]} is not a part of {found.name}{config.near(unknown[0], _takes(found))}")
    if missing := sorted(set(about["own_parts"]) - set(parts)):
        raise Fault(f"this run was made with your own {' and '.join(missing)}: give it again, from Python")
    return parts


# ------------------------------------------------------------------------------------------------------- using a policy


@dataclass(frozen=True)
class Policy:
    """A trained policy: observations of the environment in, actions of the environment out."""

    learner: Learner
    params: Any
    """the tensors that acting needs"""
    observation_space: gym.Space
    action_space: gym.Space
    about: dict[str, Any]
    """what policy/*.json says: algorithm, configuration, step, ..."""

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Before an episode's first step, where the policy remembers (srl, flashsac); the others need no such word."""
        object.__setattr__(self, "_actor", Actor(self.learner, 1))

    def act(self, obs: Any, explore: bool = False) -> Any:
        """The action for one observation, both as the environment's spaces have them. `explore` samples; else the mean action."""
        flat = torch.from_numpy(envs.spaces.flatten(self.observation_space, obs))[None]
        action = self._actor(self.params, flat, explore)[0].numpy()  # type: ignore[attr-defined]
        return envs.spaces.translator(self.action_space)(action)


def load(path: str | Path | Result, which: str = "last", *, algo: str | None = None, **parts: Any) -> Policy:
    """The policy of a run directory: "first", "last" or "best" by evaluation; or of hf://owner/name[@revision] on the Hugging
    Face Hub. Needs neither the environment nor a checkpoint.
    """
    folder = _folder(fetch.local(path))
    if which not in ("first", "last", "best"):
        raise Fault(f"which is {which!r}; allowed: 'first', 'last', 'best'")
    if not (folder / "policy").is_dir():
        raise Fault(f"{folder} holds no policy")
    file = folder / "policy" / f"{which}.json"
    about = _about(file, step=int, observation_space=dict, action_space=dict)
    if sealed := "sha256" in about:  # a policy from before there were checksums has none in either file
        checkpoint.unseal(about, file)
    found = algorithm(algo or _ours(folder, about["algo"]))
    try:
        spaces = envs.spaces.from_json(about["observation_space"]), envs.spaces.from_json(about["action_space"])
        spec = envs.spaces.spec(*spaces)
    except Fault as fault:
        raise Fault(f"{file}: {fault}") from None
    cfg = config.build(found.module.Config, about["algo_config"], f"{file}: ")
    learner = found.module.make(cfg, spec, **_parts(found, about, parts))
    like = _blank(learner, file)
    file = file.with_suffix(".safetensors")
    saved = checkpoint.read_tensors(file, sealed)
    checkpoint.fit(saved, leaves(like), file)
    return Policy(learner, rebuild(like, saved), *spaces, about)


def _blank(learner: Learner, file: Path) -> Any:
    """A policy for its shapes alone: whatever sizes a stranger's file declares, no memory is taken for them."""
    with torch.random.fork_rng(devices=[]):  # the caller's generator is none of our business
        try:
            with torch.device("meta"):
                return learner.policy(learner.init())
        except checkpoint.MISFIT:  # too large to be counted; or an init of your own that looks at its numbers
            pass
        try:
            return learner.policy(learner.init())
        except checkpoint.MISFIT as error:
            raise Fault(f"{file}: its networks cannot be made: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class _Episodes:
    episodes: config.Count
    seed: config.Natural | None
    every: config.Count


def evaluate(
    path: str | Path | Result, episodes: int = 10, seed: int | None = None, *,
    every: int = 1, which: str = "last", video: bool = False, env: Env | None = None, algo: str | None = None, **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Whole episodes with the mean action: {"mean_return", "std_return", "returns", "mean_length", "step", "every", "video"}.

    With `every` the policy sees a new observation only every so many steps. In between it goes on with the sequence that it
    planned (srl) or, if it has no memory, repeats its action.
    """
    config.check(_Episodes(episodes, seed, every))
    if video and fetch.named(path):
        raise Fault(f"video: it would be part of a run directory; bring the policy into one first: thespis load {path} --out DIR")
    folder = _folder(fetch.local(path))
    policy = load(folder, which, algo=algo, **parts)
    *_, run, world = _open(folder, env, algo)
    if (policy.observation_space, policy.action_space) != (world.observation_space, world.action_space):
        raise Fault(
            f"env: {world.name} has other spaces than the policy was trained on: {world.observation_space}, {world.action_space}"
        )
    seed = config.build(Run, policy.about["run"]).seed + 1_000_000 if seed is None else seed

    step, film = policy.about["step"], {}
    evaluator = evaluation.Evaluator(world, episodes, seed, run.env_timeout)

    def acting(count: int) -> evaluation.Act:
        actor = Actor(policy.learner, count, every)
        return lambda obs, rows: actor(policy.params, obs, False, rows)

    try:
        if video:  # first: where nothing can be drawn, that is told at once
            name = f"step-{step:09d}-{which}"
            film = {"video": str(evaluation.record(world, acting(1), folder / "videos", name, evaluator.seeds[0]))}
        result = evaluator(acting(episodes))
    finally:
        evaluator.close()
    out = {"mean_return": result["return_mean"], "std_return": result["return_std"], "returns": result["returns"]}
    return out | {"mean_length": result["length_mean"], "step": step, "every": every} | film


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
    if not runs:
        raise Fault("report: no run is named")
    folders = [_folder(r) for r in runs]
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
    if not runs:
        raise Fault("compare: no run is named")
    folders = [_folder(r) for r in runs]
    found = comparison.compare(folders, normalise)
    first = folders[0].resolve()
    folder = Path(out).expanduser() if out else (first.parent if (first / "config.json").exists() else first) / "compare"
    told = found.json()
    folder.mkdir(parents=True, exist_ok=True)
    found.picture(folder / "compare.png")
    found.csv(folder / "compare.csv")
    return told | {"picture": str(folder / "compare.png"), "csv": str(folder / "compare.csv")}
