"""The field of a flow against numpy, and what it asks of a world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.core import Box, Discrete, Fault, Spec

SPEC = Spec(Box(5), Box(2))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def by_hand(p: dict, x: np.ndarray, t: float, c: np.ndarray, more: float = 0.0) -> np.ndarray:
    k = np.arange(1, 5)
    h = np.concatenate([x, c, [t], np.sin(np.pi * k * t), np.cos(np.pi * k * t)])
    layers = len(p) // 2
    for i in range(layers):
        out = h @ p[f"w{i}"].numpy() + p[f"b{i}"].numpy() + more * h.sum() * (i + 1)
        h = silu(out) if i < layers - 1 else out
    return h


def field() -> tuple[nets.Flow, dict]:
    torch.manual_seed(0)
    flow = nets.flow(SPEC, "it", (7, 6), 3)
    return flow, {k: v.double() for k, v in flow.init().items()}


@pytest.mark.parametrize("more", [0.0, 0.1])
def test_velocity_row_by_row(more: float) -> None:
    flow, p = field()
    x, t, c = (torch.randn(4, n, dtype=torch.float64) for n in (2, 1, 3))
    add = (lambda i, h: more * h.sum(-1, keepdim=True) * (i + 1)) if more else None
    for row, got in enumerate(flow.velocity(p, x, t, c, add)):
        wanted = by_hand(p, x[row].numpy(), float(t[row]), c[row].numpy(), more)
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-12)
    assert flow.shapes == [(14, 7), (7, 6), (6, 2)]


def test_a_sample_is_three_steps_from_the_observations_noise_and_explores_from_its_own() -> None:
    flow, p = field()
    obs = 0.3 * torch.randn(4, 5, dtype=torch.float64)
    for row, got in zip(obs.numpy(), flow.sample(p, obs, False).numpy(), strict=True):
        x = row[3:]
        for i in range(3):
            x = x + by_hand(p, x, i / 3, row[:3]) / 3
        np.testing.assert_allclose(got, np.clip(x, -1, 1), rtol=1e-12)
    torch.manual_seed(1)
    noise = torch.randn(4, 2, dtype=torch.float64)
    torch.manual_seed(1)
    assert flow.sample(p, obs, True).equal(flow.sample(p, torch.cat([obs[:, :3], noise], -1), False))
    assert nets.condition(SPEC, obs).equal(obs[:, :3])


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(Fault, match="it: a sample is a vector"):
        nets.flow(Spec(Box(5), Discrete(2)), "it", (4,), 3)
    with pytest.raises(Fault, match="must end with the noise, 2 numbers as an action has; it has 1"):
        nets.flow(Spec(Box(1), Box(2)), "it", (4,), 3)
