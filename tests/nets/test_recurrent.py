"""The GRU against torch.nn.GRUCell and a slow float64 loop; the unroller against the torch modules that it is made of."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis.core import Params
from thespis.nets import gru, unroller

IN, HIDDEN, OUT = 3, 5, 4


def as_torch(p: Params, dtype: torch.dtype = torch.float32) -> nn.GRUCell:
    """A GRUCell with our weights, which lie the other way round."""
    peer = nn.GRUCell(IN, HIDDEN, dtype=dtype)
    names = {"weight_ih": "wx", "weight_hh": "wh", "bias_ih": "bx", "bias_hh": "bh"}
    peer.load_state_dict({theirs: p[ours].mT if p[ours].ndim > 1 else p[ours] for theirs, ours in names.items()})
    return peer


def by_hand(p: Params, x: Tensor, h: Tensor) -> list[list[float]]:
    """r, z = sigmoid(...); n = tanh(W x + b + r (U h + c)); h' = (1 - z) n + z h: one number at a time."""
    wx, wh, bx, bh = (p[name].double().tolist() for name in ("wx", "wh", "bx", "bh"))
    out = []
    for inputs, old in zip(x.double().tolist(), h.double().tolist(), strict=True):

        def of_x(j: int, inputs: list[float] = inputs) -> float:
            return bx[j] + sum(v * wx[i][j] for i, v in enumerate(inputs))

        def of_h(j: int, old: list[float] = old) -> float:
            return bh[j] + sum(v * wh[i][j] for i, v in enumerate(old))

        row = []
        for j in range(HIDDEN):
            r, z = (1 / (1 + math.exp(-of_x(g * HIDDEN + j) - of_h(g * HIDDEN + j))) for g in (0, 1))
            n = math.tanh(of_x(2 * HIDDEN + j) + r * of_h(2 * HIDDEN + j))
            row.append((1 - z) * n + z * old[j])
        out.append(row)
    return out


def test_gru_is_the_loop() -> None:
    net = gru(IN, HIDDEN)
    p = {k: 3 * v for k, v in net.init().items()}
    x, h = torch.randn(9, IN) * 2, torch.randn(9, HIDDEN)
    np.testing.assert_allclose(net.apply(p, x, h).numpy(), by_hand(p, x, h), rtol=1e-5, atol=1e-6)


def test_gru_and_its_gradients_are_torchs() -> None:
    net = gru(IN, HIDDEN)
    p = {k: v.double().requires_grad_() for k, v in net.init().items()}
    peer = as_torch({k: v.detach() for k, v in p.items()}, torch.float64)
    x, h = torch.randn(9, IN, dtype=torch.float64), torch.randn(9, HIDDEN, dtype=torch.float64)
    ours, theirs = h, h
    for _ in range(3):
        ours, theirs = net.apply(p, x, ours), peer(x, theirs)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, wanted in zip((p["wx"], p["wh"], p["bx"], p["bh"]), peer.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.mT if mine.ndim > 1 else mine.grad, wanted.grad)


def test_gru_starts_as_torchs() -> None:
    """Uniform within 1 / sqrt(H): the mean square is a third of the bound's."""
    bound = 1 / math.sqrt(64)
    for params in (gru(32, 64).init().values(), nn.GRUCell(32, 64).parameters()):
        for x in params:
            assert float(x.detach().abs().max()) == pytest.approx(bound, rel=0.05)
            assert float(x.detach().abs().max()) <= bound
            assert float(x.detach().square().mean()) == pytest.approx(bound**2 / 3, rel=0.3)


@pytest.mark.parametrize("lead", [(), (1,), (3, 4)])
def test_any_leading_axes(lead: tuple[int, ...]) -> None:
    net = gru(IN, HIDDEN)
    p, x, h = net.init(), torch.randn(*lead, IN), torch.randn(*lead, HIDDEN)
    flat = net.apply(p, x.reshape(-1, IN), h.reshape(-1, HIDDEN))
    torch.testing.assert_close(net.apply(p, x, h), flat.reshape(*lead, HIDDEN))


def test_unroller_is_encoder_cell_and_head() -> None:
    net = unroller((2, 7, HIDDEN), IN, OUT)
    p, obs = net.init(), torch.randn(6, 2)
    layers = [nn.Linear(2, 7), nn.Linear(7, HIDDEN), nn.Linear(HIDDEN, OUT)]
    for layer, (part, at) in zip(layers, (("encoder", 0), ("encoder", 1), ("head", 0)), strict=True):
        layer.load_state_dict({"weight": p[f"{part}.w{at}"].T, "bias": p[f"{part}.b{at}"]})
    cell = as_torch({name: p[f"cell.{name}"] for name in ("wx", "wh", "bx", "bh")})
    assert len(p) == 2 * len(layers) + 4
    ours, theirs = net.start(p, obs), layers[1](layers[0](obs).relu())
    torch.testing.assert_close(ours, theirs)
    for x in torch.randn(3, 6, IN):
        out, ours = net.step(p, x, ours)
        theirs = cell(x, theirs)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(out, layers[2](theirs))
