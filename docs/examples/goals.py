# docs/examples/goals.py
import gymnasium as gym
import numpy as np

import thespis

place = gym.spaces.Box(-1, 1, (2,), np.float32)


class Park(gym.Env):
    """Drive to the place that this episode asks for; only arriving is rewarded."""

    observation_space = gym.spaces.Dict({"observation": place, "achieved_goal": place, "desired_goal": place})
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.left = 50
        return self.seen(), {}

    def step(self, action):
        self.at = np.clip(self.at + 0.1 * action, -1, 1).astype(np.float32)
        self.left -= 1
        there = bool(self.compute_terminated(self.at, self.goal, {}))
        return self.seen(), there - 1.0, there, self.left == 0, {"is_success": there}

    def seen(self):
        return {"observation": self.at, "achieved_goal": self.at, "desired_goal": self.goal}

    def compute_reward(self, achieved_goal, desired_goal, info):  # of one pair of goals, or of many: (2,) or (n, 2)
        return self.compute_terminated(achieved_goal, desired_goal, info) - 1.0

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return np.linalg.norm(achieved_goal - desired_goal, axis=-1) <= 0.05


if __name__ == "__main__":
    tiny = {"steps": 300, "warmup": 200, "hidden": (16,), "eval_episodes": 2}
    run = thespis.train("sac", Park, hindsight="future", out="runs/park", **tiny)
    print([x for x in run.metrics()["eval/info/is_success"] if x is not None])
