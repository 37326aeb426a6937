"""DRED: PPO on levels like those of the data: a generator learns from them, and what it makes comes in as training goes on.

Paper: Garcin, Doran, Guo, Lucas, Albrecht 2024, "DRED: Zero-Shot Transfer in Reinforcement Learning via Data-Regularised
Environment Design", arXiv:2402.03479.
Parent: plr, which it becomes where nothing is generated and eta stays 0.
Departures: a level stays in its environment for a rollout, and its score is the mean over all steps of it; a part of the
environments try generated levels, where the authors try them in rollouts of their own; pairs and places between them are drawn
for each level by itself; the generator is made of plain layers and draws every number of a level by itself, where the authors'
sees a level as a graph and places start and exit where they may be; a level in which no return was positive does not come in,
where the authors give it the score 0; actor and critic are apart, without memory.
Assumed: what the paper leaves open of PPO is as in ppo; observations and rewards are not normalised.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, NonNegative, Positive, Rate
from thespis.core import Batch, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    generate: Fraction = 0.35
    """part of the environments in which generated levels are tried; nothing is learnt there"""
    generator: Literal["vae", "edits"] = "vae"
    """what makes levels: the VAE, between two of the data; or random changes of one (EL-DRED)"""
    edits: Count = 8
    """random changes of a level"""
    points: Count = 6
    """places between two levels of the data, both ends among them (authors' code)"""
    mix_rounds: Count = 75
    """rollouts over which eta goes from 0 to 1 (authors' code: all of the training)"""
    temperature: Positive = 1.0
    """of ranks among the data (authors' code: 0.1, over hundreds of times as many rollouts)"""
    mixed_temperature: Positive = 1.0
    """of ranks among all levels of the buffer (authors' code)"""
    staleness: Fraction = 0.3
    """part of the chance that goes to data that were not played for long (authors' code)"""
    buffer: Count = 256
    """levels that are kept, those of the data among them (authors' code: 4,000 for 512)"""
    latent: Count = 16
    """numbers in which the VAE says a level (authors' code: 1,024)"""
    vae_hidden: Count = 256
    """width of the one hidden layer of encoder and decoder"""
    vae_steps: Count = 500
    """steps in which the VAE learns the data, all of them in each, before the run begins"""
    vae_rate: Positive = 1e-3
    """Adam step size of the VAE"""
    beta: NonNegative = 3.0
    """weight of the VAE's divergence beside the log-probability of a level's numbers, summed over them"""
    parallel: Count = 128
    """environments, each in a level of its own in a rollout"""
    lr: Rate = 1e-3
    """Adam step size of actor and critic"""
    adam_eps: Positive = 1e-5
    """what Adam adds to the root of the second moment"""
    hidden: tuple[Count, ...] = (128, 128)
    """widths of the hidden layers, tanh between them"""
    clip: Positive = 0.2
    """how far the ratio of new to old probability may go from 1 and still gain"""
    entropy_weight: NonNegative = 0.01
    """weight of the entropy bonus"""
    rollout: Count = 64
    """steps of each environment between two rounds of learning"""
    epochs: Count = 4
    """passes over a rollout"""
    batch_size: Count = 2_048
    """rows of a minibatch"""
    gamma: Fraction = 0.99
    """discount of a step"""
    lam: Fraction = 0.95
    """lambda of the generalised advantages"""
    max_norm: Positive = 0.5
    """longest gradient, of actor and critic each"""


PRESETS = {"el_dred": Config(generator="edits")}

TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    vae: Params
    """encoder and decoder, as the data taught them"""
    levels: ops.levels.Levels
    playing: Tensor
    """the level of each environment, (parallel, C)"""
    place: Tensor
    """where in `levels` it is, (parallel,); -1: it was generated, and is only tried"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """As ppo."""
    if not spec.levels:
        raise Fault("dred: the environment takes no levels of choices (context_space, a MultiDiscrete): see docs/diversity.md")
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, n, ns = critic_net.apply, cfg.parallel, spec.levels
    encoder = nets.mlp((sum(ns), cfg.vae_hidden, 2 * cfg.latent))
    decoder = nets.mlp((cfg.latent, cfg.vae_hidden, sum(ns)))

    def encode(p: Params, rows: Tensor) -> tuple[Tensor, Tensor]:  # mean and log std of the code, (n, latent) each
        own = {k.removeprefix("encoder."): x for k, x in p.items() if k.startswith("encoder.")}
        mean, log_std = encoder.apply(own, ops.levels.one_hot(rows, ns)).chunk(2, -1)
        return mean, log_std.clamp(-8, 4)

    def decode(p: Params, z: Tensor) -> Tensor:  # logits of every choice, (n, sum of ns)
        return decoder.apply({k.removeprefix("decoder."): x for k, x in p.items() if k.startswith("decoder.")}, z)

    def vae_loss(p: Params, rows: Tensor) -> tuple[Tensor, Metrics]:  # section 4.2
        mean, log_std = encode(p, rows)
        z = mean + log_std.exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).sum(-1).mean()
        missed = -ops.levels.log_prob(decode(p, z), rows, ns).mean()
        return missed + cfg.beta * divergence, {"missed": missed, "divergence": divergence}

    def generated(s: State, chances: Tensor) -> Tensor:  # n levels from pairs of the data, drawn by chances; section 4.2
        one, two = (s.levels.rows[ops.choice(chances, n)] for _ in range(2))
        if cfg.generator == "edits":
            return ops.levels.edited(one, ns, cfg.edits)
        (m1, d1), (m2, d2) = encode(s.vae, one), encode(s.vae, two)
        at = torch.randint(cfg.points, (n, 1), device=m1.device) / max(cfg.points - 1, 1)
        z = ops.levels.slerp(m1, m2, at) + torch.lerp(d1.exp(), d2.exp(), at) * torch.randn_like(m1)
        return ops.levels.drawn(decode(s.vae, z), ns)

    def next_levels(s: State) -> State:  # algorithm 1; eqs. 5, 6
        levels, data = s.levels, s.levels.protected
        grounded = torch.where(levels.best > 0, levels.score, 0.0)
        near = ops.levels.ranked(levels.score, data, cfg.temperature)
        whole = ops.levels.ranked(grounded, levels.known, cfg.mixed_temperature)
        eta = (levels.round / cfg.mix_rounds).clamp(max=1) * levels.known.any()
        old = ops.levels.stale(levels, data)
        again = ops.choice((1 - cfg.staleness) * torch.lerp(near, whole, eta) + cfg.staleness * old, n)
        tries = torch.rand(n, device=eta.device) < cfg.generate
        new = generated(s, (1 - cfg.staleness) * near + cfg.staleness * old)
        playing = torch.where(tries[:, None], new, levels.rows[again])
        return replace(s, playing=playing, place=torch.where(tries, -1.0, again.type_as(s.place)))

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        old, ahead = value(s.critic.params, rollout.obs), value(s.critic.params, rollout.next_obs)
        rows, told = ops.with_advantages(rollout, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor.params, rows.obs), rows.action)
        rows.extra["weight"] = (s.place >= 0).type_as(old).expand_as(old).flatten()
        score = rows.extra["advantage"].view_as(old).abs().mean(0)  # value_l1, eq. 4
        best = ops.levels.highest(rollout.reward, rollout.extra["ended"])
        levels = ops.levels.scored(s.levels, s.place, score, best)
        levels, came = ops.levels.insert(levels, s.playing, score, best, (s.place < 0) & (best > 0))
        told |= {"level_score": score.mean(), "levels": levels.known.sum().float(), "inserted": came.sum().float()}
        return next_levels(replace(s, levels=levels)), rows, told

    def mean(x: Tensor, b: Batch) -> Tensor:  # over the steps that are learnt from
        weight = b.extra["weight"]
        return (x * weight).sum() / weight.sum().clamp(min=1)

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # ppo's
        dist, advantage = pi.apply(p, b.obs), b.extra["advantage"]
        centred = advantage - mean(advantage, b)
        advantage = centred / (mean(centred.square(), b).sqrt() + 1e-8)
        log_ratio = pi.log_prob(dist, b.action) - b.extra["logp"]
        ratio, entropy = log_ratio.exp(), mean(pi.entropy(dist), b)
        gain = mean(torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage), b)
        return -gain - cfg.entropy_weight * entropy, {"entropy": entropy, "kl": mean(ratio - 1 - log_ratio, b)}

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # ppo's
        v = value(p, b.obs)
        return 0.5 * mean((v - b.extra["target"]).square(), b), {"value": mean(v, b)}

    def init() -> State:
        parts = {"encoder": encoder.init(), "decoder": decoder.init()}
        vae = {f"{part}.{k}": x for part, p in parts.items() for k, x in p.items()}
        levels, playing = ops.levels.empty(cfg.buffer, spec.context), torch.zeros(n, spec.context)
        return State(fresh(pi.init()), fresh(critic_net.init()), vae, levels, playing, torch.zeros(n))

    def given(s: State, data: Batch) -> State:
        rows, vae = ops.levels.distinct(data, cfg.buffer, spec.levels), fresh(s.vae)
        for _ in range(cfg.vae_steps if cfg.generator == "vae" else 0):
            vae, _ = descend(vae, vae_loss, cfg.vae_rate, rows)
        return next_levels(replace(s, vae=vae.params, levels=ops.levels.filled(s.levels, rows)))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        return replace(s, actor=actor, critic=critic), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], obs)
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params}, act, prepare=prepare, given=given,
        losses={"actor": actor_loss, "critic": critic_loss, "vae": vae_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size, whole=True, policies=n),
        context=lambda s, count, explore: s.playing[:count] if explore else torch.zeros(count, spec.context),
    )  # fmt: skip
