"""What every test shares: one thread, and a known state of torch's generator."""

import pytest
import torch

torch.set_num_threads(1)  # on a shared machine, two threads on small tensors are slower than one


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's numbers do not depend on which tests ran before it."""
    torch.manual_seed(0)
