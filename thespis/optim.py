"""How parameters move: one gradient step, and the slow copy of a target."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from thespis.core import Metrics, Params, Trained, tree_map


def fresh(params: Params) -> Trained:
    """Parameters with optimiser moments at zero."""
    return Trained(params, tree_map(torch.zeros_like, params), tree_map(torch.zeros_like, params), torch.zeros(()))


def adam(
    group: Trained, grads: Params, lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, decay: float = 0.0,
) -> Trained:  # fmt: skip
    """One step of Adam (Kingma & Ba 2015, algorithm 1), or with `decay` of AdamW; equal to those of torch.optim."""
    (b1, b2), t = betas, group.t + 1
    root = _one_minus_power(b2, t).sqrt()
    scale, small = root * lr / _one_minus_power(b1, t), root * eps  # the form of their section 2, with one division
    m = {k: torch.lerp(group.m[k], g, 1 - b1) for k, g in grads.items()}
    v = {k: b2 * group.v[k] + (1 - b2) * g * g for k, g in grads.items()}
    old = {k: p * (1 - lr * decay) for k, p in group.params.items()} if decay else group.params
    return Trained({k: p - scale * m[k] / (v[k].sqrt() + small) for k, p in old.items()}, m, v, t)


def _one_minus_power(b: float, t: Tensor) -> Tensor:  # 1 - b^t, to full precision where b^t is near 1
    return -torch.expm1(t * math.log(b)) if b > 0 else torch.ones_like(t)


def descend(
    group: Trained, loss: Callable[..., tuple[Tensor, Metrics]], lr: float | Tensor | Callable[[Tensor], Tensor], *args: object,
    max_norm: float = math.inf, clock: Tensor | None = None, **numbers: Any,
) -> tuple[Trained, Metrics]:  # fmt: skip
    """One step down the gradient of `loss(params, *args) -> (scalar, metrics)` in its first argument and in nothing else,
    shortened to `max_norm`; `numbers` are adam's. Adds the loss to the metrics under its own name; and the `lr` of a schedule
    at `clock`, the updates until now, which a group that steps in each of them counts itself."""
    grads, (value, metrics) = gradient(loss, group.params, *args)
    if max_norm < math.inf:
        norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
        grads = {k: g * (max_norm / (norm + 1e-6)).clamp(max=1) for k, g in grads.items()}
    metrics = {loss.__name__: value, **metrics}
    if callable(lr):
        lr = metrics[f"{loss.__name__.removesuffix('_loss')}_lr"] = lr(group.t if clock is None else clock)
    return adam(group, grads, lr, **numbers), metrics


def gradient(loss: Callable[..., tuple[Tensor, Metrics]], at: Params, *args: object) -> tuple[Params, tuple[Tensor, Metrics]]:
    """Of `loss(params, *args) -> (scalar, metrics)` in its first argument: the mean of every process's; and what it returned."""
    try:
        at = {k: p.detach().requires_grad_() for k, p in at.items()}
    except RuntimeError:  # vmap has a way of its own, a slower one
        grads, (value, metrics) = torch.func.grad_and_value(loss, has_aux=True)(at, *args)
    else:
        with torch.enable_grad():
            value, metrics = loss(at, *args)
            grads = dict(zip(at, torch.autograd.grad(value, [*at.values()], materialize_grads=True), strict=True))
    grads = _mean(grads) if distributed.is_available() and distributed.is_initialized() else grads
    return grads, (value.detach(), {k: m.detach() for k, m in metrics.items()})


def _mean(grads: Params) -> Params:
    """Over every process, as one message."""
    ops, everyone = torch.ops._c10d_functional, distributed.group.WORLD.group_name  # type: ignore[union-attr]
    joined = ops.all_reduce(torch.cat([g.flatten() for g in grads.values()]), "sum", everyone)
    parts = (ops.wait_tensor(joined) / distributed.get_world_size()).split([g.numel() for g in grads.values()])
    return {k: part.view_as(g) for (k, g), part in zip(grads.items(), parts, strict=True)}


def polyak(target: Params, params: Params, tau: float) -> Params:
    """target + tau * (params - target), parameter by parameter."""
    return {k: torch.lerp(target[k], p, tau) for k, p in params.items()}
