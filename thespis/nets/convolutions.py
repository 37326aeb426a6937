"""A small network for one image: convolutions with batch norm, whose statistics are given or measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, relu

from thespis.core import Fault, Params, Spec
from thespis.nets.functions import Net
from thespis.nets.pixels import axes, channels_first

STRIDES = (1, 2, 2)


class Measured(NamedTuple):
    """A network whose batch norms are given their statistics: {"mean": (D,), "var": (D,)}, those of all norms side by side; or
    without batch norms, and then they are {}."""

    init: Callable[[], Params]
    stats: Callable[[], Params]
    """() -> means 0, variances 1"""
    apply: Callable[[Params, Params, Tensor], Tensor]
    """(parameters, statistics, x (B, in)) -> (B, out)"""
    measure: Callable[[Params, Tensor], tuple[Tensor, Params]]
    """(parameters, x (B, in)) -> (B, out), normalised by the batch's own statistics; and these"""


def unmeasured(net: Net) -> Measured:
    """A network without batch norm."""
    return Measured(net.init, dict, lambda p, stats, x: net.apply(p, x), lambda p, x: (net.apply(p, x), {}))


def convolutions(spec: Spec, outputs: int, channels: int = 16) -> Measured:
    """Three layers of 3 x 3 convolutions "w0" to "w2", with `channels`, twice and twice as many channels and strides 1, 2, 2;
    after each a batch norm ("scale0", "shift0", ...) and relu; then a linear layer. Fault: other observations than one image."""
    width, height, inputs = image(spec)
    widths = (inputs, channels, 2 * channels, 2 * channels)
    features = widths[3] * math.ceil(math.ceil(width / 2) / 2) * math.ceil(math.ceil(height / 2) / 2)

    def init() -> Params:
        p: Params = {}
        for i in range(3):
            p[f"w{i}"] = torch.randn(widths[i + 1], widths[i], 3, 3) * math.sqrt(2 / (9 * widths[i]))
            p |= {f"scale{i}": torch.ones(widths[i + 1]), f"shift{i}": torch.zeros(widths[i + 1])}
        return p | {"head": torch.randn(features, outputs) / math.sqrt(features), "bias": torch.zeros(outputs)}

    def stats() -> Params:
        return {"mean": torch.zeros(sum(widths[1:])), "var": torch.ones(sum(widths[1:]))}

    def forward(p: Params, x: Tensor, given: Params | None) -> tuple[Tensor, Params]:
        x, found = channels_first(x.unflatten(-1, spec.shapes[0]), spec.shapes[0]), list[tuple[Tensor, Tensor]]()
        parts = zip(*(given[k].split(widths[1:]) for k in ("mean", "var")), strict=True) if given else [(None, None)] * 3
        for i, (mean, var) in enumerate(parts):
            x = conv2d(x, p[f"w{i}"], stride=STRIDES[i], padding=1)
            if mean is None or var is None:
                var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            scale = p[f"scale{i}"] * (var + 1e-5).rsqrt()
            x = relu(x * scale[:, None, None] + (p[f"shift{i}"] - mean * scale)[:, None, None])
            found.append((mean, var))
        return x.flatten(1) @ p["head"] + p["bias"], {
            "mean": torch.cat([m for m, _ in found]),
            "var": torch.cat([v for _, v in found]),
        }

    return Measured(init, stats, lambda p, given, x: forward(p, x, given)[0], lambda p, x: forward(p, x, None))


def image(spec: Spec) -> tuple[int, int, int]:
    """(height, width, channels) of the image that an observation is. Fault: it is not one image and nothing else."""
    if spec.images != ((0, spec.obs.dim),):
        raise Fault("net: a network of images wants observations that are one image of bytes, and nothing else; take net mlp")
    where, shape = axes(spec.shapes[0]), spec.shapes[0]
    return shape[where.height], shape[where.width], 1 if where.channels is None else shape[where.channels]
