"""Rows of the replay drawn by how wrong the critics were about them, as a run asks for it."""

from __future__ import annotations

from typing import Any

import torch

from thespis import ops
from thespis.core import Batch, Fault, Learner, Metrics, OffPolicy, Spec, tree_map
from thespis.data import PrioritisedReplay, Priority, Sequences, replay
from thespis.data.replay import empty_actions
from thespis.engine import team
from thespis.engine.compile import Stepper
from thespis.engine.run import Run


def priority(learner: Learner, run: Run) -> Priority | None:
    """How rows are drawn; None where the run asks for nothing: uniformly."""
    if run.priority is None:
        return None
    return Priority(run.priority, run.priority_beta, max(replay.updates(learner.experience, run.steps), 1))


def check(learner: Learner, name: str, spec: Spec, run: Run, data: bool) -> None:
    """Fault: the run asks for priorities, which this algorithm, or another option, cannot have."""
    if run.priority is None:
        return
    if not isinstance(learner.experience, OffPolicy):
        why = "learns from data alone here" if run.offline else "has no replay of its own steps"
        raise Fault(f"priority: {name} {why}; leave it out, or take an off-policy algorithm that takes steps")
    others = {"data": data, "collectors": run.collectors, "agents": run.agents, "torchrun's learners": team.many()}
    if option := next((option for option, value in others.items() if value), None):
        raise Fault(f"{option}: with priority a run has one replay, of its own steps, and one learner; leave one of the two out")
    if isinstance(learner.experience, Sequences) or "errors" not in _metrics(learner, spec):
        raise Fault(f"priority: {name} does not tell how wrong it was about each row (ops.squared); leave it out")


def _metrics(learner: Learner, spec: Spec) -> Metrics:
    """What an update with weights tells, found without computing it."""
    frames, rows = learner.experience.frames, 2
    action = torch.from_numpy(empty_actions(spec, rows))
    reward = torch.zeros(rows, *ops.reward_shape(spec))
    obs = torch.zeros(rows, frames * spec.obs.dim)
    extra = {"weight": torch.zeros(rows), "return_std": reward, "return_max": reward, "previous": action, "demo": reward}
    batch: Any = tree_map(lambda x: x.to("meta"), Batch(obs, action, reward, reward, obs, extra))
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        return learner.update(learner.init(), batch, 0)[1]


class Heeding(Stepper):
    """A Stepper whose replay is told how wrong the critics were about each row of the last batch."""

    replay: PrioritisedReplay

    def _count(self, metrics: Metrics) -> None:
        self.replay.heed(metrics.pop("errors"))
        super()._count(metrics)


def stepper(replay: object, *given: Any) -> Stepper:
    """A Stepper of `given`, and one that heeds where rows are drawn by priority."""
    if not isinstance(replay, PrioritisedReplay):
        return Stepper(*given)
    heeding = Heeding(*given)
    heeding.replay = replay
    return heeding
