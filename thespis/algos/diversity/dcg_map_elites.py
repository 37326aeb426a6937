"""DCG-MAP-Elites: a critic that is told the descriptor, so that children climb where they are; and one actor for all of them.

Paper: Faldor, Chalumeau, Flageat, Cully 2023, "MAP-Elites with Descriptor-Conditioned Gradients and Archive Distillation into a
Single Policy", arXiv:2303.03832.
Parent: pga_map_elites, whose losses it has with a descriptor behind each observation; without that (conditioned=False) and with
its actor as a candidate it is the parent.
Presets: dcg_map_elites_ai, the later version, whose actor gives candidates: Faldor et al. 2024, "Synergizing Quality-Diversity
with Descriptor-Conditioned Reinforcement Learning", arXiv:2401.08632.
Departures: those of the parent; the policy of a run is the actor, and the actor is tried by folding what it is asked for into the
biases of its first layer, after which it is a policy as the others.
Assumed: the actor is asked for descriptors of the archive without noise, as in the authors' code.
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
    gradient: Natural = 128
    """children of a round by policy gradient"""
    asked: Natural = 64
    """episodes of the actor in a round, each asked for a descriptor of the archive"""
    inject: bool = False
    """whether these are candidates for the archive, too"""
    negatives: bool = True
    """whether these episodes are learnt from as what they were asked for; False: as what they reached, as all others are"""
    conditioned: bool = True
    """whether critics and actor are told a descriptor"""
    lengthscale: Positive = 0.1
    """distance of two descriptors at which a reward counts 1 / e, in units of the largest bound"""
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


PRESETS = {"dcg_map_elites_ai": Config(gradient=64, asked=64, inject=True)}
TAKES = {"rewards"}
"""several rewards of a step"""


@tree
class State:
    archive: ops.archive.Archive
    genetic: Params
    """children by random variation, each (genetic, ...)"""
    climbing: Trained
    """children by policy gradient, each (gradient, ...)"""
    niche: Tensor
    """(gradient, D): the descriptor of each one's parent"""
    asked: Tensor
    """(asked, D): what the actor's episodes of this round are asked for"""
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    actor_target: Params
    critic_target: Params


def make(cfg: Config, spec: Spec) -> Learner:
    """The first reward is the fitness; the others, each summed over an episode, are the descriptor."""
    if not isinstance(spec.action, Box):
        raise Fault(f"dcg_map_elites: continuous actions (a Box) are needed, the environment's are {spec.action}")
    dim, steps = described("dcg_map_elites", spec, cfg.episode_steps)
    obs_dim, action_dim, told_dim = spec.obs.dim, spec.action.dim, dim if cfg.conditioned else 0
    net = nets.mlp((obs_dim, *cfg.hidden, action_dim))
    actor_net = nets.mlp((obs_dim + told_dim, *cfg.hidden, action_dim))
    critics = nets.ensemble(nets.mlp((obs_dim + told_dim + action_dim, *cfg.critic_hidden, 1)), 2)
    each, count = torch.vmap(net.apply), cfg.genetic + cfg.gradient + cfg.asked
    first, climb = cfg.genetic + cfg.gradient, cfg.variation_steps if cfg.gradient else 0
    reach = max(map(abs, cfg.bounds))

    def population(p: Params, obs: Tensor) -> Tensor:  # policies (n, ...), an observation each (n, obs) -> (n, action)
        return each(p, obs[:, None, :obs_dim])[:, 0].tanh()

    def told(obs: Tensor, descriptor: Tensor) -> Tensor:  # what critics and actor see
        return torch.cat([obs[..., :obs_dim], descriptor / reach], -1) if cfg.conditioned else obs[..., :obs_dim]

    def pi(p: Params, seen: Tensor) -> Tensor:  # (B, action)
        return actor_net.apply(p, seen).tanh()

    def q(p: Params, seen: Tensor, action: Tensor) -> Tensor:  # (2, ..., B)
        return critics.apply(p, torch.cat([seen, action], -1)).squeeze(-1)

    def folded(p: Params, descriptor: Tensor) -> Params:  # the actor asked for each of (n, D), as n policies
        n, w = len(descriptor), p["w0"]
        out = {k: x.expand(n, *x.shape) for k, x in p.items()}
        bias = p["b0"] + (descriptor / reach) @ w[obs_dim:] if cfg.conditioned else out["b0"]
        return out | {"w0": w[:obs_dim].expand(n, obs_dim, -1), "b0": bias}

    def candidates(s: State) -> Params:
        parts = [s.genetic, s.climbing.params, folded(s.actor.params, s.asked)]
        return {k: torch.cat([p[k] for p in parts]) for k in s.genetic}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 4; similarity is in the reward
        noise = (cfg.target_noise * torch.randn_like(b.action)).clamp(-cfg.target_clip, cfg.target_clip)
        value = q(s.critic_target, b.next_obs, (pi(s.actor_target, b.next_obs) + noise).clamp(-1, 1)).amin(0)
        values = q(p, b.obs, b.action)
        return (values - ops.backup(b.reward, b.discount, value)).square().mean(-1).sum(), {"q": values.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 5
        return -q(s.critic.params, b.obs, pi(p, b.obs))[0].mean(), {}

    def variation(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 6: each child asked for its parent's place
        obs = b.obs[:, :obs_dim]
        action = torch.vmap(net.apply, (0, None))(p, obs).tanh()  # (gradient, B, action)
        seen = told(obs.expand(*action.shape[:-1], obs_dim), s.niche[:, None].expand(-1, len(obs), -1))
        values = q(s.critic.params, seen, action)[0]
        return -values.mean(-1).sum(), {"climbed": values.mean()}

    def init() -> State:
        genetic, climbing = nets.ensemble(net, cfg.genetic).init(), nets.ensemble(net, max(cfg.gradient, 1)).init()
        archive = ops.archive.empty(ops.archive.voronoi(cfg.cells, dim, *cfg.bounds), genetic)
        climbing = {k: x[: cfg.gradient] for k, x in climbing.items()}
        p, q0 = actor_net.init(), critics.init()
        asked = torch.zeros(cfg.asked, dim)
        return State(archive, genetic, fresh(climbing), torch.zeros(cfg.gradient, dim), asked, fresh(p), fresh(q0), p, q0)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        returns, mine = ops.archive.first_episodes(rollout.reward, rollout.extra["ended"])
        fitness, reached = returns[:, 0], returns[:, 1:]
        n = count if cfg.inject else first
        archive, new = ops.archive.insert(s.archive, {k: x[:n] for k, x in candidates(s).items()}, fitness[:n], reached[:n])
        metrics = ops.archive.quality(archive) | {"fitness": fitness[:n].mean(), "inserted": new.float().sum()}
        missed = (reached[first:] - s.asked).norm(dim=-1)
        metrics |= {"missed_by": missed.mean()} if cfg.asked else {}
        meant = torch.cat([reached[:first], s.asked if cfg.negatives else reached[first:]])  # d', beside d, which is reached
        similar = (-(reached - meant).norm(dim=-1) / reach / cfg.lengthscale).exp() if cfg.conditioned else torch.ones(count)
        seen, ahead = (told(x, meant.expand(steps, -1, -1)) for x in (rollout.obs, rollout.next_obs))
        rows = Batch(seen, rollout.action, similar * rollout.reward[..., 0], rollout.discount[..., 0], ahead, {"kept": mine})
        one, two = (ops.archive.elites(archive, ops.archive.drawn(archive, cfg.genetic)) for _ in range(2))
        parents = ops.archive.drawn(archive, cfg.gradient)
        s = replace(
            s, archive=archive, genetic=ops.archive.isoline(one, two, cfg.iso, cfg.line), niche=archive.descriptor[parents],
            climbing=fresh(ops.archive.elites(archive, parents)),
            asked=archive.descriptor[ops.archive.drawn(archive, cfg.asked)],
        )  # fmt: skip
        return s, ops.archive.flat(rows), metrics

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

    def policy(s: State) -> dict[str, Params | Tensor]:  # the archive's map is for the report
        a = s.archive
        return {"actor": s.actor.params, "centroids": a.centroids, "fitness": a.fitness, "descriptor": a.descriptor}

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        return pi(p["actor"], told(obs, obs[:, obs_dim:]))

    feed = OnPolicy(
        cfg.gamma, steps, cfg.critic_steps + climb, cfg.batch_size, whole=True, policies=count, replay_size=cfg.replay_size
    )
    return Learner(
        init, update, policy, act, prepare=prepare, experience=feed,
        losses={"critic": critic_loss, "actor": actor_loss, "variation": variation},
        period=cfg.critic_steps + climb, alike=lambda k: min(k, cfg.critic_steps) if k >= cfg.critic_steps else k % cfg.delay,
        collect=lambda s, obs, rows: population({k: x[rows] for k, x in candidates(s).items()}, obs),
        context=lambda s, n, explore: ops.archive.asked(s.archive, n, explore),
    )  # fmt: skip
