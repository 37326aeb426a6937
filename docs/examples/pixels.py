# docs/examples/pixels.py
import gymnasium as gym
import numpy as np

import thespis


class Reach(gym.Env):
    """A dot that is to come to the middle of a picture. Beside the picture, the battery's charge is known as a number."""

    def __init__(self):
        picture = gym.spaces.Box(0, 255, (24, 24, 3), np.uint8)  # height, width, colours
        self.observation_space = gym.spaces.Dict(picture=picture, charge=gym.spaces.Box(0, 1, (1,)))
        self.action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.charge = self.np_random.uniform(2, 22, 2), 1.0
        return self.seen(), {}

    def step(self, action):
        self.at = np.clip(self.at + 2 * action, 1, 22)
        self.charge -= 0.05
        return self.seen(), -float(np.abs(self.at - 12).mean()) / 12, False, self.charge < 0.01, {}

    def seen(self):
        picture = np.zeros((24, 24, 3), np.uint8)
        row, column = self.at.astype(int)
        picture[row - 1 : row + 2, column - 1 : column + 2] = 255
        return {"picture": picture, "charge": np.array([self.charge], np.float32)}


tiny = {"channels": 4, "hidden": (16,), "batch_size": 8, "warmup": 40, "eval_episodes": 1, "compile_after": -1}
run = thespis.train("drq_v2", env=Reach, frame_stack=2, steps=60, out="runs/pixels", **tiny)
policy, env = thespis.load(run), Reach()
for seed in (0, 1):
    policy.reset()  # a new episode: no picture of the last one is left
    obs, _ = env.reset(seed=seed)
    for _ in range(5):
        obs, *_ = env.step(policy.act(obs))
