# docs/examples/preferences.py
import numpy as np

import thespis


def calm(first, second):
    """The longer episode; of two that are as long, the one whose pole leaned less at its worst."""
    if len(first.reward) != len(second.reward):
        return float(len(first.reward) > len(second.reward))
    return float(first.obs[:, 2].abs().max() < second.obs[:, 2].abs().max())


if __name__ == "__main__":
    tiny = {"steps": 1_200, "rollout": 300, "num_envs": 2, "hidden": (16,), "eval_episodes": 2}
    run = thespis.train("spo", "CartPole-v1", rater="docs.examples.preferences:calm", out="runs/calm", **tiny)
    policy = thespis.load(run)
    print(policy.act(np.zeros(4, np.float32)))
