"""MARL-DSE: each choice of a design is an agent of its own, with its own actor, critic and clipped ratio, for a reward in common.

Paper: Krishnan, Jaques, Omidshafiei, Zhang, Gur, Reddi, Faust 2022, "Multi-Agent Reinforcement Learning for Microprocessor Design
Space Exploration", arXiv:2211.16385.
Parent: ppo, which it is with one choice; with more, the parent clips one ratio of all choices at once, and this one for each.
Departures: agents are the choices of one MultiDiscrete action, and all see the same: what the environment shows, not the last
simulation's energy, power and time. Every agent's step is that of ppo here (orthogonal start, actor and critic apart).
Assumed: the learner is Acme's PPO, which the published code calls; lr, rollout, epochs and batch are for some thousand designs,
where the launcher's lr of 1e-5 does not move.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, tanh

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, MultiDiscrete, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actors and critics (launcher: 1e-5)"""
    adam_eps: Positive = 1e-5
    """what Adam adds to the root of the second moment (as in ppo)"""
    hidden: tuple[Count, ...] = (32, 32, 32)
    """widths of the hidden layers, tanh between them (single-agent script); none: a table of logits and a constant"""
    clip: Positive = 0.2
    """how far an agent's ratio of new to old probability may go from 1 and still gain (single-agent script)"""
    entropy_weight: NonNegative = 0.01
    """weight of each agent's entropy bonus (single-agent script; launcher of several: 0.1)"""
    rollout: Count = 32
    """steps of each environment between two rounds of learning (assumed)"""
    epochs: Count = 4
    """passes over a rollout (assumed; Acme: 2)"""
    batch_size: Count = 32
    """rows of a minibatch (assumed; Acme: 256)"""
    gamma: Fraction = 0.99
    """discount of future rewards (Acme)"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages (Acme)"""
    max_norm: Positive = 0.5
    """longest gradient, of each actor and each critic (as in ppo)"""
    normalise_reward: bool = True
    """rewards by the spread of discounted returns, within 10 (as in ppo)"""


@tree
class State:
    actor: Trained
    """of all agents, on a leading axis (A, ...), as is the next"""
    critic: Trained


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: an agent's modules, obs -> logits (B, most), as of the most choices; -> (B, 1)."""
    if not isinstance(spec.action, Discrete | MultiDiscrete):
        raise Fault(f"marl_dse: choices are needed, the environment's actions are {spec.action}")
    ns = ops.sizes(spec.action)[1]
    many, most, obs_dim = len(ns), max(ns), spec.obs.dim
    pi_net = nets.custom(actor, spec, obs_dim, most) or nets.orthogonal((obs_dim, *cfg.hidden, most), tanh, 0.01)
    v_net = nets.custom(critic, spec, obs_dim, 1) or nets.orthogonal((obs_dim, *cfg.hidden, 1), tanh, 1.0)

    def pi(p: Params, obs: Tensor, n: Tensor | int) -> Tensor:  # of an agent of n choices, log pi(.|s), (..., most)
        has = torch.arange(most, device=obs.device) < n
        return ops.masked(pi_net.apply(p, obs), has).log_softmax(-1)

    def log_prob(logp: Tensor, action: Tensor) -> Tensor:
        return logp.gather(-1, action[..., None])[..., 0]

    def sizes(obs: Tensor) -> Tensor:
        return torch.tensor(ns, device=obs.device)

    def each(action: Tensor) -> Tensor:  # (A, ...), of every agent
        return torch.stack(ops.parts(spec.action, action)[1])

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        value = torch.vmap(lambda p, x: v_net.apply(p, x)[..., 0], (0, None), -1)
        columns = replace(
            rollout, reward=rollout.reward[..., None], discount=rollout.discount[..., None],
            extra={k: x[..., None] for k, x in rollout.extra.items()},
        )  # fmt: skip
        old, ahead = value(s.critic.params, rollout.obs), value(s.critic.params, rollout.next_obs)
        rows, told = ops.with_advantages(columns, old, ahead, cfg.gamma * cfg.lam)
        logp = torch.vmap(pi, (0, None, 0))(s.actor.params, rows.obs, sizes(rows.obs))
        rows.extra["logp"] = log_prob(logp, each(rows.action)).T
        return s, replace(rows, reward=rows.reward[:, 0], discount=rows.discount[:, 0]), told

    def actor_loss(p: Params, b: Batch, n: Tensor) -> tuple[Tensor, Metrics]:  # of an agent; PPO's eqs. 7, 9
        logp, advantage = pi(p, b.obs, n), ops.standardised(b.extra["advantage"])
        log_ratio = log_prob(logp, b.action) - b.extra["logp"]
        ratio, entropy = log_ratio.exp(), -(logp.exp() * logp).sum(-1).mean()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
        clipped = ((ratio - 1).abs() > cfg.clip).float().mean()
        metrics = {"entropy": entropy, "kl": (ratio - 1 - log_ratio).mean(), "clipped": clipped}
        return -gain - cfg.entropy_weight * entropy, metrics

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        v = v_net.apply(p, b.obs)[..., 0]
        return 0.5 * (v - b.extra["target"]).square().mean(), {"value": v.mean()}

    def init() -> State:
        agents = [fresh(nets.ensemble(net, many).init()) for net in (pi_net, v_net)]
        return State(*(replace(group, t=torch.zeros(many)) for group in agents))

    def step(actor: Trained, critic: Trained, b: Batch, n: Tensor) -> tuple[Trained, Trained, Metrics]:  # of an agent
        actor, m1 = descend(actor, actor_loss, cfg.lr, b, n, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        critic, m2 = descend(critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        return actor, critic, m1 | m2

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        own = {name: b.extra[name].T for name in ("advantage", "target", "logp")}
        whole = (x.expand(many, *x.shape) for x in (b.obs, b.reward, b.discount, b.next_obs))
        obs, reward, discount, next_obs = whole
        rows = Batch(obs, each(b.action), reward, discount, next_obs, own)
        actor, critic, metrics = torch.vmap(step)(s.actor, s.critic, rows, sizes(b.obs))
        return State(actor, critic), {name: x.mean(0) for name, x in metrics.items()}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:  # agent by agent, as vmap cannot be exported
        logp = [pi({k: x[i] for k, x in p.items()}, obs, n) for i, n in enumerate(ns)]
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logp = [x - torch.empty_like(x).exponential_().log() for x in logp]
        return ops.joined(spec.action, None, [x.argmax(-1) for x in logp])

    return Learner(
        init, update, lambda s: s.actor.params, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size),
        needs=frozenset({"return_scale"} if cfg.normalise_reward else ()),
    )  # fmt: skip
