# docs/examples/own_network.py
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from thespis import nets
from thespis.core import Params


def gated(sizes: Sequence[int]) -> nets.Net:
    """As nets.mlp, but each hidden layer is a product: (x A + a) * sigmoid(x B + b)."""
    parts = [nets.mlp((i, 2 * o)) for i, o in itertools.pairwise(sizes[:-1])] + [nets.mlp(sizes[-2:])]

    def init() -> Params:
        return {f"{i}.{k}": x for i, part in enumerate(parts) for k, x in part.init().items()}

    def apply(p: Params, x: Tensor) -> Tensor:
        for i, part in enumerate(parts):
            x = part.apply({k: p[f"{i}.{k}"] for k in ("w0", "b0")}, x)
            if i < len(parts) - 1:
                value, gate = x.chunk(2, -1)
                x = value * gate.sigmoid()
        return x

    return nets.Net(init, apply)


if __name__ == "__main__":
    net = gated((3, 8, 1))
    zero = {k: torch.zeros_like(x) for k, x in net.init().items()}
    known = zero | {"0.b0": torch.ones(16), "1.w0": torch.ones(8, 1)}  # eight times 1 * sigmoid(1)
    assert torch.allclose(net.apply(known, torch.randn(5, 3)), 8 * torch.tensor(1.0).sigmoid())
    critics = nets.ensemble(net, 2)  # what SAC makes of it: two of them on a leading axis
    print(critics.apply(critics.init(), torch.randn(5, 3)).shape)
