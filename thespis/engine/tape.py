"""Tensor operations, written down as a program while they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Program:
    """What a function does to tensors of some shapes, as Python source: `def program(x0, ...)` returns a tuple of tensors."""

    source: str
    read: list[bool]
    """of the tensors given, which the program has as its first arguments"""
    constants: list[Tensor]
    """its other arguments: tensors that the function brought along"""


def record(function: Callable[..., Iterable[Tensor]], given: Sequence[Tensor]) -> Program:
    """Calls `function` of `given`, and writes down the operations of torch that it comes to, those in place too.

    Raises ValueError where that hangs on a number inside a tensor, or on what cannot be written down.
    """
    with torch.no_grad(), Tape(given) as tape:
        out = [tape.word(x) for x in function(*given)]
    known = [f"x{i}" for i in range(len(given))]
    more = {f"c{i}": x for i, x in enumerate(tape.constants)}
    names = [*(name for name in known if name in tape.read), *more]
    body = "\n    ".join([*tape.lines, f"return ({', '.join(out)}{',' if out else ''})"])
    return Program(f"def program({', '.join(names)}):\n    {body}\n", [name in tape.read for name in known], list(more.values()))


class Mode(TorchDispatchMode):
    """Sees every operation that is done under it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # else torch would import its compiler, of 80 MB, to keep it away from here
        return False


class Tape(Mode):
    """A line for every operation done under it. A tensor is known by its identity, so all that are named are kept."""

    def __init__(self, given: Sequence[Tensor]):
        super().__init__()
        self.names: dict[int, str] = {}
        self.kept: list[Tensor] = []
        self.places: set[int] = set()
        self.lines: list[str] = []
        self.read: set[str] = set()
        self.constants: list[Tensor] = []
        for i, x in enumerate(given):
            self._name(x, f"x{i}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise ValueError(f"{func} reads a number inside a tensor")
        kwargs = kwargs or {}
        words = [*(self.word(x) for x in args), *(f"{name}={self.word(x)}" for name, x in kwargs.items())]
        out = func(*args, **kwargs)
        several = isinstance(out, (tuple, list))
        targets = [self._name(x, f"y{len(self.kept)}") if isinstance(x, Tensor) else "_" for x in (out if several else [out])]
        self.lines.append(f"{', '.join(targets)}{',' if several else ''} = torch.ops.{func}({', '.join(words)})")
        return out

    def word(self, x: Any) -> str:
        """How the program says `x`."""
        if isinstance(x, Tensor):
            if id(x) not in self.names:
                if type(x) not in (Tensor, nn.Parameter) or x.untyped_storage().data_ptr() in self.places - {0}:
                    raise ValueError("a tensor came by another way than the operations before it")
                self.constants.append(x)
                self._name(x, f"c{len(self.constants) - 1}")
            self.read.add(self.names[id(x)])
            return self.names[id(x)]
        if isinstance(x, (list, tuple)):
            return f"[{', '.join(map(self.word, x))}]"
        if isinstance(x, torch.device):
            return f"torch.{x!r}"
        if x is None or isinstance(x, (bool, int, float, str)):
            return repr(x)
        if isinstance(x, (torch.dtype, torch.layout, torch.memory_format)):
            return str(x)
        raise ValueError(f"an operation is given {x!r}, which cannot be written down")

    def _name(self, x: Tensor, name: str) -> str:
        self.names[id(x)] = name
        self.kept.append(x)
        self.places.add(x.untyped_storage().data_ptr())
        return name
