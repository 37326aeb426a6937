"""One process at a time in a run directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from thespis.core import Fault


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds DIR/.lock. It is the system's lock on an open file, so it goes with the process, however that ends.

    Raises Fault where another process, or another run in this one, holds it.
    """
    lock = FileLock(folder / ".lock", timeout=0.2)  # a dashboard that looks whether it is held holds it for an instant
    try:
        lock.acquire()
    except Timeout:
        raise Fault(f"{folder} is in use: another process trains there; wait for its end, or stop it") from None
    try:
        yield
    finally:
        lock.release()
