"""The evaluations of a run: on which environments they are, what is said of them, and when they are given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from thespis import ops
from thespis.core import Fault, Learner
from thespis.engine import evaluate
from thespis.engine.act import Actor
from thespis.engine.collect import Collector
from thespis.engine.log import Log
from thespis.engine.process import Stop, Stopped
from thespis.engine.run import Run
from thespis.envs import Vector, World

SLOW = 30.0  # seconds of an evaluation after which a line says how far it is


class Evaluations:
    def __init__(
        self, learner: Learner, world: World, run: Run, collector: object, log: Log, stop: Stop, seed: int,
        skip: Callable[[Fault], None] | None, policy: Callable[[], Any], value: evaluate.Value,
        contexts: Callable[[int], np.ndarray] | None,
    ):  # fmt: skip
        """`collector` is who trains; its environments are used where it has any here. `policy` gives the tensors to act with, as
        they are then; `skip` is told of faults that are survived; `contexts` gives those of so many episodes."""
        self.learner, self.world, self.run, self.log, self.stop = learner, world, run, log, stop
        self.collector = collector if isinstance(collector, Collector) else None
        self.policy, self.value = policy, value if learner.value and not ops.reward_shape(world.spec) else None
        self.contexts = contexts
        self.said: set[str] = set()
        """what is noted once only"""
        self.evaluator = self._evaluator(seed, skip)

    def _evaluator(self, seed: int, skip: Callable[[Fault], None] | None) -> evaluate.Evaluator:
        """With environments of its own; with those that train where that is asked for, or where no others can be made."""
        run, train = self.run, self.collector.envs if self.collector else None

        def evaluator(envs: Vector | None) -> evaluate.Evaluator:
            how = run.env_timeout, skip, evaluate.kind(self.world, run), run.eval_steps, run.device
            return evaluate.Evaluator(self.world, run.eval_episodes, seed, *how, envs)

        if train and run.eval_env == "same":
            return evaluator(train)
        try:
            return evaluator(None)
        except Fault as fault:
            if train is None or run.eval_env == "own":
                raise
            self.log.note(
                f"no second environment can be made ({fault}): evaluations use the one that trains, and cut its episodes"
            )
            return evaluator(train)

    def __call__(self, step: int) -> dict[str, Any]:
        """What `Evaluator` gives, "cut" only where it is not 0. Stopped: the run is to stop at once."""
        how = self.run.eval_policy
        with evaluate.lent(self.collector, self.evaluator) if self.collector else nullcontext():
            result = self._episodes(step, explore=how == "sampled")
            sampled = self._episodes(step, explore=True) if how == "both" else {}
        cut = result.pop("cut") + sampled.pop("cut", 0)
        self._note(step, cut)
        result |= {f"sampled_{k}": v for k, v in sampled.items() if k != "returns"}
        return result | ({"cut": cut} if cut else {})

    def _episodes(self, step: int, explore: bool) -> dict[str, Any]:
        actor = Actor(self.learner, self.run.eval_episodes, device=self.run.device)
        began = time.monotonic()

        def watch(ended: int, length: int) -> None:
            if self.stop.at_once():
                raise Stopped
            self.log.tick(step)
            if time.monotonic() - began > SLOW:
                what = f"evaluation at step {step:,}: {ended} of {self.run.eval_episodes} episodes ended after {SLOW:.0f} s"
                self._once("slow", f"{what}, the others are {length:,} steps long; see --eval-episodes, --eval-steps")

        act = lambda obs, rows: actor(self.policy(), obs, explore, rows)
        value = None if explore else self.value
        about = self.contexts(self.run.eval_episodes) if self.contexts else None
        return self.evaluator(act, actor.begin, value, self.learner.experience.gamma, watch, about)

    def _note(self, step: int, cut: int) -> None:
        if cut:
            what = f"evaluation at step {step:,}: {cut} episodes had no end after {self.evaluator.longest:,} steps"
            self._once("cut", f"{what} and were cut there; see --eval-steps, or give the environment a time limit")
        if self.evaluator.differs:
            self._once(
                "differs",
                f"{self.world.name} does not repeat itself: a reset gave another first observation than before with the same seed"
                " (a generator that the seed does not reach, or a wrapper that goes on gathering), so one seed is not one run",
            )

    def _once(self, name: str, text: str) -> None:
        if name not in self.said:
            self.said.add(name)
            self.log.note(text)

    def close(self) -> None:
        self.evaluator.close()
