"""A multi-layer perceptron made calm, by dropout and layer normalisation before each activation; and the choice by name."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout, layer_norm, relu

from thespis.core import Params
from thespis.nets.blocks import simba
from thespis.nets.functions import Net, mlp


def normed(sizes: Sequence[int], rate: float = 0.0) -> Net:
    """As `mlp`, but each hidden layer is linear, dropout, layer norm, relu (DroQ, arXiv:2110.02034, figure 1).

    Dropout is on at every call: the random function is the point. A rate of 0 leaves it out.
    """
    plain = mlp(sizes)
    hidden = list(itertools.pairwise(sizes))[:-1]

    def init() -> Params:
        scales = {f"scale{i}": torch.ones(width) for i, (_, width) in enumerate(hidden)}
        return plain.init() | scales | {f"shift{i}": torch.zeros(width) for i, (_, width) in enumerate(hidden)}

    def apply(p: Params, x: Tensor) -> Tensor:
        for i, (_, width) in enumerate(hidden):
            x = x @ p[f"w{i}"] + p[f"b{i}"]
            x = dropout(x, rate) if rate else x
            x = relu(layer_norm(x, (width,), p[f"scale{i}"], p[f"shift{i}"]))
        return x @ p[f"w{len(hidden)}"] + p[f"b{len(hidden)}"]

    return Net(init, apply)


def layers(kind: str, sizes: Sequence[int], rate: float = 0.0) -> Net:
    """The net of that kind: "mlp", "normed" (with dropout at `rate`) or "simba"."""
    if kind == "normed":
        return normed(sizes, rate)
    return simba(sizes) if kind == "simba" else mlp(sizes)
