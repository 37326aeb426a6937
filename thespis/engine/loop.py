"""The loop: collect, update, evaluate, log, checkpoint; stop anywhere and go on exactly."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thespis.core import Fault, Learner, leaves, rebuild, tree_map
from thespis.data import Dataset, Demonstrations, Experience, Probe, Recorded, Rollout, Shards, every_row, experience
from thespis.engine import checkpoint, contexts, diverge, goals, memory, priority, team
from thespis.engine.act import Actor
from thespis.engine.callbacks import Callback, Callbacks
from thespis.engine.cluster import cluster
from thespis.engine.collect import Collector, Still
from thespis.engine.diverge import Diverged
from thespis.engine.evaluations import Evaluations
from thespis.engine.log import Log
from thespis.engine.process import Stop, Stopped, device_generator, stop_signals, torch_settings
from thespis.engine.progress import Episode, Progress
from thespis.engine.remote import Collectors
from thespis.engine.run import Run
from thespis.engine.sizes import Sizes
from thespis.engine.start import Start
from thespis.envs import World, vector
from thespis.envs.generators import global_generators_kept
from thespis.envs.statistics import pooled


def train(
    learner: Learner, world: World, run: Run, folder: Path, about: dict[str, Any],
    resume: bool = False, panel: bool | None = None, data: Dataset | None = None, notes: Sequence[str] = (),
    begin: Start | None = None, callbacks: Sequence[Callback] = (),
) -> str | None:  # fmt: skip
    """Trains until run.steps or until it is ended or stopped: returns why, see `Stop`. DIR holds all but `data` at any moment.

    `about` is written beside each policy, unread; `notes` are told first; `begin` has the networks that a new run begins with.
    Where these end the run, raises Fault, after a checkpoint, if the environment fails, and Diverged, without one, if the learner
    has diverged.
    """
    with (
        torch_settings(run) as max_threads,
        global_generators_kept(run.seed),
        team.team(run),
        stop_signals(run.max_hours) as stop,
    ):
        while True:
            try:
                with ExitStack() as stack:
                    given = learner, world, run, folder, about, resume, panel, data, max_threads, stop, begin, callbacks
                    training = _Training(stack, *given)
                    for note in notes:
                        training.log.note(note)
                    notes = ()
                    return training.loop()
            except Diverged as why:
                if run.on_divergence == "stop":
                    raise
                diverge.rollback(folder, why)
                resume = True


class _Training:
    def __init__(
        self, stack: ExitStack, learner: Learner, world: World, run: Run, folder: Path, about: dict[str, Any], resume: bool,
        panel: bool | None, data: Dataset | None, max_threads: int, stop: Stop, begin: Start | None = None,
        callbacks: Sequence[Callback] = (),
    ):  # fmt: skip
        """All that the loop needs, as a checkpoint left it or new. What must be closed is left to `stack`."""
        self.learner, self.world, self.run, self.folder, self.about, self.stop = learner, world, run, folder, about, stop
        self.leads, self.learners = team.rank() == 0, team.size()
        self.callbacks = Callbacks(callbacks, run, folder, self.save_policy)
        resume = resume and checkpoint.has_saved(folder)
        seeds = diverge.seeds(self._entropy(resume))
        torch.manual_seed(seeds[0])
        large = memory.check_experience(learner, world.spec, run)
        feed = world.spec, learner.experience, run.num_envs, seeds[1], learner.needs, run.collectors, run.device, data
        self.replay = experience(*feed, goals.hindsight(world, run), priority.priority(learner, run))
        self.source: Experience | Demonstrations = self.replay  # where batches come from
        if data is not None and not isinstance(self.replay, Recorded | Rollout):
            self.source = Demonstrations(world.spec, data, self.replay)
        self.pretrain = 0 if data is None else learner.experience.pretrain
        state, saved, notes = self._state(resume, data, begin)
        self.log = stack.enter_context(self._log(stack, panel))
        for note in (*large, *notes, *(data.notes if data else ())):
            self.log.note(note)
        unscaled = learner.given or learner.collect  # rows given are in no unit, and rewards may be descriptors
        plain = self.progress.updates or (unscaled and isinstance(self.replay, Rollout))
        unit = run.reward_unit or self.progress.reward_unit or (1.0 if plain else None)
        one = len(world.spec.rewards) == 1  # of several rewards a critic says several values
        self.sizes = Sizes(world.observation_space, "return_scale" in learner.needs, unit, self.log.note)
        how = run.compile_after, self.log.note, max_threads, run.precision == "bf16"
        self.stepper = priority.stepper(self.replay, learner, state, *how)
        self.stepper.updates = self.progress.updates
        self.probe = Probe(self.replay) if isinstance(self.replay, Recorded) and learner.value and one else None
        self.collector = self._collector(stack, seeds[2])
        compiled = learner if learner.memory else replace(learner, act=self.stepper.acting(run.num_envs))
        self.actor = Actor(compiled, run.num_envs, learner.experience.look_every, run.device, self.replay)
        self.evaluations: Evaluations | None = None
        if world.simulated and run.eval_episodes:
            draw = contexts.drawn(learner, self.stepper, False)
            mine = self.log, stop, seeds[3], self.skip("eval"), self.policy, self.value, draw
            self.evaluations = Evaluations(learner, world, run, self.collector, *mine)
            stack.callback(self.evaluations.close)
        if saved and self.leads:
            with checkpoint.fitting(folder):
                self._restore(*saved)
        elif saved:  # the leader's experience, then steps of this learner's own
            for env in range(run.num_envs):
                self.replay.parts[0].cut(env)  # type: ignore[union-attr]  # a team never learns from data alone
        self.reported = (self.progress.steps, self.progress.seconds)

    def _entropy(self, resume: bool) -> int | list[int]:
        """What every seed is drawn from. Those of a learner that does not lead are other ones each time that it is resumed."""
        done = [int(c.name) for c in checkpoint.checkpoints(self.folder)[-1:]] if resume else []
        return self.run.seed if self.leads else [self.run.seed, team.rank(), *done]

    def _state(
        self, resume: bool, data: Dataset | None, begin: Start | None
    ) -> tuple[Any, tuple[dict[str, Any], dict[str, torch.Tensor]] | None, list[str]]:
        """The learner's State, new or from the newest sound checkpoint; what else that holds; and notes for the person. Sets the
        progress."""
        state, saved, notes = team.first(self.learner.init()), None, list[str]()
        if self.learner.given and data:
            state = self.learner.given(state, every_row(self.world.spec, self.learner.experience, data))
        self.progress = Progress()
        if begin and not resume:
            state = begin.graft(self.learner, state)
            notes.append(begin.words(state))
        if resume:
            with team.leader_first():  # who, should one be damaged, puts it aside
                saved = meta, tensors = checkpoint.load(self.folder, self.replay, notes.append)
            found = checkpoint.part("state", tensors)
            checkpoint.fit(found, leaves(state), checkpoint.checkpoints(self.folder)[-1])
            with checkpoint.fitting(self.folder):
                state, self.progress = rebuild(state, found), Progress.read(meta["progress"])
        elif self.leads:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        return tree_map(lambda x: x.to(self.run.device), state), saved, notes

    def _log(self, stack: ExitStack, panel: bool | None) -> Log:
        run, at = self.run, self.progress.steps
        if self.leads:
            title = self.about.get("title", "")
            return Log(self.folder, title, run.steps, at=at, sinks=run.sinks, config=self.about, panel=panel)
        nowhere = Path(stack.enter_context(TemporaryDirectory()))
        return Log(nowhere, "", run.steps, sinks=(), panel=False, file=io.StringIO())

    def _collector(self, stack: ExitStack, seed: int) -> Collector | Collectors | Still:
        """Who steps the environments: processes of Ray's, this one, or nobody."""
        run, world, skip = self.run, self.world, self.skip("train")
        if isinstance(self.replay, Recorded):
            return Still(self.replay)
        if isinstance(self.replay, Shards):
            stack.enter_context(cluster(run.collectors, run.ray_address))
            collectors = Collectors(self.learner, world, run, self.replay, seed, self.log.note, skip)
            stack.callback(collectors.close)
            return collectors
        envs = vector(world, run.num_envs, run.vector, run.env_timeout, skip)
        stack.callback(envs.close)
        draw = contexts.drawn(self.learner, self.stepper, True)
        return Collector(envs, world.spec, self.replay, seed, lambda rows: self.actor.begin(rows), draw)

    def _restore(self, meta: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """All that a checkpoint holds besides the State and the steps, which are in place already."""
        self.stepper.restore(checkpoint.part("totals", tensors), meta["counts"])
        self.stepper.threads = meta.get("threads") and max(int(meta["threads"]), 1)
        self.actor.restore(checkpoint.part("acting", tensors), self.world.spec.obs.dim)
        self.replay.restore(checkpoint.part("replay", tensors))
        self.collector.restore(meta["collector"], checkpoint.part("collector", tensors), self.log.note)
        self.replay.rng.set_state(tensors["rng.replay"])
        torch.set_rng_state(tensors["rng.torch"])
        if (device := device_generator(self.run.device)) and "rng.device" in tensors:  # absent of a run from another device
            device[1](tensors["rng.device"])
        if rollback := meta.get("rollback"):
            self.log.note(rollback["said"])
            seeds = diverge.seeds(self.run.seed, self.progress.faults["rollbacks"])
            torch.manual_seed(seeds[0])
            self.replay.rng.manual_seed(seeds[1])
            self.collector.reseed(seeds[2])

    def policy(self) -> Any:
        return self.learner.policy(self.stepper.state)

    def value(self, obs: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.learner.value is not None
        unit, device = self.sizes.unit or 1.0, self.run.device
        value, bonus = self.learner.value(self.stepper.state, obs.to(device), action.to(device))
        return value * unit, bonus * unit

    def explore(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        if self.learner.collect:
            rows = torch.arange(self.run.num_envs) if rows is None else rows
            with torch.no_grad():
                return self.learner.collect(self.stepper.state, obs.to(self.run.device), rows.to(self.run.device))
        return self.actor(self.policy(), obs, True, rows)

    def skip(self, where: str) -> Callable[[Fault], None] | None:
        """Counts what is survived, and says so the 1st, 10th, 100th, ... time; None: nothing is."""

        def count(fault: Fault) -> None:
            faults = self.progress.faults
            faults[where] = faults.get(where, 0) + 1
            if str(faults[where]).strip("0") == "1":
                self.log.note(f"{fault}; that environment is made anew (fault {faults[where]:,} in {where})")

        return count if self.run.on_env_error == "restart" else None

    def loop(self) -> str | None:
        run, feed, p, stop = self.run, self.learner.experience, self.progress, self.stop
        if p.ended:
            self.log.note(f"ended at step {p.steps:,}: {p.ended}; it goes on with another option, as stop_at, or a callback")
        if not self.replay.due(run.steps) and not self.pretrain:
            warm = f"warm-up ({feed.warmup:,} random steps)", "warmup"
            why, see = warm if feed.warmup else ("less than a rollout", "rollout")
            self.log.note(f"all {run.steps:,} steps are {why}: nothing will be learnt; see --{see}")
        if p.steps == 0 and p.updates < self.pretrain:
            self.log.note(f"{self.pretrain:,} updates on the dataset before the first step")
            self.learn(self.pretrain, heed=True)
        if self.leads and p.owes_evaluation(run) and not stop.is_set():  # the first; and one that a fault or a signal kept back
            self.evaluate()
            if newest := [c for c in checkpoint.checkpoints(self.folder) if int(c.name) == p.steps]:
                checkpoint.amend(newest[0], lambda meta: meta.update(progress=vars(p)))
        if run.on_divergence == "rollback" and not checkpoint.checkpoints(self.folder):
            self.save()
        while p.steps < run.steps:
            began, before = time.perf_counter(), p.steps
            if not self.ready(self.pretrain + self.replay.due(p.steps + run.num_envs * self.learners)):
                break
            with self.saved_on_fault(f"step {p.steps + 1}"):
                p.episodes += self.collect()
            p.steps = self.replay.added * self.learners
            p.seconds += time.perf_counter() - began
            self.learn(self.pretrain + self.replay.due(p.steps))
            self.log.tick(p.steps)
            over = p.steps >= run.steps
            crossed = [over or p.steps // n > before // n for n in (run.log_every, run.eval_every, run.checkpoint_every)]
            for due, do in zip(crossed, (self.report, self.evaluate, self.save), strict=True):
                if due and (self.leads or do == self.report):
                    do()
        if self.leads:
            self.save()  # also of a run that was killed between its last checkpoint and the policy
        if team.any_of(p.ended is not None) or (p.steps >= run.steps and not (self.leads and p.owes_evaluation(run))):
            return None
        if stop.why == "max_hours":
            self.log.note(f"stopped at step {p.steps:,}: max_hours is {run.max_hours:g}")
        return stop.why or "another learner"

    def ready(self, due: int) -> bool:
        """Waits while the compiler is at what so many updates need. False where the run is to stop."""
        while not (stopped := team.any_of(self.stop.is_set() or self.progress.ended is not None)) and self.stepper.waits(due):
            time.sleep(0.05)
        return not stopped

    def collect(self) -> list[Episode]:
        """Steps into the replay: one of each environment, or what a collector has sent. The episodes that ended in them."""
        if isinstance(self.collector, Collectors):
            return self.collector.step(self.policy, self.progress.updates)
        return self.collector.step(None if self.progress.steps < self.learner.experience.warmup else self.explore)

    def learn(self, due: int, heed: bool = False) -> None:
        """Updates until there have been `due`, or until the run is to stop, where that is to be heeded."""
        began, p, renew = time.perf_counter(), self.progress, self.learner.experience.reset_every
        if p.updates < due and isinstance(self.replay, Rollout):
            if self.learner.experience.whole:
                self.collector.interrupt()  # type: ignore[union-attr]  # a rollout is one process's
            rollout = self.sizes(tree_map(lambda x: x.to(self.run.device), self.replay.batch()))
            self.replay.learn_from(self.stepper.prepare(rollout))
        while p.updates < due and (not heed or self.ready(p.updates + 1)):
            batch = self.sizes(self.source.sample())
            self.stepper.step(batch if self.run.device == "cpu" else tree_map(lambda x: x.to(self.run.device), batch))
            p.updates, p.reward_unit = self.stepper.updates, self.sizes.unit
            if renew and p.updates % renew == 0:
                self.stepper.reset(team.first(self.learner.init()))
        p.seconds += time.perf_counter() - began

    @contextmanager
    def saved_on_fault(self, when: str) -> Iterator[None]:
        """Where the environment fails, nothing learnt is lost."""
        try:
            yield
        except Fault as fault:
            if not self.leads:
                raise Fault(f"{when}: {fault}") from fault
            self.check([str(fault)] if isinstance(fault, Diverged) else [])
            if self.progress.steps == self.progress.updates == 0:  # there is nothing to lose
                raise Fault(f"{when}: {fault}") from fault
            self.save()
            raise Fault(f"{when}: {fault}; a checkpoint is saved") from fault

    def report(self) -> None:
        """A row of metrics; the place where a learner that has diverged is caught."""
        p = self.progress
        steps, seconds = p.steps - self.reported[0], p.seconds - self.reported[1]
        self.reported = (p.steps, p.seconds)
        means = self.stepper.means()
        if bad := [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]:
            raise self._diverged(", ".join(bad))
        row = {f"train/{k}": v for k, v in means.items()} | p.of_episodes()
        if isinstance(self.collector, Collectors):
            row |= self.collector.metrics()
        row |= {"time/steps_per_second": steps / max(seconds, 1e-9), "time/seconds": p.seconds, "time/updates": float(p.updates)}
        self.log.row(p.steps, row := row | p.survived())
        self.call_back(row)

    def call_back(self, row: dict[str, Any]) -> None:
        """What stop_at and the callbacks say of a row of metrics."""
        if self.leads:
            with self.saved_on_fault(f"step {self.progress.steps}"):
                self.callbacks(self.progress, row, self.log.note)

    def judge(self) -> dict[str, float]:
        """From data alone: a row of what the critic says of recorded steps, beside what came of them."""
        if self.probe is None:
            return {}
        act = None if self.learner.memory else lambda obs: self.learner.act(self.policy(), obs, False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a critic may draw, and where a run is stopped it is judged too
            told = self.probe(lambda obs, action: self.value(obs, action)[0], act)
        self.log.row(self.progress.steps, row := {f"data/{k}": v for k, v in told.items()})
        return row

    def evaluate(self) -> None:
        """A row of metrics; none where the run is to stop at once."""
        p = self.progress
        self.check()
        if self.evaluations is None:
            p.evaluated = p.steps
            self.call_back(self.judge())
            return
        faults = dict(p.faults)
        try:
            with self.saved_on_fault(f"evaluation at step {p.steps}"):
                result = self.evaluations(p.steps)
        except Stopped:
            p.faults = faults  # those of an evaluation that will be done again, whole
            return
        for which in ("", "sampled_"):
            result |= {f"{which}{k}": v for k, v in p.metrics(result.pop(f"{which}infos", ())).items()}
        p.last, p.evaluated = result["return_mean"], p.steps
        self.log.row(p.steps, row := {f"eval/{k}": v for k, v in result.items()} | p.survived())
        row |= self.judge()
        if p.best is None:
            self.save_policy("first")
        if p.best is None or p.last > p.best:
            p.best = p.last
            self.save_policy("best")
        self.call_back(row)

    def save(self) -> None:
        self.check()
        p, state = self.progress, leaves(self.stepper.state)
        collector, tensors = self.collector.save()
        tensors = {
            **{f"state.{k}": v for k, v in state.items()},
            **{f"totals.{k}": v for k, v in self.stepper.totals.items()},
            **{f"collector.{k}": v for k, v in tensors.items()},
            **{f"acting.{k}": v for k, v in self.actor.save().items()},
            **{f"replay.{k}": v for k, v in self.replay.save().items()},
            "rng.torch": torch.get_rng_state(),
            **({"rng.device": device[0]()} if (device := device_generator(self.run.device)) else {}),
            "rng.replay": self.replay.rng.get_state(),
        }
        meta = {
            "progress": vars(p), "counts": self.stepper.counts, "collector": collector,
            "threads": self.stepper.threads, "replay_steps": self.replay.steps, "torch": torch.__version__,
        }  # fmt: skip
        checkpoint.save(self.folder, p.steps, meta, tensors, self.replay, self.run.keep)
        self.save_policy("last")

    def save_policy(self, name: str) -> None:
        """What `thespis.load` reads: the tensors that acting needs, and in words what they are."""
        place = self.folder / "policy"
        checkpoint.write_tensors(place / f"{name}.safetensors", leaves(self.policy()))
        p = self.progress
        about = self.about | {"step": p.steps, "return_mean": p.last} | ({"ended": p.ended} if p.ended else {})
        if isinstance(self.collector, Collector) and (gathered := self.collector.gathered_now())[0]:  # by wrappers that normalise
            about["gathered"] = {k: v.tolist() for k, v in pooled(gathered).items()}
        if self.learner.context:
            about["contexts"] = contexts.rows(self.learner, self.stepper.state, max(self.run.eval_episodes, 1), False).tolist()
        checkpoint.write_sealed(place / f"{name}.json", about)

    def check(self, more: Sequence[str] = ()) -> None:
        """Stands before all that is saved. Diverged: a tensor of the learner is not finite, or there is `more` that is not."""
        tensors = leaves(self.stepper.state) | self.stepper.totals
        if bad := [f"{name} is not finite" for name, x in tensors.items() if not bool(torch.isfinite(x).all())] + list(more):
            raise self._diverged(bad[0])

    def _diverged(self, what: str) -> Diverged:
        return diverge.told(self.folder, self.progress.steps, what, *(self.sizes.said or ()))
