"""Flows between Gaussians, whose every number is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thespis import ops

MEAN, STD = 1.5, 0.4


def best(x: Tensor, t: Tensor) -> Tensor:
    """E[x1 - x0 | x_t = x] where x0 is N(0, 1) and x1, apart from it, N(MEAN, STD^2): regression of Gaussians."""
    return MEAN + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2) * (x - t * MEAN)


def test_points_lie_on_the_line_from_fresh_noise_to_the_sample() -> None:
    torch.manual_seed(0)
    x1 = torch.randn(20_000, 2).double()
    x, t, u = ops.noised(x1)
    torch.testing.assert_close(x + (1 - t) * u, x1)
    noise = x - t * u
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert float((noise * x1).mean()) == pytest.approx(0, abs=0.03), "it knows nothing of the sample"
    assert t.shape == (20_000, 1)
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(t.var()) == pytest.approx(1 / 12, abs=0.01)


def test_from_gaussian_to_gaussian_at_first_order() -> None:
    """Along the best field x_t = t MEAN + sd_t x0, so that noise x0 ends at MEAN + STD x0. That map is monotone: the mean square
    way is the squared W2 of the two, MEAN^2 + (1 - STD)^2."""
    x0 = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    errors = [float((ops.integrate(best, x0, n) - (MEAN + STD * x0)).abs().max()) for n in (50, 100, 200)]
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)
    noise = torch.special.ndtri((torch.arange(4_000, dtype=torch.float64)[:, None] + 0.5) / 4_000)
    way = ops.integrate(best, noise, 400) - noise
    assert float(way.square().mean()) == pytest.approx(MEAN**2 + (1 - STD) ** 2, rel=0.01)


def test_the_velocity_is_asked_at_the_beginning_of_each_step() -> None:
    asked = []

    def growth(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return x

    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(ops.integrate(growth, x, 4), x * 1.25**4)
    assert [float(t[0, 0]) for t in asked] == [0, 0.25, 0.5, 0.75]
    assert asked[0].shape == (2, 1)
    assert math.isclose(float(asked[1][1, 0]), 0.25)
