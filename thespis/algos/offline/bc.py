"""Behaviour cloning: the policy under which the recorded actions are likeliest.

Paper: Pomerleau 1991, "Efficient Training of Artificial Neural Networks for Autonomous Navigation", Neural Computation 3(1).
Parent: regression by maximum likelihood; there is nothing of reinforcement learning in it, and so it is what others are held to.
Departures: sizes and step sizes are those of the offline codes that it is a baseline for, not the paper's; the policy is a
Gaussian whose spread is learnt and the same in every state, which has the mean that least squares has.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Interval, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size (as in TD3+BC's code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (as in TD3+BC's code)"""
    log_std: Interval = (-5.0, 2.0)
    """range of a Gaussian's log standard deviation (as in IQL's code)"""
    normalise: bool = True
    """observations by the dataset's mean and spread"""
    batch_size: Count = 256
    """transitions in an update (as in TD3+BC's code)"""


TAKES = {"mask", "rewards"}
"""action masks; and any rewards, as it sees none"""


@tree
class State:
    actor: Trained
    seen: Params
    """mean and spread of the dataset's observations"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None) -> Learner:
    """`actor(spec)`: your own module, obs -> a Box's means before their tanh, or the logits of every choice."""
    sizes, seen_dim = (spec.obs.dim, *cfg.hidden, nets.outputs(spec)), spec.obs.dim - spec.mask
    pi = nets.bounded(spec, nets.custom(actor, spec, sizes[0], sizes[-1]) or nets.mlp(sizes), cfg.log_std)

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        d = pi.apply(p, ops.normalised(b.obs, s.seen))
        return -pi.log_prob(d, b.action).mean(), {"entropy": pi.entropy(d).mean()}

    def init() -> State:
        return State(fresh(pi.init()), {"mean": torch.zeros(seen_dim), "std": torch.ones(seen_dim)})

    def given(s: State, data: Batch) -> State:
        return replace(s, seen=ops.mean_and_std(data.obs[:, :seen_dim], 1e-3)) if cfg.normalise else s

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        new, metrics = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=new), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        d = pi.apply(p["actor"], ops.normalised(obs, p["seen"]))
        return pi.sample(d) if explore else pi.mode(d)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act,
        losses={"actor": actor_loss}, experience=Offline(gamma=0.99, n_step=1, batch_size=cfg.batch_size), given=given,
    )  # fmt: skip
