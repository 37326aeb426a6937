"""How many rewards a step gives."""

from thespis.core import Spec


def reward_shape(spec: Spec) -> tuple[int, ...]:
    """Of a step's reward: () of one, (R,) of more."""
    return () if len(spec.rewards) == 1 else (len(spec.rewards),)
