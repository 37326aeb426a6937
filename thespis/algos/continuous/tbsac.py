"""SAC that sees a trend: an observation is three rows, the newest last, and small convolutions read all three at once.

Paper: Chen et al. 2023, "Trend-Based SAC Beam Control Method with Zero-Shot in Superconducting Linear Accelerator",
arXiv:2305.13869.
Parent: sac, which it becomes without filters.
Departures: the critics' loss is halved, as sac's is. A filter that is wider than a row is left out.
Assumed: the convolutions and all numbers are those of the authors' code (ElivisC/TBSAC); equations are not cited. The trend is
the world's (thespis/BeamOrbit-v0); elsewhere `--frame-stack 3` gives three rows, from which filters may take differences.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv1d, leaky_relu

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak

ROWS = 3
"""of an observation: the last change but one, the last change, the reading"""


@dataclass(frozen=True)
class Config:
    filters: Natural = 4
    """filters of each width; 0: no convolution, and the layers see the observation as it is (authors' code)"""
    widths: tuple[Count, ...] = (1, 2, 3)
    """neighbours in a row that a filter sees; it sees all three rows (authors' code)"""
    lr: Rate = 2e-4
    """Adam step size of actor, critics and temperature (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers behind the convolutions, ReLU between them (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions, which share their convolutions; targets and actor take the minimum (authors' code)"""
    initial_alpha: Positive = 1.0
    """where the temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (authors' code)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 3_000
    """transitions kept (authors' code)"""
    warmup: Natural = 500
    """uniformly random steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """its filters, and all critics on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"tbsac: continuous actions (a Box) are needed, the environment's are {spec.action}")
    if spec.obs.dim % ROWS and cfg.filters:
        raise Fault(
            f"tbsac: three rows of equal length are needed, the observation has {spec.obs.dim} numbers; try --frame-stack 3"
        )
    act_dim, columns = spec.action.dim, spec.obs.dim // ROWS
    widths = [w for w in cfg.widths if w <= columns] if cfg.filters else []
    features = sum(cfg.filters * (columns + 1 - w) for w in widths) if widths else spec.obs.dim
    actor_net = nets.mlp((features, *cfg.hidden, 2 * act_dim))
    critics = nets.ensemble(nets.mlp((features + act_dim, *cfg.hidden, 1)), cfg.critics)

    def filters() -> Params:  # start as torch.nn.Conv2d
        p: Params = {}
        for i, w in enumerate(widths):
            bound = (ROWS * w) ** -0.5
            p[f"w{i}"] = torch.empty(cfg.filters, ROWS, w).uniform_(-bound, bound)
            p[f"b{i}"] = torch.empty(cfg.filters).uniform_(-bound, bound)
        return p

    def trend(p: Params, obs: Tensor) -> Tensor:  # (B, obs) -> (B, features)
        if not widths:
            return obs
        x, p = obs.unflatten(-1, (ROWS, columns)), nets.part(p, "trend")
        return torch.cat([leaky_relu(conv1d(x, p[f"w{i}"], p[f"b{i}"])).flatten(1) for i in range(len(widths))], -1)

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(nets.part(p, "layers"), trend(p, obs)).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s) and log pi(a|s)
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(nets.part(p, "q"), torch.cat([trend(p, obs), action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(s.actor.params, b.next_obs)
        value = q(s.target, b.next_obs, action).amin(0) - alpha(s) * logp
        values = q(p, b.obs, b.action)
        error = values - ops.backup(b.reward, b.discount, value)
        return 0.5 * error.square().mean(-1).sum(), {"q": values.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs, action).amin(0)
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def init() -> State:
        actor, q0 = nets.joined(layers=actor_net.init(), trend=filters()), nets.joined(q=critics.init(), trend=filters())
        return State(fresh(actor), fresh(q0), q0, fresh({"x": torch.tensor(cfg.initial_alpha).log()}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # authors' code
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
        s = replace(s, actor=actor, log_alpha=temperature, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2 | m3 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        return pi(p, obs)[0] if explore else gaussian(p, obs)[0].tanh()

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, o, a).mean(0), -alpha(s) * pi(s.actor.params, o)[1]),
    )  # fmt: skip
