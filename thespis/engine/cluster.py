"""A connection to a Ray cluster: one that is there, or one of this process's own that ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thespis.core import Fault

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
JOIN = 30.0  # seconds in which a cluster must have let one in


@contextmanager
def cluster(count: int, address: str | None, name: str = "collectors") -> Iterator[None]:
    """A connection to the Ray cluster at `address`; to one of this process's own, on loopback, that ends with it, if that is None
    or "local".

    It is to have a CPU for each of `count` processes, which the option `name` asks for. A process that is connected already stays
    so. Raises Fault where there is no Ray, no cluster, or no room in it.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # collectors are not of less use than the learner that waits for them
        import ray
    except ImportError as error:
        raise Fault(f'{name} is {count}, which needs Ray ({error}): pip install "thespis[ray]"') from error
    address = None if address == "local" else address
    if ray.is_initialized():
        if address:
            raise Fault(f"ray_address is {address!r}; this process is connected to a Ray cluster already: leave it out")
        _room(ray, count, name)
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    place = None if address else tempfile.mkdtemp(prefix="thespis-", dir="/tmp")  # short: sockets are in it
    try:
        if address is None:
            with _loopback():
                ray.init("local", num_cpus=count, include_dashboard=False, _temp_dir=place, **QUIET)
        else:
            _join(ray, address)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own
                signal.signal(number, handler)
        _room(ray, count, name)
        yield
    finally:
        ray.shutdown()
        if place:
            shutil.rmtree(place, ignore_errors=True)


TRY = """\
import os, sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(" ".join(str(error.__cause__ or error).split()), file=sys.stderr, flush=True)
    os._exit(1)
"""
REFUSED = "InvalidAuthToken"
WHY = {
    REFUSED: "it asks for a token other than this process's: see ray get-auth-token and RAY_AUTH_TOKEN_PATH",
    "No node info found": "this machine is no part of it: ray start --address=HOST:PORT makes it one",
}


def _join(ray: Any, address: str) -> None:
    """By a process of its own first, which can be given up: Ray would try for minutes, deaf to signals."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    patience = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_gcs_server_request_timeout_seconds": "10"}
    with _loopback():  # else Ray looks for 127.0.0.1 at the machine's other address
        try:
            if address != "auto":
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            given = os.environ.get("RAY_AUTH_MODE")
            for mode in [given] if given else ["disabled", "token"]:  # the token is shown only to who asks for it
                env, command = os.environ | patience | {"RAY_AUTH_MODE": mode}, [sys.executable, "-c", TRY, address]
                try:
                    tried = subprocess.run(command, env=env, capture_output=True, timeout=JOIN)
                    code, said = tried.returncode, tried.stderr.decode(errors="replace").strip()
                except subprocess.TimeoutExpired as late:  # which may have said why
                    code, said = 1, (late.stderr or b"").decode(errors="replace").strip()
                    said += f"\nnobody answers as Ray does in {JOIN:.0f} s"
                if REFUSED not in said:
                    break
            if code:
                said = said or f"exit code {code}"
                raise OSError(next((why for sign, why in WHY.items() if sign in said), said.splitlines()[-1]))
            os.environ["RAY_AUTH_MODE"] = mode
            Config.initialize("")  # Ray has a copy of its own
            ray.init(address, **QUIET)
        except Exception as error:
            why = f"no Ray cluster can be joined there ({first_line(error)})"
            raise Fault(f"ray_address is {address!r}; {why}; allowed: host:port, auto, local") from error


def _room(ray: Any, count: int, name: str) -> None:
    if (cpus := int(ray.cluster_resources().get("CPU", 0))) < count:
        raise Fault(f"{name} is {count}; the Ray cluster has {cpus} CPUs, and each of its processes takes one")


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray's servers listen on 127.0.0.1 alone where it may not make clusters of many machines. Only its own name for that says
    "Windows or OSX"."""
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, ray_constants.ENABLE_RAY_CLUSTER = (os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER), False
    os.environ[name] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[name]
        else:
            os.environ[name] = before[0]


def first_line(error: BaseException) -> str:
    """The first line that says something, of what may be a page."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
