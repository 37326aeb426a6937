"""The learner of a run, made and checked: what algorithm, configuration, run and environment cannot be together is told here."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from thespis import config, envs
from thespis.algorithms import Algorithm, check_actions, fitting
from thespis.core import Fault, Learner, OffPolicy
from thespis.data import Offline, OnPolicy, Source, dataset, offline, updates
from thespis.engine import contexts, frames, goals, memory, priority, team
from thespis.engine.around import around, seen
from thespis.engine.freeze import frozen
from thespis.engine.run import Run


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
    spec = seen(world.spec, run)
    try:
        learner = frames.fed(algo.module.make(cfg, spec, **parts), algo.name, run.frame_stack)
    except Fault as fault:
        if algo.family == "own" or algo.name in fitting(spec):
            raise
        raise Fault(f"{fault}; 'thespis list --for {world.name}' names the algorithms that fit") from None
    check_actions(algo, dataclasses.replace(world, spec=spec))
    frames.check_sequences(learner, algo.name, run, source is not None)
    if run.offline and isinstance(learner.experience, OffPolicy):
        learner = dataclasses.replace(learner, experience=offline(learner.experience))
    if isinstance(learner.experience, Offline):
        if source is None and world.recorded is None:
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
    if learner.given and world.spec.context and source is None and world.recorded is None:
        raise Fault(f"data: {algo.name} plays levels of recorded data here: name a dataset whose column contexts has them")
    run = side_by_side(learner, algo.name, run)
    goals.check(learner, algo.name, world, run)
    shown = contexts.world_of(learner, world, run, algo.name, source).spec
    priority.check(learner, algo.name, shown, run, source is not None)
    if run.data is not None:
        dataset.find(run.data)
    if run.stop_at is not None and not run.eval_episodes:
        raise Fault(f"stop_at is {run.stop_at:g}; it looks at evaluations, and eval_episodes is 0: allowed: 1 or more")
    memory.check_experience(learner, shown, run)
    widths = {f: n if isinstance(n, tuple) else (n,) for f, n in vars(cfg).items() if "hidden" in f and n}
    if large := {f: n for f, n in widths.items() if max(n) >= 5_000}:
        memory.check_networks(learner, run.device, ", ".join(f"{f} is {n}" for f, n in large.items()))
    if count := schedule_updates or schedule_updates_of(cfg, learner, run):
        made = algo.module.make(config.over(cfg, count), spec, **parts)
        learner = dataclasses.replace(made, experience=learner.experience)
    return around(frozen(learner, algo.module.State, run.freeze), algo.name, world.spec, run)


def side_by_side(learner: Learner, name: str, run: Run) -> Run:
    """The run, with as many environments as the learner has policies that collect. Fault: it has another number of them, or an
    option that such a learner cannot have."""
    policies = getattr(learner.experience, "policies", 0)
    if not policies:
        return run
    if run.num_envs not in (1, policies):
        raise Fault(
            f"num_envs is {run.num_envs}; {name} has {policies} policies side by side, each in an environment: leave it out"
        )
    others = {"reward_unit": run.reward_unit, "frame_stack": run.frame_stack > 1, "agents": run.agents}
    if option := next((option for option, value in others.items() if value), None):
        raise Fault(f"{option}: {name} reads descriptors off rewards as they are, and does without it; leave it out")
    return dataclasses.replace(run, num_envs=policies)


def schedule_updates_of(cfg: Any, learner: Learner, run: Run) -> int | None:
    """The updates that schedules without a number of their own go over: those of the run, or from one reset of State to the
    next. None: there are no such schedules."""
    if config.over(cfg, 1) == cfg:
        return None
    feed = learner.experience
    count = updates(feed, run.steps, run.num_envs) + (feed.pretrain if run.data else 0)
    return max(min(count, feed.reset_every or count), 1)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]
        why = "" if device.partition(":")[0] not in (*kinds, "cuda") else f" ({str(error).splitlines()[0].partition('. ')[0]})"
        raise Fault(f"device is {device!r}; allowed here: {', '.join(kinds)}{why}") from None
