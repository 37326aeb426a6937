"""Categorical values against loops in plain floats; the lengths of held noise against their law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thespis.ops import expectation, project, quantile_huber, repeated_noise, support, zeta

F64 = torch.float64


def by_hand(probs: list[float], atoms: list[float], low: float, high: float) -> list[float]:
    """Each bin takes of an atom what its hat function, 1 at the bin and 0 at its neighbours, is worth there."""
    n = len(probs)
    width = (high - low) / (n - 1)
    bins = [low + i * width for i in range(n)]
    return [
        sum(p * max(0.0, 1 - abs(min(max(z, low), high) - bin) / width) for p, z in zip(probs, atoms, strict=True))
        for bin in bins
    ]


@pytest.mark.parametrize(("n", "low", "high"), [(2, -1.0, 1.0), (5, -5.0, 5.0), (101, -5.0, 5.0), (7, 0.25, 9.0)])
def test_projection_is_the_loops(n: int, low: float, high: float) -> None:
    probs = torch.randn(6, n, dtype=F64).softmax(-1)
    atoms = torch.randn(6, n, dtype=F64) * (high - low)  # many out of range, on both sides
    wanted = [by_hand(p, z, low, high) for p, z in zip(probs.tolist(), atoms.tolist(), strict=True)]
    np.testing.assert_allclose(project(probs, atoms, low, high).numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_projection_onto_its_own_bins_changes_nothing() -> None:
    """Atoms that lie on bins, both ends among them, in float32 too."""
    for dtype, tol in ((torch.float32, 1e-5), (F64, 1e-12)):
        probs = torch.randn(4, 101, dtype=dtype).softmax(-1)
        same = support(probs, -5, 5).expand(4, -1)
        torch.testing.assert_close(project(probs, same, -5, 5), probs, rtol=tol, atol=tol)


def test_projection_keeps_the_mass_and_inside_the_range_the_mean() -> None:
    probs, atoms = torch.randn(50, 11, dtype=F64).softmax(-1), torch.rand(50, 11, dtype=F64) * 6 - 3
    out = project(probs, atoms, -3, 3)
    assert bool((out >= 0).all())
    torch.testing.assert_close(out.sum(-1), torch.ones(50, dtype=F64))
    torch.testing.assert_close(expectation(out, -3, 3), (probs * atoms).sum(-1))
    one = torch.eye(3, dtype=F64)[:1]  # beyond the range all mass lies on the end
    assert project(one, torch.full((1, 3), 99.0, dtype=F64), -1, 1).tolist() == [[0, 0, 1]]
    assert project(one, torch.full((1, 3), -99.0, dtype=F64), -1, 1).tolist() == [[1, 0, 0]]


def test_expectation_and_support_by_hand() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]], dtype=F64)
    assert support(probs, -2, 6).tolist() == [-2, 2, 6]
    assert expectation(probs, -2, 6).tolist() == pytest.approx([-0.2 + 0.4 + 4.2, -2])


@pytest.mark.parametrize(("exponent", "longest"), [(2.0, 16), (0.0, 3), (1.0, 2)])
def test_zeta_law(exponent: float, longest: int) -> None:
    draws = zeta(torch.zeros(200_000), exponent, longest).numpy()
    total = sum(k**-exponent for k in range(1, longest + 1))
    for k in range(1, longest + 1):
        p = k**-exponent / total
        assert np.mean(draws == k) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / len(draws))), k
    assert (draws.min(), draws.max()) == (1, longest)
    assert zeta(torch.zeros(4, 3), 2.0, 1).tolist() == [[1] * 3] * 4  # one step each: nothing to draw


def test_noise_is_held_until_its_steps_are_over_in_each_row_by_itself() -> None:
    rows, steps = 400, 60
    memory = {"noise": torch.zeros(rows, 2), "left": torch.zeros(rows, dtype=torch.int64)}
    seen = []
    for _ in range(steps):
        before, memory = memory, repeated_noise(memory, 2.0, 16)
        fresh = (memory["noise"] != before["noise"]).any(-1)
        assert torch.equal(fresh, before["left"] == 0)
        assert torch.equal(memory["left"][~fresh], before["left"][~fresh] - 1)
        seen.append(memory["noise"])
    noise = torch.stack(seen)  # (steps, rows, 2)
    new = torch.cat([torch.ones(1, rows, dtype=torch.bool), (noise[1:] != noise[:-1]).any(-1)])
    starts = [np.flatnonzero(column) for column in new.T.numpy()]
    runs = np.concatenate([np.diff(s)[s[:-1] < steps - 16] for s in starts])  # those that cannot have been cut off
    law = np.arange(1, 17.0) ** -2
    assert np.mean(runs == 1) == pytest.approx(law[0] / law.sum(), abs=0.02)
    assert runs.max() > 8
    drawn = noise[new]
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.std().item() == pytest.approx(1, abs=0.02)


def test_quantile_regression_is_the_loops() -> None:
    """Errors on both sides of Huber's bound, two critics, as many samples as it pleases."""
    z, y = 2 * torch.randn(2, 5, 3, dtype=F64), 2 * torch.randn(5, 7, dtype=F64)
    total = 0.0
    for member in range(2):
        for row in range(5):
            for i in range(3):
                for sample in y[row].tolist():
                    error = sample - float(z[member, row, i])
                    huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                    total += ((i + 0.5) / 3 if error >= 0 else 1 - (i + 0.5) / 3) * huber
    assert float(quantile_huber(z, y)) == pytest.approx(total / (2 * 5 * 3 * 7), rel=1e-12)


def test_quantile_regression_finds_quantiles() -> None:
    """Of values so far apart that Huber's bound hardly matters: the levels 1/6, 1/2, 5/6 of 0 .. 99,999."""
    samples = torch.arange(0, 100_000, 100, dtype=F64)[None]
    z = torch.full((1, 3), 5e4, dtype=F64, requires_grad=True)
    for _ in range(300):
        (slope,) = torch.autograd.grad(quantile_huber(z, samples), z)
        z = (z - 2e5 * slope).detach().requires_grad_()
    np.testing.assert_allclose(z.detach().numpy()[0], [1e5 / 6, 5e4, 5e5 / 6], atol=200)
