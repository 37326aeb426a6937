"""Rows of a rollout against a slow loop."""

import math

import numpy as np
import pytest
import torch

from thespis.core import Batch
from thespis.ops import first_moments, unseen, whitened, with_advantages

F64 = torch.float64
T, N, D = 4, 3, 2


@pytest.fixture
def rollout() -> Batch:
    obs, next_obs = torch.randn(2, T, N, D, dtype=F64)
    ended = torch.zeros(T, N, dtype=torch.bool)
    ended[1, 0] = ended[2, 1] = True
    discount = torch.full((T, N), 0.9, dtype=F64)
    discount[1, 0] = 0
    return Batch(obs, torch.randint(5, (T, N)), torch.randn(T, N, dtype=F64), discount, next_obs, {"ended": ended})


def test_rows_are_the_rollouts_steps_with_advantage_value_and_target(rollout) -> None:
    value, ahead = torch.randn(2, T, N, dtype=F64)
    rows, told = with_advantages(rollout, value, ahead, 0.7)
    assert rows.extra.keys() == {"advantage", "value", "target"}
    targets, advantages = [], []
    for n in range(N):
        later = 0.0
        for t in reversed(range(T)):
            i = t * N + n
            error = float(rollout.reward[t, n] + rollout.discount[t, n] * ahead[t, n] - value[t, n])
            later = error + (0.0 if rollout.extra["ended"][t, n] else 0.7 * later)
            assert float(rows.extra["advantage"][i]) == pytest.approx(later)
            assert float(rows.extra["target"][i]) == pytest.approx(later + float(value[t, n]))
            assert rows.extra["value"][i] == value[t, n]
            assert rows.obs[i].equal(rollout.obs[t, n])
            assert rows.action[i] == rollout.action[t, n]
            targets.append(later + float(value[t, n]))
            advantages.append(later)
    assert float(told["explained"]) == pytest.approx(1 - np.var(advantages) / np.var(targets))


def test_rewards_are_scaled_where_their_returns_spread_is_known(rollout) -> None:
    rollout.reward[0, 0] = 1e3
    rollout.extra["return_std"] = torch.full((T, N), 4.0, dtype=F64)
    nothing = torch.zeros(T, N, dtype=F64)
    rows, _ = with_advantages(rollout, nothing, nothing, 0.0)
    assert rows.reward[0] == rows.extra["advantage"][0] == 10
    torch.testing.assert_close(rows.reward[1:], rollout.reward.flatten()[1:] / math.sqrt(16 + 1e-8))


def test_what_is_told_is_a_number_for_a_single_row() -> None:
    one = torch.ones(1, 1)
    b = Batch(one[..., None], one, one, one, one[..., None], {"ended": torch.ones(1, 1, dtype=torch.bool)})
    assert with_advantages(b, one, one, 0.9)[1]["explained"].isfinite()


def test_whitened_is_by_what_was_seen_and_within_ten() -> None:
    seen = {"count": torch.tensor(3.0), "mean": torch.tensor([1.0, -2.0]), "var": torch.tensor([4.0, 0.25])}
    got = whitened(torch.tensor([[3.0, -1.0], [1.0, 90.0], [-99.0, -2.0]]), seen)
    torch.testing.assert_close(got, torch.tensor([[1.0, 2.0], [0.0, 10.0], [-10.0, 0.0]]))
    assert not whitened(torch.tensor([[1e9, -3.0]]), unseen(2)).any(), "nothing was seen: as if at the mean"
    assert whitened(torch.tensor([[201.0, -2.0]]), seen, math.inf).tolist() == [[100.0, 0.0]]


def test_first_moments_are_those_of_the_rows_until_others_were_seen() -> None:
    x = 50 + 3 * torch.randn(40, 2, D, dtype=F64)
    own, flat = first_moments({k: v.double() for k, v in unseen(D).items()}, x), x.flatten(0, 1)
    torch.testing.assert_close(own["mean"], flat.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(own["var"], flat.var(0, correction=0), rtol=1e-12, atol=0)
    known = {"count": torch.tensor(3.0), "mean": torch.ones(D), "var": torch.full((D,), 4.0)}
    known = {k: v.double() for k, v in known.items()}
    assert all(torch.equal(first_moments(known, x)[k], known[k]) for k in known)
