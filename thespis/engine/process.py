"""What a run borrows of its process, and gives back: torch's settings, its generators, the signals to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from thespis.engine import team
from thespis.engine.run import Run


def device_generator(device: str) -> tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], None]] | None:
    """What gets and sets the state of a device's own generator; None on the processor, whose is torch's."""
    kind = torch.device(device).type
    if kind == "cpu":
        return None
    room, where = torch.get_device_module(kind), () if kind == "mps" else (device,)
    return lambda: room.get_rng_state(*where), lambda state: room.set_rng_state(state, *where)


@contextmanager
def torch_settings(run: Run) -> Iterator[int]:
    """The run's threads and precision, and how many threads it may choose to have later: 1 where it named a number.

    Denormals are flushed: idle units' moments decay into them, and they are slow.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(run.threads or 1)
    torch.set_float32_matmul_precision("medium" if run.precision == "bf16" else "highest")
    torch.set_flush_denormal(True)
    try:
        yield 1 if run.threads or run.device != "cpu" or team.many() else threads  # each of a team would choose for itself
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(False)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM: the step under way is finished first. A second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def heard(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
