"""The nearest stored row, beside all distances one by one in float64."""

import numpy as np
import pytest
import torch

from thespis import ops


@pytest.mark.parametrize("rows", [1, 5, 128, 130, 5000])
def test_nearest_is_the_least_of_all_distances(rows: int) -> None:
    g = torch.Generator().manual_seed(rows)
    stored, query = torch.randn(rows, 7, generator=g), torch.randn(40, 7, generator=g)
    keys = ops.keyed(stored)
    assert len(keys) % 128 == 0
    assert torch.equal(keys[:rows], stored)
    found = keys[ops.nearest(query, keys)].double().numpy()
    for q, row in zip(query.double().numpy(), found, strict=True):
        distances = ((stored.double().numpy() - q) ** 2).sum(1)
        assert ((row - q) ** 2).sum() == pytest.approx(distances.min(), rel=1e-12)
        np.testing.assert_array_equal(row, stored.double().numpy()[distances.argmin()])


def test_one_key_is_the_nearest_to_all() -> None:
    assert not ops.nearest(torch.randn(3, 2), torch.zeros(1, 2)).any()
