"""A network is a pair of functions: init() -> params, apply(params, x) -> y. Nothing is learned here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from thespis.core import Fault, Params, Spec

Build = Callable[[Spec], nn.Module]


class Net(NamedTuple):
    init: Callable[[], Params]
    """() -> parameters by name"""
    apply: Callable[[Params, Tensor], Tensor]
    """(parameters, x (..., in)) -> (..., out)"""


def mlp(sizes: Sequence[int], activation: Callable[[Tensor], Tensor] = relu, start: Literal["glorot", "torch"] = "torch") -> Net:
    """Linear layers, `activation` between them; start as torch.nn.Linear or as Glorot & Bengio 2010, eq. 16, with biases 0."""
    shapes = list(itertools.pairwise(sizes))

    def init() -> Params:
        params = {}
        for i, (fan_in, fan_out) in enumerate(shapes):
            bound = math.sqrt(6 / (fan_in + fan_out)) if start == "glorot" else 1 / math.sqrt(fan_in)
            params[f"w{i}"] = torch.empty(fan_in, fan_out).uniform_(-bound, bound)
            params[f"b{i}"] = torch.zeros(fan_out) if start == "glorot" else torch.empty(fan_out).uniform_(-bound, bound)
        return params

    def apply(p: Params, x: Tensor) -> Tensor:
        for i in range(len(shapes)):
            x = x @ p[f"w{i}"] + p[f"b{i}"]
            x = activation(x) if i < len(shapes) - 1 else x
        return x

    return Net(init, apply)


def module(build: Callable[[], nn.Module], inputs: int, outputs: int) -> Net:
    """A torch.nn.Module as a Net, (..., inputs) -> (..., outputs). Raises Fault where its shapes or its buffers forbid it."""
    shape = build()
    name = type(shape).__name__
    if build() is shape:
        raise Fault(f"{name} is the same module twice: make a new one at each call, or the critics would be one")
    if buffers := [n for n, _ in shape.named_buffers()]:
        raise Fault(f"{name} has buffers ({', '.join(buffers)}): a module may hold parameters only, or state would change unseen")
    try:
        got = tuple(shape(torch.zeros(3, inputs)).shape)
    except Exception as error:  # the module is the user's: anything may come out of it
        why = " ".join(str(error).split()) or type(error).__name__
        raise Fault(f"{name} does not take (B, {inputs}): {why}") from error
    if got != (3, outputs):
        raise Fault(f"{name} maps (3, {inputs}) to {got}; allowed: (3, {outputs})")

    def init() -> Params:
        return {k: p.detach().clone() for k, p in build().named_parameters()}

    def apply(p: Params, x: Tensor) -> Tensor:
        return torch.func.functional_call(shape, p, (x,))

    return Net(init, apply)


def custom(build: Build | None, spec: Spec, inputs: int, outputs: int) -> Net | None:
    """The user's module, where one was given."""
    if build is None:
        return None
    allowed = "allowed: a function of the spec that makes a torch.nn.Module"
    if isinstance(build, nn.Module) or not callable(build):
        raise Fault(f"{type(build).__name__} was given as a network; {allowed}")
    try:
        first = build(spec)
    except TypeError as error:
        raise Fault(f"the function given for a network fails ({error}); {allowed}") from error
    if not isinstance(first, nn.Module):
        raise Fault(f"the function given for a network makes {type(first).__name__}; {allowed}")
    return module(lambda: build(spec), inputs, outputs)


def ensemble(net: Net, members: int) -> Net:
    """`members` independent copies on a leading axis of every parameter; apply gives (members, ..., out)."""

    def init() -> Params:
        each = [net.init() for _ in range(members)]
        return {k: torch.stack([p[k] for p in each]) for k in each[0]}

    return Net(init, torch.vmap(net.apply, in_dims=(0, None), randomness="different"))
