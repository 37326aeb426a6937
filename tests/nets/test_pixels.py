"""Convolutions and shifts against slow float64 loops, for every order of axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.core import Box, Fault, Spec, tree_map


def slow(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """(C, H, W) through the four layers, pixel by pixel."""
    for i in range(4):
        w, b, stride = p[f"w0.{i}"], p[f"b0.{i}"], 2 if i == 0 else 1
        height, width = ((side - 3) // stride + 1 for side in x.shape[1:])
        y = np.zeros((len(w), height, width))
        for row in range(height):
            for col in range(width):
                patch = x[:, row * stride : row * stride + 3, col * stride : col * stride + 3]
                y[:, row, col] = (w * patch).sum((1, 2, 3)) + b
        x = np.maximum(y, 0)
    return x


def test_it_is_four_layers_of_a_slow_loop_whatever_the_order_of_axes() -> None:
    picture = np.random.default_rng(0).random((2, 3, 17, 19))  # two rows of three channels
    spec = Spec(Box(3 * 17 * 19), Box(1), images=((0, 969),), shapes=((3, 17, 19),))
    net = nets.pixels(spec, 4)
    p = {k: x.double() for k, x in net.init().items()}
    wanted = np.stack([slow(x - 0.5, {k: v.numpy() for k, v in p.items()}).ravel() for x in picture])
    assert (net.features, net.others, wanted.shape) == (4 * 2 * 3, 0, (2, 24))
    assert wanted.max() > 0
    for shape, order in ((3, 17, 19), (0, 1, 2, 3)), ((17, 19, 3), (0, 2, 3, 1)):
        obs = torch.from_numpy(picture.transpose(order).reshape(2, -1).copy())
        out = nets.pixels(spec._replace(shapes=(shape,)), 4).apply(p, obs)
        np.testing.assert_allclose(out, wanted, rtol=1e-10)
    frames = spec._replace(images=((0, 323), (323, 646), (646, 969)), shapes=((17, 19),) * 3)  # as of a stack
    np.testing.assert_allclose(nets.pixels(frames, 4).apply(p, torch.from_numpy(picture.reshape(2, -1))), wanted, rtol=1e-10)


def test_images_of_several_sizes_and_other_numbers_keep_their_places() -> None:
    spec = Spec(Box(2 + 225 + 1 + 256), Box(1), images=((2, 227), (228, 484)), shapes=((15, 15), (16, 16)))
    net, obs = nets.pixels(spec, 2), torch.rand(5, 484)
    p = net.init()
    out = net.apply(p, obs)
    assert out.shape == (5, net.features + 3) == (5, 2 + 2 + 3)
    assert torch.equal(out[:, -3:], obs[:, [0, 1, 227]])
    alone = nets.pixels(Spec(Box(256), Box(1), images=((0, 256),), shapes=((16, 16),)), 2)
    one = alone.apply({k.replace("w1", "w0").replace("b1", "b0"): x for k, x in p.items() if k[1] == "1"}, obs[:, 228:])
    torch.testing.assert_close(out[:, 2:4], one)
    assert torch.equal(net.apply(p, obs.view(5, 1, 484))[:, 0], out)  # (..., obs)


@pytest.mark.parametrize(("side", "after"), [(48, 17), (64, 25), (84, 35)])
def test_sizes_that_papers_use(side: int, after: int) -> None:
    spec = Spec(Box(side * side), Box(1), images=((0, side**2),), shapes=((side, side),))
    net = nets.pixels(spec, 3)
    assert net.apply(net.init(), torch.zeros(1, side**2)).shape == (1, net.features) == (1, 3 * after**2)


def test_a_trunk_makes_a_few_numbers_and_leaves_the_others() -> None:
    spec = Spec(Box(227), Box(1), images=((1, 226),), shapes=((15, 15),))
    net = nets.pixels(spec, 6)
    small = nets.trunk(net, 5)
    p = {**small.init(), "scale": torch.rand(5), "shift": torch.rand(5), "b0": torch.rand(5)}
    x = torch.randn(4, 8)
    y = x[:, :6] @ p["w0"] + p["b0"]
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt() * p["scale"] + p["shift"]
    torch.testing.assert_close(small.apply(p, x), torch.cat([y.tanh(), x[:, 6:]], 1))


def test_without_images_everything_is_left_as_it_is() -> None:
    spec, obs = Spec(Box(3), Box(1)), torch.randn(2, 3)
    net = nets.pixels(spec)
    assert net.init() == {} == nets.trunk(net, 5).init()
    assert nets.trunk(net, 5).apply({}, net.apply({}, nets.shifts(spec, 4)(obs))) is obs


@pytest.mark.parametrize("shape", [(15, 17, 2), (2, 15, 17), (15, 17)])
def test_shifts_are_crops_of_the_padded_image(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    spec = Spec(Box(size + 2), Box(1), images=((1, size + 1),), shapes=(shape,))
    obs = torch.randn(64, size + 2)
    before = obs.clone()
    torch.manual_seed(3)
    out = nets.shifts(spec, 4)(obs)
    assert torch.equal(obs, before)
    assert torch.equal(out[:, [0, -1]], obs[:, [0, -1]])
    torch.manual_seed(3)
    down, right = torch.randint(-4, 5, (2, 64, 1))[..., 0].tolist()
    assert {*down} == {*right} == {*range(-4, 5)}  # else the seed shows too little
    where = [i for i, n in enumerate(shape) if n > 2]
    pad = [(4, 4) if i in where else (0, 0) for i in range(len(shape))]
    for x, y, dy, dx in zip(before[:, 1:-1].numpy(), out[:, 1:-1].numpy(), down, right, strict=True):
        crop = np.pad(x.reshape(shape), pad, mode="edge")
        for axis, by in zip(where, (dy, dx), strict=True):
            crop = crop.take(range(4 + by, 4 + by + shape[axis]), axis)
        np.testing.assert_array_equal(crop.ravel(), y)
    assert nets.shifts(spec, 0)(obs) is obs


@pytest.mark.parametrize(
    ("shape", "line"),
    [((14, 20), "an image is 14 x 20 pixels; allowed: 15 x 15 or more"), ((2, 4, 16, 16), "an image has the shape")],
)
def test_images_that_cannot_be(shape: tuple[int, ...], line: str) -> None:
    size = int(np.prod(shape))
    with pytest.raises(Fault, match=line):
        nets.pixels(Spec(Box(size), Box(1), images=((0, size),), shapes=(shape,)))


def test_parts_of_a_group() -> None:
    a, b = {"w": torch.ones(1)}, {"w": torch.zeros(1), "v": torch.ones(2)}
    both = nets.joined(a=a, ab=b)
    assert set(both) == {"a.w", "ab.w", "ab.v"}
    assert tree_map(lambda x: x, nets.part(both, "ab")).keys() == b.keys()
    assert nets.part(both, "a")["w"] is a["w"]
