"""HNPG: the natural gradient of each rollout and of recorded states together, with a critic that both teach.

Paper: Zhou, Sekhari, Song, Sun 2024, "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees",
arXiv:2311.08384.
Parent: TRPO (arXiv:1502.05477), which it becomes without data, but for a critic of pairs of state and action.
Departures: the critic learns after the policy's step as in TRPO (the paper: before it), all its stages at once (the paper: from
the last step of an episode back), and is the last of its regressions (HPE: the mean of several); its Adam goes on from one to the
next (authors' code: begins anew); no step leaves the region, and float32 (authors' code: float64). Advantages are standardised, a
stage's together (authors' code: not so; the length of a step does not depend on their scale).
Assumed: as many recorded rows as a rollout has.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    stages: Count = 1
    """actors and critics: one for each step of an episode, where the first so many numbers of an observation are that step,
    one-hot (algorithms 4 and 5); 1: one for all (the discounted form)"""
    online: NonNegative = 1.0
    """lambda, what the squared error of a rollout's returns weighs against that of recorded targets"""
    samples: Count = 10
    """actions whose mean value is that of an observation (authors' code)"""
    rows: Count = 20_000
    """recorded rows that are kept: drawn at random where there are more (authors' code: all)"""
    max_kl: Positive = 0.01
    """the largest mean divergence of an actor's step: KL(old || new) over the rollout's and the recorded observations"""
    damping: NonNegative = 0.1
    """added to the diagonal of the Fisher matrix"""
    cg_iterations: Count = 10
    """iterations of conjugate gradients"""
    halvings: Count = 10
    """lengths of step that the line search tries, each half the one before"""
    lr: Rate = 3e-4
    """Adam step size of the critic"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, tanh between them (the paper's critic; its actor: 16-16)"""
    rollout: Count = 1000
    """steps of each environment between two rounds of learning (the paper: of all)"""
    regressions: Count = 10
    """K2, fits of the critic for each rollout, each to targets of the one before (authors' code: one of each stage, backwards)"""
    critic_steps: Count = 30
    """steps of the critic in each fit, on all rows of the rollout; the policy makes one step a rollout (authors' code)"""
    gamma: Fraction = 0.99
    """discount (with stages, the paper: none)"""
    lam: Fraction = 0.97
    """lambda of the generalised advantages"""
    normalise_obs: bool = True
    """observations by the mean and spread of all before this rollout, within 10; in the first by its own (the paper: not so)"""


TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Params
    """of all stages, on a leading axis; so the critic's"""
    critic: Trained
    fixed: Params
    """the critic before this fit: that of the recorded targets"""
    seen: Params
    """count, mean and variance of the rollouts' observations"""
    data: Batch
    """the recorded rows, two at least; a single one, of zeros, where the run has no dataset"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> means or logits; (obs, action's features) -> value (B, 1)."""
    if cfg.stages > 1 and cfg.stages >= spec.obs.dim:
        raise Fault(f"stages: {cfg.stages}; an observation has {spec.obs.dim} numbers, and must have more than stages")
    pi, _ = nets.actor_critic(spec, cfg.hidden, actor)
    obs_dim = spec.obs.dim - spec.mask
    vector, choices = ops.sizes(spec.action)
    inputs = spec.obs.dim + vector + sum(choices)
    q_net = nets.ensemble(nets.custom(critic, spec, inputs, 1) or nets.mlp((inputs, *cfg.hidden, 1), torch.tanh), cfg.stages)
    actors = nets.ensemble(nets.Net(pi.init, pi.apply), cfg.stages)  # type: ignore[arg-type]  # a distribution of each

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen) if cfg.normalise_obs else obs

    def stage(obs: Tensor) -> Tensor:  # (stages, ...): which of them an observation is of; whitening leaves the largest as it is
        return torch.stack([obs[..., : cfg.stages].argmax(-1) == h for h in range(cfg.stages)])

    def chosen(each: Tensor, obs: Tensor) -> Tensor:  # (stages, ..., n) -> (..., n)
        return torch.where(stage(obs)[..., None], each, 0.0).sum(0)

    def policy(p: Params, obs: Tensor) -> nets.Dist:
        return tuple(chosen(part, obs) for part in actors.apply(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (B,)
        return chosen(q_net.apply(p, torch.cat([obs, ops.features(spec.action, action)], -1)), obs).squeeze(-1)

    def drawn(p: Params, obs: Tensor) -> Tensor:
        return pi.sample(policy(p, obs))

    def value(s: State, obs: Tensor) -> Tensor:  # algorithm 4
        dist = policy(s.actor, obs)
        return torch.stack([q(s.critic.params, obs, pi.sample(dist)) for _ in range(cfg.samples)]).mean(0)

    def hybrid(s: State) -> bool:  # by a shape, so that a graph knows it
        return len(s.data.obs) > 1

    def recorded(s: State, like: Tensor) -> Batch:  # as many rows at random
        index = (torch.rand_like(like) * len(s.data.obs)).long().clamp(max=len(s.data.obs) - 1)
        b = tree_map(lambda x: x[index], s.data)
        return replace(b, obs=view(s.seen, b.obs), next_obs=view(s.seen, b.next_obs))

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # hybrid policy evaluation
        v = q(p, b.obs, b.action)
        online = (v - b.extra["target"]).square().mean()
        if not hybrid(s):
            return cfg.online * online, {"q": v.mean()}
        d = recorded(s, b.reward)
        target = ops.backup(d.reward, d.discount, q(s.fixed, d.next_obs, drawn(s.actor, d.next_obs)))
        offline = (q(p, d.obs, d.action) - target).square().mean()
        return offline + cfg.online * online, {"q": v.mean(), "offline": offline, "online": online}

    def actor_loss(p: Params, b: Batch, mine: Tensor) -> tuple[Tensor, Metrics]:  # of one stage: that of the rows `mine`
        dist, share = pi.apply(p, b.obs), mine / mine.sum().clamp(min=1)
        ratio, gain = (pi.log_prob(dist, b.action) - b.extra["logp"]).exp(), b.extra["advantage"]
        centred = gain - (share * gain).sum()
        scaled = centred / ((share * centred.square()).sum().sqrt() + 1e-8)
        return -(share * ratio * scaled).sum(), {"entropy": (share * pi.entropy(dist)).sum()}

    def step(p: Params, b: Batch, mine: Tensor) -> tuple[Params, Metrics]:  # TRPO's, on the union
        old, theta = pi.apply(p, b.obs), torch.cat([x.flatten() for x in p.values()])
        share = mine / mine.sum().clamp(min=1)

        def named(theta: Tensor) -> Params:
            parts = theta.split([x.numel() for x in p.values()])
            return {k: part.view_as(x) for (k, x), part in zip(p.items(), parts, strict=True)}

        def loss(theta: Tensor) -> Tensor:
            return actor_loss(named(theta), b, mine)[0]

        def kl(theta: Tensor) -> Tensor:
            return (share * pi.kl(old, pi.apply(named(theta), b.obs))).sum()

        def fisher(v: Tensor) -> Tensor:  # the divergence's Hessian at the old policy, times v
            return grad(lambda x: grad(kl)(x) @ v)(theta) + cfg.damping * v

        direction = ops.conjugate_gradient(fisher, -grad(loss)(theta), cfg.cg_iterations)
        longest = direction * (2 * cfg.max_kl / (direction @ fisher(direction))).sqrt()
        before, taken = loss(theta), theta
        for i in reversed(range(cfg.halvings)):  # of those that gain within the region, the longest has the last word
            near = theta + 0.5**i * longest
            taken = torch.where((loss(near) < before) & (kl(near) <= cfg.max_kl), near, taken)
        metrics = {"kl": kl(taken), "accepted": (taken != theta).any().float(), "gain": before - loss(taken)}
        return named(taken), metrics | actor_loss(p, b, mine)[1]

    def union(s: State, rows: Batch) -> Batch:  # of the rollout and of recorded states with actions that the policy draws
        d = recorded(s, rows.reward)
        action = drawn(s.actor, d.obs)
        advantage = q(s.critic.params, d.obs, action) - value(s, d.obs)
        extra = {"advantage": torch.cat([rows.extra["advantage"], advantage])}
        return replace(rows, obs=torch.cat([rows.obs, d.obs]), action=torch.cat([rows.action, action]), extra=extra)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        after = ops.moments(s.seen, rollout.obs) if cfg.normalise_obs else s.seen
        s = replace(s, seen=ops.first_moments(s.seen, rollout.obs))
        shown = replace(rollout, obs=view(s.seen, rollout.obs), next_obs=view(s.seen, rollout.next_obs))
        old, ahead = value(s, shown.obs), value(s, shown.next_obs)
        rows, m1 = ops.with_advantages(shown, old, ahead, cfg.gamma * cfg.lam)
        returns = old + ops.gae(shown.reward, shown.discount, old, ahead, shown.extra["ended"], cfg.gamma)
        rows.extra["target"] = returns.flatten()
        both = union(s, rows) if hybrid(s) else rows
        both.extra["logp"] = pi.log_prob(policy(s.actor, both.obs), both.action)
        new, m2 = torch.vmap(step, (0, None, 0))(s.actor, both, stage(both.obs).type_as(both.obs))
        return replace(s, actor=new, seen=after), rows, m1 | {k: x.mean() for k, x in m2.items()}

    def init() -> State:
        p, q0, none = actors.init(), q_net.init(), torch.zeros(1, spec.obs.dim)
        data = Batch(none, torch.zeros_like(pi.mode(policy(p, none))), torch.zeros(1), torch.zeros(1), none.clone())
        return State(p, fresh(q0), q0, ops.unseen(obs_dim), data)

    def given(s: State, data: Batch) -> State:
        if len(data.obs) < 2:
            raise Fault(f"hnpg: the dataset has {len(data.obs)} rows; two at least are needed")
        kept = torch.randperm(len(data.obs))[: cfg.rows].sort().values
        return replace(s, data=tree_map(lambda x: x[kept], replace(data, extra={})))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # the critic's; the policy has moved already
        if k == 0:
            s = replace(s, fixed=s.critic.params)
        new, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        return replace(s, critic=new), metrics

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = policy(p["actor"], view(p["seen"], obs))
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor, "seen": s.seen}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.regressions * cfg.critic_steps, 2**31 - 1),  # all rows at once
        given=given, period=cfg.critic_steps, alike=lambda k: min(k, 1),
    )  # fmt: skip
