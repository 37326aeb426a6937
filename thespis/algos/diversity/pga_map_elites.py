"""PGA-MAP-Elites: half of the children of an archive are random, half climb a critic of fitness; its greedy actor is one more.

Paper: Nilsson, Cully 2021, "Policy Gradient Assisted MAP-Elites", GECCO 2021.
Parent: map_elites, which it becomes without gradients and greedy actor; td3, whose critic, actor and targets it has.
Departures: every gradient child of a round is shown the same states; critic and actor learn `critic_steps` after each round.
Assumed: numbers are those of the baseline in Faldor et al. 2023, arXiv:2303.03832.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy, described
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    genetic: Count = 128
    """children of a round by random variation"""
    gradient: Natural = 127
    """children of a round by policy gradient"""
    greedy: bool = True
    """whether the actor of the critic is one more candidate"""
    cells: Count = 1_024
    """cells of the archive"""
    bounds: Interval = (-1.0, 1.0)
    """least and greatest of each number of a descriptor"""
    iso: NonNegative = 0.005
    """noise in every parameter of a child"""
    line: NonNegative = 0.05
    """noise along the line from one parent to the other, in units of their distance"""
    hidden: tuple[Count, ...] = (128, 128)
    """widths of a policy's hidden layers, ReLU between them"""
    critic_hidden: tuple[Count, ...] = (256, 256)
    """widths of a critic's hidden layers"""
    lr: Rate = 3e-4
    """Adam step size of critics and actor; with a schedule each counts its own steps"""
    variation_rate: Positive = 5e-3
    """Adam step size of a child that climbs; each begins without moments"""
    critic_steps: Count = 3_000
    """updates of the critics after each round; of actor and targets one in every delay of these"""
    variation_steps: Count = 150
    """steps of gradient of each child"""
    delay: Count = 2
    """critic updates for each update of actor and targets"""
    target_noise: NonNegative = 0.2
    """standard deviation of the noise on the target's action"""
    target_clip: NonNegative = 0.5
    """bound of that noise"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    gamma: Fraction = 0.99
    """discount of a step"""
    batch_size: Count = 100
    """transitions in an update"""
    replay_size: Count = 1_000_000
    """transitions that are kept"""
    episode_steps: Count | None = None
    """steps in which a policy is tried; None: the time limit of the environment"""


TAKES = {"rewards"}
"""several rewards of a step"""


@tree
class State:
    archive: ops.archive.Archive
    genetic: Params
    """children by random variation, each (genetic, ...)"""
    climbing: Trained
    """children by policy gradient, each (gradient, ...)"""
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    actor_target: Params
    critic_target: Params


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """As map_elites; `critic(spec)`: (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"pga_map_elites: continuous actions (a Box) are needed, the environment's are {spec.action}")
    dim, steps = described("pga_map_elites", spec, cfg.episode_steps)
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    net = nets.custom(actor, spec, obs_dim, action_dim) or nets.mlp((obs_dim, *cfg.hidden, action_dim))
    critics = nets.custom(critic, spec, obs_dim + action_dim, 1) or nets.mlp((obs_dim + action_dim, *cfg.critic_hidden, 1))
    critics, each = nets.ensemble(critics, 2), torch.vmap(net.apply)
    count = cfg.genetic + cfg.gradient + cfg.greedy
    climb = cfg.variation_steps if cfg.gradient else 0

    def population(p: Params, obs: Tensor) -> Tensor:  # policies (n, ...), an observation each (n, obs) -> (n, action)
        return each(p, obs[:, None, :obs_dim])[:, 0].tanh()

    def pi(p: Params, obs: Tensor) -> Tensor:  # (B, action)
        return net.apply(p, obs).tanh()

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (2, ..., B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def candidates(s: State) -> Params:
        greedy = [{k: x[None] for k, x in s.actor.params.items()}] if cfg.greedy else []
        parts = [s.genetic, s.climbing.params, *greedy]
        return {k: torch.cat([p[k] for p in parts]) for k in s.genetic}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # td3's
        noise = (cfg.target_noise * torch.randn_like(b.action)).clamp(-cfg.target_clip, cfg.target_clip)
        value = q(s.critic_target, b.next_obs, (pi(s.actor_target, b.next_obs) + noise).clamp(-1, 1)).amin(0)
        values = q(p, b.obs, b.action)
        return (values - ops.backup(b.reward, b.discount, value)).square().mean(-1).sum(), {"q": values.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # td3's
        return -q(s.critic.params, b.obs, pi(p, b.obs))[0].mean(), {}

    def variation(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # of each child, as the actor's
        action = torch.vmap(pi, (0, None))(p, b.obs)  # (gradient, B, action)
        values = q(s.critic.params, b.obs.expand(*action.shape[:-1], obs_dim), action)[0]
        return -values.mean(-1).sum(), {"climbed": values.mean()}

    def init() -> State:
        first, climbing = nets.ensemble(net, cfg.genetic).init(), nets.ensemble(net, max(cfg.gradient, 1)).init()
        archive = ops.archive.empty(ops.archive.voronoi(cfg.cells, dim, *cfg.bounds), first)
        p, q0 = net.init(), critics.init()
        return State(archive, first, fresh({k: x[: cfg.gradient] for k, x in climbing.items()}), fresh(p), fresh(q0), p, q0)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        returns, mine = ops.archive.first_episodes(rollout.reward, rollout.extra["ended"])
        archive, new = ops.archive.insert(s.archive, candidates(s), returns[:, 0], returns[:, 1:])
        told = ops.archive.quality(archive) | {"fitness": returns[:, 0].mean(), "inserted": new.float().sum()}
        one, two = (ops.archive.elites(archive, ops.archive.drawn(archive, cfg.genetic)) for _ in range(2))
        climbing = fresh(ops.archive.elites(archive, ops.archive.drawn(archive, cfg.gradient)))
        s = replace(s, archive=archive, genetic=ops.archive.isoline(one, two, cfg.iso, cfg.line), climbing=climbing)
        seen, ahead = rollout.obs[..., :obs_dim], rollout.next_obs[..., :obs_dim]
        rows = Batch(seen, rollout.action, rollout.reward[..., 0], rollout.discount[..., 0], ahead, {"kept": mine})
        return s, ops.archive.flat(rows), told

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        if k >= cfg.critic_steps:
            climbing, metrics = descend(s.climbing, variation, cfg.variation_rate, s, b)
            return replace(s, climbing=climbing), metrics
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        if k % cfg.delay == cfg.delay - 1:
            actor, m = descend(s.actor, actor_loss, cfg.lr, s, b)
            targets = polyak(s.actor_target, actor.params, cfg.tau), polyak(s.critic_target, critic.params, cfg.tau)
            s = replace(s, actor=actor, actor_target=targets[0], critic_target=targets[1])
            metrics = metrics | m
        return s, metrics

    def act(a: ops.archive.Archive, obs: Tensor, explore: bool) -> Tensor:
        return population(ops.archive.elites(a, ops.archive.like(a, obs[:, obs_dim:])), obs)

    feed = OnPolicy(
        cfg.gamma, steps, cfg.critic_steps + climb, cfg.batch_size, whole=True, policies=count, replay_size=cfg.replay_size
    )
    return Learner(
        init, update, lambda s: s.archive, act, prepare=prepare, experience=feed,
        losses={"critic": critic_loss, "actor": actor_loss, "variation": variation},
        period=cfg.critic_steps + climb, alike=lambda k: min(k, cfg.critic_steps) if k >= cfg.critic_steps else k % cfg.delay,
        collect=lambda s, obs, rows: population({k: x[rows] for k, x in candidates(s).items()}, obs),
        context=lambda s, n, explore: ops.archive.asked(s.archive, n, explore),
    )  # fmt: skip
