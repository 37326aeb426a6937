"""MAMQL: inverse soft Q-learning for each of several agents, whose critic is marginal: it is over the agent's own actions alone.

Paper: Haynam, Khoja, Kumar, Myers, Biyik 2025, "Multi-Agent Inverse Q-Learning from Demonstrations", arXiv:2503.04679.
Parent: IQ-Learn (arXiv:2106.12142), which it is with one agent; with several it is IQ-Learn for each of them apart, on what all
of them did at once. bc for each agent as `regulariser` grows without bound, where every row is a demonstration.
Departures: none is known, for of the paper its abstract and summaries alone could be read: marginal critics, Boltzmann policies
of them, IQ-Learn's objective with a concave regulariser, learning from data alone and beside own steps.
Assumed: the objective is that of IQ-Learn's code, form "value" with chi-square over all rows; every number that does not say
where it is from. The paper's constrained regression of rewards is a least squares over what `steps` gives: bench/mamql.py.
Presets: iq_learn, Garg, Chakraborty, Cundy, Song, Ermon 2021, "IQ-Learn: Inverse soft-Q Learning for Imitation", its code's
numbers for small tasks, arXiv:2106.12142.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Ascending, Count, Fraction, Natural, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, MultiDiscrete, OffPolicy, Params, Spec, Trained, tree
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of the critics (assumed)"""
    hidden: tuple[Count, ...] = (128, 128)
    """widths of the hidden layers, ReLU between them (assumed)"""
    temperature: Positive = 1.0
    """1 / lambda: a policy is proportional to exp(Q / temperature); it is the unit of the rewards that are found"""
    regulariser: Positive = 0.5
    """alpha of the concave phi, a reward less its square over 4 alpha: rewards stay of this size; without bound it is cloning
    (IQ-Learn's code)"""
    demo_fraction: Fraction = 0.5
    """part of a batch that is drawn from the demonstrations (IQ-Learn's code); without own steps give 1"""
    demo_slice: Annotated[tuple[Fraction, Fraction], Ascending()] = (0.0, 1.0)
    """the demonstrations among a dataset's episodes: quantiles of return, 0 the worst"""
    gamma: Fraction = 0.99
    """discount of future rewards (IQ-Learn's code)"""
    batch_size: Count = 256
    """transitions in an update (assumed)"""
    replay_size: Count = 1_000_000
    """transitions kept, beside a dataset's (assumed)"""
    warmup: Natural = 0
    """uniformly random environment steps before the first update (IQ-Learn's code)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (IQ-Learn's code)"""


PRESETS = {"iq_learn": Config(lr=1e-4, temperature=0.01, batch_size=32, replay_size=50_000)}

TAKES = {"mask", "rewards"}
"""action masks, and several rewards, of which it sees none"""


@tree
class State:
    critic: Trained
    """the agents' critics, on a leading axis"""


def critics(spec: Spec, hidden: tuple[int, ...], critic: nets.Build | None = None) -> nets.Net:
    """The marginal critics of all agents: obs (B, obs) -> (agents, B, choices), each from what its agent sees."""
    kind, many = spec.action, spec.agents
    ns = kind.ns if isinstance(kind, MultiDiscrete) else (kind.n,) if isinstance(kind, Discrete) else ()
    if len(ns) != many or len(set(ns)) != 1:
        raise Fault(f"mamql: a choice for each agent is needed, as many for all; here agents are {many} and actions {kind}")
    dim, masks = (spec.obs.dim - spec.mask) // many, spec.mask // many
    net = nets.custom(critic, spec, dim, ns[0]) or nets.mlp((dim, *hidden, ns[0]))

    def init() -> Params:
        each = [net.init() for _ in range(many)]
        return {k: torch.stack([p[k] for p in each]) for k in each[0]}

    def apply(p: Params, obs: Tensor) -> Tensor:
        values = torch.vmap(net.apply)(p, obs[:, : many * dim].unflatten(-1, (many, dim)).transpose(0, 1))
        mask = ops.allowed(spec, obs)
        return ops.masked(values, None if mask is None else mask.unflatten(-1, (many, masks)).transpose(0, 1))

    return nets.Net(init, apply)


def steps(cfg: Config, q: Tensor, q_next: Tensor, b: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(Q(s, a), V(s), discounted V(s')), (agents, B) each, of the critics' values (agents, B, choices) at both ends of a row. The
    reward that they stand for is the first less the last. V(s) = T log sum exp(Q(s, a) / T)."""
    action = b.action.long().reshape(len(b.obs), -1).T[..., None]
    now, ahead = (cfg.temperature * (x / cfg.temperature).logsumexp(-1) for x in (q, q_next))
    return q.gather(-1, action)[..., 0], now, b.discount.reshape(len(b.obs), -1).T * ahead


def make(cfg: Config, spec: Spec, critic: nets.Build | None = None) -> Learner:
    """`critic(spec)`: your own module, what one agent sees (without its mask) -> a value for each of its actions."""
    net = critics(spec, cfg.hidden, critic)

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # IQ-Learn's objective, of each agent's marginal critic
        chosen, now, ahead = steps(cfg, net.apply(p, b.obs), net.apply(p, b.next_obs), b)
        reward, share = chosen - ahead, b.extra["demo"] / b.extra["demo"].sum().clamp(min=1)
        losses = (now - ahead).mean(-1) - (share * reward).sum(-1) + reward.square().mean(-1) / (4 * cfg.regulariser)
        log_prob = (share * (chosen - now)).sum(-1).mean() / cfg.temperature
        return losses.sum(), {"demo_log_prob": log_prob, "value": now.mean(), "reward": reward.mean()}

    def init() -> State:
        return State(fresh(net.init()))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        new, metrics = descend(s.critic, critic_loss, cfg.lr, b)
        return State(new), metrics

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = net.apply(p, obs) / cfg.temperature
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        chosen = logits.argmax(-1)
        return chosen[0] if isinstance(spec.action, Discrete) else chosen.T

    return Learner(
        init, update, lambda s: s.critic.params, act, losses={"critic": critic_loss}, needs=frozenset({"demo"}),
        experience=OffPolicy(
            cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step,
            demo_fraction=cfg.demo_fraction, demo_slice=cfg.demo_slice,
        ),
    )  # fmt: skip
