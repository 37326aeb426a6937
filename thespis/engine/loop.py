"""The loop: collect, update, evaluate, log, checkpoint; stop anywhere and go on exactly."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.core import Fault, Learner, leaves, rebuild, tree_map
from thespis.data import Dataset, Demonstrations, Replay, Rollout, experience
from thespis.engine import checkpoint
from thespis.engine.act import Actor
from thespis.engine.collect import Collector
from thespis.engine.compile import Stepper
from thespis.engine.evaluate import Evaluator
from thespis.engine.log import Log
from thespis.engine.run import Run
from thespis.envs import World, vector


@dataclass
class Progress:
    """The counters of a run; a checkpoint holds them all."""

    steps: int = 0
    updates: int = 0
    seconds: float = 0.0
    """spent stepping and learning; evaluations and checkpoints apart"""
    best: float | None = None
    """highest mean evaluation return"""
    last: float | None = None
    """newest mean evaluation return"""
    evaluated: int = -1
    """step of the newest evaluation"""
    episodes: list[tuple[float, int]] = field(default_factory=list)
    """(return, length) of the episodes that ended since the last row of metrics"""


def train(
    learner: Learner, world: World, run: Run, folder: Path, about: dict[str, Any],
    resume: bool = False, panel: bool | None = None, data: Dataset | None = None,
) -> bool:  # fmt: skip
    """Trains until run.steps or a signal to stop; True where all steps were done. DIR holds all but `data` at any moment.

    `about` is written beside each policy, unread. Raises Fault, after a checkpoint, where the environment fails, and
    without one where the learner has diverged.
    """
    with ExitStack() as stack:
        stack.enter_context(_torch(run))
        stop = stack.enter_context(_stop_signals())
        return _Training(stack, learner, world, run, folder, about, resume, panel, data).loop(stop)


def _under(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a checkpoint's tensors whose names begin with `name` and a dot, without it."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


class _Training:
    def __init__(
        self,
        stack: ExitStack,
        learner: Learner,
        world: World,
        run: Run,
        folder: Path,
        about: dict[str, Any],
        resume: bool,
        panel: bool | None,
        data: Dataset | None,
    ):
        self.learner, self.run, self.folder, self.about = learner, run, folder, about
        seeds = np.random.SeedSequence(run.seed).generate_state(4).tolist()
        torch.manual_seed(seeds[0])
        self.replay = experience(world.spec, learner.experience, run.num_envs, seeds[1], learner.needs)
        self.source: Replay | Rollout | Demonstrations = self.replay
        if data is not None:
            assert isinstance(self.replay, Replay)
            self.source = Demonstrations(world.spec, data, self.replay)
        self.pretrain = 0 if data is None else learner.experience.pretrain
        state = learner.init()
        self.progress = Progress()
        notes: list[str] = []
        resume = resume and checkpoint.begun(folder)
        if resume:
            meta, tensors = checkpoint.load(folder, self.replay, notes.append)
            saved = _under("state", tensors)
            checkpoint.fit(saved, leaves(state), checkpoint.checkpoints(folder)[-1])
            state, self.progress = rebuild(state, saved), Progress(**meta["progress"])
        else:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        log = Log(folder, about.get("title", ""), run.steps, at=self.progress.steps, sinks=run.sinks, config=about, panel=panel)
        self.log = stack.enter_context(log)
        for note in notes:
            log.note(note)
        self.stepper = Stepper(learner, tree_map(lambda x: x.to(run.device), state), run.compile_after, log.note)
        self.stepper.updates = self.progress.updates
        envs = vector(world, run.num_envs, run.vector)
        stack.callback(envs.close)
        self.collector = Collector(envs, world.spec, self.replay, seeds[2])
        self.actor = Actor(learner, run.num_envs, learner.experience.look_every, run.device)
        self.evaluator = Evaluator(world, run.eval_episodes, seeds[3])
        stack.callback(self.evaluator.close)
        if resume:
            self.stepper.totals = {k: v.to(run.device) for k, v in _under("totals", tensors).items()}
            self.stepper.counts = meta["counts"]
            self.collector.restore(meta["collector"], _under("collector", tensors), log.note)
            self.actor.restore(_under("acting", tensors))
            self.replay.restore(_under("replay", tensors))
            self.replay.rng.set_state(tensors["rng.replay"])
            torch.set_rng_state(tensors["rng.torch"])
        self.reported = (self.progress.steps, self.progress.seconds)

    def policy(self) -> Any:
        return self.learner.policy(self.stepper.state)

    def explore(self, obs: torch.Tensor) -> torch.Tensor:
        return self.actor(self.policy(), obs, True)

    def loop(self, stop: threading.Event) -> bool:
        run, feed, p = self.run, self.learner.experience, self.progress
        if not feed.due(run.steps, run.num_envs) and not self.pretrain:
            why = f"warm-up ({feed.warmup:,} random steps)" if feed.warmup else "less than a rollout"
            self.log.note(
                f"all {run.steps:,} steps are {why}: nothing will be learnt; see --{'warmup' if feed.warmup else 'rollout'}"
            )
        if p.steps == 0 and p.updates < self.pretrain:
            self.log.note(f"{self.pretrain:,} updates on the dataset before the first step")
            self.learn(self.pretrain, stop)
        due = p.steps if p.steps >= run.steps else p.steps - p.steps % run.eval_every
        if p.evaluated < due and not stop.is_set():  # the first; and one that a fault or a signal kept from being done
            self.evaluate()
        while p.steps < run.steps and not stop.is_set():
            began, before = time.perf_counter(), p.steps
            with self.saved_on_fault(f"step {p.steps + 1}"):
                if self.collector.over.any():
                    self.actor.begin(torch.from_numpy(self.collector.over).nonzero().flatten())
                p.episodes += self.collector.step(None if p.steps < feed.warmup else self.explore)
            p.steps += run.num_envs
            p.seconds += time.perf_counter() - began
            self.learn(self.pretrain + feed.due(p.steps, run.num_envs))
            self.log.tick(p.steps)
            over = p.steps >= run.steps
            crossed = [over or p.steps // n > before // n for n in (run.log_every, run.eval_every, run.checkpoint_every)]
            for due, do in zip(crossed, (self.report, self.evaluate, self.save), strict=True):
                if due:
                    do()
        self.save()  # also of a run that was killed between its last checkpoint and the policy
        return p.steps >= run.steps

    def learn(self, due: int, stop: threading.Event | None = None) -> None:
        """Updates until there have been `due`, or until a signal to stop where one is heeded."""
        began, p, renew = time.perf_counter(), self.progress, self.learner.experience.reset_every
        if p.updates < due and isinstance(self.replay, Rollout):
            rollout = tree_map(lambda x: x.to(self.run.device), self.replay.batch())
            self.replay.learn_from(self.stepper.prepare(rollout))
        while p.updates < due and not (stop and stop.is_set()):
            self.stepper.step(tree_map(lambda x: x.to(self.run.device), self.source.sample()))
            p.updates = self.stepper.updates
            if renew and p.updates % renew == 0:
                self.stepper.reset(self.learner.init())
        p.seconds += time.perf_counter() - began

    @contextmanager
    def saved_on_fault(self, when: str) -> Iterator[None]:
        """Where the environment fails, nothing learnt is lost."""
        try:
            yield
        except Fault as fault:
            self.save()
            raise Fault(f"{when}: {fault}; a checkpoint is saved") from fault

    def report(self) -> None:
        """A row of metrics; the place where a learner that has diverged is caught."""
        p = self.progress
        steps, seconds = p.steps - self.reported[0], p.seconds - self.reported[1]
        self.reported = (p.steps, p.seconds)
        means = self.stepper.means()
        if bad := [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]:
            raise Fault(self._diverged(", ".join(bad)))
        row = {f"train/{k}": v for k, v in means.items()}
        if p.episodes:
            row["episode/return"], row["episode/length"] = (float(np.mean(x)) for x in zip(*p.episodes, strict=True))
            p.episodes = []
        row |= {"time/steps_per_second": steps / max(seconds, 1e-9), "time/seconds": p.seconds, "time/updates": float(p.updates)}
        self.log.row(p.steps, row)

    def evaluate(self) -> None:
        p = self.progress
        with self.saved_on_fault(f"evaluation at step {p.steps}"):
            actor = Actor(self.learner, self.run.eval_episodes, device=self.run.device)
            result = self.evaluator(lambda obs, rows: actor(self.policy(), obs, False, rows))
        p.last, p.evaluated = result["return_mean"], p.steps
        self.log.row(p.steps, {f"eval/{k}": v for k, v in result.items()})
        if p.best is None or p.last > p.best:
            p.best = p.last
            self.save_policy("best")

    def save(self) -> None:
        p = self.progress
        state = leaves(self.stepper.state)
        if bad := [name for name, x in state.items() if not bool(torch.isfinite(x).all())]:
            raise Fault(self._diverged(f"{bad[0]} is not finite"))
        collector, tensors = self.collector.save()
        tensors = {
            **{f"state.{k}": v for k, v in state.items()},
            **{f"totals.{k}": v for k, v in self.stepper.totals.items()},
            **{f"collector.{k}": v for k, v in tensors.items()},
            **{f"acting.{k}": v for k, v in self.actor.save().items()},
            **{f"replay.{k}": v for k, v in self.replay.save().items()},
            "rng.torch": torch.get_rng_state(),
            "rng.replay": self.replay.rng.get_state(),
        }
        meta = {
            "progress": vars(p), "counts": self.stepper.counts, "collector": collector,
            "replay_steps": self.replay.steps, "torch": torch.__version__,
        }  # fmt: skip
        checkpoint.save(self.folder, p.steps, meta, tensors, self.replay, self.run.keep)
        self.save_policy("last")

    def save_policy(self, name: str) -> None:
        """What `thespis.load` reads: the tensors that acting needs, and in words what they are."""
        place = self.folder / "policy"
        place.mkdir(exist_ok=True)
        checkpoint.write_tensors(place / f"{name}.safetensors", leaves(self.policy()))
        p = self.progress
        checkpoint.write_json(place / f"{name}.json", self.about | {"step": p.steps, "return_mean": p.last})

    def _diverged(self, what: str) -> str:
        kept = checkpoint.checkpoints(self.folder)
        return f"diverged by step {self.progress.steps}: {what}; the last good checkpoint is {kept[-1] if kept else 'none yet'}"


@contextmanager
def _torch(run: Run) -> Iterator[None]:
    """The run's threads. Denormals are flushed: idle units' moments decay into them, and they are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
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
