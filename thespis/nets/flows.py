"""A velocity field that turns noise into samples, as a policy: its observation ends with the noise, its action is the sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from thespis import ops
from thespis.core import Box, Fault, Params, Spec
from thespis.nets.functions import mlp

More = Callable[[int, Tensor], Tensor]
"""(number of a layer, its input (..., in)) -> what is added to its output (..., out)"""
WAVES = 4


class Timed(NamedTuple):
    """A network of a point, a time and a condition."""

    init: Callable[[], Params]
    apply: Callable[..., Tensor]
    """(params, x (..., D), t (..., 1), c (..., C), more: More | None = None) -> (..., out)"""
    shapes: list[tuple[int, int]]
    """(in, out) of each layer"""


class Flow(NamedTuple):
    init: Callable[[], Params]
    velocity: Callable[..., Tensor]
    """as Timed.apply, with out = D"""
    sample: Callable[..., Tensor]
    """(params, obs (B, C + D), explore, more of t (B, 1) -> More, or None) -> (B, D) in [-1, 1]. `explore`: from noise of its
    own, not that of the observation"""
    shapes: list[tuple[int, int]]


def timed(dim: int, condition: int, hidden: Sequence[int], outputs: int) -> Timed:
    """An mlp, SiLU between its layers, of x, c, t and waves of t: sin and cos of pi k t for k = 1 .. 4."""
    sizes = (dim + condition + 1 + 2 * WAVES, *hidden, outputs)
    shapes = list(itertools.pairwise(sizes))

    def apply(p: Params, x: Tensor, t: Tensor, c: Tensor, more: More | None = None) -> Tensor:
        waves = torch.cat([math.pi * k * t for k in range(1, WAVES + 1)], -1)
        h = torch.cat([x, c, t, waves.sin(), waves.cos()], -1)
        for i in range(len(shapes)):
            out = h @ p[f"w{i}"] + p[f"b{i}"]
            out = out + more(i, h) if more else out
            h = silu(out) if i < len(shapes) - 1 else out
        return h

    return Timed(mlp(sizes).init, apply, shapes)


def condition(spec: Spec, obs: Tensor) -> Tensor:
    """What an observation (..., C + D) has before the noise: (..., C)."""
    return obs[..., : spec.obs.dim - ops.sizes(spec.action)[0]]


def flow(spec: Spec, name: str, hidden: Sequence[int], steps: int) -> Flow:
    """The field of the algorithm `name`, integrated in so many Euler steps. Fault: no vector to sample, or no noise for it."""
    if not isinstance(spec.action, Box):
        raise Fault(f"{name}: a sample is a vector (a Box is needed), the environment's actions are {spec.action}")
    dim = spec.action.dim
    if spec.obs.dim < dim:
        raise Fault(f"{name}: an observation must end with the noise, {dim} numbers as an action has; it has {spec.obs.dim}")
    field = timed(dim, spec.obs.dim - dim, hidden, dim)

    def sample(p: Params, obs: Tensor, explore: bool, more: Callable[[Tensor], More] | None = None) -> Tensor:
        c, x0 = condition(spec, obs), obs[..., -dim:]

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return field.apply(p, x, t, c, more(t) if more else None)

        return ops.integrate(velocity, torch.randn_like(x0) if explore else x0, steps).clamp(-1, 1)

    return Flow(field.init, field.apply, sample, field.shapes)
