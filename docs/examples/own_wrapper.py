# docs/examples/own_wrapper.py
import gymnasium as gym

import thespis


class Costly(gym.Wrapper):
    """Every step also costs the square of the action, times `weight`."""

    def __init__(self, env, weight=0.1):
        super().__init__(env)
        self.weight = weight

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward - self.weight * float(action @ action), terminated, truncated, info


if __name__ == "__main__":
    wrappers = ["own_wrapper:Costly(weight=0.5)", "TimeLimit(max_episode_steps=50)"]
    tiny = {"steps": 300, "warmup": 200, "hidden": (16,), "eval_episodes": 2}
    run = thespis.train("sac", env="Pendulum-v1", wrappers=wrappers, out="runs/costly", **tiny)
    print(thespis.evaluate(run, episodes=2, wrappers=wrappers)["mean_length"])
