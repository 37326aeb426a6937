"""Batch renormalisation against loops in plain floats, and torch's own batch norm where it must be that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from thespis.config import Renorm
from thespis.nets import mlp, renormed
from thespis.nets.renormed import renormalised

F64 = torch.float64
SIZES = (3, 5, 4, 2)


def by_hand(x: np.ndarray, mean: float, var: float, warm: bool) -> tuple[list[float], float, float]:
    """One feature of a batch (Ioffe 2017, algorithm 1, with its r and d): (x - m) / s * r + d, and the running statistics."""
    m, v = x.mean(), x.var()
    s, running = np.sqrt(v + 1e-3), np.sqrt(var + 1e-3)
    r, d = (min(max(s / running, 1 / 3), 3), min(max((m - mean) / running, -5), 5)) if warm else (1.0, 0.0)
    out = [(value - m + d * np.sqrt(v) / r) / np.sqrt(v / r**2 + 1e-3) for value in x]
    return out, 0.99 * mean + 0.01 * m, 0.99 * var + 0.01 * v


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_a_norm_is_the_loops(warm: bool, scale: float) -> None:
    x = scale * torch.randn(9, 4, dtype=F64) + 2
    mean, var = torch.randn(4, dtype=F64), 0.5 + torch.rand(4, dtype=F64)
    out, new_mean, new_var = renormalised(x, mean, var, torch.tensor(warm), train=True)
    for j in range(4):
        wanted, m, v = by_hand(x[:, j].numpy(), float(mean[j]), float(var[j]), warm)
        np.testing.assert_allclose(out[:, j].numpy(), wanted, rtol=1e-9)
        assert (float(new_mean[j]), float(new_var[j])) == pytest.approx((m, v), rel=1e-12)


def test_once_warm_a_batch_near_the_running_statistics_is_normalised_by_them() -> None:
    """Within the clips r and d undo the batch's own statistics, but for eps."""
    x = torch.randn(500, 4, dtype=F64) * 1.3 + 0.4
    mean, var = torch.zeros(4, dtype=F64), torch.ones(4, dtype=F64)
    out, *_ = renormalised(x, mean, var, torch.tensor(True), train=True)
    torch.testing.assert_close(out, (x - mean) / var.sqrt(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("norm", ["renorm", "batch"])
def test_before_it_is_warm_it_is_batch_norm_over_both_batches(norm: Renorm) -> None:
    net = renormed(SIZES, norm)
    p, stats = ({k: x.double() for k, x in part.items()} for part in (net.init(), net.stats()))
    p = {k: x + 0.1 * torch.randn_like(x) for k, x in p.items()}
    x, y = torch.randn(6, 3, dtype=F64), 3 + torch.randn(6, 3, dtype=F64)
    out, after, new = net.train(p, stats, x, y)
    h, seen = torch.cat([x, y]), []
    for i, dim in enumerate(SIZES[:-1]):
        module = nn.BatchNorm1d(dim, eps=1e-3).double()
        module.weight.data, module.bias.data = p[f"scale{i}"], p[f"shift{i}"]
        seen.append(h.mean(0))
        h = module(h) @ p[f"w{i}"] + p[f"b{i}"]
        h = h.relu() if i < len(SIZES) - 2 else h
    torch.testing.assert_close(torch.cat([out, after]), h)
    torch.testing.assert_close(new["mean"], 0.01 * torch.cat(seen))
    assert float(new["seen"]) == 1


def test_it_warms_up_after_so_many_batches_and_batch_norm_never_does() -> None:
    x = torch.randn(20, 3) * 2 + 1
    for norm, differs in (("renorm", True), ("batch", False)):
        net = renormed(SIZES, norm, warmup=3)  # type: ignore[arg-type]
        torch.manual_seed(0)
        p, stats = net.init(), net.stats()
        outs = []
        for _ in range(5):
            out, _, stats = net.train(p, stats, x, x[:0])
            outs.append(out)
        assert torch.equal(outs[0], outs[2])
        assert torch.allclose(outs[2], outs[3]) != differs


def test_without_norms_it_is_an_mlp() -> None:
    torch.manual_seed(0)
    net = renormed(SIZES, "none")
    p = net.init()
    torch.manual_seed(0)
    plain = mlp(SIZES)
    assert all(torch.equal(p[k], x) for k, x in plain.init().items())
    x = torch.randn(4, 3)
    out, after, new = net.train(p, net.stats(), x, x[:2])
    assert torch.equal(out, plain.apply(p, torch.cat([x, x[:2]]))[:4])
    assert torch.equal(net.apply(p, new, x), plain.apply(p, x))
    assert (len(after), float(new["seen"])) == (2, 0)
