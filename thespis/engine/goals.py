"""Goals in hindsight, as a run asks for them."""

from __future__ import annotations

from thespis.core import Fault, Learner, OffPolicy
from thespis.data import Rule
from thespis.engine.run import Run
from thespis.envs import World


def hindsight(world: World, run: Run) -> Rule | None:
    """How batches get their goals; None where the run asks for nothing."""
    if run.hindsight is None or world.goals is None:
        return None
    return Rule(world.goals.achieved, world.goals.desired, world.goals.judge, run.hindsight, run.hindsight_share)


def check(learner: Learner, name: str, world: World, run: Run) -> None:
    """Fault: the run asks for goals in hindsight, which this algorithm or this environment cannot have."""
    if run.hindsight is None:
        return
    if not isinstance(learner.experience, OffPolicy):
        why = "learns from data alone here" if run.offline else "has no replay of its own steps"
        raise Fault(f"hindsight: {name} {why}; leave it out, or take an off-policy algorithm that takes steps")
    if learner.experience.frames > 1:
        raise Fault(f"hindsight: frame_stack is {learner.experience.frames}; it must be 1, as a goal stands in one observation")
    if len(world.rewards) > 1 or run.weights:
        raise Fault(f"hindsight: {world.name}'s rewards are {', '.join(world.rewards)}; it must have one, without weights")
    if world.goals is None:
        raise Fault(
            f"hindsight: {world.name} has no goals: it must observe a Dict with achieved_goal and desired_goal of one size, and"
            " have compute_reward(achieved_goal, desired_goal, info)"
        )
    world.goals.judge().close()
