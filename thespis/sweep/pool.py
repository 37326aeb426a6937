"""Where the runs of a sweep are trained: each in a process of its own, one after the other or on Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from thespis import api
from thespis.core import Fault
from thespis.engine.lock import alone

WAIT = 60.0  # seconds for another process to leave a run's directory


Job = dict[str, Any]
"""{"folder", "algo", "env", "options"}, of JSON's types alone"""


class Died(str):
    """How a run's process ended without a word."""


def work(job: Job) -> str | None:
    """Begins a run, or goes on with it. What went wrong, in a line; None where it came to its end or was told to stop."""
    folder = Path(job["folder"])
    try:
        _wait(folder)
        if (folder / "config.json").exists():
            wrappers = job["options"].get("wrappers")  # named again, as they may be code
            api.resume(folder, env=job["env"], algo=job["algo"], panel=False, **({"wrappers": wrappers} if wrappers else {}))
        else:
            if folder.is_dir() and all(p.name.startswith(".") for p in folder.iterdir()):
                shutil.rmtree(folder)  # killed before it wrote what it is
            api.train(job["algo"], job["env"], out=folder, panel=False, **job["options"])
    except (Fault, OSError) as fault:
        return " ".join(str(fault).split())
    return None


def _wait(folder: Path) -> None:
    """For the run of a sweep that was killed, which is writing its last checkpoint there. Raises Fault where it does not end."""
    until = time.monotonic() + WAIT
    while folder.is_dir():
        try:
            with alone(folder):
                return
        except Fault:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def child(job: str) -> int:
    """`work` in a process that stops, with a checkpoint, when its standard input ends: by the sweep's wish or its death."""

    def heed() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=heed, daemon=True).start()
    if fault := work(json.loads(job)):
        print(fault, file=sys.stderr)
    return 2 if fault else 0


Ended = tuple[Job, str | None]
"""and what `work` returned"""


class Pool(Protocol):
    @property
    def slots(self) -> int:
        """How many may be under way."""

    @property
    def busy(self) -> int:
        """How many are."""

    def start(self, job: Job) -> None:
        """Begins one more."""

    def wait(self, seconds: float) -> Ended | None:
        """One that has ended, if any does in that time."""

    def stop(self) -> None:
        """Asks those under way to write a checkpoint and end."""

    def close(self) -> None:
        """Leaves no process behind."""


class OneByOne:
    """A process a run, one after the other."""

    slots = 1
    CODE = "import sys; from thespis.sweep.pool import child; sys.exit(child(sys.argv[1]))"

    def __init__(self) -> None:
        self.busy = 0

    def start(self, job: Job) -> None:
        self.job, self.busy = job, 1
        self.said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, as it is read when the process has ended
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=self.said, start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
        )  # fmt: skip

    def wait(self, seconds: float) -> Ended | None:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.said.seek(0)
        lines = [line.strip() for line in self.said if line.strip()]
        self.close()
        if code < 0:
            return self.job, Died(f"signal {-code}")
        return self.job, None if code == 0 else (lines or [f"exit code {code}"])[-1]

    def stop(self) -> None:
        if self.busy and self.process.stdin:
            self.process.stdin.close()

    def close(self) -> None:
        if self.busy:
            self.process.kill()
            self.process.wait()
            self.stop()
            self.said.close()
            self.busy = 0


class OnRay:
    """A task of Ray's a run, each in a process of its own on one CPU. Retried by the sweep alone."""

    def __init__(self, slots: int) -> None:
        import ray

        self.ray, self.slots = ray, slots
        self.work = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(work)
        self.asked: dict[Any, Job] = {}

    @property
    def busy(self) -> int:
        return len(self.asked)

    def start(self, job: Job) -> None:
        self.asked[self.work.remote(job)] = job

    def wait(self, seconds: float) -> Ended | None:
        ready, _ = self.ray.wait(list(self.asked), num_returns=1, timeout=seconds)
        if not ready:
            return None
        job = self.asked.pop(ready[0])
        try:
            return job, self.ray.get(ready[0])
        except self.ray.exceptions.TaskCancelledError:
            return job, None
        except self.ray.exceptions.RayTaskError as error:
            return job, f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
        except self.ray.exceptions.RayError as error:
            return job, Died(type(error).__name__)

    def stop(self) -> None:
        for ref in self.asked:
            self.ray.cancel(ref)  # which is SIGINT to the run

    def close(self) -> None:
        for ref in self.asked:
            with suppress(Exception):
                self.ray.cancel(ref, force=True)
        self.asked = {}
