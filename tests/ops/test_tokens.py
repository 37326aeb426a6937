"""Weights, gains and group statistics with slow float64 loops and closed forms."""

import math

import torch

from thespis import ops

MASK = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
X = torch.arange(16, dtype=torch.float64).reshape(4, 4) ** 1.5


def written() -> list[list[float]]:
    return [[float(x) for x, m in zip(row, there, strict=True) if m] for row, there in zip(X, MASK, strict=True)]


def test_weights_make_a_sum_the_mean_that_they_are_named_for() -> None:
    rows = written()
    every, means = [x for row in rows for x in row], [sum(row) / len(row) for row in rows if row]
    assert math.isclose(float((ops.per_token(MASK) * X).sum()), sum(every) / len(every), rel_tol=1e-6)
    assert math.isclose(float((ops.per_sequence(MASK) * X).sum()), sum(means) / len(means), rel_tol=1e-6)
    assert math.isclose(float((ops.per_constant(MASK, 5) * X).sum()), sum(map(sum, rows)) / 5 / 4, rel_tol=1e-6)
    for weights in ops.per_token, ops.per_sequence:
        assert not weights(torch.zeros(2, 3).bool()).any()  # nothing was written: no weight, and no 0 / 0


def test_the_clipped_gain_is_the_loop_over_tokens() -> None:
    g = torch.Generator().manual_seed(0)
    new, old, advantage = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(3))
    gain, held = ops.clipped(new, old, advantage, 0.2, 0.28)
    for i in range(3):
        for j in range(5):
            ratio, a = math.exp(new[i, j] - old[i, j]), float(advantage[i, j])
            free, bound = ratio * a, min(max(ratio, 0.8), 1.28) * a
            assert math.isclose(float(gain[i, j]), min(free, bound), rel_tol=1e-12)
            assert bool(held[i, j]) == (bound < free)
    assert held.any()
    assert not held.all()


def test_k3_is_unbiased_and_never_negative() -> None:
    g = torch.Generator().manual_seed(0)
    p, q = (torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(2))
    assert math.isclose(float((p.exp() * ops.k3(p, q)).sum()), float((p.exp() * (p - q)).sum()), rel_tol=1e-12)
    assert (ops.k3(p, q) >= 0).all()
    assert not ops.k3(p, p).any()


def test_groups_are_the_loop_over_their_members() -> None:
    reward = torch.tensor([1.0, 4.0, 0.0, 3.0, 5.0, 2.0], dtype=torch.float64)
    group = torch.tensor([1, 0, 1, 0, 1, 2])
    mean, std = ops.by_group(reward, group)
    others = ops.of_others(reward, group)
    for i in range(6):
        mine = [float(r) for r, k in zip(reward, group, strict=True) if k == group[i]]
        rest = [float(r) for j, (r, k) in enumerate(zip(reward, group, strict=True)) if k == group[i] and j != i]
        average = sum(mine) / len(mine)
        assert math.isclose(float(mean[i]), average)
        assert math.isclose(float(std[i]), math.sqrt(sum((r - average) ** 2 for r in mine) / len(mine)), abs_tol=1e-12)
        assert math.isclose(float(others[i]), sum(rest) / len(rest) if rest else 0.0)


def test_leaving_one_out_is_the_group_mean_scaled() -> None:
    """r_i - mean of the others = K / (K - 1) (r_i - mean of all): arXiv:2402.14740, section 3."""
    reward, group = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    torch.testing.assert_close(reward - ops.of_others(reward, group), 4 / 3 * (reward - ops.by_group(reward, group)[0]))


def test_lambda_over_turns_is_the_sum_of_its_definition() -> None:
    reward = torch.tensor([1.0, 0.0, 2.0, 0.5, -1.0], dtype=torch.float64)
    value = torch.tensor([0.3, -0.2, 0.8, 0.1, 0.6], dtype=torch.float64)
    discount = torch.tensor([0.9, 0.9, 0.0, 0.9, 0.9], dtype=torch.float64)  # the second episode was cut off
    ended = torch.tensor([False, False, True, False, True])
    found = ops.lambda_advantage(reward, discount, ended, value, 0.7)
    after = [value[1], value[2], 0.0, value[4], value[4]]
    delta = [float(reward[i] + discount[i] * after[i] - value[i]) for i in range(5)]
    wanted = [
        delta[0] + 0.63 * delta[1] + 0.63**2 * delta[2], delta[1] + 0.63 * delta[2], delta[2],
        delta[3] + 0.63 * delta[4], delta[4],
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
