"""SLIM: skills that move an object, by several rewards that do not drown one another: each has critics of its own.

Paper: Emukpere, Wu, Perez, Renders 2024, "SLIM: Skill Learning with Multiple Critics", arXiv:2402.00823.
Parent: diayn, whose reward is that of the first critic; where the others weigh nothing and nothing is scaled, it is DIAYN.
Departures: off-policy, with DIAYN's skills and reward; the environment gives the other rewards, such as reaching and safety. The
actor climbs the sum of all critics, each in units of its spread. The entropy counts in the first critic alone.
Assumed: of the paper the abstract and a summary could be read: rewards for reaching, diversity and safety have a critic each. How
the actor puts them together, what the rewards are, and all numbers are our choice; no parity is claimed.
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
    skills: Members = 16
    """number of skills; each episode has one, drawn uniformly"""
    discriminator_obs: tuple[Natural, ...] = ()
    """which numbers of the observation the classifier sees, counted from 0, such as the object's position; none: all"""
    reward_weights: tuple[NonNegative, ...] = ()
    """of each of the environment's rewards, where that of the skills weighs 1; none: 1 each"""
    scaled: bool = True
    """whether the actor sees each critic in units of its spread"""
    scale_rate: Fraction = 0.005
    """how much of the mean square spread is that of the newest batch"""
    least_scale: Positive = 0.1
    """the least spread that a critic is taken to have"""
    lr: Rate = 3e-4
    """Adam step size of all networks and of the temperature"""
    tau: Fraction = 0.005
    """target smoothing coefficient"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the hidden layers, ReLU between them"""
    critics: Members = 2
    """number of Q-functions of each reward; targets and actor take the minimum"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under SAC's entropy constraint"""
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
"""several rewards of a step"""


@tree
class State:
    actor: Trained
    critic: Trained
    """(rewards * critics, ...): first those of the skills' reward, then of the environment's, one after the other"""
    target: Params
    log_alpha: Trained
    discriminator: Trained
    spread: Tensor
    """(rewards,): the mean square deviation of each reward's critics over batches, averaged"""


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"slim: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, act_dim, rewards = spec.obs.dim, spec.action.dim, len(spec.rewards)
    if any(i >= obs_dim for i in cfg.discriminator_obs):
        raise Fault(f"discriminator_obs is {cfg.discriminator_obs}; an observation has {obs_dim} numbers, the first is 0")
    weights = (1.0, *(cfg.reward_weights or (1.0,) * rewards))
    if len(weights) != 1 + rewards:
        raise Fault(f"reward_weights has {len(weights) - 1} numbers; the environment's rewards are {', '.join(spec.rewards)}")
    seen, told_dim = cfg.discriminator_obs or tuple(range(obs_dim)), obs_dim + cfg.skills
    actor_net = nets.mlp((told_dim, *cfg.hidden, 2 * act_dim))
    critics = nets.ensemble(nets.mlp((told_dim + act_dim, *cfg.hidden, 1)), (1 + rewards) * cfg.critics)
    discriminator = nets.mlp((len(seen), *cfg.hidden, cfg.skills))

    def gaussian(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor_net.apply(p, obs).chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std)

    def pi(p: Params, obs: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|s, z) and its log-probability
        return ops.squashed_sample(*gaussian(p, obs))

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (rewards, critics, B)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1).unflatten(0, (1 + rewards, cfg.critics))

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def shares(s: State) -> list[Tensor]:  # what each critic's unit counts for the actor
        scale = s.spread.sqrt().clamp(min=cfg.least_scale) if cfg.scaled else torch.ones_like(s.spread)
        return [w / x for w, x in zip(weights, scale.unbind(), strict=True)]

    def log_q(p: Params, obs: Tensor) -> Tensor:  # log q(z|s), (B,); the skill z stands behind s, 1 in its place
        logits = discriminator.apply(p, torch.stack([obs[..., i] for i in seen], -1))
        return (logits.log_softmax(-1) * obs[..., obs_dim:]).sum(-1)

    def discriminator_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        return -log_q(p, b.next_obs).mean(), {}

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(s.actor.params, b.next_obs)
        skill = log_q(s.discriminator.params, b.next_obs) + math.log(cfg.skills)  # as DIAYN, eq. 3
        reward = torch.cat([skill[None], b.reward.reshape(len(skill), rewards).T])  # (rewards, B)
        discount = torch.cat([b.discount.reshape(len(skill), rewards)[:, :1], b.discount.reshape(len(skill), rewards)], 1).T
        first, *others = q(s.target, b.next_obs, action).amin(1)
        first = first - alpha(s) / shares(s)[0] * logp  # the actor's entropy, in units of this reward
        values = q(p, b.obs, b.action)
        error = values - ops.backup(reward, discount, torch.stack([first, *others]))[:, None]
        spread = values.mean(1).var(1, correction=0)
        told = {"q": values[0].mean(), "skill_reward": skill.mean()}
        return 0.5 * error.square().mean(-1).sum(), told | {f"spread_{k}": x for k, x in enumerate(spread.unbind())}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        action, logp = pi(p, b.obs)
        each = q(s.critic.params, b.obs, action).amin(1)
        value = sum(share * x for share, x in zip(shares(s), each.unbind(), strict=True))
        return (alpha(s) * logp - value).mean(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def init() -> State:
        q0 = critics.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        trained = fresh(actor_net.init()), fresh(q0), q0, fresh({"x": log_alpha}), fresh(discriminator.init())
        return State(*trained, torch.ones(1 + rewards))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        spread = torch.stack([m1.pop(f"spread_{i}") for i in range(1 + rewards)])
        s = replace(s, critic=critic, spread=torch.lerp(s.spread, spread, cfg.scale_rate))
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor)
        if cfg.alpha is None:
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        classifier, m4 = descend(s.discriminator, discriminator_loss, cfg.lr, b)
        s = replace(s, discriminator=classifier, target=polyak(s.target, critic.params, cfg.tau))
        names = ("skill", *spec.rewards)
        return s, m1 | m2 | m4 | {"alpha": alpha(s)} | {
            f"spread_{n}": x.sqrt() for n, x in zip(names, s.spread.unbind(), strict=True)
        }

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        return pi(p, obs)[0] if explore else gaussian(p, obs)[0].tanh()

    def context(s: State, n: int, explore: bool) -> Tensor:  # (n, skills), a 1 in a row
        z = torch.randint(cfg.skills, (n,)) if explore else torch.arange(n) % cfg.skills
        return nn.functional.one_hot(z, cfg.skills).float()

    return Learner(
        init, update, lambda s: s.actor.params, act, context=context,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss, "discriminator": discriminator_loss},
        experience=OffPolicy(cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
    )  # fmt: skip
