"""AC-Flow: reward-weighted flow matching with a critic that tells, from the way between noise and sample, what it will earn.

Paper: Fan et al. 2025, "Fine-tuning Flow Matching Generative Models with Intermediate Feedback", arXiv:2510.18072.
Parent: orw_cfm_w2 (arXiv:2502.06061), whose actor it has where the critic is 0 and the advantage is not clipped.
Departures: a small critic without layer norms; rewards are standardised by all that came, and clipped; weights have the mean 1
in a batch; in the warm-up the actor's moments gather, and its parameters stay.
Assumed: the paper's equations could not be read, so: the critic sees points between the sample and fresh noise, the same ones as
the actor; the advantage of a point is the sample's reward less the critic's word there; its weight is exp(tau advantage).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of the field (a choice of ours)"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critic (a choice of ours)"""
    hidden: tuple[Count, ...] = (128, 128, 128)
    """widths of the field's hidden layers, as of the run that it begins with"""
    critic_hidden: tuple[Count, ...] = (64, 64)
    """widths of the critic's hidden layers, SiLU between them (a choice of ours)"""
    ode_steps: Count = 20
    """Euler steps from noise to a sample (a choice of ours)"""
    tau: NonNegative = 1.0
    """how sharply a point is weighed by its advantage A: exp(tau A)"""
    beta: NonNegative = 0.3
    """weight of the squared distance between the field and the one that it began as, which bounds W2 between their samples"""
    advantage_clip: Positive = 2.0
    """bound of advantages (a choice of ours)"""
    reward_clip: Positive = 5.0
    """bound of standardised rewards (a choice of ours)"""
    critic_only: Natural = 100
    """updates at the start in which the field stays as it is: the warm-up (a choice of ours)"""
    rollout: Count = 256
    """samples of each environment between two rounds of learning (a choice of ours)"""
    epochs: Count = 4
    """passes over them, each with noise and times of its own (a choice of ours)"""
    batch_size: Count = 256
    """samples in an update (a choice of ours)"""


@tree
class State:
    actor: Trained
    """the field"""
    critic: Trained
    reference: Params
    """the field as it was before the first update"""
    seen: Params
    """count, mean and variance of the rewards"""


def make(cfg: Config, spec: Spec) -> Learner:
    field = nets.flow(spec, "ac_flow", cfg.hidden, cfg.ode_steps)
    dim = ops.sizes(spec.action)[0]
    critic_net = nets.timed(dim, spec.obs.dim - dim, cfg.critic_hidden, 1)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        begins = s.seen["count"] == 0
        reference = {k: torch.where(begins, p, s.reference[k]) for k, p in s.actor.params.items()}
        raw = rollout.reward[..., None]
        seen = ops.moments(s.seen, raw)
        rows = replace(rollout, reward=ops.whitened(raw, seen, cfg.reward_clip)[..., 0], extra={})
        return State(s.actor, s.critic, reference, seen), tree_map(lambda x: x.flatten(0, 1), rows), {"reward": raw.mean()}

    def value(p: Params, b: Batch) -> Tensor:  # (B,), of the points on the way
        return critic_net.apply(p, b.extra["x"], b.extra["t"], nets.condition(spec, b.obs)).squeeze(-1)

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        error = (value(p, b) - b.reward).square().mean()
        return error, {"explained": 1 - error / (b.reward.var(correction=0) + 1e-8)}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        c = nets.condition(spec, b.obs)
        v = field.velocity(p, b.extra["x"], b.extra["t"], c)
        advantage = (b.reward - value(s.critic.params, b)).clamp(-cfg.advantage_clip, cfg.advantage_clip)
        weight = (cfg.tau * advantage).exp()
        distance = (v - field.velocity(s.reference, b.extra["x"], b.extra["t"], c)).square().sum(-1).mean()
        error = (weight / weight.mean() * (v - b.extra["u"]).square().sum(-1)).mean()
        return error + cfg.beta * distance, {"distance": distance, "largest_weight": weight.max() / weight.mean()}

    def init() -> State:
        p = field.init()
        return State(fresh(p), fresh(critic_net.init()), {k: torch.zeros_like(x) for k, x in p.items()}, ops.unseen(1))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        b = replace(b, extra=dict(zip(("x", "t", "u"), ops.noised(b.action), strict=True)))
        critic, m1 = descend(s.critic, critic_loss, cfg.critic_lr, b)
        s = replace(s, critic=critic)
        new, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        learns = critic.t > cfg.critic_only
        params = {name: torch.where(learns, p, s.actor.params[name]) for name, p in new.params.items()}
        return replace(s, actor=replace(new, params=params)), m1 | m2

    return Learner(
        init, update, lambda s: {"actor": s.actor.params}, lambda p, obs, explore: field.sample(p["actor"], obs, explore),
        losses={"critic": critic_loss, "actor": actor_loss}, prepare=prepare,
        experience=OnPolicy(0.0, cfg.rollout, cfg.epochs, cfg.batch_size),
    )  # fmt: skip
