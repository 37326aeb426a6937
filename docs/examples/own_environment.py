# docs/examples/own_environment.py
import gymnasium as gym
import numpy as np

import thespis


class Corridor(gym.Env):
    """Four cells in a row; the episode ends at the right end, and every step costs 1. From the left end the best return is -3.

    Observation: the place, from 0 to 1. Action: 0 goes left, 1 goes right.
    """

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # random numbers come from self.np_random, so that a run can be resumed exactly
        self.cell = 0
        return self.seen(), {}

    def step(self, action):
        self.cell = min(max(self.cell + (1 if action == 1 else -1), 0), 3)
        return self.seen(), -1.0, self.cell == 3, False, {}  # terminated, truncated: the time limit is not its business

    def seen(self):
        return np.array([self.cell / 3], np.float32)


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=50)

if __name__ == "__main__":
    env = gym.make("Corridor-v0")
    assert thespis.check_env("Corridor-v0").wrong == []
    env.reset(seed=0)
    assert sum(env.step(1)[1] for _ in range(3)) == -3.0
    tiny = {"steps": 300, "warmup": 200, "hidden": (16,), "eval_episodes": 2}
    run = thespis.train("sac_discrete", env="Corridor-v0", out="runs/corridor", **tiny)
    print(run.return_mean)
