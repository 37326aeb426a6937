"""TLPO: an adapter for each judge from pairs that it prefers, then a gate that mixes them by time and layer.

Paper: Wang et al. 2025, "FantasyTalking2: Timestep-Layer Adaptive Preference Optimization for Audio-Driven Portrait Animation",
arXiv:2508.11255.
Parent: flow-matching DPO (Diffusion-DPO, arXiv:2311.12908), which it is with one reward and without a gate (gate "even").
Departures: both stages draw their pairs anew from the field that the run began with; an episode shows one condition several
times, and each two takes that follow each other are a pair.
Assumed: the paper's text could not be read, so: winner and loser share noise and time; the gate is a sigmoid for each adapter,
half open at first; its pairs are those whose winner is better by every judge; adapters stay while it learns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from thespis import nets
from thespis.config import Count, Natural, Positive, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, replace, tree, tree_map
from thespis.data import OnPolicy
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size of the adapters (a choice of ours)"""
    gate_lr: Rate = 3e-3
    """Adam step size of the gate (a choice of ours)"""
    hidden: tuple[Count, ...] = (128, 128, 128)
    """widths of the field's hidden layers, as of the run that it begins with"""
    ode_steps: Count = 20
    """Euler steps from noise to a sample (a choice of ours)"""
    rank: Count = 4
    """rank of an adapter in each layer (the paper's large model: 128)"""
    gate_hidden: Count = 16
    """width of the gate's hidden layer and of what it learns of each layer (a choice of ours)"""
    gate: Literal["full", "time", "layer", "even"] = "full"
    """what the gate sees, full: time and layer; even: there is none, and each of D adapters has the weight 1 / D"""
    beta: Positive = 200.0
    """how much a pair's difference in mean squared error counts (a choice of ours; Diffusion-DPO: 5000)"""
    adapter_updates: Natural = 1_000
    """updates in which the adapters learn; after them the gate does"""
    rollout: Count = 64
    """samples of each environment between two rounds of learning (a choice of ours)"""
    epochs: Count = 4
    """passes over their pairs, each with noise and times of its own (a choice of ours)"""
    batch_size: Count = 256
    """pairs in an update (a choice of ours)"""


TAKES = {"rewards"}
"""several rewards: each is a judge, and has an adapter"""


@tree
class State:
    actor: Trained
    """the adapters, one a judge on a leading axis"""
    gate: Trained
    base: Params
    """the field, which stays"""


def make(cfg: Config, spec: Spec) -> Learner:
    field, judges = nets.flow(spec, "tlpo", cfg.hidden, cfg.ode_steps), len(spec.rewards)
    layers, width = len(field.shapes), cfg.gate_hidden

    def weights(p: Params, t: Tensor) -> Tensor:
        """Of each adapter in each layer at times t (..., 1): (..., layers, judges)."""
        if cfg.gate == "even":
            return t.new_full((*t.shape[:-1], layers, judges), 1 / judges)
        waves = torch.cat([t, *(f(torch.pi * k * t) for k in (1, 2) for f in (torch.sin, torch.cos))], -1)
        known = (waves @ p["time"]).unsqueeze(-2) if cfg.gate != "layer" else t.new_zeros(1)
        known = known + p["layer"] if cfg.gate != "time" else known.expand(*t.shape[:-1], layers, width)
        return (silu(known + p["b0"]) @ p["w1"] + p["b1"]).sigmoid()

    def adapted(p: Params, g: Tensor) -> nets.More:  # g (..., layers, judges)
        def more(i: int, h: Tensor) -> Tensor:
            low = (h @ p[f"down{i}"].transpose(0, 1).flatten(1)).unflatten(-1, (-1, cfg.rank))  # (..., judges, rank)
            return (g[..., i, :, None] * low).flatten(-2) @ p[f"up{i}"].flatten(0, 1)

        return more

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        """Pairs of takes: their actions side by side, and +1 where the first is better, -1 where the second is, 0 where they are
        level or of two episodes, for each judge."""
        reward = rollout.reward if rollout.reward.dim() == 3 else rollout.reward[..., None]
        sign = (reward[:-1] - reward[1:]).sign() * ~rollout.extra["ended"][:-1, :, None]
        pair = torch.cat([rollout.action[:-1], rollout.action[1:]], -1)
        pairs = Batch(rollout.obs[:-1], pair, sign, sign, rollout.next_obs[:-1])
        ruled = (sign.sum(-1).abs() == judges).type_as(sign).mean() / (sign[..., 0] != 0).type_as(sign).mean().clamp(min=1e-6)
        return s, tree_map(lambda x: x.flatten(0, 1), pairs), {"ruled": ruled}

    def margin(s: State, b: Batch, more: nets.More) -> Tensor:
        """How much less the error of the second take grew, by the adapters, than that of the first: (B,)."""
        c = nets.condition(spec, b.obs)
        grew = []
        for x1 in b.action.chunk(2, -1):
            x, u = torch.lerp(b.extra["noise"], x1, b.extra["t"]), x1 - b.extra["noise"]
            before = (field.velocity(s.base, x, b.extra["t"], c) - u).square().mean(-1)
            grew.append((field.velocity(s.base, x, b.extra["t"], c, more) - u).square().mean(-1) - before)
        return grew[1] - grew[0]

    def preferred(sign: Tensor, margin: Tensor) -> Tensor:  # the DPO loss, mean over the pairs that have a winner
        said = sign.abs()
        return -(said * logsigmoid(0.5 * cfg.beta * sign * margin)).sum() / said.sum().clamp(min=1)

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # stage 1: each judge's adapter alone
        loss, right = b.reward.new_zeros(()), []
        for d in range(judges):
            alone = {k: x[d : d + 1] for k, x in p.items()}
            far = margin(s, b, adapted(alone, b.obs.new_ones(len(b.obs), layers, 1)))
            loss = loss + preferred(b.reward[:, d], far)
            right.append((b.reward[:, d] * far > 0).sum() / b.reward[:, d].abs().sum().clamp(min=1))
        return loss, {"agreed": torch.stack(right).mean()}

    def gate_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # stage 2: pairs whose winner is better in all
        g = weights(p, b.extra["t"])
        sign = b.reward.sum(-1)
        return preferred(sign.sign() * (sign.abs() == judges), margin(s, b, adapted(s.actor.params, g))), {"gate": g.mean()}

    def init() -> State:
        adapters = {}
        for i, (fan_in, fan_out) in enumerate(field.shapes):
            adapters[f"down{i}"] = torch.randn(judges, fan_in, cfg.rank) / fan_in**0.5
            adapters[f"up{i}"] = torch.zeros(judges, cfg.rank, fan_out)
        gate = {"time": 0.5 * torch.randn(5, width), "layer": 0.5 * torch.randn(layers, width), "b0": torch.zeros(width)}
        gate |= {"w1": 0.1 * torch.randn(width, judges), "b1": torch.zeros(judges)}
        return State(fresh(adapters), fresh(gate), field.init())

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        noise = torch.randn_like(b.action[:, : b.action.shape[-1] // 2])
        b = replace(b, extra={"noise": noise, "t": torch.rand_like(noise[:, :1])})
        first = s.gate.t < cfg.adapter_updates
        actor, m1 = descend(s.actor, actor_loss, cfg.lr, s, b)
        gate, m2 = replace(s.gate, t=s.gate.t + 1), Metrics()
        if cfg.gate != "even":
            gate, m2 = descend(s.gate, gate_loss, cfg.gate_lr, s, b)

        def only(when: Tensor, new: Trained, old: Params) -> Trained:
            return replace(new, params={name: torch.where(when, x, old[name]) for name, x in new.params.items()})

        return replace(s, actor=only(first, actor, s.actor.params), gate=only(~first, gate, s.gate.params)), m1 | m2

    def act(p: dict[str, Params], obs: Tensor, explore: bool) -> Tensor:
        """`explore`: from the field alone, whose samples are compared."""
        if explore:
            return field.sample(p["actor"], obs, True)
        return field.sample(p["actor"], obs, False, lambda t: adapted(p["adapters"], weights(p["gate"], t)))

    return Learner(
        init, update, lambda s: {"actor": s.base, "adapters": s.actor.params, "gate": s.gate.params}, act, prepare=prepare,
        losses={"actor": actor_loss, "gate": gate_loss}, experience=OnPolicy(0.0, cfg.rollout, cfg.epochs, cfg.batch_size),
    )  # fmt: skip
