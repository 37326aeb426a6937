# docs/examples/quickstart.py
import gymnasium as gym

import thespis

tiny = {"steps": 400, "warmup": 200, "hidden": (32, 32), "eval_episodes": 2}
run = thespis.train("sac", env="Pendulum-v1", out="runs/quickstart", overwrite=True, **tiny)
policy = thespis.load(run)
env = gym.make("Pendulum-v1")
obs, _ = env.reset(seed=0)
obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
print(f"{run.path}: return {run.return_mean:.0f}; this step's reward {reward:.2f}")
