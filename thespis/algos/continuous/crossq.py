"""CrossQ: SAC without target networks, whose critics are batch-normalised over both ends of a transition at once.

Paper: Bhatt, Palenicek et al. 2024, "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample Efficiency
and Simplicity", arXiv:1902.05605.
Parent: sac, which it becomes without norms and with a delay of 1: sac at tau 1.
Departures: networks start as torch.nn.Linear (authors' code: LeCun's normal weights, no biases).
Assumed: the paper was not at hand; losses, their order and numbers are those of the authors' code (adityab/CrossQ).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate, Renorm
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size of actor, critics and temperature (authors' code)"""
    b1: Fraction = 0.5
    """Adam's memory of the gradient, of actor and critics; the temperature's is 0.9 (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the actor's hidden layers, ReLU between them (authors' code)"""
    critic_hidden: tuple[Count, ...] = (2048, 2048)
    """widths of each critic's hidden layers (authors' code); 1024 in sb3-contrib, much cheaper"""
    norm: Renorm = "renorm"
    """batch renormalisation, plain batch normalisation, or none, in actor and critics (authors' code: renorm)"""
    norm_warmup: Natural = 100_000
    """batches that a norm sees before it is corrected towards its running statistics (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (authors' code)"""
    delay: Count = 3
    """critic updates for each update of actor and temperature (authors' code)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it (authors' code: learnt)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code; Swimmer 0.9999)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 5_000
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """critic updates for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    log_alpha: Trained
    actor_stats: Params
    critic_stats: Params
    """running statistics of the norms, the critics' on a leading axis"""


def make(cfg: Config, spec: Spec) -> Learner:
    """The networks are part of the method: none can be given."""
    if not isinstance(spec.action, Box):
        raise Fault(f"crossq: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    actor_net = nets.renormed((obs_dim, *cfg.hidden, 2 * action_dim), cfg.norm, cfg.norm_warmup)
    critic_net = nets.renormed((obs_dim + action_dim, *cfg.critic_hidden, 1), cfg.norm, cfg.norm_warmup)
    critics = nets.copies(critic_net, cfg.critics)

    def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = out.chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(s: State, obs: Tensor) -> tuple[Tensor, Tensor]:  # by running statistics: a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(actor_net.apply(s.actor.params, s.actor_stats, obs)))

    def q(s: State, obs: Tensor, action: Tensor) -> Tensor:  # by running statistics: (critics, B)
        return critics.apply(s.critic.params, s.critic_stats, torch.cat([obs, action], -1))[..., 0]

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # both ends in one pass: the paper's section 3
        action, logp = pi(s, b.next_obs)
        now, after = torch.cat([b.obs, b.action], -1), torch.cat([b.next_obs, action], -1)
        values, ahead, stats = critics.train(p, s.critic_stats, now, after)
        value = ahead[..., 0].detach().amin(0) - alpha(s) * logp
        square, told = ops.squared(values[..., 0] - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told} | stats

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        out, _, stats = actor_net.train(p, s.actor_stats, b.obs, b.obs[:0])
        action, logp = ops.squashed_sample(*gaussian(out))
        return (alpha(s) * logp - q(s, b.obs, action).amin(0)).mean(), {"entropy": -logp.mean()} | stats

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # authors' code: on alpha
        return p["x"].exp() * (entropy - cfg.entropy_per_dim * action_dim), {}

    def init() -> State:
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        parts = fresh(actor_net.init()), fresh(critics.init()), fresh({"x": log_alpha})
        return State(*parts, actor_net.stats(), critics.stats())

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b, betas=(cfg.b1, 0.999))
        s = replace(s, critic=critic, critic_stats={name: m1.pop(name) for name in s.critic_stats})
        if k < cfg.delay - 1:
            return s, m1
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b, betas=(cfg.b1, 0.999), clock=critic.t - 1)
        s = replace(s, actor=actor, actor_stats={name: m2.pop(name) for name in s.actor_stats})
        if cfg.alpha is None:
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"], clock=critic.t - 1)
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        return s, m1 | m2 | {"alpha": alpha(s)}

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = gaussian(actor_net.apply(p["params"], p["stats"], obs))
        return ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()

    return Learner(
        init, update, lambda s: {"params": s.actor.params, "stats": s.actor_stats}, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        period=cfg.delay, alike=lambda k: k if k == cfg.delay - 1 else 0,
    )  # fmt: skip
