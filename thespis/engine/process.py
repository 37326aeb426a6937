"""What a run borrows of its process, and gives back: torch's settings, its generators, the signals to stop."""

from __future__ import annotations

import math
import signal
import threading
import time
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
def seeded(device: str, seed: int) -> Iterator[None]:
    """torch's generators, the device's too, begin from `seed`; afterwards they are as they were."""
    before, on_device = torch.get_rng_state(), device_generator(device)
    before_there = on_device and on_device[0]()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_device and before_there is not None:
            on_device[1](before_there)


class Stopped(Exception):
    """What was under way is given up, for the run is to end at once."""


class Stop:
    """Whether a run is to end before its last step, and why."""

    def __init__(self, hours: float | None = None):
        """`hours`: how long it may take from now on."""
        self.deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.signalled = False
        self.why: str | None = None
        """the first reason: "signal", "max_hours", or what `set` was given"""

    def set(self, why: str) -> None:
        self.why = self.why or why

    def at_once(self) -> bool:
        """By a signal or the clock: even an evaluation is given up, and done again when the run goes on."""
        if self.signalled or time.monotonic() >= self.deadline:
            self.set("signal" if self.signalled else "max_hours")
            return True
        return False

    def is_set(self) -> bool:
        return self.at_once() or self.why is not None


@contextmanager
def stop_signals(hours: float | None = None) -> Iterator[Stop]:
    """Set by Ctrl-C, SIGTERM or a terminal that is closed: the step under way is finished first. A second Ctrl-C interrupts at
    once."""
    stop = Stop(hours)

    def heard(number: int, frame: object) -> None:
        if stop.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signalled = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, heard) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
