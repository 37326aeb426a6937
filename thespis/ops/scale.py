"""Numbers brought into a range."""

import math

import torch
from torch import Tensor

from thespis.core import Params


def between(x: Tensor, low: float, high: float) -> Tensor:
    """Any x to within (low, high), by a tanh: 0 to the middle."""
    return low + 0.5 * (high - low) * (1 + x.tanh())


def cosine(t: Tensor, first: float, last: float, steps: int) -> Tensor:
    """Half a cosine from `first` at t = 0 to `last` at t = steps, and `last` from then on."""
    return last + 0.5 * (first - last) * (1 + (math.pi * (t / steps).clamp(max=1)).cos())


def return_scale(std: Tensor, largest: Tensor, bound: float) -> Tensor:
    """What rewards are divided by: the spread of returns, or more, where else the largest would exceed `bound`."""
    return torch.maximum((std.square() + 1e-8).sqrt(), largest / bound)


def standardised(x: Tensor) -> Tensor:
    """To mean 0 and spread 1; what is all the same, to 0. A single number has no spread, and stays as it is."""
    return x if x.numel() == 1 else (x - x.mean()) / (x.std(correction=0) + 1e-8)


def unseen(dim: int) -> Params:
    """What `moments` starts from: no row."""
    return {"count": torch.zeros(()), "mean": torch.zeros(dim), "var": torch.ones(dim)}


def moments(past: Params, x: Tensor) -> Params:
    """{"count": (), "mean": (D,), "var": (D,)} of all rows so far, with those of x (..., D or more) added (Chan et al. 1983)."""
    x = x.flatten(end_dim=-2)[:, : past["mean"].shape[-1]]
    count = past["count"] + len(x)
    mean, var, part = x.mean(0), x.var(0, correction=0), len(x) / count
    shift = mean - past["mean"]
    spread = torch.lerp(past["var"], var, part) + shift.square() * part * (1 - part)
    return {"count": count, "mean": past["mean"] + shift * part, "var": spread}


def mean_and_std(x: Tensor, more: float) -> Params:
    """{"mean": (D,), "std": (D,)} of the rows of x (B, D), with `more` added to each spread."""
    return {"mean": x.mean(0), "std": x.std(0, correction=0) + more}


def normalised(x: Tensor, by: Params) -> Tensor:
    """x (..., D) by what `mean_and_std` found. What x has beyond these D numbers, an action mask, stays as it is."""
    dim = by["mean"].shape[-1]
    y = (x[..., :dim] - by["mean"]) / by["std"]
    return y if dim == x.shape[-1] else torch.cat([y, x[..., dim:]], -1)
