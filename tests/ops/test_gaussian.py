"""The tanh-Gaussian against integrals, plain floats, torch.distributions and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from thespis.ops import squashed_log_prob, squashed_sample

F64 = torch.float64


def log_density(u: float, mean: float, std: float) -> float:
    """log pi(tanh u) in plain floats, with 1 - tanh^2 = 1 / cosh^2 and cosh u = e^|u| (1 + e^-2|u|) / 2."""
    log_cosh = abs(u) + math.log1p(math.exp(-2 * abs(u))) - math.log(2)
    return -0.5 * ((u - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi) + 2 * log_cosh


def scalars(*values: float, dtype: torch.dtype = F64) -> list[Tensor]:
    return [torch.tensor([v], dtype=dtype) for v in values]


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.7])
@pytest.mark.parametrize("std", [0.05, 0.5, 1.0, 1.5])
def test_density_integrates_to_one_over_the_actions(mean: float, std: float) -> None:
    u = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)
    width = np.sinh(np.diff(u)) / (np.cosh(u[1:]) * np.cosh(u[:-1]))  # tanh(u1) - tanh(u0), exact near -1 and 1 too
    m, log_std = scalars(mean, math.log(std))
    density = squashed_log_prob(m, log_std, torch.from_numpy(u)[:, None]).exp().numpy()
    assert density.shape == u.shape
    assert ((density[1:] + density[:-1]) / 2 * width).sum() == pytest.approx(1, abs=1e-6)


def test_log_prob_is_that_of_torch_distributions() -> None:
    mean, log_std = torch.randn(7, 3, dtype=F64), torch.randn(7, 3, dtype=F64) * 0.5
    u = mean + log_std.exp() * torch.randn(7, 3, dtype=F64).clamp(-2, 2)
    peer = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), TanhTransform())
    # TanhTransform's atanh loses digits towards 1, so it is given the u that it would look for
    wanted = peer.base_dist.log_prob(u) - (1 - u.tanh().square()).log().sum(-1)
    torch.testing.assert_close(squashed_log_prob(mean, log_std, u), wanted, rtol=1e-7, atol=1e-7)
    near = u.abs().amax(-1) < 2
    assert near.any()
    torch.testing.assert_close(squashed_log_prob(mean, log_std, u)[near], peer.log_prob(u.tanh())[near], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (F64, 1e-8)])
@pytest.mark.parametrize("u", [0.0, 1e-3, 0.5, 3.0, 9.0, 10.5, 19.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_log_prob_where_tanh_saturates(dtype: torch.dtype, rel: float, u: float, sign: int) -> None:
    mean, std = 0.25, 3.0
    given = scalars(mean, math.log(std), sign * u, dtype=dtype)
    got = squashed_log_prob(*given)
    assert got.shape == ()
    assert float(got) == pytest.approx(log_density(sign * u, mean, std), rel=rel, abs=rel)


@pytest.mark.parametrize("u", [-300.0, -30.0, -12.0, 0.0, 2.0, 12.0, 30.0, 300.0])
def test_gradient_where_tanh_saturates(u: float) -> None:
    """d/du = 2 tanh u - (u - mean) / var;  d/dmean = (u - mean) / var;  d/dlog_std = z^2 - 1."""
    mean, std = 0.25, 3.0
    given = [x.requires_grad_() for x in scalars(mean, math.log(std), u, dtype=torch.float32)]
    got = torch.autograd.grad(squashed_log_prob(*given), given)
    pull = (u - mean) / std**2
    for g, wanted in zip(got, (pull, pull * (u - mean) - 1, 2 * math.tanh(u) - pull), strict=True):
        assert float(g) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_sample_tells_the_log_prob_of_its_own_action() -> None:
    mean, log_std = torch.randn(50, 4, dtype=F64) * 0.5, torch.randn(50, 4, dtype=F64) * 0.3 - 1
    action, logp = squashed_sample(mean, log_std)
    assert action.shape == mean.shape
    assert logp.shape == (50,)
    torch.testing.assert_close(logp, squashed_log_prob(mean, log_std, action.atanh()), rtol=1e-8, atol=1e-8)


def test_sample_of_saturated_means_is_finite() -> None:
    mean = torch.tensor([[-40.0, 40.0], [300.0, 0.0]], requires_grad=True)
    action, logp = squashed_sample(mean, torch.full_like(mean, -3))
    assert (action.abs() <= 1).all()
    assert logp.isfinite().all()
    logp.sum().backward()
    assert mean.grad is not None
    # u = mean + std * noise: only the squash moves with the mean
    torch.testing.assert_close(mean.grad[:, 0], 2 * torch.tensor([-1.0, 1.0]))


def test_sample_is_normal_before_the_squash() -> None:
    n, mean, std = 200_000, 0.3, 0.6
    action, _ = squashed_sample(torch.full((n, 1), mean, dtype=F64), torch.full((n, 1), math.log(std), dtype=F64))
    u = action.atanh()
    assert float(u.mean()) == pytest.approx(mean, abs=5 * std / n**0.5)
    assert float(u.std()) == pytest.approx(std, abs=5 * std / (2 * n) ** 0.5)
    within = float(((u - mean).abs() < std).double().mean())
    assert within == pytest.approx(math.erf(2**-0.5), abs=5 * (0.25 / n) ** 0.5)


def test_sample_draws_its_noise_from_the_generator_once() -> None:
    mean, log_std = torch.randn(6, 2), torch.randn(6, 2)
    torch.manual_seed(5)
    action, _ = squashed_sample(mean, log_std)
    torch.manual_seed(5)
    torch.testing.assert_close(action, (mean + log_std.exp() * torch.randn(6, 2)).tanh())


def test_reparameterised_gradient_equals_finite_differences() -> None:
    mean = torch.randn(3, 2, dtype=F64, requires_grad=True)
    log_std = (torch.randn(3, 2, dtype=F64) * 0.5).requires_grad_()

    def sample(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)  # the noise stands still while the parameters move
        return squashed_sample(mean, log_std)

    assert torch.autograd.gradcheck(sample, (mean, log_std))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.5), (-1.5, 0.2), (3.0, 1.0)])
def test_entropy(mean: float, std: float) -> None:
    """H[tanh u] = H[u] + E log(1 - tanh^2 u): the first in closed form, the second by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(120)
    squash = -2 * (w * np.log(np.cosh(mean + std * x))).sum() / math.sqrt(2 * math.pi)
    wanted = 0.5 * math.log(2 * math.pi * math.e * std**2) + squash
    _, logp = squashed_sample(torch.full((100_000, 1), mean, dtype=F64), torch.full((100_000, 1), math.log(std), dtype=F64))
    assert float(-logp.mean()) == pytest.approx(wanted, abs=5 * float(logp.std()) / 100_000**0.5)


def test_entropy_of_a_narrow_policy() -> None:
    """At a small width the squash is a straight line: H = log(std sqrt(2 pi e)) + log(1 - tanh^2 mean)."""
    mean, log_std = torch.full((100_000, 1), 0.5, dtype=F64), torch.full((100_000, 1), -9.0, dtype=F64)
    _, logp = squashed_sample(mean, log_std)
    wanted = -9 + 0.5 * math.log(2 * math.pi * math.e) + math.log(1 - math.tanh(0.5) ** 2)
    assert float(-logp.mean()) == pytest.approx(wanted, abs=0.012)
