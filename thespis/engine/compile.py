"""The update as one graph over tensors that never move."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Hashable
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from thespis.core import Batch, Learner, Metrics, Params, leaves, rebuild, tree_map
from thespis.engine import build, team
from thespis.engine.bf16 import products
from thespis.engine.tape import record

Step = Callable[[Any, Any], Metrics]
"""of a state, and of what it is given; may write to the state"""


class Stepper:
    """Holds a learner's State and steps it in place: eager at first, compiled once `compile_after` updates are done.

    The rule depends on the count of updates alone, so that a run that is stopped and resumed takes the same path. Another
    process begins to compile when a quarter of them are done. Both paths draw the same random numbers from torch's global
    generator. With `max_threads` above 1, the compiled update has as many threads, of 1, 2, 4, ... up to that, as are fastest
    then; `threads` keeps the choice. With `bf16`, an update's matrix products are in bfloat16.
    """

    def __init__(
        self,
        learner: Learner,
        state: Any,
        compile_after: int = -1,
        say: Callable[[str], None] = warnings.warn,
        max_threads: int = 1,
        bf16: bool = False,
    ):
        self.learner, self.compile_after, self.say, self.max_threads = learner, compile_after, say, max_threads
        self.products = products(bf16)
        self.threads: int | None = None
        self.state = tree_map(lambda x: x.detach().clone(), state)  # no two leaves may share memory
        self.updates = 0
        self.totals: Metrics = {}
        self.counts: dict[str, int] = {}
        self._compiling: dict[Hashable, tuple[Callable[[], bool], Callable[[], Step]]] = {}
        self._compiled: dict[Hashable, Step] = {}

    def step(self, batch: Batch) -> None:
        """One update. Its metrics are added up on the device until `means` reads them."""
        k = self.learner.alike(self.updates % self.learner.period)
        step = self._compiled_once_due(k, self._phase(k), batch, self.updates)
        with torch.no_grad():
            self._count(step(self.state, batch))
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

    def waits(self, updates: int) -> bool:
        """Whether so many updates need what one of the team is still compiling."""
        if not self._compiling or not 0 <= self.compile_after < updates:
            return False
        return team.any_of(not all(ready() for ready, _ in self._compiling.values()))

    def _phase(self, k: int) -> Step:
        def phase(state: Any, batch: Batch) -> Metrics:
            with self.products:
                after, metrics = self.learner.update(state, batch, k)
            metrics = {name: value.clone() for name, value in metrics.items()}
            olds = list(leaves(state).values())
            places = {id(old) for old in olds}  # what the update moved as it was must not change before it is read
            moved = [(old, new) for old, new in zip(olds, leaves(after).values(), strict=True) if new is not old]
            for old, new in [(old, _copied(new) if id(new) in places else new) for old, new in moved]:
                old.copy_(new)
            return metrics

        return phase

    def acting(self, rows: int) -> Callable[[Any, Tensor, bool], Tensor]:
        """The learner's `act`. To explore with `rows` observations is compiled, after the update is."""
        learner = self.learner

        def exploring(state: Any, given: Params) -> Metrics:
            return {"action": learner.act(learner.policy(state), given["obs"], True)}

        def act(policy: Any, obs: Tensor, explore: bool) -> Tensor:
            if not explore or len(obs) != rows:
                return learner.act(policy, obs, explore)
            given = {"obs": obs}
            return self._compiled_once_due("acting", exploring, given, self.updates - 1)(self.state, given)["action"]

        return act

    def _compiled_once_due(self, name: Hashable, function: Step, given: Any, done: int) -> Step:
        """`function`, or what it has been compiled to where `done` updates are enough."""
        if name in self._compiled:
            return self._compiled[name]
        if not 0 <= self.compile_after // 4 <= done:
            return function
        try:
            if name not in self._compiling:
                self._compiling[name] = self._start_compiling(name, function, given)
            if done >= self.compile_after:
                self._compiled[name] = self._compiling.pop(name)[1]()
                torch.set_num_threads(self._threads())
        except Exception as error:  # whatever the compiler lacks, eager mode does the same sums
            self._compiled[name] = function
            otherwise = "acting stays in eager mode"
            if name != "acting":
                self.compile_after, otherwise = -1, "the run goes on in eager mode, about half as fast"
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.say(f"torch's compiler does not work here, so {otherwise} ({why})")
        return self._compiled.get(name, function)

    def _threads(self) -> int:
        return min(self.threads, self.max_threads) if self.max_threads > 1 and self.threads else torch.get_num_threads()

    def _start_compiling(self, name: Hashable, function: Step, given: Any) -> tuple[Callable[[], bool], Callable[[], Step]]:
        """Has `function` compiled, for what is given in shapes like these.

        Returns what says whether that is over, and what waits for it and gives the result.
        """
        if self.max_threads > 1 and not self.threads:
            self.threads = fastest_threads(lambda copy: function(copy, given), self.state, self.max_threads)
        names: list[str] = []

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            rest = iter(tensors)
            out = function(*(rebuild(tree, {name: next(rest) for name in leaves(tree)}) for tree in (self.state, given)))
            names[:] = out
            return tuple(out.values())

        kept, inputs = list(leaves(self.state).values()), [x.contiguous() for x in leaves(given).values()]
        with torch.random.fork_rng():
            program = record(flat, [x.clone() for x in (*kept, *inputs)])
        kept, read = list(compress(kept, program.read)), program.read[len(kept) :]
        inputs = list(compress(inputs, read))
        shapes = [(x.shape, x.dtype) for x in inputs]
        threads = self._threads()
        ready, wait = team.agreed(lambda: build.begin(program.source, [*kept, *inputs, *program.constants], threads))
        if name != "acting" and not ready():
            how = "" if threads == 1 else f" for {threads} threads"
            self.say(f"compiling the update{how} meanwhile (a minute or so, once on this machine)")

        def finish() -> Step:
            code = team.agreed(wait)
            with torch.random.fork_rng():
                code([x.clone() for x in (*kept, *inputs, *program.constants)])  # a trial
            if any(x.is_cuda for x in kept):
                code = build.capture(code, [*kept, *inputs, *program.constants], range(len(kept), len(kept) + len(inputs)))

            def run(_: Any, given: Any) -> Metrics:
                now = [x.contiguous() for x in compress(leaves(given).values(), read)]
                if [(x.shape, x.dtype) for x in now] != shapes:
                    raise ValueError(f"compiled for {shapes}, given {[(x.shape, x.dtype) for x in now]}")
                return dict(zip(names, code([*kept, *now, *program.constants]), strict=True))

            return run

        return ready, finish


def _copied(x: Tensor) -> Tensor:
    """x, computed: torch's compiler takes a clone for x itself, and reads it after x has been written over."""
    return x.neg().neg() if x.is_floating_point() else x.clone()


def fastest_threads(step: Callable[[Any], object], state: Any, max_threads: int, seconds: float = 0.1) -> int:
    """The threads, of 1, 2, 4, ... `max_threads`, with which `step` of a copy of `state` takes least on the machine as it is now.

    Each doubling is to save a twentieth. Takes about `seconds` for each that is tried.
    """
    copy, before = tree_map(torch.clone, state), torch.get_num_threads()

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
        while 2 * threads <= max_threads and (next_best := cost(2 * threads)) < 0.95 * best:
            threads, best = 2 * threads, next_best
    torch.set_num_threads(before)
    return threads
