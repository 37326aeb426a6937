"""Attention without a softmax: a Gaussian kernel seen through a few landmarks, in time linear in the tokens.

SOFT: Lu, Zhang, Zhu, Feng, Xiang, Zhang 2024, "Softmax-free Linear Transformers", arXiv:2207.03341, and arXiv:2110.11945 (2021).
Numbers are those of the authors' code. Ours: "soft_norm" keeps the ridge and the closed gradient of "soft", and the landmarks'
layer norm starts at 0.3 (the code: 1), for tokens are small at the start and would be far from every landmark.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm

from thespis.core import Fault, Params, Spec
from thespis.nets.convolutions import image
from thespis.nets.functions import Net
from thespis.nets.pixels import channels_first

Kind = Literal["soft", "soft_norm", "softmax", "linear", "none"]
RIDGE, STEPS = 0.01, 20


def inverse(p: Tensor, steps: int = STEPS) -> Tensor:
    """Of (..., m, m), symmetric and with entries of 0 or more, by Newton and Schulz's V <- 2 V - V P V; 2 log2(condition) + 4
    steps are enough. Only the last step is differentiated, in P: that is the closed form, -V^T G V^T of a gradient G."""
    with_p, p = p, p.detach()
    v = 1.8 / p.sum(-1).amax(-1)[..., None, None].square() * p
    for _ in range(steps - 1):
        v = 2 * v - v @ p @ v
    return 2 * v - v @ with_p @ v


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2) of (..., n, d) and (..., m, d): (..., n, m)."""
    distance = a.square().sum(-1)[..., None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
    return (-0.5 * distance.clamp(min=0)).exp()


def soft_attention(
    q: Tensor, landmarks: Tensor, v: Tensor, norm: bool = False, ridge: float = RIDGE, steps: int = STEPS
) -> Tensor:
    """q (..., n, d), query and key, v (..., n, e), landmarks (..., m, d) -> (..., n, e): K1 (K2 + ridge)^-1 K1^T v with K1 =
    k(q, landmarks), K2 = k(landmarks, landmarks). `norm`: the inverse is divided by the root of K2's row sums on both sides."""
    near, among = kernel(q, landmarks), kernel(landmarks, landmarks)
    middle = inverse(among + ridge * torch.eye(among.shape[-1], dtype=q.dtype, device=q.device), steps)
    if norm:
        root = among.sum(-1).rsqrt()
        middle = root[..., None] * middle * root[..., None, :]
    return near @ (middle @ (near.mT @ v))


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(..., n, d) twice and (..., n, e) -> (..., n, e), with elu + 1 for a kernel (arXiv:2006.16236)."""
    q, k = (torch.nn.functional.elu(x) + 1 for x in (q, k))
    return (q @ (k.mT @ v)) / (q @ k.sum(-2)[..., None]).clamp(min=1e-6)


def attention(
    spec: Spec, outputs: int, kind: Kind = "soft_norm", width: int = 64, heads: int = 2, blocks: int = 2, patch: int = 4,
    ratio: int = 2, gain: float = 0.3,
) -> Net:  # fmt: skip
    """A small vision transformer for one image: tokens are its `patch` x `patch` squares with learned places; `blocks` times
    norm(x + attention(x) + convolution(values)), norm(x + mlp(x)); the mean; a linear layer. Landmarks are convolved of
    `ratio` x `ratio` tokens. Fault: other observations than one image, or one that cannot be cut so."""
    height, width_in, channels = image(spec)
    rows, columns, d = height // patch, width_in // patch, width // heads
    if height % patch or width_in % patch or rows % ratio or columns % ratio or width % heads:
        raise Fault(
            f"attention: an image of {height} x {width_in} is cut into squares of {patch}, their grid into squares of {ratio}, "
            f"and {width} numbers into {heads} heads; each must come out even"
        )
    layers = {"v": width, "out": width, "q": width} | ({"k": width} if kind in ("softmax", "linear") else {})

    def init() -> Params:
        def linear(name: str, fan_in: int, fan_out: int) -> Params:
            bound = 1 / math.sqrt(fan_in)
            return {f"w_{name}": torch.empty(fan_in, fan_out).uniform_(-bound, bound), f"b_{name}": torch.zeros(fan_out)}

        p = linear("patch", channels * patch**2, width) | {"place": 0.02 * torch.randn(rows * columns, width)}
        for i in range(blocks):
            for name, size in layers.items() if kind != "none" else [("v", width), ("out", width)]:
                p |= linear(f"{name}{i}", width, size)
            p |= linear(f"up{i}", width, 4 * width) | linear(f"down{i}", 4 * width, width)
            p[f"conv{i}"] = torch.empty(heads, 5, 5).uniform_(-0.2, 0.2)
            if kind in ("soft", "soft_norm"):
                bound = 1 / math.sqrt(d * ratio**2)
                p[f"landmark{i}"] = torch.empty(d, d, ratio, ratio).uniform_(-bound, bound)
                p |= {f"gain{i}": torch.full((d,), gain), f"bias{i}": torch.zeros(d)}
            for j in range(2):
                p |= {f"scale{i}{j}": torch.ones(width), f"shift{i}{j}": torch.zeros(width)}
        return p | linear("head", width, outputs)

    def grid(x: Tensor) -> Tensor:  # (B, heads, n, d) -> (B * heads, d, rows, columns)
        return x.flatten(0, 1).mT.unflatten(-1, (rows, columns))

    def attended(p: Params, i: int, x: Tensor) -> Tensor:  # (B, n, width) -> the same
        def part(name: str) -> Tensor:  # (B, heads, n, d)
            return (x @ p[f"w_{name}{i}"] + p[f"b_{name}{i}"]).unflatten(-1, (heads, d)).transpose(1, 2)

        v = part("v")
        kernels = p[f"conv{i}"].repeat_interleave(d, 0)[:, None]
        near = conv2d(v.mT.flatten(1, 2).unflatten(-1, (rows, columns)), kernels, padding=2, groups=width)
        y = near.flatten(2).unflatten(1, (heads, d)).mT
        if kind == "softmax":
            y = y + (part("q") @ part("k").mT / math.sqrt(d)).softmax(-1) @ v
        elif kind == "linear":
            y = y + linear_attention(part("q"), part("k"), v)
        elif kind != "none":
            q = part("q") / d**0.25
            small = conv2d(grid(q), p[f"landmark{i}"], stride=ratio).flatten(2).mT.unflatten(0, (-1, heads))
            landmarks = gelu(layer_norm(small, (d,), p[f"gain{i}"], p[f"bias{i}"]))
            y = y + soft_attention(q, landmarks, v, norm=kind == "soft_norm")
        return y.transpose(1, 2).flatten(2) @ p[f"w_out{i}"] + p[f"b_out{i}"]

    def apply(p: Params, obs: Tensor) -> Tensor:
        x = channels_first(obs.unflatten(-1, spec.shapes[0]), spec.shapes[0])  # (B, channels, height, width)
        x = x.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch)).movedim((2, 4), (1, 2)).flatten(3).flatten(1, 2)
        x = x @ p["w_patch"] + p["b_patch"] + p["place"]
        for i in range(blocks):
            x = layer_norm(x + attended(p, i, x), (width,), p[f"scale{i}0"], p[f"shift{i}0"])
            y = gelu(x @ p[f"w_up{i}"] + p[f"b_up{i}"], approximate="tanh") @ p[f"w_down{i}"] + p[f"b_down{i}"]
            x = layer_norm(x + y, (width,), p[f"scale{i}1"], p[f"shift{i}1"])
        return x.mean(1) @ p["w_head"] + p["b_head"]

    return Net(init, apply)
