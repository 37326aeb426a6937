"""What every test shares: one thread, a known state of torch's generator, no pictures that nobody looks at, and an end."""

import signal
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # on a shared machine, two threads on small tensors are slower than one

DRAWN = {"cli", "docs", "hub", "report", "soak", "sweep", "tools"}
LONGEST = 600
"""seconds that a test may take, soak tests apart: one that does not end is to fail alone, not to keep the suite from its end"""


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's numbers do not depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each run that a test trains, most of it matplotlib's; `draws` keeps them."""
    if not DRAWN & set(request.path.parts) and "draws" not in request.keywords:
        monkeypatch.setattr("thespis.training._draw", lambda folder: None)


@pytest.fixture(autouse=True)
def ends(request: pytest.FixtureRequest) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        pytest.fail(f"it did not end within {LONGEST} s")

    if "soak" in request.keywords or not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
