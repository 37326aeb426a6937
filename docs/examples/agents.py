# docs/examples/agents.py
from mpe2 import simple_spread_v3

import thespis
from thespis.envs.agents import Agents

if __name__ == "__main__":
    tiny = {"steps": 256, "rollout": 64, "hidden": (16,), "eval_episodes": 2}
    env = "pettingzoo:mpe2.simple_spread_v3"
    run = thespis.train("ppo_discrete", env, agents="shared", env_args={"N": 2}, out="runs/spread", **tiny)
    print(thespis.evaluate(run)["mean_returns"])

    policy = thespis.load(run)
    env = Agents(simple_spread_v3.parallel_env(N=2))
    obs, _ = env.reset(seed=0)
    over = False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
        over = terminated or truncated
    print(dict(zip(env.names, reward, strict=True)))
