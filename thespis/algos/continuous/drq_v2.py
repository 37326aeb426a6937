"""DrQ-v2: a deterministic actor-critic from images that are moved at random; the critics' loss trains the convolutions.

Paper: Yarats, Fergus, Lazaric, Pinto 2021, "Mastering Visual Continuous Control", arXiv:2107.09645.
Parent: DDPG with the smaller of two critics, which it becomes on vectors, or with shift 0 on features: td3 without slow actor.
Departures: shifts are by whole pixels, where the authors' code interpolates at places that fall on pixels; the noise goes by
updates, 2 steps each, not by steps; the spread of the noise that act draws with is that of the last update.
Assumed: numbers that are in no image (the authors have none) go past the convolutions to actor and critics as they are. Sizes and
the order of the steps are those of the authors' code (facebookresearch/drqv2).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Members, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-4
    """Adam step size of actor, critics and convolutions (authors' code)"""
    tau: Fraction = 0.01
    """target smoothing coefficient (authors' code)"""
    channels: Count = 32
    """channels of each of the four convolutions (authors' code)"""
    features: Count = 50
    """numbers that the convolutions' output is brought to, by actor and critics apart (authors' code)"""
    shift: Natural = 4
    """most pixels that an image is moved each way, drawn anew in each update (section 3.1); 0: none"""
    hidden: tuple[Count, ...] = (1024, 1024)
    """widths of the hidden layers, ReLU between them (authors' code)"""
    critics: Members = 2
    """number of critics; targets and actor take the minimum (eq. 1)"""
    noise: NonNegative = 1.0
    """standard deviation of the exploration noise at first (eq. 3)"""
    noise_end: NonNegative = 0.1
    """what it falls to, in a line (eq. 3)"""
    noise_updates: Count = 250_000
    """updates in which it falls (authors' code: 500,000 steps on tasks of medium difficulty, 100,000 on easy ones)"""
    noise_clip: NonNegative = 0.3
    """bound of the noise in both losses (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    n_step: Count = 3
    """steps of reward before the bootstrap (eq. 1)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 2_000
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 0.5
    """gradient steps for each environment step (authors' code: every second)"""


TAKES = {"images"}
"""it has convolutions"""


@tree
class State:
    actor: Trained
    critic: Trained
    """with the convolutions; the critics are on a leading axis"""
    target: Params


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"drq_v2: continuous actions (a Box) are needed, the environment's are {spec.action}")
    images, act_dim, shifted = nets.pixels(spec, cfg.channels), spec.action.dim, nets.shifts(spec, cfg.shift)
    trunk = nets.trunk(images, cfg.features)
    seen = (cfg.features if images.features else 0) + images.others
    head = nets.orthogonal((seen, *cfg.hidden, act_dim), torch.relu, 1.0)
    critics = nets.ensemble(nets.orthogonal((seen + act_dim, *cfg.hidden, 1), torch.relu, 1.0), cfg.critics)

    def encode(p: Params, obs: Tensor) -> Tensor:  # p: the critics'
        return images.apply(nets.part(p, "images"), obs)

    def pi(p: Params, h: Tensor) -> Tensor:  # (B, action), of what `encode` gives
        return head.apply(nets.part(p, "head"), trunk.apply(nets.part(p, "trunk"), h)).tanh()

    def q(p: Params, h: Tensor, action: Tensor) -> Tensor:  # (critics, B)
        both = torch.cat([trunk.apply(nets.part(p, "trunk"), h), action], -1)
        return critics.apply(nets.part(p, "q"), both).squeeze(-1)

    def spread(updates: Tensor) -> Tensor:  # eq. 3
        return cfg.noise_end + (cfg.noise - cfg.noise_end) * (1 - updates / cfg.noise_updates).clamp(min=0)

    def noisy(mean: Tensor, std: Tensor) -> Tensor:  # the gradient passes as if the action were not clipped
        action = mean + (std * torch.randn_like(mean)).clamp(-cfg.noise_clip, cfg.noise_clip)
        return action + (action.clamp(-1, 1) - action).detach()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 1
        with torch.no_grad():
            ahead = encode(p, b.next_obs)
            action = noisy(pi(s.actor.params, ahead), spread(s.critic.t))
            value = q(s.target, ahead, action).amin(0)
        h = encode(p, b.obs)
        values = q(p, h, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return square.mean(-1).sum(), {"q": values.mean(), "h": h, **told}

    def actor_loss(p: Params, s: State, h: Tensor) -> tuple[Tensor, Metrics]:  # eq. 2
        return -q(s.critic.params, h, noisy(pi(p, h), spread(s.critic.t - 1))).amin(0).mean(), {}

    def init() -> State:
        q0 = nets.joined(images=images.init(), trunk=trunk.init(), q=critics.init())
        actor = nets.joined(trunk=trunk.init(), head=head.init())
        return State(fresh(actor), fresh(q0), {k: x for k, x in q0.items() if not k.startswith("images.")})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # authors' code
        b = replace(b, obs=shifted(b.obs), next_obs=shifted(b.next_obs))
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        h = m1.pop("h")  # from before the step, and without gradient: the actor does not train the convolutions
        s = replace(s, critic=critic)
        actor, m2 = descend(s.actor, actor_loss, cfg.lr, s, h)
        target = polyak(s.target, {k: critic.params[k] for k in s.target}, cfg.tau)
        return State(actor, critic, target), m1 | m2 | {"noise": spread(critic.t)}

    def policy(s: State) -> dict[str, Any]:
        convolutions = {k: x for k, x in s.critic.params.items() if k.startswith("images.")}
        return {"actor": s.actor.params, "critic": convolutions, "updates": s.critic.t}

    def act(p: dict[str, Any], obs: Tensor, explore: bool) -> Tensor:
        mean = pi(p["actor"], encode(p["critic"], obs))
        return (mean + spread(p["updates"]) * torch.randn_like(mean)).clamp(-1, 1) if explore else mean

    return Learner(
        init, update, policy, act,
        losses={"critic": critic_loss, "actor": actor_loss},
        experience=OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step),
        value=lambda s, o, a: (q(s.critic.params, encode(s.critic.params, o), a).mean(0), torch.zeros(len(o))),
    )  # fmt: skip
