"""Generalised advantages against a slow loop and their two limits."""

import numpy as np
import pytest
import torch

from thespis.ops import gae

F64 = torch.float64
T, N, GAMMA = 7, 3, 0.9


@pytest.fixture
def given() -> tuple[torch.Tensor, ...]:
    """Environment 0 goes on, 1 terminates at step 2, 2 is cut off at step 4."""
    reward, value, next_value = torch.randn(3, T, N, dtype=F64)
    ended, discount = torch.zeros(T, N, dtype=torch.bool), torch.full((T, N), GAMMA, dtype=F64)
    ended[2, 1] = ended[4, 2] = True
    discount[2, 1] = 0
    for t, n in np.ndindex(T - 1, N):  # where an episode goes on, what follows is the next step's own state
        if not ended[t, n]:
            next_value[t, n] = value[t + 1, n]
    return reward, discount, value, next_value, ended


def test_is_the_sum_of_discounted_errors_to_the_end_of_the_episode(given) -> None:
    reward, discount, value, after, ended = (x.numpy() for x in given)
    got = gae(*given, GAMMA * 0.8)
    for t, n in np.ndindex(T, N):
        total, weight, i = 0.0, 1.0, t
        while True:
            total += weight * (reward[i, n] + discount[i, n] * after[i, n] - value[i, n])
            if ended[i, n] or i == T - 1:
                break
            weight, i = weight * GAMMA * 0.8, i + 1
        assert float(got[t, n]) == pytest.approx(total, rel=1e-12)


def test_at_lambda_0_it_is_one_step_and_at_1_the_return_less_the_value(given) -> None:
    reward, discount, value, after, ended = given
    torch.testing.assert_close(gae(*given, 0.0), reward + discount * after - value)
    got = gae(*given, GAMMA)
    for n in range(N):
        back = 0.0
        for t in reversed(range(T)):
            last = t == T - 1 or bool(ended[t, n])
            back = float(reward[t, n] + (discount[t, n] * after[t, n] if last else GAMMA * back))
            assert float(got[t, n] + value[t, n]) == pytest.approx(back, rel=1e-12)
