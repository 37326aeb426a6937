"""Chances against a linear program and the closed form of one question; draws against their chances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from thespis import ops


def program(gain: np.ndarray, budget: int, wrong: float) -> float:
    """The value of the game: the adversary's sum of the largest pi_i gain_i, by its dual, w t + sum s, s_i >= pi_i gain_i - t."""
    n = len(gain)
    cost = np.concatenate([-gain, [2 * wrong], 2 * np.ones(n)])
    rows = np.vstack([np.hstack([np.diag(gain), -np.ones((n, 1)), -np.eye(n)]), np.r_[np.ones(n), np.zeros(n + 1)]])
    found = linprog(cost, A_ub=rows, b_ub=np.r_[np.zeros(n), budget], bounds=[(0, 1)] * n + [(0, None)] * (n + 1))
    return float(-found.fun)


def worth(chance: np.ndarray, gain: np.ndarray, wrong: float) -> float:
    """What these chances are worth against the worst mistakes, which may be parts of a row."""
    each, whole = np.sort(chance * gain)[::-1], int(wrong)
    return float(each.sum() - 2 * (each[:whole].sum() + (wrong - whole) * each[whole]))


def chances(gain: np.ndarray, budget: int, wrong: float, free: np.ndarray | None = None) -> np.ndarray:
    there = np.ones(len(gain)) if free is None else free
    return ops.robust_chances(torch.from_numpy(gain), torch.from_numpy(there), budget, torch.tensor(wrong).double()).numpy()


def test_the_chances_are_worth_what_a_linear_program_finds() -> None:
    rng = np.random.default_rng(0)
    for trial in range(150):
        n = int(rng.integers(2, 31))
        gain = rng.uniform(0.01, 1, n) ** (1 + trial % 3)
        budget, wrong = int(rng.integers(1, n)), float(rng.uniform(0, n / 2))
        chance, best = chances(gain, budget, wrong), program(gain, budget, wrong)
        assert chance.min() >= 0
        assert chance.max() <= 1
        assert chance.sum() <= budget + 1e-9
        if best > 1e-9:
            assert worth(chance, gain, wrong) == pytest.approx(best, rel=1e-7, abs=1e-9)


def test_one_question_is_the_papers_closed_form() -> None:
    gain = np.sort(np.random.default_rng(1).uniform(0.2, 1, 20))[::-1].copy()
    for wrong in (2.0, 5.0, 8.0):
        values = [(k - 2 * wrong) / (1 / gain[:k]).sum() for k in range(1, 21)]
        k = int(np.argmax(values)) + 1
        wanted = np.where(np.arange(20) < k, 1 / gain / (1 / gain[:k]).sum(), 0)
        np.testing.assert_allclose(chances(gain, 1, wrong), wanted, atol=1e-12)
        assert max(values) == pytest.approx(program(gain, 1, wrong))


def test_limits() -> None:
    gain, free = np.random.default_rng(2).uniform(0.1, 1, 30), np.r_[np.ones(20), np.zeros(10)]
    largest = np.argsort(-gain[:20])[:6]
    np.testing.assert_array_equal(np.flatnonzero(chances(gain, 6, 0.0, free)), np.sort(largest))  # no mistakes: margin sampling
    np.testing.assert_allclose(chances(gain, 6, 11.0, free), 0.3 * free)  # worth nothing: even
    np.testing.assert_allclose(chances(gain, 25, 4.0, free), free)  # fewer than may be asked: all
    np.testing.assert_allclose(chances(gain, 25, 4.0, 0 * free), 0 * free)


def test_a_systematic_draw_keeps_the_chances_and_the_number() -> None:
    torch.manual_seed(0)
    chance = torch.tensor([1, 0.5, 0.25, 0.25, 0.9, 0.1, 0.0, 1.0])
    drawn = torch.stack([ops.systematic(chance) for _ in range(4000)])
    assert torch.equal(drawn.sum(1), torch.full((4000,), 4.0))
    assert set(drawn.unique().tolist()) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), chance, atol=0.03)
    assert {float(ops.systematic(torch.full((5,), 0.5)).sum()) for _ in range(50)} == {2, 3}
