"""A multi-layer perceptron with batch renormalisation before each linear layer (CrossQ, arXiv:1902.05605)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu

from thespis.config import Renorm
from thespis.core import Params
from thespis.nets.blocks import BatchNet
from thespis.nets.functions import mlp


def renormed(sizes: Sequence[int], norm: Renorm = "renorm", warmup: int = 100_000) -> BatchNet:
    """As `mlp`, with a norm of the input and after each relu; `train` normalises both batches by statistics that they share.

    "renorm": by the batch's own statistics, and after `warmup` batches corrected towards the running ones (Ioffe 2017,
    arXiv:1702.03275); "batch": always by the batch's own; "none": the places are empty, and it is an mlp.
    """
    plain, dims = mlp(sizes), [] if norm == "none" else list(sizes[:-1])
    layers = list(itertools.pairwise(sizes))

    def init() -> Params:
        scales = {f"scale{i}": torch.ones(dim) for i, dim in enumerate(dims)}
        return plain.init() | scales | {f"shift{i}": torch.zeros(dim) for i, dim in enumerate(dims)}

    def stats() -> Params:
        return {"mean": torch.zeros(sum(dims)), "var": torch.ones(sum(dims)), "seen": torch.zeros(())}

    def forward(p: Params, stats: Params, x: Tensor, train: bool) -> tuple[Tensor, Params]:
        parts = list(zip(stats["mean"].split(dims), stats["var"].split(dims), strict=True))  # norm by norm
        warm = stats["seen"] >= warmup if norm == "renorm" else torch.zeros_like(stats["seen"]).bool()
        for i in range(len(layers)):
            if dims:
                y, mean, var = renormalised(x, *parts[i], warm, train)
                x, parts[i] = y * p[f"scale{i}"] + p[f"shift{i}"], (mean, var)
            x = x @ p[f"w{i}"] + p[f"b{i}"]
            x = relu(x) if i < len(layers) - 1 else x
        if not dims or not train:
            return x, stats
        mean, var = (torch.cat(each) for each in zip(*parts, strict=True))
        return x, {"mean": mean, "var": var, "seen": stats["seen"] + 1}

    def apply(p: Params, stats: Params, x: Tensor) -> Tensor:
        return forward(p, stats, x, False)[0]

    def train(p: Params, stats: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Params]:
        out, new = forward(p, stats, torch.cat([x, y]), True)
        return out[: len(x)], out[len(x) :], new

    return BatchNet(init, stats, apply, train, lambda group: group)


def renormalised(
    x: Tensor, mean: Tensor, var: Tensor, warm: Tensor, train: bool, momentum: float = 0.01, eps: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, d) normalised; and the running mean and var (d,) after it. In training by the batch's own statistics; where `warm`,
    by these brought to the running ones within a factor of 3 and 5 standard deviations, which gradients take for constants."""
    if not train:
        return (x - mean) * (var + eps).rsqrt(), mean, var
    now, spread = x.mean(0), x.var(0, correction=0)
    ratio = ((spread + eps) / (var + eps)).sqrt().clamp(1 / 3, 3).detach()
    shift = ((now - mean) * (var + eps).rsqrt()).clamp(-5, 5).detach()
    ratio, shift = torch.where(warm, ratio, 1.0), torch.where(warm, shift, 0.0)
    middle = now - shift * spread.clamp(min=1e-12).sqrt() / ratio  # a unit that is always 0 has a slope too
    out = (x - middle) * (spread / ratio.square() + eps).rsqrt()
    return out, torch.lerp(mean, now.detach(), momentum), torch.lerp(var, spread.detach(), momentum)
