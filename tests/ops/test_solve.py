"""Conjugate gradients against a direct solution."""

import pytest
import torch

from thespis.ops import conjugate_gradient

F64 = torch.float64
D = 6


@pytest.fixture
def system() -> tuple[torch.Tensor, torch.Tensor]:
    root = torch.randn(D, D, dtype=F64)
    return root @ root.T + 0.5 * torch.eye(D, dtype=F64), torch.randn(D, dtype=F64)


@pytest.mark.parametrize("iterations", [D, 4 * D])
def test_as_many_iterations_as_dimensions_solve_it_and_more_do_no_harm(system, iterations) -> None:
    a, b = system
    torch.testing.assert_close(conjugate_gradient(a.mv, b, iterations), torch.linalg.solve(a, b))


def test_n_iterations_are_the_best_of_the_space_of_n_products(system) -> None:
    """In the norm of A, over b, Ab, ..., A^(n-1) b: the theorem that defines the method."""
    a, b = system
    for n in range(1, D):
        space = torch.stack([torch.linalg.matrix_power(a, i) @ b for i in range(n)], -1)
        best = space @ torch.linalg.solve(space.T @ a @ space, space.T @ b)
        torch.testing.assert_close(conjugate_gradient(a.mv, b, n), best, rtol=1e-6, atol=1e-8)


def test_of_nothing_it_is_nothing_and_of_a_multiple_it_is_done_at_once() -> None:
    b = torch.randn(D)
    assert conjugate_gradient(lambda x: 2 * x, torch.zeros(D), 3).equal(torch.zeros(D))
    torch.testing.assert_close(conjugate_gradient(lambda x: 2 * x, b, 10), b / 2)
