"""Ranges and moments against closed forms."""

import math

import pytest
import torch

from thespis.ops import between, moments, return_scale, standardised, unseen

F64 = torch.float64


def test_between() -> None:
    x = torch.tensor([-50.0, 0.0, 0.5, 50.0], dtype=F64)
    wanted = [-10, -4, -10 + 12 * (1 + math.tanh(0.5)) / 2, 2]
    assert between(x, -10, 2).tolist() == pytest.approx(wanted)


def test_return_scale_is_the_spread_or_what_the_largest_return_asks() -> None:
    std, largest = torch.tensor([2.0, 2.0, 0.0], dtype=F64), torch.tensor([9.0, 11.0, 0.0], dtype=F64)
    scale = return_scale(std, largest, 5)
    assert scale.tolist() == pytest.approx([math.sqrt(4 + 1e-8), 11 / 5, 1e-4], rel=1e-12)
    assert bool((largest / scale <= 5).all())


def test_standardised_has_mean_0_and_spread_1_and_one_number_stays() -> None:
    x = torch.tensor([1.0, 2.0, 6.0], dtype=F64)
    assert standardised(x).tolist() == pytest.approx([-2 / math.sqrt(14 / 3), -1 / math.sqrt(14 / 3), 3 / math.sqrt(14 / 3)])
    assert standardised(torch.tensor([7.0, 7.0])).tolist() == [0, 0]
    assert standardised(torch.tensor([7.0])).tolist() == [7]


def test_moments_of_many_parts_are_those_of_the_whole() -> None:
    seen = {k: x.double() for k, x in unseen(2).items()}
    parts = [1e3 + 5 * torch.randn(size, 2, dtype=F64) for size in (1, 7, 30)]
    for part in parts:
        seen = moments(seen, part.reshape(-1, 1, 2))
    whole = torch.cat(parts)
    assert float(seen["count"]) == 38
    torch.testing.assert_close(seen["mean"], whole.mean(0))
    torch.testing.assert_close(seen["var"], whole.var(0, correction=0))
