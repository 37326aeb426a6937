"""A trained run goes on elsewhere: a new run with its algorithm, options and networks, in another environment or with other
options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from thespis import config, envs
from thespis.algorithms import algorithm
from thespis.directory import Env, Result, built_in, control, named_again, path_of, read_about
from thespis.engine import fetch
from thespis.engine.run import Run
from thespis.fault import Fault
from thespis.training import train

ELSEWHERE = ("env_args", "wrappers", "weights")
"""options that belong to the environment"""
ANEW = ("env", "stop_at", "freeze")


def finetune(
    path: str | Path | Result, env: Env | None = None, *, freeze: Sequence[str] = (), algo: str | None = None, **options: Any
) -> Result:  # fmt: skip
    """A new run that begins with the networks of a run, or of hf://owner/name, and has its algorithm and options.

    `env` is the environment, by default the same. `freeze` names parts of the algorithm's State that stay as they are, such as
    "actor" or "critic". `options` are those of `train`, where they are to be other than in the old run.
    """
    folder = path_of(fetch.local(path))
    if not (file := folder / "policy" / "last.json").is_file():
        raise Fault(f"{folder} {'holds no policy yet' if folder.is_dir() else 'does not exist'}")
    about = read_about(file)
    control(about, folder)
    found = algorithm(algo or built_in(folder, about["algo"]))
    cfg, run = config.build(found.module.Config, about["algo_config"], f"{file}: "), config.build(Run, about["run"], f"{file}: ")
    if env is None and (about["own_env"] or not envs.known(run.env or "")):
        raise Fault(f"{folder} was trained on {run.env}, which is not registered here: give an environment with env (--env)")
    made = ("env_args", "wrappers") if isinstance(env, gym.Env) else ()
    away = ANEW + (ELSEWHERE if env is not None and env != run.env else made)
    kept = {k: v for k, v in vars(run).items() if k not in away} | vars(cfg)
    if "wrappers" in kept and "wrappers" not in options:
        named_again(run, None, env, folder)
    where = run.env if env is None else env
    return train(
        found.file if found.family == "own" else found.name, where, start_from=path, **kept | {"freeze": tuple(freeze)} | options
    )
