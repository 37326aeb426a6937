"""DIAYN: skills that are learnt without a reward: each visits states by which a classifier tells it from the others.

Paper: Eysenbach, Gupta, Ibarz, Levine 2018, "Diversity is All You Need: Learning Skills without a Reward Function",
arXiv:1802.06070.
Parent: sac, with a skill behind each observation; with one skill, its reward and the temperature learnt, it is SAC.
Departures: soft critics without a value network, and a temperature that is learnt, as in arXiv:1812.05905; the reward is that of
the classifier as it is now, not as it was when the step was taken.
Assumed: numbers are cited from memory of the paper; where it has none they are SAC's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    skills: Members = 50
    """number of skills; each episode has one, drawn uniformly (section 3.1)"""
    discriminator_obs: tuple[Natural, ...] = ()
    """which numbers of the observation the classifier sees, counted from 0; none: all (section 4)"""
    reward_weight: NonNegative = 0.0
    """of the environment's own reward beside that of the skills (the paper: 0)"""
    lr: Rate = 3e-4
    """Adam step size of all networks and of the temperature"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (300, 300)
    """widths of the hidden layers, ReLU between them (appendix)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum"""
    alpha: Positive | None = None
    """fixed temperature (section 3.2: 0.1); None learns it under SAC's entropy constraint"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to"""
    gamma: Fraction = 0.99
    """discount of a step"""
    batch_size: Count = 256
    """transitions in an update"""
    replay_size: Count = 1_000_000
    """transitions that are kept"""
    warmup: Natural = 10_000
    """uniformly random steps before the first update"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step"""


TAKES = {"rewards"}
"""several rewards of a step, which are not looked at"""


@tree
class State:
    actor: Trained
    critic: Trained
    """both critics, on a leading axis"""
    target: Params
    log_alpha: Trained
    discriminator: Trained


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"diayn: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, act_dim = spec.obs.dim, spec.action.dim
    if any(i >= obs_dim for i in cfg.discriminator_obs):
        raise Fault(f"discriminator_obs is {cfg.discriminator_obs}; an observation has {obs_dim} numbers, the first is 0")
    if len(spec.rewards) > 1 and cfg.reward_weight:
        raise Fault(f"reward_weight is {cfg.reward_weight}; the environment has {len(spec.rewards)} rewards: give weights, too")
    seen, told_dim = cfg.discriminator_obs or tuple(range(obs_dim)), obs_dim + cfg.skills
    actor_net = nets.mlp((told_dim, *cfg.hidden, 2 * act_dim))
    critics = nets.ensemble(nets.mlp((told_dim + act_dim, *cfg.hidden, 1)), cfg.critics)
    discriminator = nets.mlp((len(seen), *cfg.hidden, cfg.skills))

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s, z) and its log-probability
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def log_q(p: Params, obs: Tensor) -> Tensor:  # log q(z|s), (B,); the skill z stands behind s, 1 in its place
        logits = discriminator.apply(p, torch.stack([obs[..., i] for i in seen], -1))
        return (logits.log_softmax(-1) * obs[..., obs_dim:]).sum(-1)

    def reward(p: Params, b: Batch) -> Tensor:  # eq. 3, of the state that the action led to; p(z) is uniform
        told = log_q(p, b.next_obs) + math.log(cfg.skills)
        return told + cfg.reward_weight * b.reward if cfg.reward_weight else told

    def discriminator_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # algorithm 1
        return -log_q(p, b.next_obs).mean(), {}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(s.actor.params, b.next_obs)
        value = q(s.target, b.next_obs, action).amin(0) - alpha(s) * logp
        skill, values = reward(s.discriminator.params, b), q(p, b.obs, b.action)
        error = values - ops.backup(skill, b.discount, value)
        return 0.5 * error.square().mean(-1).sum(), {"q": values.mean(), "skill_reward": skill.mean()}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(p, b.obs)
        value = q(s.critic.params, b.obs, action).amin(0)
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def init() -> State:
        q0 = critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor_net.init()), fresh(q0), q0, fresh({"x": log_alpha}), fresh(discriminator.init()))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1
        if b.discount.dim() > 1:  # of an environment with several rewards, which are not looked at
            b = replace(b, discount=b.discount[:, 0])
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor)
        if cfg.alpha is None:
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        classifier, m4 = descend(s.discriminator, discriminator_loss, cfg.lr, b)
        s = replace(s, discriminator=classifier, target=polyak(s.target, critic.params, cfg.tau))
        return s, m1 | m2 | m4 | {"alpha": alpha(s)}

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        return pi(p, obs)[0] if explore else gaussian(p, obs)[0].tanh()

    def context(s: State, n: int, explore: bool) -> Tensor:  # p(z): (n, skills), a 1 in a row
        z = torch.randint(cfg.skills, (n,)) if explore else torch.arange(n) % cfg.skills
        return nn.functional.one_hot(z, cfg.skills).float()

    return Learner(
        init, update, lambda s: s.actor.params, act, context=context,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss, "discriminator": discriminator_loss},
        experience=OffPolicy(cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
    )  # fmt: skip
