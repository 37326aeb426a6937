"""Matrix products in bfloat16 where the processor has them. Everything else, and all that is kept, stays float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from thespis.engine.tape import Mode

SMALLEST = 64
"""rows, columns and terms from which on a product is worth it: first and last layers are often below"""
aten = torch.ops.aten
PLACES = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
"""of the first factor among a product's arguments; before it stands what is added"""


def products(wanted: bool) -> AbstractContextManager[object]:
    """`Products`, where that is wanted and the processor has an instruction for it. With AMX, torch's own setting is enough (its
    "medium" precision of float32), which leaves results as they are."""
    here = wanted and torch.ops.mkldnn._is_mkldnn_bf16_supported() and not torch.cpu.get_capabilities().get("amx_bf16")
    return Products() if here else nullcontext()


class Products(Mode):
    """Rounds the factors and the result of a large matrix product in float32 to bfloat16; its sums are float32's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = PLACES.get(func)
        if place is None or kwargs or not worthwhile(*args[place:]):
            return func(*args, **(kwargs or {}))
        x, y = args[place:]
        product = (x.bfloat16() @ y.bfloat16()).float()
        return args[0] + product if place else product


def worthwhile(x: Tensor, y: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and min(*x.shape[-2:], y.shape[-1]) >= SMALLEST
