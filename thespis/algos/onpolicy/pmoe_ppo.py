"""PPO with a mixture of Gaussians for its policy: the routing also learns how often each of them is the best.

Paper: Ren et al. 2021, "Probabilistic Mixture-of-Experts for Efficient Deep Reinforcement Learning", arXiv:2104.09122.
Parent: ppo, which it is with one component.
Departures: actor, critic and Q-function are apart, each gradient shortened by itself (authors' code: one loss, one Adam); ties
for the best are broken at random (theirs: the first wins); evaluation takes the likeliest component's mean; rewards and
observations are scaled as in ppo. The routing's loss is the mean over components, as theirs (the paper's formula: the sum). Where
actions are choices, or have some, a component is a softmax for each, beside the Gaussian (the paper: Gaussians alone).
Assumed: equations and numbers were read in the authors' code (quantumiracle/Popular-RL-Algorithms, pmoe_ppo.py, in the version
whose density is the mixture's), where the routing climbs the surrogate too, through that density.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    components: Count = 5
    """Gaussians in the mixture (authors' code for PPO)"""
    lr: Rate = 3e-4
    """Adam step size of actor, critic and Q-function (authors' code)"""
    adam_eps: Positive = 1e-5
    """what Adam adds to the root of the second moment (authors' code; Adam's own: 1e-8)"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them (authors' code); the routing is linear in what the networks are shown"""
    q_hidden: tuple[Count, ...] = (64, 64, 64)
    """widths of the Q-function's hidden layers, ReLU between them (authors' code)"""
    clip: Positive = 0.2
    """how far the ratio of new to old probability may go from 1 and still gain (authors' code)"""
    value_clip: Positive | None = 0.2
    """how far a value may go from the old one and still gain (authors' code); None: as far as it likes"""
    rollout: Count = 2048
    """steps of each environment between two rounds of learning (authors' code)"""
    epochs: Count = 10
    """passes over a rollout (authors' code)"""
    batch_size: Count = 64
    """rows of a minibatch (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages (authors' code)"""
    max_norm: Positive = 0.5
    """longest gradient, of actor, critic and Q-function each (authors' code)"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (authors' code)"""
    normalise_reward: bool = True
    """rewards by the spread of discounted returns, within 10 (authors' code)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    """one network for all means and logits of choices; "log_std" (components, dim); "routing" and "routing_bias" to log w"""
    critic: Trained
    q: Trained
    """what an action is worth, to say which component's is the best"""
    seen: Params
    """count, mean and variance of the observations; until there are any, the policy acts as on their mean"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits, component by component; obs -> value (B, 1)."""
    obs_dim, many, each, (dim, _) = spec.obs.dim, cfg.components, nets.outputs(spec), ops.sizes(spec.action)
    sizes = obs_dim, *cfg.hidden, many * each
    every = nets.custom(actor, spec, obs_dim, many * each) or nets.orthogonal(sizes, torch.tanh, 0.01)
    pi = nets.policy(spec, nets.Net(every.init, lambda p, x: every.apply(p, x).unflatten(-1, (many, -1))))
    critic_net = nets.custom(critic, spec, obs_dim, 1) or nets.orthogonal((obs_dim, *cfg.hidden, 1), torch.tanh, 1.0)
    q_net, routing, seen_dim = nets.mlp((obs_dim + each, *cfg.q_hidden, 1)), nets.mlp((obs_dim, many)), obs_dim - spec.mask

    def mixture(p: Params, obs: Tensor) -> tuple[nets.Dist, Tensor]:  # each component's, (B, components, ...); log w
        net = {k: x for k, x in p.items() if k not in ("routing", "routing_bias")}
        return pi.apply(net, obs), (obs @ p["routing"] + p["routing_bias"]).log_softmax(-1)

    def log_prob(dist: nets.Dist, logw: Tensor, action: Tensor) -> Tensor:  # log sum_k w_k N_k(a), (B,)
        return (logw + pi.log_prob(dist, action[:, None])).logsumexp(-1)

    def value(p: Params, x: Tensor) -> Tensor:
        return critic_net.apply(p, x)[..., 0]

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:
        return q_net.apply(p, torch.cat([obs, ops.features(spec.action, action)], -1))[..., 0]

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        seen = ops.first_moments(s.seen, rollout.obs)
        shown = replace(rollout, obs=view(seen, rollout.obs), next_obs=view(seen, rollout.next_obs))
        old, ahead = value(s.critic.params, shown.obs), value(s.critic.params, shown.next_obs)
        rows, told = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = log_prob(*mixture(s.actor.params, rows.obs), rows.action)
        return replace(s, seen=ops.moments(s.seen, rollout.obs)) if cfg.normalise_obs else s, rows, told

    def best(s: State, b: Batch) -> Tensor:  # v(s), one-hot (B, components): whose sampled action is worth most
        action = pi.sample(mixture(s.actor.params, b.obs)[0])
        worth = q(s.q.params, b.obs.unsqueeze(-2).expand(-1, many, -1), action)
        ties = torch.where(worth == worth.amax(-1, keepdim=True), torch.rand_like(worth), -1)
        return torch.zeros_like(worth).scatter(-1, ties.argmax(-1, keepdim=True), 1.0)

    def actor_loss(p: Params, best: Tensor, b: Batch) -> tuple[Tensor, Metrics]:  # ppo's, and mean_k (w_k(s) - v_k(s))^2
        (dist, logw), advantage = mixture(p, b.obs), ops.standardised(b.extra["advantage"])
        log_ratio, w = log_prob(dist, logw, b.action) - b.extra["logp"], logw.exp()
        ratio, used = log_ratio.exp(), 1 / w.mean(0).square().sum()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
        clipped, kl = ((ratio - 1).abs() > cfg.clip).float().mean(), (ratio - 1 - log_ratio).mean()
        return (w - best).square().mean() - gain, {"kl": kl, "clipped": clipped, "components_used": used}

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        v, old, target = value(p, b.obs), b.extra["value"], b.extra["target"]
        error = (v - target).square()
        if cfg.value_clip is not None:
            error = torch.maximum(error, (old + (v - old).clamp(-cfg.value_clip, cfg.value_clip) - target).square())
        return 0.5 * error.mean(), {"value": v.mean()}

    def q_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        return (q(p, b.obs, b.action) - b.extra["target"]).square().mean(), {}

    def init() -> State:
        first = routing.init()
        mixing = ({"log_std": torch.zeros(many, dim)} if dim else {}) | {"routing": first["w0"], "routing_bias": first["b0"]}
        return State(fresh(every.init() | mixing), fresh(critic_net.init()), fresh(q_net.init()), ops.unseen(seen_dim))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        numbers: dict[str, Any] = {"max_norm": cfg.max_norm, "eps": cfg.adam_eps}
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, best(s, b), b, **numbers)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, **numbers)
        worth, m3 = descend(s.q, q_loss, cfg.lr, b, **numbers)
        return replace(s, actor=actor, critic=critic, q=worth), m1 | m2 | m3

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist, logw = mixture(p["actor"], view(p["seen"], obs))
        action = pi.sample(dist) if explore else pi.mode(dist)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logw = logw - torch.empty_like(logw).exponential_().log()
        return ops.pick(action, logw.argmax(-1))

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss, "q": q_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size),
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
