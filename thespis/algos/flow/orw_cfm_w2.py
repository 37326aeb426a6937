"""ORW-CFM-W2: flow matching on the field's own samples, each weighed by its reward, and kept near the field it began as.

Paper: Fan et al. 2025, "Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization", arXiv:2502.06061.
Parent: flow_matching, whose loss it has on the batch of samples where tau and beta are 0. Without beta (preset orw_cfm) each
round multiplies the density by the weight, and so it ends in a single sample.
Departures: rewards are standardised by all that came, and clipped, as in ac_flow; weights have the mean 1 in a batch, so
that the step size is what it says.
Assumed: no number of the paper could be read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size (a choice of ours)"""
    hidden: tuple[Count, ...] = (128, 128, 128)
    """widths of the field's hidden layers, as of the run that it begins with"""
    ode_steps: Count = 20
    """Euler steps from noise to a sample (a choice of ours)"""
    tau: NonNegative = 1.0
    """how sharply a sample is weighed by its reward r: exp(tau r)"""
    beta: NonNegative = 0.3
    """weight of the squared distance between the field and the one that it began as, which bounds W2 between their samples"""
    reward_clip: Positive = 5.0
    """bound of standardised rewards (a choice of ours)"""
    rollout: Count = 256
    """samples of each environment between two rounds of learning (a choice of ours)"""
    epochs: Count = 4
    """passes over them, each with noise and times of its own (a choice of ours)"""
    batch_size: Count = 256
    """samples in an update (a choice of ours)"""


PRESETS = {"orw_cfm": Config(beta=0.0)}


@tree
class State:
    actor: Trained
    """the field"""
    reference: Params
    """the field as it was before the first update"""
    seen: Params
    """count, mean and variance of the rewards"""


def make(cfg: Config, spec: Spec) -> Learner:
    field = nets.flow(spec, "orw_cfm_w2", cfg.hidden, cfg.ode_steps)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        begins = s.seen["count"] == 0
        reference = {k: torch.where(begins, p, s.reference[k]) for k, p in s.actor.params.items()}
        raw = rollout.reward[..., None]
        seen = ops.moments(s.seen, raw)
        rows = replace(rollout, reward=ops.whitened(raw, seen, cfg.reward_clip)[..., 0], extra={})
        return State(s.actor, reference, seen), tree_map(lambda x: x.flatten(0, 1), rows), {"reward": raw.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        x, t, u = ops.noised(b.action)
        c = nets.condition(spec, b.obs)
        v, weight = field.velocity(p, x, t, c), (cfg.tau * b.reward).exp()
        distance = (v - field.velocity(s.reference, x, t, c)).square().sum(-1).mean()
        error = (weight / weight.mean() * (v - u).square().sum(-1)).mean()
        return error + cfg.beta * distance, {"distance": distance, "largest_weight": weight.max() / weight.mean()}

    def init() -> State:
        p = field.init()
        return State(fresh(p), {k: torch.zeros_like(x) for k, x in p.items()}, ops.unseen(1))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, metrics = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=actor), metrics

    return Learner(
        init, update, lambda s: {"actor": s.actor.params}, lambda p, obs, explore: field.sample(p["actor"], obs, explore),
        losses={"actor": actor_loss}, prepare=prepare, experience=OnPolicy(0.0, cfg.rollout, cfg.epochs, cfg.batch_size),
    )  # fmt: skip
