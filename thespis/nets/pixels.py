"""Convolutions over the images of an observation, whatever their number, size and order of axes; and their random shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, layer_norm, relu

from thespis.core import Fault, Params, Spec
from thespis.nets.functions import Net, mlp

SMALLEST = 15
"""pixels along a side, so that four convolutions leave one"""


class Pixels(NamedTuple):
    """The images of an observation made small: (..., obs) -> (..., features + others), the numbers that are no image's last."""

    init: Callable[[], Params]
    apply: Callable[[Params, Tensor], Tensor]
    features: int
    """0 where there are no images: then an observation is given back as it is"""
    others: int


class Axes(NamedTuple):
    """Of an image without its rows: where its height, width and channels are, as torch counts from the end."""

    height: int
    width: int
    channels: int | None


def axes(shape: tuple[int, ...]) -> Axes:
    """(height, width), (height, width, channels) or (channels, height, width), by which of first and last is smaller."""
    if len(shape) == 2:
        return Axes(-2, -1, None)
    if len(shape) != 3:
        raise Fault(
            f"an image has the shape {shape}; allowed: (height, width), (height, width, channels), (channels, height, width)"
        )
    return Axes(-2, -1, -3) if shape[0] < shape[2] else Axes(-3, -2, -1)


def pixels(spec: Spec, channels: int = 32) -> Pixels:
    """Four layers of 3 x 3 convolutions, the first with stride 2, relu after each; orthogonal at the start, as are DrQ-v2's
    (arXiv:2107.09645). Images of equal height and width, as those of a stack, are the channels of one input; each size has
    convolutions of its own. Fault: an image smaller than 15 x 15, or of four dimensions."""
    inputs, groups = _groups(spec), list(_groups(spec).items())
    rest = _others(spec)
    sides = {size: [_after(side) for side in size] for size in inputs}

    def init() -> Params:
        params: Params = {}
        for g, (_, images) in enumerate(groups):
            fan_in = sum(1 if (axis := axes(shape).channels) is None else shape[axis] for _, shape in images)
            for i in range(4):
                w = torch.empty(channels, fan_in if i == 0 else channels, 3, 3)
                params |= {f"w{g}.{i}": nn.init.orthogonal_(w, 2**0.5), f"b{g}.{i}": torch.zeros(channels)}
        return params

    def apply(p: Params, obs: Tensor) -> Tensor:
        if not groups:
            return obs
        out = []
        for g, (_, images) in enumerate(groups):
            x = torch.cat([channels_first(obs[..., a:b].unflatten(-1, shape), shape) for (a, b), shape in images], -3)
            x = x.flatten(end_dim=-4) - 0.5
            for i in range(4):
                x = relu(conv2d(x, p[f"w{g}.{i}"], p[f"b{g}.{i}"], stride=2 if i == 0 else 1))
            out.append(x.flatten(1).unflatten(0, obs.shape[:-1]))
        return torch.cat([*out, *(obs[..., a:b] for a, b in rest)], -1)

    features = channels * sum(h * w for h, w in sides.values())
    return Pixels(init, apply, features, sum(b - a for a, b in rest))


def trunk(images: Pixels, outputs: int) -> Net:
    """What `images` gives, its features brought to `outputs` numbers in [-1, 1] by a linear layer, a layer norm and a tanh."""
    if not images.features:
        return Net(dict, lambda p, x: x)
    linear = mlp((images.features, outputs))

    def init() -> Params:
        w = nn.init.orthogonal_(torch.empty(images.features, outputs))
        return {"w0": w, "b0": torch.zeros(outputs), "scale": torch.ones(outputs), "shift": torch.zeros(outputs)}

    def apply(p: Params, x: Tensor) -> Tensor:
        small = layer_norm(linear.apply(p, x[..., : images.features]), (outputs,), p["scale"], p["shift"])
        return torch.cat([small.tanh(), x[..., images.features :]], -1)

    return Net(init, apply)


def shifts(spec: Spec, most: int) -> Callable[[Tensor], Tensor]:
    """Observations (B, obs) whose images are moved by whole pixels, up to `most` each way, all of a row alike; the pixels at the
    rim stand for what moves in. (Random crops of the padded image: DrQ, arXiv:2004.13649.)"""
    others = _others(spec)
    order = sorted([*zip(spec.images, spec.shapes, strict=True), *((each, None) for each in others)], key=lambda x: x[0])

    def shift(obs: Tensor) -> Tensor:
        if not (most and spec.images):
            return obs
        by = torch.randint(-most, most + 1, (2, len(obs), 1), device=obs.device)
        out = []
        for (start, stop), shape in order:
            x = obs[:, start:stop]
            if shape is not None:
                for move, axis in zip(by, axes(shape)[:2], strict=True):
                    side = shape[axis]
                    place = (torch.arange(side, device=obs.device) + move).clamp(0, side - 1)  # (B, side)
                    like = [len(obs), *(1 for _ in shape)]
                    like[axis] = side
                    x = x.reshape(-1, *shape).gather(axis, place.view(like).expand(-1, *shape))
                x = x.flatten(1)
            out.append(x)
        return torch.cat(out, 1)

    return shift


def _groups(spec: Spec) -> dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, ...]]]]:
    """Columns and shapes of the images of each height and width."""
    found: dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, ...]]]] = {}
    for columns, shape in zip(spec.images, spec.shapes, strict=True):
        where = axes(shape)
        size = shape[where.height], shape[where.width]
        if min(size) < SMALLEST:
            raise Fault(f"an image is {size[0]} x {size[1]} pixels; allowed: {SMALLEST} x {SMALLEST} or more")
        found.setdefault(size, []).append((columns, shape))
    return found


def _others(spec: Spec) -> list[tuple[int, int]]:
    ends = [0, *(end for columns in spec.images for end in columns), spec.obs.dim]
    return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]


def _after(side: int) -> int:
    """Pixels along a side after the convolutions."""
    return (side - 3) // 2 + 1 - 6


def channels_first(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    channels = axes(shape).channels
    return x.unsqueeze(-3) if channels is None else x if channels == -3 else x.movedim(-1, -3)
