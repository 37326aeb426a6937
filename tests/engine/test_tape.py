"""Programs: what is written down is what was done, and what cannot be written down is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from thespis.engine.build import function
from thespis.engine.tape import record


def execute(source: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return function(source)(*tensors)


def test_a_program_in_words() -> None:
    program = record(lambda x, y: [(x + 2 * y).relu()], [torch.ones(2), torch.ones(2)])
    assert program.source.splitlines() == [
        "def program(x0, x1):",
        "    y2 = torch.ops.aten.mul.Tensor(x1, 2)",
        "    y3 = torch.ops.aten.add.Tensor(x0, y2)",
        "    y4 = torch.ops.aten.relu.default(y3)",
        "    return (y4,)",
    ]
    assert (program.read, program.constants) == ([True, True], [])


FROZEN = torch.nn.Parameter(torch.arange(3.0))
SEVERAL: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "parts": lambda x, y: [part.sum() for part in x.split([1, 2])] + list(y.chunk(3)),
    "in place": lambda x, y: [x.clone().mul_(y).add_(x)],
    "a view that is written to": lambda x, y: (lambda z: [z[1:].fill_(7), z])(x.clone()),
    "infinite numbers": lambda x, y: [x.clamp(max=math.inf), x.new_full((2,), -math.inf)],
    "types": lambda x, y: [x.double().to(torch.int64), (x > y).float(), torch.zeros(2, dtype=torch.bool)],
    "noise": lambda x, y: [torch.randn_like(x) * y, torch.rand(3)],
    "one tensor twice": lambda x, y: [x, x + y, x],
    "its own constant": lambda x, y: [x * torch.tensor([1.0, 2.0, 3.0])],
    "a frozen parameter": lambda x, y: [x * FROZEN],
    "nothing": lambda x, y: [],
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_is_written_down_does_the_same(name: str) -> None:
    x, y = torch.randn(3), torch.randn(3)
    several = SEVERAL[name]
    program = record(several, [x.clone(), y.clone()])
    read = [z for z, is_read in zip((x, y), program.read, strict=True) if is_read]
    torch.manual_seed(3)
    got = execute(program.source, *read, *program.constants)
    torch.manual_seed(3)
    wanted = several(x, y)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_gradients_are_operations_like_others() -> None:
    def slope(x: Tensor, y: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            return list(torch.autograd.grad((at.tanh() * y).sum(), [at]))

    x, y = torch.randn(4), torch.randn(4)
    program = record(slope, [torch.zeros(4), torch.zeros(4)])
    torch.testing.assert_close(execute(program.source, x, y)[0], y * (1 - x.tanh() ** 2))  # in closed form
    assert program.constants == []


def test_what_it_changes_in_place_is_changed() -> None:
    program = record(lambda x: [x.add_(1)], [torch.zeros(2)])
    x = torch.full((2,), 5.0)
    execute(program.source, x)
    assert x.tolist() == [6, 6]


def test_only_what_is_read_is_asked_for() -> None:
    program = record(lambda x, y, z: [z + 1], [torch.zeros(1)] * 2 + [torch.ones(1)])
    assert program.read == [False, False, True]
    assert program.source.startswith("def program(x2):")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: [x if x.sum() > 0 else -x], "reads a number inside a tensor"),
        (lambda x: [x * float(x[0])], "reads a number inside a tensor"),
        (lambda x: [torch.rand(2, generator=torch.Generator())], "Generator.* cannot be written down"),
    ],
)
def test_what_is_no_program_is_refused(function: Callable[[Tensor], list[Tensor]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        record(function, [torch.ones(2)])


def test_a_tensor_that_came_by_another_way_is_not_taken_for_a_constant() -> None:
    """One that shares its memory with what is known: NumPy's way round torch."""
    with pytest.raises(ValueError, match="came by another way"):
        record(lambda x: [torch.from_numpy(x.numpy()) + 1], [torch.ones(2)])
