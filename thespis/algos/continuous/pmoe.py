"""Soft Actor-Critic with a mixture of Gaussians for its policy: the routing learns how often each of them is the best.

Paper: Ren et al. 2021, "Probabilistic Mixture-of-Experts for Efficient Deep Reinforcement Learning", arXiv:2104.09122.
Parent: sac, which it is with one component.
Departures: what the mixture leaves open has sac's values (authors' code: tau 0.01, batches of 300, wider and deeper nets that
start near zero, no random warm-up), and rewards are not normalised batch by batch; ties for the best are broken at random
(their code: the first wins); evaluation takes the likeliest component's mean (their code: a sampled one's).
Assumed: equations were read in the authors' code (quantumiracle/Popular-RL-Algorithms), "all" in a third party's port
(PneuC/NCERL-Diverse-PCG) but for its temperature. Entropy is the best component's own, as in the code, never the mixture's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    components: Count = 2
    """tanh-Gaussians in the mixture (authors' code for SAC: 2; the paper varies it)"""
    backprop: Literal["max", "all"] = "max"
    """which components a state's actor loss improves: the best (authors' code for SAC) or all (the paper's other variant)"""
    lr: Rate = 3e-4
    """Adam step size of actor, routing, critics and temperature (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (sac)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (sac); the routing is linear in the observation (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (authors' code)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under the entropy constraint (authors' code)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy of the best component is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that each component's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (sac)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural | None = None
    """uniformly random steps before the first update; None: least of 10 longest episodes, 10,000, steps / 100"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    """one network for all components' means and widths"""
    routing: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own, obs -> (all means, all log stds) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"pmoe: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim, many = spec.obs.dim, spec.action.dim, cfg.components
    outputs = 2 * many * action_dim
    actor_net = nets.custom(actor, spec, obs_dim, outputs) or nets.mlp((obs_dim, *cfg.hidden, outputs))
    routing_net = nets.mlp((obs_dim, many))
    critic_net = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.hidden, 1))
    critics = nets.ensemble(critic_net, cfg.critics)
    target_entropy = cfg.entropy_per_dim * action_dim
    warmup = 10 * min(spec.horizon or 1_000, 1_000) if cfg.warmup is None else cfg.warmup

    def gaussians(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # (B, components, action)
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean.unflatten(-1, (many, -1)), log_std.unflatten(-1, (many, -1)).clamp(*cfg.log_std)

    def pi(p: Params, routing: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # k ~ w(s), a ~ pi_k(.|s) and log pi_k(a|s)
        action, logp = ops.squashed_sample(*gaussians(p, obs))
        logits = routing_net.apply(routing, obs)  # the largest of logits plus Gumbel noise is a sample of the softmax
        k = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1, keepdim=True)
        return action.take_along_dim(k[..., None], -2).squeeze(-2), logp.take_along_dim(k, -1).squeeze(-1)

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B) or (critics, B, components)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(s.actor.params, s.routing.params, b.next_obs)
        value = q(s.target, b.next_obs, action).amin(0) - alpha(s) * logp
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = ops.squashed_sample(*gaussians(p, b.obs))  # (B, components)
        value = q(s.critic.params, b.obs.unsqueeze(-2).expand(-1, many, -1), action).amin(0)
        ties = torch.where(value == value.amax(-1, keepdim=True), torch.rand_like(value), -1)
        best = torch.zeros_like(value).scatter(-1, ties.argmax(-1, keepdim=True), 1.0)  # v(s), one-hot
        improved = best if cfg.backprop == "max" else torch.ones_like(best)
        loss = (improved * (alpha(s) * logp - value)).sum(-1).mean()
        return loss, {"entropy": -(best * logp).sum(-1).mean(), "best": best}

    def routing_loss(p: Params, best: Tensor, obs: Tensor) -> tuple[Tensor, Metrics]:  # |w(s) - v(s)|^2
        w = routing_net.apply(p, obs).softmax(-1)
        return (w - best).square().sum(-1).mean(), {"components_used": 1 / w.mean(0).square().sum()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # on log alpha
        return p["x"] * (entropy - target_entropy), {}

    def init() -> State:
        q0 = critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor_net.init()), fresh(routing_net.init()), fresh(q0), q0, fresh({"x": log_alpha}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        routing, m3 = descend(s.routing, routing_loss, cfg.lr, m2.pop("best"), b.obs)
        s = replace(s, actor=actor, routing=routing)
        if cfg.alpha is None:
            temperature, m4 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
            s, m3 = replace(s, log_alpha=temperature), m3 | m4
        s = replace(s, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2 | m3 | {"alpha": alpha(s)}

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        likeliest = routing_net.apply(p["routing"], obs).argmax(-1)[:, None, None].expand(-1, -1, action_dim)
        mean = gaussians(p["actor"], obs)[0].gather(-2, likeliest).squeeze(-2).tanh()
        return pi(p["actor"], p["routing"], obs)[0] if explore else mean

    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "routing": s.routing.params}, act,
        losses={"critic": critic_loss, "actor": actor_loss, "routing": routing_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0), -alpha(s) * pi(s.actor.params, s.routing.params, o)[1]),
    )  # fmt: skip
