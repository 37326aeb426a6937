"""SAC at high update ratios: many critics of which a random few make the target, or few and regularised, or fresh starts.

Paper: Chen et al. 2021, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", arXiv:2101.05982.
Parent: sac, which it becomes where every critic makes the target, the actor climbs their minimum and each update moves all.
Presets: droq, Hiraoka et al. 2022, arXiv:2110.02034; simba, Lee et al. 2024, arXiv:2410.09754; sr_sac, D'Oro et al. 2023.
Departures: the actor climbs critics that have just moved (authors' code: those before their last step of the round). simba:
statistics are of the batches' observations (authors: of each as it comes, so of the warm-up's too); critics before the actor
(authors: after), and the temperature's step is on its log; log std is clipped (theirs: a tanh into it); no action is repeated.
Assumed: line and table numbers are cited from memory of the papers; target entropies and simba's numbers were read in code of
the authors (watchernyu/REDQ, DroQ's README, SonyResearch/simba).
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Range, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperature (table of hyper-parameters)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (table of hyper-parameters)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the actor's hidden layers, or of its residual blocks (table of hyper-parameters)"""
    critic_hidden: tuple[Count, ...] | None = None
    """the same of the critics; None: as the actor"""
    net: Literal["mlp", "normed", "simba"] = "mlp"
    """plain layers; with dropout and layer norm in the critics (DroQ); or layer-normed residual blocks of one width (SimBa)"""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """share of a critic's hidden units left out at each pass, where net is normed (DroQ: 0.01)"""
    critics: Members = 10
    """number of soft Q-functions, N (section 3). SimBa: 2 where episodes can terminate; where they never do, 1 (and subset 1)"""
    subset: Count = 2
    """how many of them, drawn anew for each update, make the target's minimum, M (section 3)"""
    actor_q: Literal["mean", "min"] = "mean"
    """what the actor climbs: the critics' mean (algorithm 1) or their minimum (SAC)"""
    delay: Count | None = None
    """critic updates for each update of actor and temperature; None: as many as an environment step has (algorithm 1)"""
    initial_alpha: Positive = 1.0
    """where the temperature starts (authors' code; SimBa: 0.01)"""
    entropy_per_dim: float = -0.5
    """target entropy is this times the action dimension. REDQ's and DroQ's authors set it by task, as MBPO does: Hopper -1 (here
    -0.33), HalfCheetah -3 (-0.5), Walker2d -3 (-0.5), Ant -4 (-0.5), Humanoid -2 (-0.12); for others it is the dimension, -1"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to"""
    weight_decay: NonNegative = 0.0
    """decoupled weight decay of actor and critics, as in AdamW (SimBa: 0.01)"""
    normalise_obs: bool = False
    """observations by the running mean and spread of those in the batches (SimBa)"""
    gamma: Fraction = 0.99
    """discount (table of hyper-parameters; SimBa: 1 - 5 / L for episodes of L steps, within 0.95 and 0.995)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 256
    """transitions in an update (table of hyper-parameters)"""
    replay_size: Count = 1_000_000
    """transitions kept (table of hyper-parameters)"""
    warmup: Natural = 5_000
    """uniformly random environment steps before the first update (table of hyper-parameters)"""
    updates_per_step: Positive = 20.0
    """critic updates for each environment step, G (section 3)"""
    reset_every: Count | None = None
    """updates after which all but the replay starts anew (SR-SAC)"""


few = Config(critics=2, actor_q="min", delay=1)
simba = replace(few, net="simba", hidden=(128,), critic_hidden=(512, 512), lr=1e-4, updates_per_step=2.0, log_std=(-10.0, 2.0))
PRESETS = {
    "droq": Config(critics=2, net="normed", dropout=0.01),
    "simba": replace(simba, initial_alpha=0.01, weight_decay=0.01, normalise_obs=True),
    "sr_sac": replace(few, updates_per_step=32.0, reset_every=2_560_000),
}


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    target: Params
    log_alpha: Trained
    seen: Params
    """count, mean and variance of the observations; where they are not normalised, nothing"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> (mean, log std) and (obs, action) -> one value."""
    if not isinstance(spec.action, Box):
        raise Fault(f"redq: continuous actions (a Box) are needed, the environment's are {spec.action}")
    if cfg.subset > cfg.critics:
        raise Fault(f"subset is {cfg.subset}; allowed: at most critics, {cfg.critics}")
    if cfg.dropout and cfg.net != "normed":
        raise Fault(f"dropout is {cfg.dropout}; allowed where net is {cfg.net}: 0")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    plain, widths = "mlp" if cfg.net == "normed" else cfg.net, cfg.critic_hidden or cfg.hidden
    actor_net = nets.custom(actor, spec, obs_dim, 2 * action_dim) or nets.layers(plain, (obs_dim, *cfg.hidden, 2 * action_dim))
    sizes = (obs_dim + action_dim, *widths, 1)
    critic_net = nets.custom(critic, spec, sizes[0], 1) or nets.layers(cfg.net, sizes, cfg.dropout)
    critics = nets.ensemble(critic_net, cfg.critics)
    target_entropy, delay = cfg.entropy_per_dim * action_dim, cfg.delay or max(round(cfg.updates_per_step), 1)

    def view(seen: Params, obs: Tensor) -> Tensor:  # what the networks are shown
        return ops.whitened(obs, seen, math.inf) if cfg.normalise_obs else obs

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # algorithm 1, lines 6 to 9
        action, logp = pi(s.actor.params, b.next_obs)
        value = q(s.target, b.next_obs, action)
        if cfg.subset < cfg.critics:
            value = value[torch.rand(cfg.critics).topk(cfg.subset).indices]
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value.amin(0) - alpha(s) * logp), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # algorithm 1, line 11
        action, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs, action)
        value = value.mean(0) if cfg.actor_q == "mean" else value.amin(0)
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:
        return p["x"] * (entropy - target_entropy), {}

    def init() -> State:
        q0, x = critics.init(), torch.tensor(cfg.initial_alpha).log()
        return State(fresh(actor_net.init()), fresh(q0), q0, fresh({"x": x}), ops.unseen(obs_dim) if cfg.normalise_obs else {})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        if cfg.normalise_obs:
            s = replace(s, seen=ops.moments(s.seen, b.obs))
            b = replace(b, obs=view(s.seen, b.obs), next_obs=view(s.seen, b.next_obs))
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b, decay=cfg.weight_decay)
        s = replace(s, critic=critic, target=polyak(s.target, critic.params, cfg.tau))
        if k < delay - 1:
            return s, metrics
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b, clock=critic.t - 1, decay=cfg.weight_decay)
        temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"], clock=critic.t - 1)
        s = replace(s, actor=actor, log_alpha=temperature)
        return s, metrics | m2 | m3 | {"alpha": alpha(s)}

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        obs = view(p["seen"], obs)
        return pi(p["actor"], obs)[0] if explore else gaussian(p["actor"], obs)[0].tanh()

    def judge(s: State, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        obs = view(s.seen, obs)
        return q(s.critic.params, obs, action).mean(0), -alpha(s) * pi(s.actor.params, obs)[1]

    numbers = cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step, 1, cfg.reset_every
    return Learner(
        init, update, lambda s: {"actor": s.actor.params, "seen": s.seen}, act,
        {"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        OffPolicy(*numbers), period=delay, alike=lambda k: k if k == delay - 1 else 0, value=judge,
    )  # fmt: skip
