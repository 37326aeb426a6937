"""Any learner of one agent as one for each of several: with parameters of their own, or with the same for all.

Independent learning (Tan 1993, "Multi-Agent Reinforcement Learning: Independent vs. Cooperative Agents"): to each agent the
others are part of the world. With parameters in common each also sees which agent it is (Gupta et al. 2017, "Cooperative
Multi-Agent Control Using Deep Reinforcement Learning").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thespis.core import Batch, Box, Discrete, Fault, Learner, Metrics, MultiDiscrete, Spec, leaves, rebuild, replace, tree_map
from thespis.engine import team


def each(spec: Spec, how: str | None, frames: int = 1) -> Spec:
    """What one agent is told of a world (envs/agents.py) whose agents learn apart; of one learner for all, the world's own."""
    many = spec.agents
    if how is None or many == 1:
        return spec
    if frames > 1:
        raise Fault(f"agents is {how!r}; frame_stack is for one learner alone: wrap each agent's observations in the environment")
    if len(spec.rewards) != many:
        raise Fault(f"agents is {how!r}; weights makes one reward of the agents': leave one of the two out")
    action = Box(spec.action.dim // many) if isinstance(spec.action, Box) else Discrete(_choices(spec))
    rows = (spec.obs.dim - spec.mask) // many + (many if how == "shared" else 0)
    mask = spec.mask // many
    return Spec(Box(rows + mask), action, horizon=spec.horizon, bounded=spec.bounded, mask=mask)


def _choices(spec: Spec) -> int:
    assert isinstance(spec.action, MultiDiscrete)
    return spec.action.ns[0]


def independent(learner: Learner, name: str, spec: Spec, how: str | None) -> Learner:
    """`learner`, made for what `each` says of one agent, for the world of this spec. Fault: one that cannot be shared out."""
    if how is None or spec.agents == 1:
        return learner
    if learner.memory:
        raise Fault(f"agents is {how!r}; {name} remembers between steps, and is for one agent alone: take another algorithm")
    if learner.given:
        raise Fault(f"agents is {how!r}; {name} takes the whole dataset at once, and is for one agent alone")
    if learner.context:
        raise Fault(f"agents is {how!r}; {name} draws contexts, and is for one agent alone: take another algorithm")
    if how == "separate" and team.many():
        raise Fault("agents is 'separate'; torchrun's learners share their gradients: use one process, or agents 'shared'")
    return separate(learner, spec) if how == "separate" else shared(learner, spec)


class Split:
    """What all agents see and do, (..., A * dim), as rows of each, (..., A, dim)."""

    def __init__(self, spec: Spec, told: bool):
        """`told`: each sees which agent it is."""
        self.spec, self.many, self.told = spec, spec.agents, told and spec.agents > 1
        self.dim = (spec.obs.dim - spec.mask) // spec.agents

    def obs(self, obs: Tensor) -> Tensor:
        own = obs[..., : self.many * self.dim].unflatten(-1, (self.many, self.dim))
        parts = [own]
        if self.told:
            parts.append(torch.eye(self.many, device=obs.device).expand(*own.shape[:-1], self.many))
        if self.spec.mask:
            parts.append(obs[..., self.many * self.dim :].unflatten(-1, (self.many, -1)))
        return torch.cat(parts, -1)

    def action(self, action: Tensor) -> Tensor:
        return action.unflatten(-1, (self.many, -1)) if isinstance(self.spec.action, Box) else action.unflatten(-1, (self.many,))

    def joined(self, action: Tensor) -> Tensor:
        """(N, A, d) or (N, A) -> (N, A * d) or (N, A)."""
        return action.flatten(1) if isinstance(self.spec.action, Box | MultiDiscrete) else action[:, 0]

    def batch(self, b: Batch) -> Batch:
        """With an axis A behind those of a reward. Of an agent that is no longer there, the discount is 0."""
        next_obs, like = self.obs(b.next_obs), b.reward.shape if self.many > 1 else (*b.reward.shape, 1)
        alive = next_obs[..., self.dim - 1]

        def own(x: Tensor) -> Tensor:
            return x if x.shape == like else x[..., None].expand(like)

        extra = {k: self.action(v) if k == "previous" else own(v) for k, v in b.extra.items()}
        if "ended" in extra:
            extra["ended"] = extra["ended"] | (alive == 0)
        action = self.action(b.action if self.many > 1 or isinstance(self.spec.action, Box) else b.action[..., None])
        return Batch(self.obs(b.obs), action, own(b.reward), own(b.discount) * alive, next_obs, extra)


def separate(learner: Learner, spec: Spec) -> Learner:
    """Parameters of each agent's own: State has an axis A in front, and every function is mapped over it."""
    split, prepared = Split(spec, told=False), learner.prepare

    def init() -> Any:
        states = [learner.init() for _ in range(split.many)]
        flat = [leaves(state) for state in states]
        return rebuild(states[0], {k: torch.stack([each[k] for each in flat]) for k in flat[0]})

    def update(s: Any, b: Batch, k: int = 0) -> tuple[Any, Metrics]:
        rows = b if prepared else split.batch(b)
        step = torch.vmap(lambda s, b: learner.update(s, b, k), in_dims=(0, 1), randomness="different")
        s, metrics = step(s, rows)
        return s, {name: value.mean(0) for name, value in metrics.items()}

    def prepare(s: Any, rollout: Batch) -> tuple[Any, Batch, Metrics]:
        assert prepared
        mapped = torch.vmap(prepared, in_dims=(0, 2), out_dims=(0, 1, 0), randomness="different")
        s, rows, metrics = mapped(s, split.batch(rollout))
        return s, rows, {name: value.mean(0) for name, value in metrics.items()}

    def act(policy: Any, obs: Tensor, explore: bool) -> Tensor:
        own = [rebuild(policy, {k: x[i] for k, x in leaves(policy).items()}) for i in range(split.many)]
        rows = split.obs(obs).unbind(1)  # one by one, as vmap cannot be exported
        return split.joined(torch.stack([learner.act(p, o, explore) for p, o in zip(own, rows, strict=True)], 1))

    return replace(
        learner, init=init, update=update, policy=torch.vmap(learner.policy), act=act, prepare=prepare if prepared else None,
        value=None,
    )  # fmt: skip


def shared(learner: Learner, spec: Spec) -> Learner:
    """The same parameters for all: a batch has a row for each agent of each transition."""
    split, prepared = Split(spec, told=True), learner.prepare

    def rows(b: Batch, axis: int) -> Batch:
        b = split.batch(b)
        if "return_std" in b.extra:  # one scale for all
            spread, most = b.extra["return_std"], b.extra["return_max"]
            spread = spread.square().mean(-1, keepdim=True).sqrt().expand_as(spread)
            b = replace(b, extra={**b.extra, "return_std": spread, "return_max": most.amax(-1, keepdim=True).expand_as(most)})
        return tree_map(lambda x: x.flatten(axis, axis + 1), b)

    def update(s: Any, b: Batch, k: int = 0) -> tuple[Any, Metrics]:
        return learner.update(s, tree_map(lambda x: x.flatten(0, 1), b) if prepared else rows(b, 0), k)

    def prepare(s: Any, rollout: Batch) -> tuple[Any, Batch, Metrics]:
        assert prepared
        s, found, metrics = prepared(s, rows(rollout, 1))
        return s, tree_map(lambda x: x.unflatten(0, (-1, split.many)), found), metrics

    def act(policy: Any, obs: Tensor, explore: bool) -> Tensor:
        action = learner.act(policy, split.obs(obs).flatten(0, 1), explore)
        return split.joined(action.unflatten(0, (-1, split.many)))

    return replace(learner, update=update, act=act, prepare=prepare if prepared else None, value=None)
