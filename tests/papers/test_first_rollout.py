"""What every on-policy algorithm makes of its first rollout, before which no observation was seen."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from thespis.algos.onpolicy import mdpo_on, pmoe_ppo, ppo, trpo
from thespis.core import Batch, Learner, replace

from . import reference as ref
from .reference import ACTION, F64, OBS, SPEC

ROWS = 200


@pytest.fixture(params=[ppo, trpo, mdpo_on, pmoe_ppo], ids=lambda algo: algo.__name__.rpartition(".")[2])
def algo(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def learner(algo: ModuleType, normalise: bool = True) -> Learner:
    return algo.make(algo.Config(hidden=(8,), normalise_obs=normalise, normalise_reward=False), SPEC)


def far_rollout() -> Batch:
    """Observations of mean 50 and spread 3, which are all beyond 10."""
    obs = 50 + 3 * torch.randn(ROWS, OBS, dtype=F64)
    return ref.rewarded(torch.randn(ROWS, dtype=F64), obs, torch.randn(ROWS, ACTION, dtype=F64))


def test_it_is_learnt_from_by_its_own_mean_and_spread_and_nothing_is_clipped_to_a_constant(algo: ModuleType) -> None:
    made, rollout = learner(algo), far_rollout()
    assert made.prepare
    _, rows, _ = made.prepare(ref.double(made.init()), rollout)
    flat = rollout.obs.flatten(0, 1)
    torch.testing.assert_close(rows.obs, (flat - flat.mean(0)) / flat.std(0, correction=0), rtol=1e-8, atol=1e-8)


def test_what_acts_from_then_on_sees_as_the_rows_do(algo: ModuleType) -> None:
    """The same actor over the rows, without normalisation, acts as the learner does over the observations themselves."""
    made, rollout = learner(algo), far_rollout()
    assert made.prepare
    after, rows, _ = made.prepare(ref.double(made.init()), rollout)
    policy = made.policy(after)
    ours, wanted = made.act(policy, rollout.obs.flatten(0, 1), False), learner(algo, False).act(policy, rows.obs, False)
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)
    assert float(ours.std(0).min()) > 0


def test_the_second_is_seen_as_the_policy_saw_it_that_took_it(algo: ModuleType) -> None:
    made = learner(algo)
    assert made.prepare
    s, rows, _ = made.prepare(ref.double(made.init()), far_rollout())
    second = replace(far_rollout(), obs=rows.obs[:, None] + 7)
    _, rows, _ = made.prepare(s, second)
    policy = made.policy(s)
    ours, wanted = made.act(policy, second.obs.flatten(0, 1), False), learner(algo, False).act(policy, rows.obs, False)
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("algo", [ppo, pmoe_ppo], indirect=True, ids=["ppo", "pmoe_ppo"])
def test_its_ratios_start_at_1(algo: ModuleType) -> None:
    made = learner(algo)
    assert made.prepare
    s, rows, _ = made.prepare(ref.double(made.init()), far_rollout())
    given: tuple[Any, ...] = (torch.eye(5, dtype=F64)[torch.zeros(ROWS, dtype=torch.int64)],) if algo is pmoe_ppo else ()
    told = made.losses["actor"](s.actor.params, *given, rows)[1]
    assert (float(told["kl"]), float(told["clipped"])) == (pytest.approx(0, abs=1e-12), 0)


def test_until_then_it_acts_as_on_the_mean_whatever_the_unit(algo: ModuleType) -> None:
    """So that it hardly moves as statistics come in: 0.01 is what the last layer starts with."""
    made, rollout = learner(algo), far_rollout()
    s, obs = ref.double(made.init()), rollout.obs.flatten(0, 1)
    first = made.act(made.policy(s), obs, False)
    assert torch.equal(first, made.act(made.policy(s), 1e6 * obs, False))
    assert torch.equal(first, learner(algo, False).act(made.policy(s), torch.zeros_like(obs), False))
    assert made.prepare
    seen = made.prepare(s, rollout)[0].seen
    assert 0 < float((made.act(made.policy(replace(s, seen=seen)), obs, False) - first).abs().mean()) < 0.05
