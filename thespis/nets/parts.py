"""Parameters of several networks in one group, by the names of the networks."""

from __future__ import annotations

from thespis.core import Params


def joined(**parts: Params) -> Params:
    """{"encoder.w0": ..., "head.w0": ...} of encoder={"w0": ...}, head={"w0": ...}."""
    return {f"{part}.{name}": x for part, params in parts.items() for name, x in params.items()}


def part(params: Params, name: str) -> Params:
    """The parameters of one of the networks that `joined` joined."""
    return {k.removeprefix(f"{name}."): x for k, x in params.items() if k.startswith(f"{name}.")}
