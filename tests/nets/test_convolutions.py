"""Convolutions with batch norm against a slow float64 loop, and what their statistics are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.core import Box, Discrete, Fault, Spec

SPEC = Spec(Box(2 * 7 * 9), Discrete(3), images=((0, 126),), shapes=((7, 9, 2),))


def slow(x: np.ndarray, p: dict[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """(B, C, H, W) pixel by pixel; normalised by the batch's own mean and variance of each channel."""
    means, variances = [], []
    for i, stride in enumerate((1, 2, 2)):
        w = p[f"w{i}"]
        height, width = (-(-side // stride) for side in x.shape[2:])
        around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y = np.zeros((len(x), len(w), height, width))
        for row in range(height):
            for col in range(width):
                patch = around[:, None, :, row * stride : row * stride + 3, col * stride : col * stride + 3]
                y[:, :, row, col] = (w * patch).sum((2, 3, 4))
        means.append(y.mean((0, 2, 3)))
        variances.append(y.var((0, 2, 3)))
        y = (y - means[-1][:, None, None]) / np.sqrt(variances[-1][:, None, None] + 1e-5)
        x = np.maximum(y * p[f"scale{i}"][:, None, None] + p[f"shift{i}"][:, None, None], 0)
    return x.reshape(len(x), -1) @ p["head"] + p["bias"], means, variances


def test_it_is_a_slow_loop_and_its_statistics_are_the_batchs() -> None:
    torch.manual_seed(0)
    net = nets.convolutions(SPEC, 3, channels=4)
    p = {k: torch.randn_like(x.double()) for k, x in net.init().items()}
    picture = np.random.default_rng(0).random((5, 7, 9, 2))
    wanted, means, variances = slow(picture.transpose(0, 3, 1, 2), {k: x.numpy() for k, x in p.items()})
    obs = torch.from_numpy(picture.reshape(5, -1))
    out, stats = net.measure(p, obs)
    np.testing.assert_allclose(out, wanted, rtol=1e-9)
    np.testing.assert_allclose(stats["mean"], np.concatenate(means), rtol=1e-9)
    np.testing.assert_allclose(stats["var"], np.concatenate(variances), rtol=1e-9)
    np.testing.assert_allclose(net.apply(p, stats, obs[:1]), wanted[:1], rtol=1e-9)  # given, a row is by itself
    assert {k: x.shape for k, x in net.stats().items()} == {k: x.shape for k, x in stats.items()}


def test_it_wants_one_image() -> None:
    for spec in (Spec(Box(3), Discrete(3)), SPEC._replace(obs=Box(127))):
        with pytest.raises(Fault, match="one image of bytes, and nothing else"):
            nets.convolutions(spec, 3)
