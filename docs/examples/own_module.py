# docs/examples/own_module.py
import gymnasium as gym
from torch import Tensor, nn

import thespis


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int = 32):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.block = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + self.block(h))


def actor(spec) -> nn.Module:  # obs -> mean and log std of each action
    return Residual(spec.obs.dim, 2 * spec.action.dim)


def critic(spec) -> nn.Module:  # obs and action, joined -> one value
    return Residual(spec.obs.dim + spec.action.dim, 1)


if __name__ == "__main__":
    parts = {"actor": actor, "critic": critic}
    run = thespis.train("sac", env="Pendulum-v1", steps=300, warmup=200, eval_episodes=2, out="runs/own-module", **parts)
    policy = thespis.load(run, **parts)  # a run directory holds tensors and numbers, never code: give the parts again
    obs, _ = gym.make("Pendulum-v1").reset(seed=0)
    print(policy.act(obs), policy.act(obs, explore=True))
