"""The update as one graph over tensors that never move."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from thespis.core import Batch, Learner, Metrics, leaves, tree_map

_phases = itertools.count()


class Stepper:
    """Holds a learner's State and steps it in place: eager at first, compiled once `compile_after` updates are done.

    The rule depends on the count of updates alone, so that a run that is stopped and resumed takes the same path.
    Both paths draw the same random numbers from torch's global generator.
    """

    def __init__(self, learner: Learner, state: Any, compile_after: int = -1, say: Callable[[str], None] = warnings.warn):
        self.learner, self.compile_after, self.say = learner, compile_after, say
        self.state = tree_map(lambda x: x.detach().clone(), state)  # no two leaves may share memory
        self.updates = 0
        self.totals: Metrics = {}
        self.counts: dict[str, int] = {}
        self._phases: dict[tuple[int, bool], Callable[[Any, Batch], Metrics]] = {}

    def step(self, batch: Batch) -> None:
        """One update. Its metrics are added up on the device until `means` reads them."""
        k, ready = self.learner.alike(self.updates % self.learner.period), 0 <= self.compile_after <= self.updates
        if (k, ready) not in self._phases:
            self._phases[k, ready] = self._compile(k, batch) if ready else self._phase(k)
        with torch.no_grad():
            self._count(self._phases[k, ready](self.state, batch))
        self.updates += 1

    def prepare(self, rollout: Batch) -> Batch:
        """What the updates on a rollout draw from; what the learner keeps of it goes to its state, and its metrics to `means`."""
        assert self.learner.prepare is not None
        with torch.no_grad():
            state, rows, metrics = self.learner.prepare(self.state, rollout)
            self._count({name: value.clone() for name, value in metrics.items()})
            self.reset(tree_map(torch.clone, state))  # what it passed on as it was must not change before it is read
        return rows

    def _count(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals[name].add_(value) if name in self.totals else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def reset(self, state: Any) -> None:
        """Starts anew from `state`, where the old one lies."""
        for old, new in zip(leaves(self.state).values(), leaves(state).values(), strict=True):
            old.copy_(new)

    def means(self) -> dict[str, float]:
        """Each metric's mean over the updates, or rollouts, since the last call: the one place that waits for the device."""
        out = {name: float(total) / self.counts[name] for name, total in self.totals.items()}
        self.totals, self.counts = {}, {}
        return out

    def restore(self, totals: Metrics, counts: dict[str, int]) -> None:
        """`totals` and `counts` of a checkpoint. Raises KeyError, RuntimeError or ValueError where they are none."""
        device = next(iter(leaves(self.state).values())).device
        self.totals, self.counts = {k: v.to(device).reshape(()) for k, v in totals.items()}, {k: int(counts[k]) for k in totals}
        if min(self.counts.values(), default=1) < 1:
            raise ValueError("counts must be 1 or more")

    def _phase(self, k: int) -> Callable[[Any, Batch], Metrics]:
        def phase(state: Any, batch: Batch) -> Metrics:
            after, metrics = self.learner.update(state, batch, k)
            metrics = {name: value.clone() for name, value in metrics.items()}
            olds = list(leaves(state).values())  # what the update passed on as it was must not change before it is read
            news = [new.clone() if any(new is old for old in olds) else new for new in leaves(after).values()]
            for old, new in zip(olds, news, strict=True):
                old.copy_(new)
            return metrics

        return phase

    def _compile(self, k: int, batch: Batch) -> Callable[[Any, Batch], Metrics]:
        eager = self._phase(k)
        self.say("compiling the update (a minute or two at first on this machine, later seconds)")
        import torch._inductor.config  # takes a second: only runs that compile pay it

        torch._inductor.config.fallback_random = True  # the same noise as in eager mode
        eager.__code__ = eager.__code__.replace(co_name=f"phase_{next(_phases)}")  # torch allows 8 compilations of one function
        try:
            phase = torch.compile(eager, fullgraph=True, dynamic=False)
            with torch.random.fork_rng(), torch.no_grad():
                phase(tree_map(torch.clone, self.state), batch)  # a trial on a copy
        except Exception as error:  # whatever the compiler lacks, eager mode does the same sums
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.say(f"torch.compile does not work here, so the run goes on in eager mode, about half as fast ({why})")
            self.compile_after = -1
            return eager
        return phase
