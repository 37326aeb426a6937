"""What a learner draws for each episode, as the engine takes it.

`Learner.context`: (state, n, explore) -> (n, C), what n episodes that begin are about. It stands behind every observation of
theirs; where Spec.context is not 0 it goes to the world instead. Without `explore` it is the first n of the set that evaluations
go through.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.core import Fault, Learner
from thespis.data import Offline
from thespis.engine.compile import Stepper
from thespis.engine.run import Run
from thespis.envs import World
from thespis.envs.contexts import widened


def rows(learner: Learner, state: Any, n: int, explore: bool) -> np.ndarray:
    """The contexts (n, C) of n episodes; without `explore`, the first n of the set that evaluations go through. Fault: they are
    no such rows, or not finite."""
    assert learner.context
    with torch.no_grad(), nullcontext() if explore else torch.random.fork_rng(devices=[]):
        found = learner.context(state, n, explore).detach().cpu().float().numpy()
    if found.ndim != 2 or len(found) != n or not found.shape[1] or not np.isfinite(found).all():
        raise Fault(f"context gave {found.shape}; it must give {n} rows of finite numbers, (n, C)")
    return found


def drawn(learner: Learner, stepper: Stepper, explore: bool) -> Callable[[int], np.ndarray] | None:
    """n -> `rows` of the State as it is then; None where the learner draws none."""
    return (lambda n: rows(learner, stepper.state, n, explore)) if learner.context else None


def world_of(learner: Learner, world: World, run: Run, name: str, data: object = None) -> World:
    """The world as the learner is shown it. Fault: the run asks for something that cannot have contexts."""
    if learner.context is None:
        return world
    others = {
        "data": (data is not None and not learner.given) or isinstance(learner.experience, Offline), "collectors": run.collectors,
        "frame_stack": run.frame_stack > 1, "agents": run.agents is not None,
    }  # fmt: skip
    if option := next((option for option, value in others.items() if value), None):
        raise Fault(f"{option}: {Path(name).stem} draws a context for each episode, which does not go with it; leave it out")
    with torch.random.fork_rng(devices=[]):
        return widened(world, rows(learner, learner.init(), 1, False).shape[1])
