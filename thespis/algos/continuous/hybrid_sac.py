"""Soft Actor-Critic for choices and vectors together: expectations over choices are sums, those over vectors are sampled.

Paper: Delalleau et al. 2019, "Discrete and Continuous Action Representation for Practical RL in Video Games", arXiv:1912.11077.
Parent: sac, which it is where there are no choices; where there is no vector it is sac_discrete.
Departures: several choices are taken as one, of all their combinations; no normalising flows.
Assumed: the paper's equations and tables were not at hand. That the Q-network is shown the vector and gives a value for each
choice, and that choices and vector have each a temperature and a target entropy, was read in a reimplementation
(nisheeth-golakiya/hybrid-sac), which weighs a vector's log-density by its choice's probability twice; here it is once, as in the
expectation. Numbers are sac's, but for entropy_ratio.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperatures (as sac)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (as sac)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them (as sac)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (as sac)"""
    per_choice: bool = True
    """each choice has a vector of its own, and the Q-functions are asked for each; or one vector for all, which is quicker"""
    alpha_choice: Positive | None = None
    """fixed temperature of the choices; None learns it under their entropy constraint"""
    alpha_vector: Positive | None = None
    """fixed temperature of the vectors; None learns it under their entropy constraint"""
    initial_alpha: Positive = 1.0
    """where learned temperatures start (as sac)"""
    entropy_ratio: Fraction = 0.25
    """target entropy of the choices is this times that of a uniform one (a reimplementation: 0.25 nats of log 3)"""
    entropy_per_dim: float = -1.0
    """target entropy of the vector is this times its dimension (as sac)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (as sac)"""
    gamma: Fraction = 0.99
    """discount (as sac)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (as sac)"""
    batch_size: Count = 256
    """transitions in an update (as sac)"""
    replay_size: Count = 1_000_000
    """transitions kept (as sac)"""
    warmup: Natural = 1_000
    """random environment steps before the first update: uniform over what is allowed"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (as sac)"""


TAKES = {"mask"}
"""action masks"""
MOST = 1_024  # combinations of choices


@tree
class State:
    actor: Trained
    """one network: a logit for each choice, then means and log standard deviations"""
    critic: Trained
    """all critics, on a leading axis"""
    target: Params
    log_alpha: Trained
    """of "choice" and of "vector" """


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> the logits and then, vector by vector, means and log stds; and
    (obs, vector) -> a value for each choice. Several choices count as one of all their combinations."""
    obs_dim, (dim, ns) = spec.obs.dim, ops.sizes(spec.action)
    choices = math.prod(ns)
    if choices > MOST:
        raise Fault(f"hybrid_sac: at most {MOST} combinations of choices are taken one by one, {spec.action} has {choices:,}")
    vectors = choices if cfg.per_choice and dim else 1
    outputs = choices + 2 * vectors * dim
    actor_net = nets.custom(actor, spec, obs_dim, outputs) or nets.mlp((obs_dim, *cfg.hidden, outputs))
    critic_net = nets.custom(critic, spec, obs_dim + dim, choices) or nets.mlp((obs_dim + dim, *cfg.hidden, choices))
    critics = nets.ensemble(critic_net, cfg.critics)

    def heads(
        p: Params, obs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:  # log pi(k|s) (B, choices); mean, log std (B, vectors, dim)
        logits, rest = actor_net.apply(p, obs).split((choices, 2 * vectors * dim), -1)
        mean, log_std = rest.unflatten(-1, (vectors, 2 * dim)).chunk(2, -1)
        return ops.masked(logits, allowed(obs)).log_softmax(-1), mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # log pi(k|s); vectors ~ pi(.|s, k), their log-densities
        logp, mean, log_std = heads(p, obs)
        return logp, *ops.squashed_sample(mean, log_std)

    def allowed(obs: Tensor) -> Tensor | None:  # which combinations the mask allows, (B, choices)
        mask = ops.allowed(spec, obs)
        return None if mask is None else ops.combinations(mask, ns)

    def q(p: Params, obs: Tensor, vector: Tensor) -> Tensor:  # of each choice with its vector, (critics, B, choices)
        each = critics.apply(p, torch.cat([obs.unsqueeze(-2).expand(*vector.shape[:-1], -1), vector], -1))
        return each.diagonal(dim1=-2, dim2=-1) if vectors == choices else each.squeeze(-2)

    def q_of(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        vector, taken = ops.parts(spec.action, action)
        each = critics.apply(p, torch.cat([obs, vector], -1))
        k = ops.ravelled(taken, ns) if ns else torch.zeros_like(action[..., 0], dtype=torch.long)
        return each.gather(-1, k.expand(each.shape[:-1])[..., None])[..., 0]

    def alpha(s: State) -> tuple[Tensor, Tensor]:
        return s.log_alpha.params["choice"].exp(), s.log_alpha.params["vector"].exp()

    def cost(s: State, logp: Tensor, density: Tensor) -> Tensor:  # what entropy takes from the value of each choice, (B, choices)
        return alpha(s)[0] * logp + alpha(s)[1] * density

    def bonus(s: State, obs: Tensor) -> Tensor:  # of entropy, (B,)
        logp, _, density = pi(s.actor.params, obs)
        return -(logp.exp() * cost(s, logp, density)).sum(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp, vector, density = pi(s.actor.params, b.next_obs)
        value = (logp.exp() * (q(s.target, b.next_obs, vector).amin(0) - cost(s, logp, density))).sum(-1)
        values = q_of(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp, vector, density = pi(p, b.obs)
        prob, value = logp.exp(), q(s.critic.params, b.obs, vector).amin(0)
        entropies = {"entropy_choice": -(prob * logp).sum(-1).mean(), "entropy_vector": -(prob * density).sum(-1).mean()}
        return (prob * (cost(s, logp, density) - value)).sum(-1).mean(), entropies

    def alpha_loss(p: Params, choice: Tensor, vector: Tensor, b: Batch) -> tuple[Tensor, Metrics]:  # on log alpha, as in sac
        mask = allowed(b.obs)
        uniform = math.log(choices) if mask is None else mask.type_as(p["choice"]).sum(-1).log().mean()
        wanted = {"choice": cfg.entropy_ratio * uniform, "vector": cfg.entropy_per_dim * dim}
        learned = {"choice": choice} if cfg.alpha_choice is None else {}
        learned |= {"vector": vector} if cfg.alpha_vector is None else {}
        return torch.stack([p[k] * (entropy - wanted[k]) for k, entropy in learned.items()]).sum(), {}

    def init() -> State:
        q0 = critics.init()
        first = {"choice": cfg.alpha_choice, "vector": cfg.alpha_vector}
        log_alpha = {k: torch.tensor(cfg.initial_alpha if x is None else x).log() for k, x in first.items()}
        return State(fresh(actor_net.init()), fresh(q0), q0, fresh(log_alpha))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # as in sac
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor)
        if cfg.alpha_choice is None or cfg.alpha_vector is None:
            entropies = m2["entropy_choice"], m2["entropy_vector"]
            temperatures, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, *entropies, b)
            s, m2 = replace(s, log_alpha=temperatures), m2 | m3
        s = replace(s, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2 | dict(zip(("alpha_choice", "alpha_vector"), alpha(s), strict=True))

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logp, mean, log_std = heads(p, obs)
        vector = ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()
        if explore and ns:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logp = logp - torch.empty_like(logp).exponential_().log()
        k = logp.argmax(-1)
        own = k if vectors == choices else torch.zeros_like(k)
        return ops.joined(spec.action, ops.pick(vector, own), ops.unravelled(k, ns))

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q_of(s.critic.params, o, a).mean(0), bonus(s, o)),
    )  # fmt: skip
