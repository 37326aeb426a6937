"""SOFT: the inverse and its gradient beside exact ones, attention beside slow loops and its limits, and the network's parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.core import Box, Discrete, Fault, Spec
from thespis.nets.soft import kernel

SPEC = Spec(Box(16 * 24), Discrete(3), images=((0, 384),), shapes=((16, 24),))
F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("spread", [0.15, 0.3, 1.0])
def test_the_inverse_is_one_in_the_steps_that_its_condition_needs(spread: float) -> None:
    points = spread * drawn(2, 30, 8)
    p = kernel(points, points) + 0.01 * torch.eye(30)
    condition = float(torch.linalg.cond(p).max())
    steps = int(2 * np.log2(condition)) + 6
    assert float((torch.eye(30) - p @ nets.inverse(p, steps)).abs().max()) < 1e-6
    if condition > 50:
        assert float((torch.eye(30) - p @ nets.inverse(p, steps // 2)).abs().max()) > 1e-3


def test_its_gradient_is_that_of_an_exact_inverse() -> None:
    weight = drawn(6, 6, seed=1)

    def gradient(invert):  # type: ignore[no-untyped-def]
        x = drawn(6, 4).requires_grad_()
        return torch.autograd.grad((invert(kernel(x, x) + 0.01 * torch.eye(6)) * weight).sum(), x)[0]

    torch.testing.assert_close(gradient(lambda p: nets.inverse(p, 30)), gradient(torch.linalg.inv), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm", [False, True])
def test_attention_is_the_slow_loop(norm: bool) -> None:
    q, landmarks, v = 0.7 * drawn(9, 4), 0.7 * drawn(3, 4, seed=1), drawn(9, 2, seed=2)
    k = lambda a, b: float(np.exp(-0.5 * ((a - b) ** 2).sum()))
    near = np.array([[k(a, b) for b in landmarks.numpy()] for a in q.numpy()])
    among = np.array([[k(a, b) for b in landmarks.numpy()] for a in landmarks.numpy()])
    middle = np.linalg.inv(among + 0.01 * np.eye(3))
    if norm:
        d = among.sum(1)
        middle = middle / np.sqrt(d[:, None] * d[None])
    wanted = near @ middle @ near.T @ v.numpy()
    np.testing.assert_allclose(nets.soft_attention(q, landmarks, v, norm, steps=40), wanted, rtol=1e-8)


def test_with_all_tokens_for_landmarks_it_is_the_whole_kernel() -> None:
    q, v = drawn(2, 12, 5), drawn(2, 12, 3, seed=1)
    torch.testing.assert_close(nets.soft_attention(q, q, v, ridge=0.0, steps=40), kernel(q, q) @ v, rtol=1e-7, atol=1e-9)


def test_linear_attention_is_the_slow_loop() -> None:
    q, k, v = drawn(7, 3), drawn(7, 3, seed=1), drawn(7, 2, seed=2)
    feature = lambda x: np.where(x > 0, x + 1, np.exp(x))
    weight = feature(q.numpy()) @ feature(k.numpy()).T
    np.testing.assert_allclose(nets.linear_attention(q, k, v), (weight / weight.sum(1, keepdims=True)) @ v.numpy(), rtol=1e-9)


@pytest.mark.parametrize("kind", ["soft", "soft_norm", "softmax", "linear", "none"])
def test_every_parameter_has_a_say_and_a_row_is_by_itself(kind: str) -> None:
    torch.manual_seed(0)
    net = nets.attention(SPEC, 3, kind, width=16, blocks=1)  # type: ignore[arg-type]
    p = {k: (x.double() + 0.01).requires_grad_() for k, x in net.init().items()}
    obs = torch.rand(4, 384, dtype=F64)
    out = net.apply(p, obs)
    assert out.shape == (4, 3)
    grads = torch.autograd.grad(out.square().sum(), [*p.values()])
    silent = {"b_k0"} if kind == "softmax" else set()  # a softmax is the same where all its numbers are moved alike
    assert {k for k, g in zip(p, grads, strict=True) if float(g.abs().max()) < 1e-12} <= silent
    torch.testing.assert_close(net.apply(p, obs[:1]), out[:1])


def test_only_attention_carries_what_is_far_away() -> None:
    """One block without attention sees a token's neighbours, 2 on each side; with it the tokens far off move too."""
    torch.manual_seed(0)
    wide = Spec(Box(16 * 96), Discrete(2), images=((0, 1536),), shapes=((16, 96),))
    one, other = torch.rand(2, 1, 16, 96, dtype=F64).unbind(0)
    spoilt = one.clone()
    spoilt[..., :8] = other[..., :8]  # two columns of tokens of 24
    for kind in ("none", "soft_norm"):
        net = nets.attention(wide, 2, kind, width=16, blocks=1)  # type: ignore[arg-type]
        p = {k: x.double() for k, x in net.init().items()}
        moved = [net.apply(p, x.flatten(1)) for x in (one, spoilt)]
        assert not torch.equal(*moved)
        halves = [_tokens(net, p, x) for x in (one, spoilt)]
        assert (kind == "none") == torch.allclose(halves[0], halves[1], rtol=0, atol=1e-13)


def _tokens(net: nets.Net, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The change of the output that the last column of tokens makes: it depends on the first alone where something carries."""
    black = x.clone()
    black[..., -4:] = 0
    return net.apply(p, x.flatten(1)) - net.apply(p, black.flatten(1))


def test_an_image_must_come_out_even() -> None:
    with pytest.raises(Fault, match="16 x 24 is cut into squares of 5"):
        nets.attention(SPEC, 3, patch=5)
