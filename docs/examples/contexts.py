# docs/examples/contexts.py
"""A policy of many manners: it learns to give the action that a number names, which is drawn anew for each episode."""

from dataclasses import dataclass

import torch
from torch import Tensor

import thespis
from thespis import nets
from thespis.config import Count, Natural, Rate
from thespis.core import Batch, Learner, Metrics, OffPolicy, Params, Spec, Trained, tree
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-2
    """Adam step size"""
    hidden: tuple[Count, ...] = (16,)
    """widths of the hidden layers"""
    warmup: Natural = 100
    """random steps before the first update"""


@tree
class State:
    actor: Trained


def make(cfg: Config, spec: Spec) -> Learner:
    net = nets.mlp((spec.obs.dim + 1, *cfg.hidden, spec.action.dim))  # the context stands behind the observation

    def loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        return (net.apply(p, b.obs).tanh() - b.obs[:, -1:]).square().mean(), {}

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, metrics = descend(s.actor, loss, cfg.lr, b)
        return State(actor), metrics

    def context(s: State, n: int, explore: bool) -> Tensor:  # (n, 1)
        return 2 * torch.rand(n, 1) - 1 if explore else torch.linspace(-0.9, 0.9, n)[:, None]

    return Learner(
        init=lambda: State(fresh(net.init())),
        update=update,
        policy=lambda s: s.actor.params,
        act=lambda p, obs, explore: net.apply(p, obs).tanh(),
        losses={"loss": loss},
        experience=OffPolicy(0.99, 1, 32, 10_000, cfg.warmup, 1.0),
        context=context,
    )


if __name__ == "__main__":
    run = thespis.train(__file__, "Pendulum-v1", steps=300, eval_episodes=3, out="runs/manners")
    policy = thespis.load(run, algo=__file__)
    print(policy.act([1.0, 0.0, 0.0], context=[0.5]))  # about 1: half of the largest torque, which is 2
