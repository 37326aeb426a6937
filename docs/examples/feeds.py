# docs/examples/feeds.py
import gymnasium as gym
import numpy as np

from thespis.estimate import ncis
from thespis.worlds import feeds

world = gym.make("thespis/ShortVideo-v0").unwrapped
log = feeds.log(world, steps=20_000)
lengths = np.diff(np.flatnonzero(log["terminals"] | log["timeouts"]), prepend=-1)


def chances(obs: np.ndarray) -> np.ndarray:
    """A policy to be judged: topics that the user likes, and a share of everything."""
    score = np.exp(2.0 * obs[:, :8] @ world.of.topic.T)
    return 0.8 * score / score.sum(1, keepdims=True) + 0.2 / score.shape[1]


chance = chances(log["observations"])[np.arange(len(log["actions"])), log["actions"]]
value, interval, _ = ncis(chance / log["propensities"], log["rewards"], lengths)
rng = np.random.default_rng(0)
total, _, steps = feeds.worth(world, lambda obs: feeds.chosen(chances(obs), rng), sessions=2_000)
print("a step gives   watch like comment hate")
print("by the log    ", value.round(4))
print("in the world  ", (total / steps).round(4))
