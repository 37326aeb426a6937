"""Several learners as one: processes that torchrun started, each on a batch of its own; `optim.descend` averages gradients."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from thespis.core import Fault, leaves, tree_map
from thespis.engine.run import Run

T = TypeVar("T")


def rank() -> int:
    """This learner's number; 0 leads: it alone evaluates, logs and writes the run directory."""
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def many() -> bool:
    """Whether torchrun started several."""
    return distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def size() -> int:
    """How many learners there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def team(run: Run) -> Iterator[None]:
    """Where torchrun started several, they meet here. On one machine they speak over loopback alone."""
    if not many():
        yield
        return
    if run.device != "cpu":
        raise Fault(f"device is {run.device!r}; learners that torchrun starts run on the cpu")
    if run.collectors:
        raise Fault(f"collectors is {run.collectors}; learners that torchrun starts collect by themselves: allowed: 0")
    if run.on_divergence == "rollback":
        raise Fault("on_divergence is 'rollback'; learners that torchrun starts can only stop: allowed: 'stop'")
    if os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    distributed.init_process_group("gloo", timeout=timedelta(days=1))  # an evaluation may be long; who dies is noticed at once
    try:
        yield
    except RuntimeError as error:
        if "Gloo" not in str(error) and "gloo" not in str(error):
            raise
        raise Fault("another of the learners has ended; 'thespis resume' goes on from the newest checkpoint") from error
    finally:
        distributed.destroy_process_group()


def first(node: T) -> T:
    """A tree of tensors as the leading learner has it."""
    if size() == 1:
        return node
    node = tree_map(lambda x: x.detach().clone().contiguous(), node)
    for x in leaves(node).values():
        distributed.broadcast(x, 0)
    return node


@contextmanager
def leader_first() -> Iterator[None]:
    """The leading learner does this before the others begin."""
    if size() > 1 and rank() > 0:
        distributed.barrier()
    yield
    if size() > 1 and rank() == 0:
        distributed.barrier()


def any_of(flag: bool) -> bool:
    """Whether one of the learners says so."""
    if size() == 1:
        return flag
    said = torch.tensor([int(flag)])
    distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return bool(said)


def agreed(attempt: Callable[[], T]) -> T:
    """What `attempt` gives. Where it fails for one learner, it fails for all: they take the same steps or none."""
    failure = None
    try:
        out = attempt()
    except Exception as error:
        failure = error
    if any_of(failure is not None):
        raise failure or RuntimeError("it failed for another of the learners")
    return out
