"""The update as one graph over tensors that never move."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from thespis.core import Batch, Learner, Metrics, Params, leaves, rebuild, tree_map

Step = Callable[[Any, Any], Metrics]
"""of a state, and of what it is given; may write to the state"""


class Stepper:
    """Holds a learner's State and steps it in place: eager at first, compiled once `compile_after` updates are done.

    The rule depends on the count of updates alone, so that a run that is stopped and resumed takes the same path.
    Both paths draw the same random numbers from torch's global generator. With `most` above 1, the compiled update has as many
    threads, of 1, 2, 4, ... `most`, as are quickest when it is compiled; `threads` keeps the choice.
    """

    def __init__(
        self, learner: Learner, state: Any, compile_after: int = -1, say: Callable[[str], None] = warnings.warn, most: int = 1
    ):
        self.learner, self.compile_after, self.say, self.most = learner, compile_after, say, most
        self.threads: int | None = None
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
        if known := [name for name in metrics if name in self.totals]:
            torch._foreach_add_([self.totals[name] for name in known], [metrics[name] for name in known])
        self.totals = metrics | self.totals
        for name in metrics:
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

    def acting(self, rows: int) -> Callable[[Any, Tensor, bool], Tensor]:
        """The learner's `act`. To explore with `rows` observations is compiled, once the update is."""
        learner, quick = self.learner, None

        def exploring(state: Any, given: Params) -> Metrics:
            return {"action": learner.act(learner.policy(state), given["obs"], True)}

        def act(policy: Any, obs: Tensor, explore: bool) -> Tensor:
            nonlocal quick
            if not explore or len(obs) != rows or not 0 <= self.compile_after < self.updates:
                return learner.act(policy, obs, explore)
            if quick is None:
                self._set_threads()
                quick = self._compiled(exploring, {"obs": obs}, "acting stays in eager mode")
            return quick(self.state, {"obs": obs})["action"]

        return act

    def _compile(self, k: int, batch: Batch) -> Callable[[Any, Batch], Metrics]:
        eager = self._phase(k)
        if self.most > 1 and not self.threads:
            self.threads = quickest(lambda copy: eager(copy, batch), self.state, self.most)
        self._set_threads()
        how = "" if torch.get_num_threads() == 1 else f" for {torch.get_num_threads()} threads"
        self.say(f"compiling the update{how} (a minute or two at first on this machine, later seconds)")
        graph = self._compiled(eager, batch, "the run goes on in eager mode, about half as fast")
        if graph is eager:
            self.compile_after = -1
        return graph

    def _set_threads(self) -> None:
        if self.most > 1 and self.threads:
            self.threads = min(self.threads, self.most)
            torch.set_num_threads(self.threads)

    def _compiled(self, function: Step, given: Any, otherwise: str) -> Step:
        """Whatever the compiler lacks, eager mode does the same sums: then the function itself."""
        try:
            return compiled(function, self.state, given)
        except Exception as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.say(f"torch.compile does not work here, so {otherwise} ({why})")
            return function


def quickest(step: Callable[[Any], object], state: Any, most: int, seconds: float = 0.1) -> int:
    """The threads, of 1, 2, 4, ... `most`, with which `step` of a copy of `state` takes least on the machine as it is now.

    Each doubling is to save a twentieth. Takes about `seconds` for each that is tried.
    """
    copy = tree_map(torch.clone, state)

    def cost(threads: int) -> float:
        torch.set_num_threads(threads)
        step(copy)
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            began = time.perf_counter()
            step(copy)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    with torch.random.fork_rng(), torch.no_grad():
        threads, best = 1, cost(1)
        while 2 * threads <= most and (next_best := cost(2 * threads)) < 0.95 * best:
            threads, best = 2 * threads, next_best
    return threads


def compiled(function: Step, state: Any, given: Any) -> Step:
    """`function` as one graph that reads and steps `state` where it lies, for what is given in shapes like these.

    It is traced by its tensor operations alone, and what calls them is C++, so at a call no Python stands between the tensors
    and the compiled code.
    """
    import torch._inductor.config  # takes seconds: only runs that compile pay it
    from torch.fx.experimental.proxy_tensor import make_fx

    names: list[str] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        out = function(*(rebuild(like, {name: next(rest) for name in leaves(like)}) for like in (state, given)))
        names[:] = out
        return tuple(out.values())

    held = list(leaves(state).values())
    copies: list[Any] = [x.clone().contiguous() for x in (*held, *leaves(given).values())]
    cpu = all(x.device.type == "cpu" for x in copies)
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        torch._inductor.config.patch(fallback_random=True, cpp_wrapper=cpu),  # noise as in eager mode
        warnings.catch_warnings(action="ignore"),  # what torch says of its own code
    ):
        traced = make_fx(flat)(*copies)
        inputs = traced.graph.find_nodes(op="placeholder")
        read = [bool(node.users) for node in inputs]
        for node in inputs:
            if not node.users:
                traced.graph.erase_node(node)
        traced.recompile()
        copies = list(compress(copies, read))
        graph = torch._inductor.standalone_compile(traced, copies, dynamic_shapes="from_example_inputs")
        graph(*copies)  # a trial

    held, read = list(compress(held, read)), read[len(held) :]

    def run(_: Any, given: Any) -> Metrics:
        shown = compress(leaves(given).values(), read)
        return dict(zip(names, graph(*held, *(x.contiguous() for x in shown)), strict=True))

    return run
