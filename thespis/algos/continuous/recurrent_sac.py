"""Recurrent SAC: a GRU remembers what was seen and done, where one observation does not tell the state.

Paper: Ni, Eysenbach, Salakhutdinov 2022, "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs", arXiv:2110.05038.
Parent: sac, whose losses its own are where nothing is remembered: at a GRU whose output the networks pass over.
Departures: one GRU, which the critics' loss trains and the actor only reads, as DrQ-v2 (arXiv:2107.09645) has its convolutions
(the paper: one each for actor and critics, and found that one which both train learns worse); inputs are not embedded, rewards
are no input; sequences begin with what was remembered when they were made, and some steps of burn-in (Kapturowski et al. 2019,
R2D2; authors' code: whole episodes, or parts of them that begin empty).
Assumed: the rest is from the authors' code (twni2016/pomdp-baselines). In the random warm-up nothing is remembered.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Sequences
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    memory: Count = 64
    """width of the GRU (authors' code: 128)"""
    burn_in: Natural = 8
    """steps before those that are learnt from, to remember by (R2D2: 40 on Atari)"""
    length: Count = 16
    """steps of a sequence that are learnt from (authors' code: 64, or whole episodes)"""
    lr: Rate = 3e-4
    """Adam step size of actor, critics and temperature (authors' code)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code)"""
    hidden: tuple[Count, ...] = (128, 128)
    """widths of the hidden layers after the GRU, ReLU between them (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (authors' code)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under the entropy constraint (authors' code)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code; on Pendulum 0.9)"""
    batch_size: Count = 32
    """sequences in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 1_000
    """uniformly random environment steps before the first update (authors' code, on Pendulum: 5 episodes)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """with the GRU; the critics are on a leading axis"""
    target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"recurrent_sac: continuous actions (a Box) are needed, the environment's are {spec.action}")
    act_dim, seen = spec.action.dim, spec.obs.dim + cfg.memory
    gru = nets.gru(spec.obs.dim + act_dim, cfg.memory)
    actor = nets.mlp((seen, *cfg.hidden, 2 * act_dim))
    critics = nets.ensemble(nets.mlp((seen + act_dim, *cfg.hidden, 1)), cfg.critics)

    def remember(p: Params, obs: Tensor, previous: Tensor, h: Tensor) -> Tensor:  # h_t, of o_t, a_{t-1} and h_{t-1}
        return gru.apply(nets.part(p, "gru"), torch.cat([obs, previous], -1), h)

    def memories(p: Params, b: Batch) -> Tensor:  # (B, length, memory): h_t of the steps to learn from
        h, out, previous, valid = b.extra["hidden"], [], b.extra["previous"], b.extra["valid"]
        for t in range(cfg.burn_in + cfg.length):
            h = torch.where(valid[:, t, None], remember(p, b.obs[:, t], previous[:, t], h), h)
            if t < cfg.burn_in:
                h = h.detach()
            else:
                out.append(h)
        return torch.stack(out, 1)

    def learnt(b: Batch) -> Batch:  # the steps after the burn-in, each (B, length, ...)
        columns = [x[:, cfg.burn_in :] for x in (b.obs, b.action, b.reward, b.discount, b.next_obs)]
        return Batch(*columns, {"valid": b.extra["valid"][:, cfg.burn_in :]})  # type: ignore[call-arg, arg-type]

    def mean(x: Tensor, b: Batch) -> Tensor:  # over the steps that there are
        valid = b.extra["valid"] * 1.0
        return (x * valid).sum() / valid.sum()

    def pi(p: Params, obs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:  # a ~ pi(.|o, h) and its log-probability
        mu, log_std = actor.apply(p, torch.cat([obs, h], -1)).chunk(2, -1)
        return ops.squashed_sample(mu, log_std.clamp(*cfg.log_std))

    def q(p: Params, obs: Tensor, h: Tensor, action: Tensor) -> Tensor:  # (critics, B, length)
        return critics.apply(nets.part(p, "q"), torch.cat([obs, h, action], -1)).squeeze(-1)

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # of each step its own next memory
        h, now = memories(p, b), learnt(b)
        with torch.no_grad():
            action, logp = pi(s.actor.params, now.next_obs, remember(p, now.next_obs, now.action, h))
            slow = remember(s.target, now.next_obs, now.action, memories(s.target, b))
            value = q(s.target, now.next_obs, slow, action).amin(0) - alpha(s) * logp
        values = q(p, now.obs, h, now.action)
        error = values - ops.backup(now.reward, now.discount, value)
        return 0.5 * mean(error.square().sum(0), now), {"q": mean(values.mean(0), now), "h": h}

    def actor_loss(p: Params, s: State, b: Batch, h: Tensor) -> tuple[Tensor, Metrics]:
        action, logp = pi(p, b.obs, h)
        value = q(s.critic.params, b.obs, h, action).amin(0)
        return mean(alpha(s) * logp - value, b), {"entropy": -mean(logp, b)}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # on log alpha
        return p["x"] * (entropy - cfg.entropy_per_dim * act_dim), {}

    def init() -> State:
        q0 = nets.joined(gru=gru.init(), q=critics.init())
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor.init()), fresh(q0), q0, fresh({"x": log_alpha}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        h = m1.pop("h")  # from before the step, and without gradient: the actor does not train the GRU
        s = replace(s, critic=critic)
        new, m2 = descend(s.actor, actor_loss, cfg.lr, s, learnt(b), h)
        s = replace(s, actor=new)
        if cfg.alpha is None:
            temperature, m3 = descend(s.log_alpha, alpha_loss, cfg.lr, m2["entropy"])
            s, m2 = replace(s, log_alpha=temperature), m2 | m3
        return replace(s, target=polyak(s.target, critic.params, cfg.tau)), m1 | m2 | {"alpha": alpha(s)}

    def policy(s: State) -> dict[str, Params]:
        return {"actor": s.actor.params, "critic": {k: x for k, x in s.critic.params.items() if k.startswith("gru.")}}

    def memory(n: int) -> Params:
        return {"action": torch.zeros(n, act_dim), "hidden": torch.zeros(n, cfg.memory)}

    def act(p: dict[str, Any], obs: Tensor, explore: bool, memory: Params, look: Tensor) -> tuple[Tensor, Params]:
        h = torch.where(look[:, None], remember(p["critic"], obs, memory["action"], memory["hidden"]), memory["hidden"])
        if explore:
            action = pi(p["actor"], obs, h)[0]
        else:
            action = actor.apply(p["actor"], torch.cat([obs, h], -1)).chunk(2, -1)[0].tanh()
        return action, {"action": action, "hidden": h}

    feed = Sequences(
        cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step,
        burn_in=cfg.burn_in, length=cfg.length, memory=cfg.memory,
    )  # fmt: skip
    return Learner(
        init, update, policy, act,
        losses={"critic": critic_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=feed, needs=frozenset({"previous"}), memory=memory,
    )  # fmt: skip
