"""A trained policy, from the files that a run leaves of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from thespis import config, envs
from thespis.algorithms import algorithm
from thespis.core import Fault, Learner, leaves, rebuild, replace
from thespis.directory import Result, built_in, control, given_parts, path_of, read_about
from thespis.engine import checkpoint, fetch, frames
from thespis.engine.act import Actor
from thespis.engine.around import around, seen
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
    contexts: np.ndarray | None = None
    """(episodes, C), what the episodes of the run's evaluations were about; None: its learner draws no contexts"""
    unnormalised: Learner | None = None
    """the learner as it was trained, where a wrapper normalised its observations: `learner` does that itself"""

    def __post_init__(self) -> None:
        self.reset()

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Before an episode's first step, where the policy remembers (srl, flashsac, frame_stack); others need no such word.
        `rows` of a batch, or None: all."""
        if rows is None:
            object.__setattr__(self, "_actor", Actor(self.learner, 1))
        else:
            self._actor.begin(torch.as_tensor(rows, dtype=torch.int64))  # type: ignore[attr-defined]

    def act(self, obs: Any, explore: bool = False, mask: Any = None, context: Any = None) -> Any:
        """The action for one observation, as the environment's spaces have them; or, for a batch, whose arrays have one dimension
        more in front, an array of as many actions. `explore` samples; else the mean action. A policy that remembers begins anew
        where the batch is of another size than before.

        `mask` is info["action_mask"], where the environment gives it there; for a batch one a row. What it forbids is not done.
        `context` (C,): what this episode is about, where the learner draws contexts; for a batch also (rows, C).
        """
        seen, apart = self.observation_space, False
        if envs.contexts.split(seen) and not (isinstance(obs, Mapping) and "context" in obs):
            obs = self._with_context(obs, context)
        if envs.masks.split(seen) and not (isinstance(obs, Mapping) and "action_mask" in obs):
            if mask is None:
                raise Fault("mask is missing; this environment has action masks: act(obs, mask=info['action_mask'])")
            seen, apart = seen["observation"], True  # type: ignore[index]
        count = _count(seen, obs)
        rows = [obs] if count is None else [_row(seen, obs, i) for i in range(count)]
        if apart:
            given = [mask] if count is None else list(mask)
            if len(given) != len(rows):
                raise Fault(f"mask is {len(given)} masks; it must be one for each of the {len(rows)} observations")
            each = [envs.masks.of(self.action_space, one, "mask") for one in given]
            rows = [{"observation": row, "action_mask": one} for row, one in zip(rows, each, strict=True)]
        flatten, translate = envs.spaces.flattener(self.observation_space), envs.spaces.translator(self.action_space)
        if not rows:
            raise Fault("observation is a batch of none; it must have one or more")
        flat = torch.from_numpy(np.stack([flatten(row) for row in rows]))
        if len(self._actor.age) != len(rows):  # type: ignore[attr-defined]
            object.__setattr__(self, "_actor", Actor(self.learner, len(rows)))
        actions = [translate(a) for a in self._actor(self.params, flat, explore).numpy()]  # type: ignore[attr-defined]
        return actions[0] if count is None else _stacked(actions)

    def _with_context(self, obs: Any, context: Any) -> dict[str, Any]:
        count, dim = _count(self.observation_space["observation"], obs), self.observation_space["context"].shape[0]  # type: ignore[index]
        shape = (dim,) if count is None else (count, dim)
        try:
            row = np.broadcast_to(np.asarray(context, np.float32), shape)
        except (TypeError, ValueError):
            row = None
        if context is None or row is None:
            given = "missing" if context is None else envs.spaces.short(context)
            raise Fault(f"context is {given}; each episode of this policy is about {dim} numbers: act(obs, context=...)")
        return {"observation": obs, "context": row}


def _count(space: gym.Space, obs: Any) -> int | None:
    """How many observations of the space `obs` is, along the first dimension of each array; None: it is one."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        try:
            parts = [
                (p, obs[k]) for k, p in (space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))
            ]
        except (LookupError, TypeError):
            return None
        counts = {_count(part, x) for part, x in parts}
        if len(counts) > 1 and None not in counts:
            raise Fault(f"observation: its parts have {' and '.join(sorted(map(str, counts)))} rows; they must have as many")
        return counts.pop() if len(counts) == 1 else None
    try:
        shape = np.shape(obs)
    except ValueError:  # ragged
        return None
    inner = space.shape or ()
    return shape[0] if len(shape) == len(inner) + 1 and shape[1:] == inner else None


def _stacked(actions: list[Any]) -> Any:
    if isinstance(actions[0], dict):
        return {k: _stacked([a[k] for a in actions]) for k in actions[0]}
    if isinstance(actions[0], tuple):
        return tuple(_stacked(list(part)) for part in zip(*actions, strict=True))
    return np.stack(actions)


def _row(space: gym.Space, obs: Any, i: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {k: _row(part, obs[k], i) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(part, x, i) for part, x in zip(space.spaces, obs, strict=True))
    return obs[i]


def load(path: str | Path | Result, which: str = "last", *, algo: str | None = None, **parts: Any) -> Policy:
    """The policy of a run directory: "first", "last", "best" by evaluation, or one that a callback saved by a name; or of
    hf://owner/name[@revision] on the Hugging Face Hub. Needs neither the environment nor a checkpoint.
    """
    folder = path_of(fetch.local(path))
    if not (folder / "policy").is_dir():
        raise Fault(f"{folder} {'holds no policy' if folder.exists() else 'does not exist'}")
    named = [p.stem for p in sorted((folder / "policy").glob("*.json")) if p.stem not in ("first", "last", "best")]
    if which not in (allowed := ["first", "last", "best", *named]):
        raise Fault(f"which is {which!r}; allowed: {', '.join(map(repr, allowed))}")
    file = folder / "policy" / f"{which}.json"
    control(read_about(file), file)
    about = read_about(file, step=int, observation_space=dict, action_space=dict)
    if sealed := "sha256" in about:  # a policy from before there were checksums has none in either file
        checkpoint.unseal(about, file)
    found = algorithm(algo or built_in(folder, about["algo"]))
    try:
        both = envs.spaces_json.from_json(about["observation_space"]), envs.spaces_json.from_json(about["action_space"])
        spec = envs.actions.spec(*both)._replace(horizon=_horizon(about))
    except Fault as fault:
        raise Fault(f"{file}: {fault}") from None
    cfg = config.build(found.module.Config, about["algo_config"], f"{file}: ")
    run = config.build(Run, about["run"], f"{file}: ")
    named = about.get("rewards", spec.rewards)
    if not isinstance(named, list | tuple) or not named or not all(isinstance(name, str) for name in named):
        raise Fault(f"{file} is damaged: rewards must be names")
    many = about.get("agents", 1)
    if type(many) is not int or not 1 <= many <= spec.obs.dim:
        raise Fault(f"{file} is damaged: agents is {many!r}")
    if type(context := about.get("context", 0)) is not int or context < 0:
        raise Fault(f"{file} is damaged: context must be a number of numbers")
    levels = about.get("levels", [])
    if not isinstance(levels, list) or len(levels) not in (0, context) or not all(type(n) is int and n > 0 for n in levels):
        raise Fault(f"{file} is damaged: levels must be how many choices each number of a context has")
    spec = spec._replace(rewards=tuple(named), agents=many, context=context, levels=tuple(levels))
    made = found.module.make(cfg, seen(spec, run), **given_parts(found, about, parts))
    learner = around(frames.fed(made, found.name, run.frame_stack), found.name, spec, run)
    blank = _blank(learner, file)
    file = file.with_suffix(".safetensors")
    saved = checkpoint.read_tensors(file, sealed)
    checkpoint.fit(saved, leaves(blank), file)
    normal = _normalising(learner, gathered(about, file), spec.obs.dim - spec.mask, file)
    held = _contexts(about, file) if learner.context else None
    seen_space = both[0] if held is None or context else envs.contexts.with_context(both[0], held.shape[1])
    return Policy(normal or learner, rebuild(blank, saved), seen_space, both[1], about, held, learner if normal else None)


def _contexts(about: dict[str, Any], file: Path) -> np.ndarray:
    try:
        found = np.array(about["contexts"], np.float32)
        if found.ndim == 2 and found.size and np.isfinite(found).all():
            return found
    except (KeyError, TypeError, ValueError):
        pass
    raise Fault(f"{file} is damaged: contexts must be rows of numbers")


def _horizon(about: dict[str, Any]) -> int | None:
    """The world's time limit; a policy from before it was written down needs none."""
    limit = about.get("horizon")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise Fault(f"horizon is {limit!r}; allowed: a whole number of 1 or more, or null")
    return limit


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

    def normal(obs: Tensor) -> Tensor:  # an action mask stands behind, and stays as it is
        return torch.cat([(obs[..., :dim] - middle) * scale, obs[..., dim:]], -1)

    return replace(learner, act=lambda p, obs, *rest: learner.act(p, normal(obs), *rest))


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
