# docs/examples/masks.py
import gymnasium as gym
import numpy as np

import thespis


class Nim(gym.Env):
    """Take one, two or three of the sticks that are left, nine at first. Who takes the last wins; the other plays at random."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sticks = 9
        return self.seen(), self.info()

    def step(self, action):
        self.sticks -= int(action) + 1
        won = self.sticks == 0
        if not won:
            self.sticks -= int(self.np_random.integers(1, min(self.sticks, 3) + 1))
        return self.seen(), float(won), self.sticks == 0, False, self.info()

    def seen(self):
        return np.array([self.sticks / 9], np.float32)

    def info(self):
        return {"action_mask": np.array([self.sticks >= n for n in (1, 2, 3)], np.int8)}


if __name__ == "__main__":
    tiny = {"steps": 300, "warmup": 200, "hidden": (16,), "eval_episodes": 2}
    policy = thespis.load(thespis.train("sac_discrete", Nim, out="runs/nim", **tiny))
    env = Nim()
    obs, info = env.reset(seed=0)
    over = False
    while not over:
        obs, reward, over, _, info = env.step(policy.act(obs, mask=info["action_mask"]))
    print("won" if reward else "lost")
