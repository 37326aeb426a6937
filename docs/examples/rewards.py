# docs/examples/rewards.py
import gymnasium as gym
import numpy as np

import thespis


class Drive(gym.Env):
    """Each step drives some way, and burns the square of it."""

    metadata = {"reward_names": ["way", "fuel"], "render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Box(0, 1, (1,), np.float32)
    reward_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        way = float(action[0])
        return np.array([self.t / 10], np.float32), np.array([way, -(way**2)]), False, self.t == 10, {}


if __name__ == "__main__":
    tiny = {"steps": 400, "warmup": 200, "hidden": (16,), "eval_episodes": 2}
    run = thespis.train("sac", Drive, weights={"way": 1, "fuel": 1}, out="runs/drive", **tiny)
    print(thespis.evaluate(run, env=Drive)["mean_returns"])
