"""Several observations side by side as what a learner sees, where one does not show enough, such as a picture speed.

They are stored one by one, and put together where a batch is drawn (data/replay.py) and, here, where the learner acts: what it
saw last is part of its memory, so that evaluation, `thespis.load` and an exported policy have it too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thespis.core import Box, Fault, Learner, Params, Spec, replace
from thespis.data import OnPolicy, Sequences
from thespis.engine.run import Run


def side_by_side(spec: Spec, frames: int) -> Spec:
    """The environment as a learner is told of it that sees so many observations at once, the newest last."""
    dim = spec.obs.dim
    images = tuple((start + i * dim, stop + i * dim) for i in range(frames) for start, stop in spec.images)
    return spec._replace(obs=Box(frames * dim), images=images, shapes=spec.shapes * frames)


def fed(learner: Learner, name: str, frames: int) -> Learner:
    """The learner, whose batches hold so many observations a row. Fault: it cannot be fed so."""
    if frames == 1:
        return learner
    if isinstance(learner.experience, OnPolicy):
        raise Fault(
            f"frame_stack is {frames}; {name} is on-policy and has no such option: wrap the environment in "
            "gymnasium.wrappers.FrameStackObservation, or take an off-policy algorithm"
        )
    if isinstance(learner.experience, Sequences):
        raise Fault(f"frame_stack is {frames}; {name} remembers by itself what it saw: leave it out")
    return replace(learner, experience=replace(learner.experience, frames=frames))


def check_sequences(learner: Learner, name: str, run: Run, data: bool) -> None:
    """Fault: a learner that remembers is fed with other steps than its own."""
    others = {"offline": run.offline, "data": data, "collectors": run.collectors, "hindsight": run.hindsight}
    if isinstance(learner.experience, Sequences) and (given := [field for field, value in others.items() if value]):
        raise Fault(f"{given[0]}: {name} learns from sequences of its own steps, with what it remembered at each; leave it out")


def acting(learner: Learner, spec: Spec) -> Learner:
    """The learner as it acts in an environment of this spec, given one observation at a time."""
    frames, dim = getattr(learner.experience, "frames", 1), spec.obs.dim
    if frames == 1:
        return learner
    own = list(learner.memory(1)) if learner.memory else []

    def memory(n: int) -> Params:
        before = learner.memory(n) if learner.memory else {}
        return {**before, "frames": torch.zeros(n, frames * dim), "begun": torch.zeros(n, dtype=torch.bool)}

    def act(policy: Any, obs: Tensor, explore: bool, memory: Params, look: Tensor) -> tuple[Tensor, Params]:
        seen, begun = memory["frames"], memory["begun"][:, None]
        moved = torch.where(look[:, None], torch.cat([seen[:, dim:], obs], 1), seen)
        seen = torch.where(begun, moved, obs.repeat(1, frames))
        ours = {"frames": seen, "begun": torch.ones_like(memory["begun"])}
        if not learner.memory:
            return learner.act(policy, seen, explore), ours
        action, inner = learner.act(policy, seen, explore, {k: memory[k] for k in own}, look)
        return action, {**inner, **ours}

    return replace(learner, act=act, memory=memory, value=None)
