# docs/examples/live_feed.py
import numpy as np

from thespis.worlds.live_feed import audience, best, states, value

users = audience(seed=1, users=50)
obs = states(users)  # the observation of every state
watched = 1 / (1 + np.exp(0.9 * obs[..., 3] - obs[..., 0] - obs[..., 4]))  # by which chance
gain = watched * (np.exp(obs[..., 5]) - 0.2 * np.exp(obs[..., 1]))  # minutes, at once
greedy = gain > np.quantile(gain, 0.7)
for name, show in (("no lives", 0 * gain), ("greedy", greedy), ("best", best(users, exposure=0.2))):
    print(f"{name:10s}", {k: round(x, 2) for k, x in value(users, show).items()})
