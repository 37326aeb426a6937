"""Gymnasium in, Spec out: making environments, running several at once, and checking what they say.

world(...) -> World; world.make() -> Flat, one environment as a learner sees it; vector(world, n) -> n of them.
"""

from thespis.envs import actions, agents, contexts, masks, probes, spaces, spaces_json, wrappers
from thespis.envs.figures import Figures
from thespis.envs.flat import Flat
from thespis.envs.making import arguments, known, unsimulated, world
from thespis.envs.rewards import weighted
from thespis.envs.vector import Vector, vector
from thespis.envs.world import World

__all__ = [
    "Figures",
    "Flat",
    "Vector",
    "World",
    "actions",
    "agents",
    "arguments",
    "contexts",
    "known",
    "masks",
    "probes",
    "spaces",
    "spaces_json",
    "unsimulated",
    "vector",
    "weighted",
    "world",
    "wrappers",
]
