"""What noised sums spend, beside dp-accounting, opacus, closed forms and slow loops."""

import math
import warnings

import pytest
import torch

from thespis import ops
from thespis.ops import privacy

F64 = torch.float64
CASES = {  # (noise multipliers, rates, steps), delta 1e-5: epsilon by dp-accounting 0.6.0, by opacus 1.6.0; both over ORDERS
    "one rate": (([1.1], [0.01], [1000]), 1.7117701662429012, 1.7117700912203435),
    "no sampling": (([4.0], [1.0], [10]), 3.617099772983339, 3.617099772983339),
    "varying": (([1.5, 1.0, 0.7], [0.02, 0.05, 0.01], [200, 100, 300]), 5.089066965314236, 5.088105406139642),
    "less noise": (([0.8], [0.02], [300]), 4.460016875301417, 4.459912079049872),
}


def spent(sigmas: list[float], rates: list[float], steps: list[int]) -> torch.Tensor:
    each = privacy.renyi(torch.tensor(sigmas, dtype=F64), torch.tensor(rates, dtype=F64))
    return torch.tensor(steps, dtype=F64) @ each


@pytest.mark.parametrize("case", CASES)
def test_epsilon_beside_what_others_compute(case: str) -> None:
    given, by_google, by_opacus = CASES[case]
    found = privacy.epsilon(spent(*given), 1e-5)
    assert float(found) == pytest.approx(by_google, rel=1e-3)
    assert float(found) == pytest.approx(by_opacus, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_epsilon_beside_the_packages_themselves(case: str) -> None:
    sigmas, rates, steps = CASES[case][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dp = pytest.importorskip("dp_accounting")
        accountants = pytest.importorskip("opacus.accountants")
        theirs, other = dp.rdp.RdpAccountant(privacy.ORDERS), accountants.RDPAccountant()
        for sigma, rate, n in zip(sigmas, rates, steps, strict=True):
            theirs.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), n)
            other.history.append((sigma, rate, n))
        wanted = [theirs.get_epsilon(1e-5), other.get_epsilon(1e-5, alphas=list(privacy.ORDERS))]
    found = float(privacy.epsilon(spent(sigmas, rates, steps), 1e-5))
    assert [found, found] == pytest.approx(wanted, rel=1e-3)


def test_whole_orders_are_a_binomial_sum() -> None:
    """arXiv:1908.10530, equation 5: without an integral."""
    for sigma, rate in ((0.9, 0.1), (1.3, 0.01), (6.0, 0.5)):
        for order in (2, 5, 32):
            terms = [
                math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * sigma**2))
                for k in range(order + 1)
            ]
            found = privacy.renyi(torch.tensor(sigma, dtype=F64), torch.tensor(rate, dtype=F64), [float(order)])
            assert float(found) == pytest.approx(math.log(sum(terms)) / (order - 1), rel=1e-8)


def test_all_of_the_data_at_each_step_is_the_gaussian_mechanism() -> None:
    sigma = torch.tensor([0.7, 3.0], dtype=F64)
    wanted = torch.tensor(privacy.ORDERS, dtype=F64) / (2 * sigma[:, None] ** 2)
    torch.testing.assert_close(privacy.renyi(sigma, torch.ones(2, dtype=F64)), wanted)


def test_the_least_noise_spends_the_target_and_no_more() -> None:
    for target in (0.5, 8.0):
        sigma, rate = privacy.multiplier(target, 1e-5, 0.05, 80), torch.tensor(0.05, dtype=F64)
        after, less = (float(privacy.epsilon(80 * privacy.renyi(s, rate), 1e-5)) for s in (sigma, 0.999 * sigma))
        assert after <= target < less
        assert after == pytest.approx(target, rel=1e-4)


def quadratic(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((p["w"] @ x).tanh() * p["v"] - y).square().sum()


def test_clipped_sums_are_those_of_a_loop_over_examples_and_blocks() -> None:
    p = {"w": torch.randn(3, 4, dtype=F64), "v": torch.randn(3, dtype=F64)}
    x, y = torch.randn(7, 4, dtype=F64), torch.randn(7, 3, dtype=F64)
    each = privacy.per_example(quadratic, p, x, y)
    bounds, sigma = torch.tensor([0.8, 1.5], dtype=F64), torch.tensor(1.7, dtype=F64)
    noise = [torch.randn(12, dtype=F64), torch.randn(3, dtype=F64)]
    found = ops.privacy.clipped_sum([each["w"].flatten(1), each["v"]], bounds, sigma, noise)
    wanted, clipped = [1.7 * math.sqrt(2) * c * z for c, z in zip(bounds, noise, strict=True)], 0
    for i in range(7):
        w, v = (p[k].clone().requires_grad_() for k in "wv")
        quadratic({"w": w, "v": v}, x[i], y[i]).backward()
        for block, g in enumerate((w.grad.flatten(), v.grad)):
            size = float(g.norm())
            clipped += size > bounds[block]
            wanted[block] = wanted[block] + g * min(1.0, float(bounds[block]) / size)
    assert 3 < clipped < 12
    torch.testing.assert_close(found, wanted)


def test_one_example_moves_the_sums_by_no_more_than_the_noise_is_made_for() -> None:
    """Over their thresholds and sqrt(L): 1 at most, and 1 where an example is large in all blocks."""
    bounds, zero = torch.tensor([0.1, 2.0, 30.0]), torch.zeros(())
    for size, wanted in ((1e4, 1.0), (1e-3, None)):
        grads = [size * torch.randn(5, d) for d in (2, 3, 4)]
        none = [torch.zeros(d) for d in (2, 3, 4)]
        whole, less = (privacy.clipped_sum([g[:n] for g in grads], bounds, zero, none) for n in (5, 4))
        moved = torch.cat([(a - b) / c for a, b, c in zip(whole, less, bounds, strict=True)]).norm() / math.sqrt(3)
        assert float(moved) <= 1 + 1e-5
        if wanted:
            assert float(moved) == pytest.approx(wanted, rel=1e-4)
