"""Any off-policy learner behind normalised observations and rewards, whose statistics are part of its State: they are saved,
resumed and published with it, and are inside an exported policy.

Observations by the mean and spread of every row that was drawn from the replay, within 10; rewards by the spread of discounted
returns, within 10, as PPO has it (openai/baselines; VecNormalize in Stable-Baselines3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thespis import ops
from thespis.core import Batch, Fault, Learner, Metrics, OffPolicy, Params, Spec, replace, tree
from thespis.data import Offline
from thespis.engine.run import Run

BOUND = 10.0


@tree
class State:
    learner: Any
    seen: Params
    """count, mean and variance of observations; where they are not normalised, nothing"""
    spread: Params
    """"return": (), what rewards are divided by; where they are not normalised, nothing"""


def normalised(learner: Learner, name: str, spec: Spec, run: Run) -> Learner:
    """The learner as it is, where `run` asks for nothing. Fault: an algorithm that cannot be fed so."""
    on = run.normalise_obs, run.normalise_reward
    if not any(on):
        return learner
    field = "normalise_obs" if on[0] else "normalise_reward"
    if not isinstance(learner.experience, OffPolicy | Offline):
        raise Fault(
            f"{field}: {name} is on-policy and has no such option; wrap the environment, as docs/own-environment.md shows"
        )
    if learner.given:
        raise Fault(f"{field}: {name} takes the scale of its dataset by itself; leave it out")
    if on[1] and "return_scale" in learner.needs:
        raise Fault(f"normalise_reward: {name} scales rewards by itself; leave it out")
    return _wrapped(learner, spec.obs.dim - spec.mask, *on)


def _wrapped(learner: Learner, dim: int, obs_too: bool, reward_too: bool) -> Learner:
    def view(seen: Params, obs: Tensor) -> Tensor:
        return ops.whitened(obs, seen, BOUND) if obs_too else obs

    def init() -> State:
        return State(learner.init(), ops.unseen(dim) if obs_too else {}, {"return": torch.ones(())} if reward_too else {})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        if obs_too:
            s = replace(s, seen=ops.moments(s.seen, b.obs))
            b = replace(b, obs=view(s.seen, b.obs), next_obs=view(s.seen, b.next_obs))
        if reward_too:
            extra = dict(b.extra)
            spread = (extra.pop("return_std").flatten()[0].square() + 1e-8).sqrt()
            del extra["return_max"]
            s = replace(s, spread={"return": spread})
            b = replace(b, reward=(b.reward / spread).clamp(-BOUND, BOUND), extra=extra)
        inner, metrics = learner.update(s.learner, b, k)
        return replace(s, learner=inner), metrics

    def act(p: dict[str, Any], obs: Tensor, *rest: Any) -> Any:
        return learner.act(p["learner"], view(p["seen"], obs), *rest)

    def value(s: State, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        assert learner.value
        unit = s.spread["return"] if reward_too else 1.0
        q, bonus = learner.value(s.learner, view(s.seen, obs), action)
        return q * unit, bonus * unit

    def context(s: State, n: int, explore: bool) -> Tensor:
        assert learner.context
        return learner.context(s.learner, n, explore)

    return replace(
        learner, context=context if learner.context else None,
        init=init, update=update, act=act, value=value if learner.value else None,
        policy=lambda s: {"learner": learner.policy(s.learner), "seen": s.seen},
        needs=learner.needs | {"return_scale"} if reward_too else learner.needs,
    )  # fmt: skip
