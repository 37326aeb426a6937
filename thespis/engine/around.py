"""What a run's options put around an algorithm's learner: frames side by side, running scales, several agents."""

from __future__ import annotations

from thespis.core import Learner, Spec
from thespis.engine import agents, frames
from thespis.engine.normalise import normalised
from thespis.engine.run import Run


def seen(spec: Spec, run: Run) -> Spec:
    """The environment as the algorithm is told of it."""
    return agents.each(frames.side_by_side(spec, run.frame_stack), run.agents, run.frame_stack)


def around(learner: Learner, name: str, spec: Spec, run: Run) -> Learner:
    """The learner, made for `seen`, as the engine is to see it in the environment of this spec."""
    scaled = normalised(learner, name, seen(spec, run), run)
    return agents.independent(frames.acting(scaled, spec), name, spec, run.agents)
