"""PLR: PPO that chooses its levels: those where its values were most wrong, and those it has not seen for long, come back.

Paper: Jiang, Grefenstette, Rocktäschel 2021, "Prioritized Level Replay", arXiv:2010.03934.
Parent: ppo, on levels drawn uniformly, which it becomes where none is replayed (`uniform_levels`).
Departures: a level stays in its environment for a rollout, and its score is the mean over all steps of it, those of an episode
that was cut off too; `robust_plr` (Jiang et al. 2021, arXiv:2110.02439) and `accel` (Parker-Holder et al. 2022, arXiv:2203.01302)
decide for each environment by itself, where their authors decide for all at once; edits and random levels know nothing of what
a level's numbers mean; of several like levels in the buffer each counts; no memory.
Assumed: what the paper leaves open of PPO is as in ppo; observations and rewards are not normalised.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Natural, NonNegative, Positive, Rate
from thespis.core import Batch, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    new: Literal["data", "random"] = "data"
    """what is played where nothing is replayed: a level of the data, evenly drawn, or a random one (ops/levels.py)"""
    replay: Fraction = 0.5
    """chance that an environment replays a level of the buffer (authors' code of robust PLR)"""
    learn_new: bool = True
    """whether steps in levels that are not replayed are learnt from (robust PLR and ACCEL: no)"""
    edits: Natural = 0
    """random changes of a level that was replayed, which is then tried (ACCEL); 0: none is"""
    score: Literal["value_l1", "positive"] = "value_l1"
    """of a level the mean of |advantage|, or of the advantage where it is positive (robust PLR: positive value loss)"""
    temperature: Positive = 0.3
    """of ranks: the nearer to 0, the more the highest scores are replayed (eq. 3; the paper: 0.1, authors of robust PLR: 0.3)"""
    staleness: Fraction = 0.3
    """part of the chance that goes by the rounds since a level was played (eq. 5; the paper: 0.1, DRED: 0.3)"""
    buffer: Count = 256
    """levels that are kept, those of the data among them"""
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


PRESETS = {
    "uniform_levels": Config(replay=0.0),
    "random_levels": Config(replay=0.0, new="random"),
    "robust_plr": Config(new="random", learn_new=False, score="positive"),
    "accel": Config(new="random", learn_new=False, score="positive", replay=0.8, edits=8),
}

TAKES = {"unbounded", "mask"}
"""actions without bounds, and action masks"""


@tree
class State:
    actor: Trained
    critic: Trained
    levels: ops.levels.Levels
    playing: Tensor
    """the level of each environment, (parallel, C)"""
    place: Tensor
    """where in `levels` it is, (parallel,); -1: it is not there"""
    learns: Tensor
    """whether its steps are learnt from, (parallel,), 0 or 1"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """As ppo."""
    if not spec.levels:
        raise Fault("plr: the environment takes no levels of choices (context_space, a MultiDiscrete): see docs/diversity.md")
    pi, critic_net = nets.actor_critic(spec, cfg.hidden, actor, critic)
    value, n = critic_net.apply, cfg.parallel

    def next_levels(s: State, replayed: Tensor) -> State:  # algorithm 1; of ACCEL algorithm 1, too
        levels, known = s.levels, s.levels.known
        priority = ops.levels.ranked(levels.score, known, cfg.temperature)
        chances = (1 - cfg.staleness) * priority + cfg.staleness * ops.levels.stale(levels, known)  # eq. 5
        again = ops.choice(chances, n)
        replays = (torch.rand(n, device=chances.device) < cfg.replay) & known.any()
        if cfg.new == "data":
            other = ops.choice(ops.levels.shares(torch.ones_like(chances), levels.protected), n)
            fresh_rows, fresh_place = levels.rows[other], other.type_as(s.place)
        else:
            fresh_rows, fresh_place = ops.levels.random(spec.levels, n, s.playing), torch.full_like(s.place, -1)
        playing = torch.where(replays[:, None], levels.rows[again], fresh_rows)
        place = torch.where(replays, again.type_as(s.place), fresh_place)
        if cfg.edits:
            playing = torch.where(replayed[:, None], ops.levels.edited(s.playing, spec.levels, cfg.edits), playing)
            place, replays = torch.where(replayed, -1.0, place), replays & ~replayed
        learns = replays.type_as(s.learns) if not cfg.learn_new else torch.ones_like(s.learns)
        return replace(s, playing=playing, place=place, learns=learns)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        old, ahead = value(s.critic.params, rollout.obs), value(s.critic.params, rollout.next_obs)
        rows, told = ops.with_advantages(rollout, old, ahead, cfg.gamma * cfg.lam)
        rows.extra["logp"] = pi.log_prob(pi.apply(s.actor.params, rows.obs), rows.action)
        rows.extra["weight"] = s.learns.expand_as(old).flatten()
        advantage = rows.extra["advantage"].view_as(old)
        score = (advantage.abs() if cfg.score == "value_l1" else advantage.clamp(min=0)).mean(0)
        best = ops.levels.highest(rollout.reward, rollout.extra["ended"])
        levels = ops.levels.scored(s.levels, s.place, score, best)
        levels, came = ops.levels.insert(levels, s.playing, score, best, s.place < 0)
        told |= {"level_score": score.mean(), "levels": levels.known.sum().float(), "inserted": came.sum().float()}
        return next_levels(replace(s, levels=levels), (s.place >= 0) & (s.learns > 0)), rows, told

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
        levels, one = ops.levels.empty(cfg.buffer, spec.context), torch.ones(n)
        s = State(fresh(pi.init()), fresh(critic_net.init()), levels, torch.zeros(n, spec.context), -one, one)
        return next_levels(s, one < 0)

    def given(s: State, data: Batch) -> State:
        return next_levels(
            replace(s, levels=ops.levels.filled(s.levels, ops.levels.distinct(data, cfg.buffer, spec.levels))), s.place < -1
        )

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        critic, m2 = descend(s.critic, critic_loss, cfg.lr, b, max_norm=cfg.max_norm, eps=cfg.adam_eps)
        return replace(s, actor=actor, critic=critic), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        dist = pi.apply(p["actor"], obs)
        return pi.sample(dist) if explore else pi.mode(dist)

    return Learner(
        init, update, lambda s: {"actor": s.actor.params}, act, prepare=prepare,
        losses={"actor": actor_loss, "critic": critic_loss},
        experience=OnPolicy(cfg.gamma, cfg.rollout, cfg.epochs, cfg.batch_size, whole=True, policies=n),
        given=given if cfg.new == "data" else None,
        context=lambda s, count, explore: s.playing[:count] if explore else torch.zeros(count, spec.context),
    )  # fmt: skip
