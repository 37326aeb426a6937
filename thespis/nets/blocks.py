"""Residual networks that stay in scale: batch or layer normalisation, and weights of unit norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, relu

from thespis.config import BatchNorm
from thespis.core import Params, Trained, replace
from thespis.nets.functions import Net, mlp


class BatchNet(NamedTuple):
    """A network whose batch norms keep running statistics: {"mean": (D,), "var": (D,)}, those of all norms side by side."""

    init: Callable[[], Params]
    stats: Callable[[], Params]
    """() -> the statistics at the start: means 0, variances 1"""
    apply: Callable[[Params, Params, Tensor], Tensor]
    """(parameters, statistics, x (B, in)) -> (B, out), normalised by the statistics"""
    train: Callable[[Params, Params, Tensor, Tensor], tuple[Tensor, Tensor, Params]]
    """(parameters, statistics, x, y) -> both outputs, normalised by the batch's own statistics, and the new statistics"""
    unit: Callable[[Trained], Trained]
    """a group whose parameters are brought back to the norms that they are to keep"""


def copies(net: BatchNet, members: int) -> BatchNet:
    """`members` independent copies on a leading axis of every parameter and of the statistics; apply gives (members, B, out)."""

    def stacked(make: Callable[[], Params]) -> Params:
        each = [make() for _ in range(members)]
        return {k: torch.stack([p[k] for p in each]) for k in each[0]}

    apply, train = torch.vmap(net.apply, (0, 0, None)), torch.vmap(net.train, (0, 0, None, None))
    return BatchNet(lambda: stacked(net.init), lambda: stacked(net.stats), apply, train, net.unit)


def bottleneck(
    inputs: int, hidden: int, outputs: int, blocks: int, batch_norm: BatchNorm = "shared", unit: bool = True, expansion: int = 4
) -> BatchNet:
    """Inverted residual blocks, wide inside, with batch norm after each linear layer (FlashSAC, arXiv:2604.04539).

    norm, linear, `blocks` times x + relu(norm(linear(relu(norm(linear(x)))))), RMS norm, and a linear head, the only one
    with a bias. `unit`: the weights into each unit are a vector of length 1. `batch_norm`: `train` normalises x and y by
    statistics that they share, or by those of each apart, of which x's are kept; "none": its places are empty.
    """
    widths = [inputs, *[hidden, expansion * hidden] * blocks, hidden]  # of layers 0 .. 2 * blocks; the head is apart
    dims = [] if batch_norm == "none" else [inputs, *widths[2:]]  # norm 0 stands before layer 0, norm i after layer i

    def init() -> Params:
        p = {f"w{i}": _orthogonal(*widths[i : i + 2]) for i in range(2 * blocks + 1)}
        for i, dim in enumerate(dims):
            p |= {f"scale{i}": torch.ones(dim), f"shift{i}": torch.zeros(dim)}
        p |= {"rms": torch.ones(hidden), "head": _orthogonal(hidden, outputs), "bias": torch.zeros(outputs)}
        return unit_norm(p) if unit else p

    def stats() -> Params:
        return {"mean": torch.zeros(sum(dims)), "var": torch.ones(sum(dims))}

    def forward(p: Params, stats: Params, x: Tensor, train: bool) -> tuple[Tensor, Params]:
        parts = list(zip(stats["mean"].split(dims), stats["var"].split(dims), strict=True))  # norm by norm

        def norm(i: int, x: Tensor) -> Tensor:
            if not dims:
                return x
            y, mean, var = batch_normed(x, p[f"scale{i}"], p[f"shift{i}"], *parts[i], train)
            parts[i] = mean, var
            return y

        x = norm(0, x) @ p["w0"]
        for i in range(1, 2 * blocks, 2):
            wide = relu(norm(i, x @ p[f"w{i}"]))
            x = x + relu(norm(i + 1, wide @ p[f"w{i + 1}"]))
        out = rms_normed(x, p["rms"]) @ p["head"] + p["bias"]
        return out, {"mean": torch.cat([m for m, _ in parts]), "var": torch.cat([v for _, v in parts])} if dims else stats

    def apply(p: Params, stats: Params, x: Tensor) -> Tensor:
        return forward(p, stats, x, False)[0]

    def train(p: Params, stats: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Params]:
        if batch_norm == "apart":
            out, new = forward(p, stats, x, True)
            return out, forward(p, stats, y, True)[0], new
        out, new = forward(p, stats, torch.cat([x, y]), True)
        return out[: len(x)], out[len(x) :], new

    return BatchNet(init, stats, apply, train, lambda group: replace(group, params=unit_norm(group.params)) if unit else group)


def unit_norm(p: Params) -> Params:
    """Weights into a unit at length 1; scales and shifts of a norm over d features together at length sqrt(d).

    By the names that `bottleneck` gives; other parameters stay. Leading axes are kept apart.
    """
    out = dict(p)
    for name, x in p.items():
        if name == "head" or name[0] == "w":
            out[name] = normalize(x, dim=-2, eps=1e-8)
        elif name == "rms" or name.startswith("scale"):
            shift = "shift" + name.removeprefix("scale")
            both = [name, shift] if shift in p else [name]
            square = torch.cat([p[k] for k in both], -1).square().sum(-1, keepdim=True)
            factor = math.sqrt(x.shape[-1]) * (square + 1e-8).rsqrt()
            out |= {k: p[k] * factor for k in both}
    return out


def batch_normed(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, train: bool, momentum: float = 0.01, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, d) normalised by the running mean and var (d,), in training by its own; and the new mean and var."""
    now, new = (mean, var), (mean, var)
    if train:
        rows = len(x)
        now = x.mean(0), x.var(0, correction=0)
        new = torch.lerp(mean, now[0], momentum), torch.lerp(var, now[1] * (rows / max(rows - 1, 1)), momentum)
    return (x - now[0]) * (scale * (now[1] + eps).rsqrt()) + shift, *new


def rms_normed(x: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """x (..., d) over the root of its mean square."""
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * scale


def _orthogonal(fan_in: int, fan_out: int) -> Tensor:
    """(fan_in, fan_out), its shorter side's vectors orthonormal."""
    return nn.init.orthogonal_(torch.empty(fan_out, fan_in)).T.contiguous()


def simba(sizes: Sequence[int], expansion: int = 4) -> Net:
    """SimBa (Lee et al. 2024, arXiv:2410.09754): linear, `blocks` times x + MLP(norm(x)), norm, linear; layer norms.

    `sizes` as for `mlp`: each hidden width is a block, all of one width. The paper takes one block of 128 for the actor and
    two of 512 for the critics; its running normalisation of observations comes before (`redq.py`).
    """
    inputs, hidden, *_, outputs = sizes
    blocks, eps = len(sizes) - 2, 1e-6

    def init() -> Params:
        p = {"w_in": _orthogonal(inputs, hidden), "b_in": torch.zeros(hidden)}
        for i in range(blocks):
            p |= {f"scale{i}": torch.ones(hidden), f"shift{i}": torch.zeros(hidden)}
            for name, fan_in, fan_out in (("up", hidden, expansion * hidden), ("down", expansion * hidden, hidden)):
                p[f"w_{name}{i}"] = torch.randn(fan_in, fan_out) * math.sqrt(2 / fan_in)
                p[f"b_{name}{i}"] = torch.zeros(fan_out)
        p |= {"scale": torch.ones(hidden), "shift": torch.zeros(hidden)}
        return p | {"w_out": _orthogonal(hidden, outputs), "b_out": torch.zeros(outputs)}

    def apply(p: Params, x: Tensor) -> Tensor:
        x = x @ p["w_in"] + p["b_in"]
        for i in range(blocks):
            y = layer_norm(x, (hidden,), p[f"scale{i}"], p[f"shift{i}"], eps)
            x = x + relu(y @ p[f"w_up{i}"] + p[f"b_up{i}"]) @ p[f"w_down{i}"] + p[f"b_down{i}"]
        return layer_norm(x, (hidden,), p["scale"], p["shift"], eps) @ p["w_out"] + p["b_out"]

    return Net(init, apply)


def orthogonal(sizes: Sequence[int], activation: Callable[[Tensor], Tensor], gain: float) -> Net:
    """An mlp that starts orthogonal, with `gain` in the last layer and 2^0.5 in the others, and biases 0."""
    net, last = mlp(sizes, activation), f"w{len(sizes) - 2}"

    def init() -> Params:
        p = net.init()
        return {k: nn.init.orthogonal_(x, gain if k == last else 2**0.5) if k[0] == "w" else x.zero_() for k, x in p.items()}

    return Net(init, net.apply)
