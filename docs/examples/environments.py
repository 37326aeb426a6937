# docs/examples/environments.py
import gymnasium as gym
import numpy as np

import thespis


class Reach(gym.Env):
    """Move a point on a line to 0: the reward of a step is minus the distance that is left."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, (1,)).astype(np.float32), 0
        return self.x, {}

    def step(self, action):
        self.x, self.t = np.clip(self.x + 0.2 * action, -2, 2).astype(np.float32), self.t + 1
        return self.x, -float(abs(self.x[0])), False, self.t == 20, {}


tiny = {"steps": 200, "warmup": 100, "hidden": (32, 32), "eval_episodes": 2}

# a callable: anything that returns a fresh environment; a class is one
own = thespis.train("sac", env=Reach, out="runs/callable", **tiny)
print(thespis.evaluate(own, episodes=2, env=Reach)["mean_return"])

# an instance: the run makes environments like it, and leaves this one alone
slow = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: r / 10)
wrapped = thespis.train("sac", env=slow, out="runs/instance", **tiny)
print(wrapped.return_mean)
