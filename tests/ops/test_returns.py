"""Targets against loops in plain floats."""

import pytest
import torch

from thespis.ops import backup


def test_backup_is_the_loop() -> None:
    reward, discount, value = torch.randn(9), torch.tensor([0.99, 0.0, 1.0] * 3), torch.randn(9) * 100
    got = backup(reward, discount, value)
    for i in range(9):
        assert float(got[i]) == pytest.approx(float(reward[i]) + float(discount[i]) * float(value[i]), rel=1e-6)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_no_gradient_flows_through_a_target(which: int) -> None:
    given = [torch.rand(4), torch.rand(4), torch.rand(4)]
    given[which].requires_grad_()
    assert not backup(*given).requires_grad

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ((x - backup(*(x if i == which else g.detach() for i, g in enumerate(given)))) ** 2).sum()

    x = given[which].detach()
    target = backup(*(g.detach() for g in given))
    torch.testing.assert_close(torch.func.grad(loss)(x), 2 * (x - target))  # as though the target were a number
