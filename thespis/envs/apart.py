"""An environment in a process of its own: it can be killed and replaced, and it never outlives this one."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from thespis.core import Fault
from thespis.envs.flat import describe_error

__all__ = ["Apart", "Nursery"]


class Nursery:
    """A process that is forked while this one is young and only forks others, one for each environment that is made.

    So an environment that is made late begins as a copy of a small process without threads, however large this one has grown.
    Where this process goes, in whatever way, the nursery kills all that it has forked, hung or not, and goes too.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.socket, theirs = socket.socketpair()
        _flush()  # or the copies would print it again
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)  # JAX's, which the copies do not call
            self.pid = os.fork()
            if self.pid == 0:
                _isolated(_nurse, make, theirs, self.socket)
        theirs.close()

    def begin(self) -> tuple[int, Connection]:
        """A new process that makes an environment: its id, and the pipe to it."""
        try:
            self.socket.sendall(b"new")
            words, handles, *_ = socket.recv_fds(self.socket, 1024, 1)
        except OSError as error:
            raise Fault(f"no process can be started for an environment ({error})") from error
        if not handles:
            raise Fault(f"no process can be started for an environment ({words.decode() or 'the nursery has died'})")
        return int(words), Connection(handles[0])

    def end(self, pid: int) -> int | None:
        """Kills a process and all that it has started; its exit code (None where the nursery has died)."""
        with suppress(OSError, ValueError):
            self.socket.sendall(str(pid).encode())
            return int(self.socket.recv(1024))
        return None

    def close(self) -> None:
        with suppress(OSError):
            self.socket.sendall(b"quit")
        self.socket.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Apart:
    """One environment in a process of its own: `send` a call, then `receive` what it returns.

    The process makes it at once; `receive` waits for that too. Fault: what the environment raises, no answer within `limit`
    seconds, or the death of the process.
    """

    def __init__(self, nursery: Nursery) -> None:
        self.nursery, self.made, self.ended = nursery, False, False
        self.pid, self.pipe = nursery.begin()

    def send(self, call: str, *args: Any, **options: Any) -> None:
        with suppress(OSError):  # it has died: `receive` tells
            self.pipe.send((call, args, options))

    def ready(self, limit: float | None = None) -> None:
        """Waits until the environment is made."""
        if not self.made:
            self._answer(limit)
            self.made = True

    def receive(self, limit: float | None = None) -> Any:
        began = time.monotonic()
        self.ready(limit)
        return self._answer(None if limit is None else limit - (time.monotonic() - began))

    def _answer(self, limit: float | None) -> Any:
        try:
            if not self.pipe.poll(None if limit is None else max(limit, 0)):
                self._end()
                raise Fault("gave no answer in time, and was killed; see --env-timeout")
            good, answer = self.pipe.recv()
        except (EOFError, OSError):
            raise Fault(f"its process died (exit code {self._end()}): out of memory, or a crash") from None
        if not good:
            raise Fault(answer)
        return answer

    def close(self, deadline: float) -> None:
        """Lets the environment close itself until `deadline` (of time.monotonic), then kills what is left of its process."""
        with suppress(EOFError, OSError):
            self.pipe.send(None)
            while self.pipe.poll(max(deadline - time.monotonic(), 0)):
                self.pipe.recv()
        self._end()

    def _end(self) -> int | None:
        if self.ended:
            return None
        self.ended = True
        self.pipe.close()
        return self.nursery.end(self.pid)


# ---------------------------------------------------------------------------------------------------- in other processes


def _isolated(work: Callable[..., None], make: Callable[[], Any], end: Any, *others: Any) -> None:
    """All that a process which was just forked does: work(make, end), with the ends of `others` closed. It never returns."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent's business; a handler, since SIG_IGN would be inherited
            signal.signal(number, lambda *_: None)
        for other in others:
            other.close()
        work(make, end)
        code = 0
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _nurse(make: Callable[[], Any], control: socket.socket) -> None:
    alive: set[int] = set()
    try:
        while (word := control.recv(1024)) not in (b"", b"quit"):  # nothing: the parent is gone
            if word == b"new":
                try:
                    _bear(make, control, alive)
                except OSError as error:  # no more processes or handles
                    control.sendall(str(error).encode())
            else:
                alive.discard(int(word))
                control.sendall(str(_kill(int(word))).encode())
    finally:
        for pid in alive:
            _kill(pid)


def _bear(make: Callable[[], Any], control: socket.socket, alive: set[int]) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _isolated(_serve, make, theirs, control, ours)
        alive.add(pid)
        os.setpgid(pid, pid)  # so that it goes with all that it has started
        socket.send_fds(control, [str(pid).encode()], [ours.fileno()])


def _kill(pid: int) -> int:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve(make: Callable[[], Any], pipe: Any) -> None:
    env: Any = None
    request: Any = "", (), {}
    with suppress(EOFError, OSError):  # the parent is gone, with nobody to tell
        while request is not None:
            call, args, options = request
            try:
                if env is None:
                    env, answer = make(), None
                else:
                    answer = getattr(env, call)(*args, **options)
                good = True
            except BaseException as error:
                good, answer = False, str(error) if isinstance(error, Fault) else describe_error(error)
            pipe.send((good, answer))
            request = pipe.recv()
    if env is not None:
        env.close()
