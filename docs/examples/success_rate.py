# docs/examples/success_rate.py
import json

import gymnasium as gym
import numpy as np

import thespis


class Reach(gym.Env):
    """Be within 0.1 of 0 after ten steps."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.x, {}

    def step(self, action):
        self.x, self.t = np.clip(self.x + 0.3 * action, -2, 2).astype(np.float32), self.t + 1
        distance = float(abs(self.x[0]))
        return self.x, -distance, False, self.t == 10, {"is_success": distance < 0.1, "distance": distance}


run = thespis.train("sac", env=Reach, steps=300, warmup=200, hidden=(32, 32), eval_episodes=5, out="runs/success")
for line in (run.path / "metrics.jsonl").read_text().splitlines():
    row = json.loads(line)
    print({name: value for name, value in row.items() if "info/" in name or name == "step"})
print("evaluated anew:", thespis.evaluate(run, episodes=5, env=Reach)["info"])
