"""A trained policy, from the files that a run leaves of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from thespis import config, envs
from thespis.algorithms import algorithm
from thespis.core import Fault, Learner, leaves, rebuild, replace
from thespis.directory import Result, built_in, given_parts, path_of, read_about
from thespis.engine import checkpoint, fetch
from thespis.engine.act import Actor
from thespis.engine.normalise import normalised
from thespis.engine.run import Run
from thespis.envs.statistics import Statistics


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
    unnormalised: Learner | None = None
    """the learner as it was trained, where a wrapper normalised its observations: `learner` does that itself"""

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
    folder = path_of(fetch.local(path))
    if which not in ("first", "last", "best"):
        raise Fault(f"which is {which!r}; allowed: 'first', 'last', 'best'")
    if not (folder / "policy").is_dir():
        raise Fault(f"{folder} {'holds no policy' if folder.exists() else 'does not exist'}")
    file = folder / "policy" / f"{which}.json"
    about = read_about(file, step=int, observation_space=dict, action_space=dict)
    if sealed := "sha256" in about:  # a policy from before there were checksums has none in either file
        checkpoint.unseal(about, file)
    found = algorithm(algo or built_in(folder, about["algo"]))
    try:
        spaces = envs.spaces_json.from_json(about["observation_space"]), envs.spaces_json.from_json(about["action_space"])
        spec = envs.spaces.spec(*spaces)
    except Fault as fault:
        raise Fault(f"{file}: {fault}") from None
    cfg = config.build(found.module.Config, about["algo_config"], f"{file}: ")
    run = config.build(Run, about["run"], f"{file}: ")
    learner = normalised(found.module.make(cfg, spec, **given_parts(found, about, parts)), found.name, spec, run)
    blank = _blank(learner, file)
    file = file.with_suffix(".safetensors")
    saved = checkpoint.read_tensors(file, sealed)
    checkpoint.fit(saved, leaves(blank), file)
    normal = _normalising(learner, gathered(about, file), spec.obs.dim, file)
    return Policy(normal or learner, rebuild(blank, saved), *spaces, about, learner if normal else None)


def gathered(about: dict[str, Any], file: Path) -> Statistics:
    """What the environment's wrappers had gathered when the policy was saved; empty where there were none."""
    try:
        found = {str(k): np.array(v, np.float64) for k, v in about.get("gathered", {}).items()}
        if not all(np.isfinite(v).all() for v in found.values()):
            raise ValueError
        return found
    except (AttributeError, TypeError, ValueError):
        raise Fault(f"{file} is damaged: gathered must be numbers by name") from None


def _normalising(learner: Learner, found: Statistics, dim: int, file: Path) -> Learner | None:
    """The learner that does what the outermost wrapper of its environment did to observations, with the same numbers."""
    place = next((name.removesuffix("epsilon") for name in found if name.endswith(".epsilon")), None)
    if place is None:
        return None
    mean, var, epsilon = (torch.as_tensor(found.get(place + name, np.zeros(0))).float() for name in ("mean", "var", "epsilon"))
    if mean.numel() != dim or var.numel() != dim or epsilon.numel() != 1:
        raise Fault(f"{file} is damaged: gathered must have {dim} numbers")
    middle, scale = mean.flatten(), (var.flatten() + epsilon).rsqrt()
    return replace(learner, act=lambda p, obs, *rest: learner.act(p, (obs - middle) * scale, *rest))


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
