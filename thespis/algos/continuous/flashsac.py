"""FlashSAC: soft actor-critic whose weights, features and returns all keep a bounded scale.

Paper: Kim et al. 2026, "FlashSAC: Fast and Stable Off-Policy RL for High-Dimensional Robot Control", arXiv:2604.04539.
Parent: sac, whose critic and actor losses it has with one bin, no batch norm and returns of spread 1, given its networks.
Departures: each environment holds noise of its own, afresh in each episode (authors: one count for all); returns are cut
after an episode's last reward (authors: before it); no imitation term (authors: off), no mixed precision.
Assumed: the paper was not at hand; update equals the authors' code (Holiday-Robot/FlashSAC) to 1e-13 over 300 float64 steps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import BatchNorm, Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Rate, Schedule
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = Schedule("cosine:3e-4:1.5e-4:updates=1000000")
    """Adam step size of actor, critics and temperature, over each one's own steps (authors' code: over the run's updates)"""
    tau: Fraction = 0.01
    """target smoothing coefficient; of parameters alone (authors' code)"""
    hidden: tuple[Count, ...] = (128, 256)
    """width of the actor and of each critic, four times that inside a block (authors' code); one number: of all"""
    blocks: Members = 2
    """residual blocks of every network (authors' code)"""
    batch_norm: BatchNorm = "shared"
    """normalise over (s, a) and (s', a') together, over each alone, or not at all (authors' code: together)"""
    unit_norm: bool = True
    """after each step bring weights back to unit length (authors' code: yes)"""
    bins: Count = 101
    """values of the categorical critics; 1: plain values and a squared error (authors' code: 101)"""
    bound: Positive = 5.0
    """the critics' values span [-bound, bound]; scaled returns stay inside (authors' code)"""
    noise_repeat: Count = 16
    """longest run of steps on one exploration noise; 1: always fresh (authors' code)"""
    zeta: NonNegative = 2.0
    """a run of k steps has probability proportional to k^-zeta (authors' code)"""
    delay: Count = 2
    """critic updates for each update of actor and temperature (authors' code)"""
    initial_alpha: Positive = 0.01
    """where the temperature starts (authors' code)"""
    target_std: Positive = 0.15
    """target entropy is that of independent Gaussians so wide (authors' code)"""
    log_std: Interval = (-10.0, 2.0)
    """range that a tanh maps the policy's log standard deviation to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code, MuJoCo)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (authors' code, MuJoCo)"""
    batch_size: Count = 512
    """transitions in an update (authors' code, MuJoCo)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 10_000
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """critic updates for each environment step (authors' code, MuJoCo)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    log_alpha: Trained
    actor_stats: Params
    critic_stats: Params
    """running mean and var of the batch norms, both critics' on a leading axis; the targets need none"""


def make(cfg: Config, spec: Spec) -> Learner:
    """The networks are part of the method: none can be given."""
    if not isinstance(spec.action, Box):
        raise Fault(f"flashsac: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim, form = spec.obs.dim, spec.action.dim, (cfg.blocks, cfg.batch_norm, cfg.unit_norm)
    actor_net = nets.bottleneck(obs_dim, cfg.hidden[0], 2 * action_dim, *form)
    critics = nets.copies(nets.bottleneck(obs_dim + action_dim, cfg.hidden[-1], cfg.bins, *form), 2)
    target_entropy = 0.5 * action_dim * math.log(2 * math.pi * math.e * cfg.target_std**2)
    alpha = lambda s: s.log_alpha.params["x"].exp()
    value = lambda out: out[..., 0] if cfg.bins == 1 else ops.expectation(out.softmax(-1), -cfg.bound, cfg.bound)

    def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = out.chunk(2, -1)
        return mean, ops.between(raw, *cfg.log_std)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = ops.squashed_sample(*gaussian(actor_net.apply(s.actor.params, s.actor_stats, b.next_obs)))
        now, after = torch.cat([b.obs, b.action], -1), torch.cat([b.next_obs, action], -1)
        slow = critics.train(s.target, s.critic_stats, now, after)[1]
        out, _, stats = critics.train(p, s.critic_stats, now, after)
        least = torch.where(value(slow).diff(dim=0).T >= 0, slow[0], slow[1])  # each row's critic of the lesser mean, whole
        reward = b.reward / ops.return_scale(b.extra["return_std"], b.extra["return_max"], cfg.bound)
        z = least if cfg.bins == 1 else ops.support(least, -cfg.bound, cfg.bound)
        y = ops.backup(reward[:, None], b.discount[:, None], z - (alpha(s) * logp)[:, None])
        if cfg.bins == 1:
            loss = 0.5 * (out - y).square().mean(-2).sum()
        else:
            loss = -(ops.project(least.softmax(-1), y, -cfg.bound, cfg.bound) * out.log_softmax(-1)).sum(-1).mean()
        return loss, {"q": value(out).mean()} | stats

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        out, _, stats = actor_net.train(p, s.actor_stats, b.obs, b.next_obs)
        action, logp = ops.squashed_sample(*gaussian(out))
        q = value(critics.apply(s.critic.params, s.critic_stats, torch.cat([b.obs, action], -1))).amin(0)
        return (alpha(s) * logp - q).mean(), {"entropy": -logp.mean()} | stats

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # authors' code: on alpha
        return p["x"].exp() * (entropy - target_entropy), {}

    def init() -> State:
        q0, x = critics.init(), torch.tensor(cfg.initial_alpha).log()
        return State(fresh(actor_net.init()), fresh(q0), q0, fresh({"x": x}), actor_net.stats(), critics.stats())

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # authors' code: the actor first
        metrics: Metrics = {}
        if k == 0:
            actor, m1 = descend(s.actor, actor_loss, cfg.lr, s, b)
            temperature, m2 = descend(s.log_alpha, alpha_loss, cfg.lr, m1["entropy"])
            stats = {name: m1.pop(name) for name in s.actor_stats}
            s = replace(s, actor=actor_net.unit(actor), actor_stats=stats, log_alpha=temperature)
            metrics = m1 | m2 | {"alpha": alpha(s)}
        critic, m3 = descend(s.critic, critic_loss, cfg.lr, s, b)
        critic, stats = critics.unit(critic), {name: m3.pop(name) for name in s.critic_stats}
        s = replace(s, critic=critic, critic_stats=stats, target=polyak(s.target, critic.params, cfg.tau))
        return s, metrics | m3

    def act(p: dict, obs: Tensor, explore: bool, memory: Params, look: Tensor) -> tuple[Tensor, Params]:
        mean, log_std = gaussian(actor_net.apply(p["params"], p["stats"], obs))
        if explore:
            memory = ops.repeated_noise(memory, cfg.zeta, cfg.noise_repeat)
        return (mean + explore * log_std.exp() * memory["noise"]).tanh(), memory

    return Learner(
        init, update, lambda s: {"params": s.actor.params, "stats": s.actor_stats}, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss}, needs=frozenset({"return_scale"}),
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        memory=lambda n: {"noise": torch.zeros(n, action_dim), "left": torch.zeros(n, dtype=torch.int64)}, period=cfg.delay,
    )  # fmt: skip
