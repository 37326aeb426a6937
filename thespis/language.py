"""Runs of actors that write: how they begin, go on and are evaluated. `training`, `api` and `cli` pass on to here what concerns
them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

import thespis
from thespis import config
from thespis.algorithms import Algorithm, algorithm, digest
from thespis.core import Fault
from thespis.directory import (
    Result,
    begun_with,
    built_in,
    clear,
    configured,
    free,
    is_run,
    path_of,
    place,
    quietly,
    read_about,
    title,
)  # fmt: skip
from thespis.engine import checkpoint, fetch, language
from thespis.engine import start as beginning
from thespis.engine.judge import Judge
from thespis.engine.language_run import WATCHING, LanguageRun
from thespis.engine.lock import alone
from thespis.engine.origin import origin
from thespis.engine.play import play
from thespis.engine.written import checked_pairs
from thespis.envs.making import arguments
from thespis.envs.text import Questions, TextWorld, is_reward, read_jsonl, text_world
from thespis.lm import Model, adapter, parse
from thespis.turns import Paired, Played, TextLearner, TextSpec

USUAL = "thespis/Chains-v0"


def writes(algo: Algorithm) -> bool:
    """Whether its actor writes."""
    return algo.family == "language"


def is_written(folder: Path) -> bool:
    """Whether a run directory is of an actor that writes. What is wrong with it is told by those who open it."""
    with contextlib.suppress(Fault, KeyError, TypeError):
        name = str(checkpoint.read_json(folder / "config.json")["algo"])
        return not name.endswith(".py") and writes(algorithm(name))
    return False


def train(
    algo: Algorithm, env: Any, data: Any, out: str | Path | None, overwrite: bool, start_from: Any, callback: Any,
    panel: bool | None, quiet: bool, options: dict[str, Any],
) -> Result:  # fmt: skip
    """As `thespis.train`, whose `options` are the fields of LanguageRun and of the algorithm's Config."""
    if data is not None and not isinstance(data, str | Path):
        raise Fault(f"data is a {type(data).__name__}; {algo.name} takes the path of a .jsonl file")
    if callback is not None:
        raise Fault(f"callback: a run of {algo.name}, whose actor writes, calls none yet; leave it out")
    named = {} if data is None else {"data": str(data)}
    named |= {"env": env} if isinstance(env, str) else {}
    run, cfg = configured(algo, LanguageRun(), algo.config, options | named)
    with quietly(quiet):
        return start(algo, cfg, run, out, overwrite=overwrite, start_from=start_from, panel=panel, env=env)


def start(
    algo: Algorithm, cfg: Any, run: LanguageRun, out: str | Path | None, *, overwrite: bool = False, start_from: Any = None,
    panel: bool | None = None, env: Any = None,
) -> Result:  # fmt: skip
    """A new run directory, and the training in it; before that, where it plays and names no start, its supervised one."""
    world, rows = _sources(run, env)
    learner = _ready(algo, cfg, run, world, env, rows)
    run = dataclasses.replace(run, env=world.name if world else None)
    label = re.sub(r"[^\w.-]+", "-", f"{algo.name}-{run.env or Path(run.data or '').stem}-{run.seed}")
    folder = Path("runs") / label if out in (None, "") else place(out or "")
    free(folder, overwrite)
    begin = None if start_from is None else _begin(start_from)
    about = _describe(algo, cfg, run, world)
    if begin:
        about["start"] = begun_with(start_from, begin)
    elif isinstance(learner.experience, Played) and run.warm_start and world and about["weights"] is None:
        made = _warm(run, folder, world, env, overwrite, panel)
        if made and not made.finished:
            return made
        if made:
            about["warm"], begin = str(made.path.resolve()), _begin(made.path)
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        clear(folder)
        try:
            checkpoint.write_json(folder / "config.json", about)
            return _train(learner, world, run, folder, about, False, panel, rows, (), begin)
        except Fault:
            if not checkpoint.has_saved(folder):  # it never began: the same command may be given again
                clear(folder)
                (folder / ".lock").unlink(missing_ok=True)
                if not existed:
                    folder.rmdir()
            raise


def _warm(run: LanguageRun, folder: Path, world: TextWorld, env: Any, overwrite: bool, panel: bool | None) -> Result | None:
    """The supervised start of a run that plays: made in a directory beside it, gone on with, or taken as it is. None: the world
    tells no solutions, so the run begins with random weights. Fault: what is there is another run."""
    made = world.make()
    told = "solution" in made.reset(run.seed)[1]
    made.close()
    if not told:
        print(f"warm start: {world.name} tells no solutions, so it begins with random weights (--start-from RUN takes a run's)")
        return None
    where, sft = folder.with_name(f"{folder.name}-start"), algorithm("sft")
    data = run.data if is_reward(env) else None
    wanted = dataclasses.replace(run, steps=run.warm_start, data=data, reward=None, eval_every=run.warm_start)
    if is_run(where) and not overwrite:
        about = checkpoint.read_json(where / "config.json")
        mine = {k: v for k, v in config.to_json(wanted).items() if k not in WATCHING - {"steps"}}
        if about["algo"] != "sft" or {k: about["run"].get(k) for k in mine} != mine:
            raise Fault(
                f"{where} is another run; take it with --start-from {where} (start_from=), delete it, or give another --out"
            )
        print(f"warm start: {where} is taken, or gone on with (--start-from RUN takes another)", flush=True)
        return resume(where, env=env, panel=panel)
    print(
        f"warm start: {run.warm_start:,} solutions are learnt from first, in {where}"
        " (--start-from RUN takes another run's weights, --warm-start 0 random ones)",
        flush=True,
    )
    return start(sft, sft.config, wanted, where, overwrite=overwrite, panel=panel, env=env)


def resume(
    path: str | Path | Result, steps: int | None = None, *, env: Any = None, panel: bool | None = None, quiet: bool = False,
    **options: Any,
) -> Result:  # fmt: skip
    """As `thespis.resume`."""
    folder = path_of(path)
    about, algo, cfg, run = _open(folder)
    checkpoint.no_links(folder)
    before = json.loads(json.dumps(about))
    named = options | ({} if steps is None else {"steps": steps}) | ({"env": env} if isinstance(env, str) else {})
    new, new_cfg = configured(algo, run, cfg, named)
    changed: dict[str, list[Any]] = {}
    for was, now, watched in ((run, new, WATCHING), (cfg, new_cfg, set[str]())):
        old, given = config.to_json(was), config.to_json(now)
        changed |= {k: [old[k], given[k]] for k in given if given[k] != old[k] and k not in watched}
    if fixed := next(
        (k for k in ("seed", "model", "adapter", "rank", "precision", "data", "reward", "warm_start") if k in changed), None
    ):
        raise Fault(f"{fixed} is {changed[fixed][1]!r} and was {changed[fixed][0]!r}; a run cannot change it: begin another")
    if about["own_env"] and env is None:
        raise Fault(f"{folder} was trained on {run.env}, an environment of your own: give it again, env=... in Python")
    world, rows = _sources(new, env)
    learner = _ready(algo, new_cfg, new, world, env, rows)
    if about.get("weights") != parse(new.model).digest():
        raise Fault(f"model: the files of {new.model} have changed since {folder} began; the run can only go on with those")
    if about.get("data") != _digest(new.data):
        raise Fault(f"data: {new.data} has changed since {folder} began; the run can only go on with what it began with")
    if about.get("reward") != _digest(_scorer(new)):
        raise Fault(f"reward: the weights of {new.reward} have changed since {folder} began; the run can only go on with those")
    done, notes = [int(c.name) for c in checkpoint.checkpoints(folder)], []
    if steps and done and done[-1] > steps:
        raise Fault(f"steps is {steps}; {folder} has done {done[-1]} already")
    if changed:
        about["changes"] = [*about.get("changes", []), {"step": done[-1] if done else 0, "fields": changed}]
        words = ", ".join(f"{name} {old} -> {now}" for name, (old, now) in changed.items())
        notes.append(f"{words}: from step {done[-1] if done else 0:,} on it is another run than the one that began here")
    about["algo_config"], about["run"] = config.to_json(new_cfg), config.to_json(new)
    begin = None
    if not checkpoint.has_saved(folder):
        first = about.get("warm") or (about.get("start") or {}).get("run")
        begin = _begin(str(first)) if first else None
    with alone(folder), quietly(quiet):
        if about != before:
            checkpoint.write_json(folder / "config.json", about)
        return _train(learner, world, new, folder, about, True, panel, rows, notes, begin)


def evaluate(
    path: str | Path | Result, episodes: int = 10, seed: int | None = None, *, explore: bool = False, which: str = "last",
    env: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """As `thespis.evaluate`, on held-out tasks: the most probable answers, or with `explore` sampled ones."""
    folder = path_of(fetch.local(path))
    run, model, about = writer(folder, which)
    world, _ = _sources(run, env)
    if world is None:
        raise Fault(f"env: {folder} learnt from written answers alone; name an environment")
    first = run.seed + 1_000_000 if seed is None else seed
    envs = [world.make() for _ in range(episodes)]
    try:
        how: dict[str, bool] = {"held_out": True, "greedy": not explore}
        rng = torch.Generator().manual_seed(first)
        found = play(model, envs, range(first, first + episodes), run.answer_tokens, rng, longest=run.max_turns, **how)
    finally:
        for made in envs:
            made.close()
    returns = [e.reward for e in found]
    names = dict.fromkeys(name for e in found for name in e.turns[-1]["info"])
    infos = {n: [e.turns[-1]["info"][n] for e in found if n in e.turns[-1]["info"]] for n in names}
    return {
        "mean_return": sum(returns) / episodes, "std_return": float(torch.tensor(returns).std(unbiased=False)),
        "returns": returns, "mean_length": sum(len(e.turns) for e in found) / episodes,
        "cut": sum(e.turns[-1]["cut"] for e in found),
        "info": {n: sum(v) / len(v) for n, v in infos.items()}, "step": about["step"], "every": 1,
        "conversations": [e.words() for e in found],
    }  # fmt: skip


def writer(folder: Path, which: str = "last", **changed: Any) -> tuple[LanguageRun, Model, dict[str, Any]]:
    """A run's options (`changed`: some of them others), the model that it has learnt, and what the policy's JSON says. Fault:
    there is none; the files of a pretrained model are others by now."""
    about, algo, cfg, run = _open(folder)
    run = dataclasses.replace(run, **changed)
    file = folder / "policy" / f"{which}.json"
    if which not in ("last", "first", "best") or not file.exists():
        raise Fault(f"which is {which!r}; {folder} has {', '.join(sorted(p.stem for p in file.parent.glob('*.json'))) or 'none'}")
    if about.get("weights") != parse(run.model).digest():
        raise Fault(f"model: the files of {run.model} have changed since {folder} began; what it learnt fits those alone")
    learner = algo.module.make(cfg, TextSpec())
    model: Model = learner.policy(learner.init(language.model_of(run)))
    language.graft(beginning.read(folder, which), model)
    return run, model, checkpoint.read_json(file)


# ------------------------------------------------------------------------------------------------------------------ inside


def _sources(run: LanguageRun, env: Any) -> tuple[TextWorld | None, list[dict[str, Any]] | None]:
    """The world, and the rows of a file to learn from, without those that its world holds out. None: there is no such."""
    rows = None if run.data is None else read_jsonl(run.data)
    if is_reward(env):
        if rows is None:
            raise Fault("data: name the .jsonl file whose prompts this reward is for, data='questions.jsonl'")
        asked = Questions(rows, env)
        world = dataclasses.replace(text_world(asked), name=getattr(env, "__name__", "reward"), own=True)
        return world, [dict(row) for row in asked.split[False] if row.get("answer")]
    if isinstance(env, gym.Env) or callable(env):
        return text_world(env), rows
    if run.env is not None and run.env != run.data:
        return text_world(run.env, arguments(run.env_args)), rows
    if rows is None:
        return text_world(USUAL, arguments(run.env_args)), None
    if not all(isinstance(row.get(k), str) and row[k] for row in rows for k in ("prompt", "answer")):
        return None, rows
    questions = Questions(rows)
    world = text_world(questions)
    return dataclasses.replace(world, name=str(run.data), own=False), [dict(row) for row in questions.split[False]]


def _ready(
    algo: Algorithm, cfg: Any, run: LanguageRun, world: TextWorld | None, env: Any, rows: Sequence[Mapping[str, Any]] | None
) -> TextLearner:
    """Fault: what algorithm, settings and environment cannot be together; before anything is written."""
    spec = world.spec if world else TextSpec()
    learner = algo.module.make(cfg, dataclasses.replace(spec, answer_tokens=run.answer_tokens))
    sizes = parse(run.model)
    adapter(run.adapter)
    if isinstance(learner.experience, Played):
        if run.data is not None and not is_reward(env):
            raise Fault(
                f"data: {algo.name} learns from what it plays; leave it out, or learn from it first: thespis train sft --data"
            )
        assert world is not None
    if isinstance(learner.experience, Paired):
        if rows is None:
            raise Fault(f"data: {algo.name} learns from pairs: name a .jsonl file of prompt, chosen and rejected")
        checked_pairs(rows, str(run.data))
    if run.answer_tokens >= sizes.context:
        raise Fault(f"answer_tokens is {run.answer_tokens}; allowed: below the model's context, {sizes.context}")
    return learner


def _begin(path: Any) -> beginning.Start:
    return beginning.read(path_of(fetch.local(path)))


def _describe(algo: Algorithm, cfg: Any, run: LanguageRun, world: TextWorld | None) -> dict[str, Any]:
    """What config.json says of a run."""
    return {
        "title": title(algo, run.env or Path(run.data or "").name, run.seed), "algo": algo.name, "algo_sha256": digest(algo),
        "algo_config": config.to_json(cfg), "algo_defaults": config.to_json(algo.config), "run": config.to_json(run),
        "run_defaults": config.to_json(LanguageRun()), "own_parts": [], "own_env": bool(world and world.own),
        "no_env": world is None, "own_data": False, "data": _digest(run.data), "reward": _digest(_scorer(run)),
        "weights": parse(run.model).digest(),
        "thespis": thespis.__version__, "origin": origin(),
    }  # fmt: skip


def _scorer(run: LanguageRun) -> Path | None:
    """The weights of its learned reward. Fault: they are not there."""
    if run.reward is None:
        return None
    file = place(run.reward, "reward") / "policy" / "last.safetensors"
    if not file.is_file():
        raise Fault(f"reward: {run.reward} holds no policy; name the directory of a run of text_reward_model")
    return file


def _judge(run: LanguageRun) -> Judge | None:
    if (file := _scorer(run)) is None:
        return None
    folder = file.parents[1]
    return Judge(language.model_of(_open(folder)[3]), folder)


def _digest(file: str | Path | None) -> str | None:
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _open(folder: Path) -> tuple[dict[str, Any], Algorithm, Any, LanguageRun]:
    file = folder / "config.json"
    about = read_about(file)
    algo = algorithm(built_in(folder, about["algo"]))
    cfg = config.build(algo.module.Config, about["algo_config"], f"{file}: ")
    return about, algo, cfg, config.build(LanguageRun, about["run"], f"{file}: ")


def _train(
    learner: TextLearner, world: TextWorld | None, run: LanguageRun, folder: Path, about: dict[str, Any], resuming: bool,
    panel: bool | None, rows: Sequence[Mapping[str, Any]] | None, notes: Sequence[str], begin: beginning.Start | None,
) -> Result:  # fmt: skip
    about = {k: v for k, v in about.items() if k != "origin"}  # what goes on to policies and sinks does not name this machine
    try:
        stopped = language.train(learner, world, run, folder, about, resuming, panel, rows, notes, begin, _judge(run))
    finally:
        with contextlib.suppress(Fault):  # what stopped it is what must be told
            if (folder / "metrics.jsonl").exists():
                _draw(folder)
    last = checkpoint.read_json(folder / "policy" / "last.json")
    return Result(folder, stopped is None, last["return_mean"], stopped)


def _draw(folder: Path) -> None:
    """The run's pictures, from what it has written."""
    from thespis.report import curve, page  # here, as matplotlib would delay the start of a run

    try:
        curve.curve(folder)
        page.page([folder])
    except Exception as error:  # what was learnt matters more
        print(f"{folder / 'report'}: not drawn: {error}", file=sys.stderr)
