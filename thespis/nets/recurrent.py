"""Networks with a memory: what they made of the past goes in beside the next input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thespis.core import Params
from thespis.nets.functions import mlp
from thespis.nets.parts import joined, part


class Cell(NamedTuple):
    init: Callable[[], Params]
    """() -> parameters by name"""
    apply: Callable[[Params, Tensor, Tensor], Tensor]
    """(parameters, x (..., in), hidden (..., H)) -> hidden (..., H)"""


def gru(inputs: int, hidden: int) -> Cell:
    """The gated recurrent unit (Cho et al. 2014) in the form of torch.nn.GRUCell, and it starts as that does."""

    def init() -> Params:
        bound = 1 / math.sqrt(hidden)
        shapes = {"wx": (inputs, 3 * hidden), "wh": (hidden, 3 * hidden), "bx": (3 * hidden,), "bh": (3 * hidden,)}
        return {name: torch.empty(shape).uniform_(-bound, bound) for name, shape in shapes.items()}

    def apply(p: Params, x: Tensor, h: Tensor) -> Tensor:
        x_reset, x_keep, x_new = (x @ p["wx"] + p["bx"]).chunk(3, -1)
        h_reset, h_keep, h_new = (h @ p["wh"] + p["bh"]).chunk(3, -1)
        keep = (x_keep + h_keep).sigmoid()
        return torch.lerp((x_new + (x_reset + h_reset).sigmoid() * h_new).tanh(), h, keep)

    return Cell(init, apply)


class Recurrent(NamedTuple):
    init: Callable[[], Params]
    """() -> parameters by name"""
    start: Callable[[Params, Tensor], Tensor]
    """(parameters, obs (..., obs)) -> hidden (..., H)"""
    step: Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(parameters, x (..., in), hidden) -> (..., out) and the next hidden"""


def unroller(sizes: Sequence[int], inputs: int, outputs: int) -> Recurrent:
    """From one observation any number of outputs: an mlp of the given widths makes the hidden state that a GRU carries on."""
    encoder, cell, head = mlp(sizes), gru(inputs, sizes[-1]), mlp((sizes[-1], outputs))

    def init() -> Params:
        return joined(encoder=encoder.init(), cell=cell.init(), head=head.init())

    def start(p: Params, obs: Tensor) -> Tensor:
        return encoder.apply(part(p, "encoder"), obs)

    def step(p: Params, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = cell.apply(part(p, "cell"), x, hidden)
        return head.apply(part(p, "head"), hidden), hidden

    return Recurrent(init, start, step)
