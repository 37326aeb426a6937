"""The loop of actors that write: play or read, update, evaluate, log, checkpoint; stop anywhere and go on exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis.core import Fault, leaves
from thespis.engine import checkpoint, diverge
from thespis.engine.diverge import Diverged
from thespis.engine.judge import Judge
from thespis.engine.language_run import LanguageRun
from thespis.engine.log import Log, trim
from thespis.engine.play import Episode, gathered, play
from thespis.engine.process import Stop, Stopped, stop_signals, torch_settings
from thespis.engine.progress import Progress
from thespis.engine.run import Run
from thespis.engine.start import Start
from thespis.engine.written import Book
from thespis.envs.generators import global_generators_kept
from thespis.envs.text import TextEnv, TextWorld
from thespis.lm import Model, adapter, parse
from thespis.turns import Paired, Played, TextLearner


def train(
    learner: TextLearner, world: TextWorld | None, run: LanguageRun, folder: Path, about: dict[str, Any], resume: bool,
    panel: bool | None, rows: Sequence[Mapping[str, Any]] | None = None, notes: Sequence[str] = (), begin: Start | None = None,
    judge: Judge | None = None,
) -> str | None:  # fmt: skip
    """Trains until run.steps, or until it is stopped: returns why, see `Stop`. `rows` are those of a file, to learn from; `begin`
    has the weights that a new run begins with; `judge` gives the rewards, in the world's place. Fault, after a checkpoint: the
    environment fails; Diverged, without one."""
    with (
        torch_settings(Run(threads=run.threads)),
        global_generators_kept(run.seed),
        stop_signals(run.max_hours) as stop,
        ExitStack() as stack,
    ):
        training = _Training(stack, learner, world, run, folder, about, resume, panel, rows, stop, begin, judge)
        for note in notes:
            training.log.note(note)
        return training.loop()


class _Training:
    def __init__(
        self, stack: ExitStack, learner: TextLearner, world: TextWorld | None, run: LanguageRun, folder: Path,
        about: dict[str, Any], resume: bool, panel: bool | None, rows: Sequence[Mapping[str, Any]] | None, stop: Stop,
        begin: Start | None, judge: Judge | None,
    ):  # fmt: skip
        """All that the loop needs, as a checkpoint left it or new. What must be closed is left to `stack`."""
        self.learner, self.world, self.run, self.folder, self.about, self.stop = learner, world, run, folder, about, stop
        self.judge = judge
        resume = resume and checkpoint.has_saved(folder)
        seeds = diverge.seeds(run.seed)
        torch.manual_seed(seeds[0])
        model, notes = model_of(run), list[str]()
        if run.adapter != "none":
            learnt, all_ = (sum(p.numel() for p in params.values()) for params in (model.trained, model.params))
            notes.append(f"{run.adapter}: {learnt:,} numbers are learnt, beside {all_ - learnt:,} that stay")
        if begin and not resume:
            graft(begin, model)
            notes.append(f"begins with the weights of another run ({begin.about.get('title', 'unknown')}, step {begin.step:,})")
        self.state, self.progress, self.totals = learner.init(model), Progress(), dict[str, list[float]]()
        self.rng, self.tasks, self.eval_seed = torch.Generator().manual_seed(seeds[2]), seeds[1], seeds[3]
        if resume:
            self._restore(*checkpoint.load(folder, None, notes.append))
        else:
            for name in ("metrics.jsonl", "transcripts.jsonl"):
                (folder / name).unlink(missing_ok=True)
        fed, self.book = learner.experience, None
        if not isinstance(fed, Played):
            columns = {} if isinstance(fed, Paired) else fed.columns
            self.book = Book(model.text, model.context, seeds[1], world, rows, isinstance(fed, Paired), columns)
        self.envs: list[TextEnv] = []
        stack.callback(self._close)
        at = self.progress.steps
        trim(folder / "transcripts.jsonl", at)
        self.log = stack.enter_context(Log(folder, about["title"], run.steps, at=at, sinks=run.sinks, config=about, panel=panel))
        for note in notes:
            self.log.note(note)
        self.reported = (self.progress.steps, self.progress.seconds)

    def _close(self) -> None:
        for env in self.envs:
            env.close()

    @property
    def model(self) -> Model:
        return self.learner.policy(self.state)

    def loop(self) -> str | None:
        run, p, stop = self.run, self.progress, self.stop
        if self.owes_evaluation() and not stop.is_set():  # the first; and one that a signal kept back
            self.evaluate()
            if newest := [c for c in checkpoint.checkpoints(self.folder) if int(c.name) == p.steps]:
                checkpoint.amend(newest[0], lambda meta: meta.update(progress=vars(p)))
        while p.steps < run.steps and not stop.is_set():
            began, before = time.perf_counter(), p.steps
            self.learn()
            p.seconds += time.perf_counter() - began
            self.log.tick(p.steps)
            over = p.steps >= run.steps
            for every, do in (run.log_every, self.report), (run.eval_every, self.evaluate), (run.checkpoint_every, self.save):
                if over or p.steps // every > before // every:
                    do()
        self.save()
        if p.steps >= run.steps and not self.owes_evaluation():
            return None
        if stop.why == "max_hours":
            self.log.note(f"stopped at step {p.steps:,}: max_hours is {run.max_hours:g}")
        return stop.why

    def owes_evaluation(self) -> bool:
        return self.world is not None and self.progress.owes_evaluation(self.run)

    def learn(self) -> None:
        """One update, and the episodes or the conversations that it is made of."""
        p, feed, figures = self.progress, self.learner.experience, dict[str, float]()
        if isinstance(feed, Played):
            seeds = range(self.tasks + p.updates * feed.questions, self.tasks + (p.updates + 1) * feed.questions)
            try:
                episodes = self.play(seeds, feed.group, self.rng)
            except Fault as fault:
                if p.updates == 0:  # there is nothing to lose
                    raise
                raise Fault(f"step {p.steps + 1}: {fault}; the last checkpoint is whole") from fault
            turns, figures = gathered(episodes, feed.gamma), _figures(episodes, feed.group)
            self.state, told = self.learner.update(self.state, turns)
            p.episodes += [(e.reward, len(e.turns), e.turns[-1]["info"]) for e in episodes]
            p.steps += len(turns.row)
        else:
            assert self.book is not None
            self.state, told = self.learner.update(self.state, self.book.batch(p.updates, feed.batch_size))
            p.steps += feed.batch_size
        p.updates += 1
        for name, number in ({k: float(x) for k, x in told.items()} | figures).items():
            self.totals.setdefault(name, []).append(number)

    def play(self, seeds: Sequence[int], group: int, rng: torch.Generator | None, **how: bool) -> list[Episode]:
        assert self.world is not None
        while len(self.envs) < len(seeds) * group:
            self.envs.append(self.world.make())
        limit, longest = self.run.answer_tokens, self.run.max_turns
        episodes = play(self.model, self.envs, seeds, limit, rng, group=group, longest=longest, **how)
        if self.judge:
            self.judge(episodes)
        return episodes

    def report(self) -> None:
        """A row of metrics; the place where a learner that has diverged is caught."""
        p = self.progress
        steps, seconds = p.steps - self.reported[0], p.seconds - self.reported[1]
        self.reported = (p.steps, p.seconds)
        row = {f"train/{name}": sum(values) / len(values) for name, values in self.totals.items()}
        self.totals = {}
        if bad := [f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)]:
            raise self._diverged(", ".join(bad))
        row |= p.of_episodes()
        row |= {"time/steps_per_second": steps / max(seconds, 1e-9), "time/seconds": p.seconds, "time/updates": float(p.updates)}
        self.log.row(p.steps, row)

    def evaluate(self) -> None:
        """A row of metrics on held-out tasks, always the same, and their conversations; none where the run is to stop at once."""
        p, run = self.progress, self.run
        if self.world is None or not run.eval_episodes:
            return
        try:
            found = self._evaluated()
        except Stopped:
            return
        sampled, greedy = found
        told = judged(sampled, greedy, run.eval_samples)
        told |= {f"info/{name}": mean for name, mean in p.means([e.turns[-1]["info"] for e in sampled]).items()}
        p.last, p.evaluated = told["return_mean"], p.steps
        with (self.folder / "transcripts.jsonl").open("a") as file:
            file.write("".join(json.dumps({"step": p.steps, **e.words()}) + "\n" for e in greedy))
        self.log.row(p.steps, {f"eval/{name}": value for name, value in told.items()})
        if p.best is None:
            self.save_policy("first")
        if p.best is None or p.last > p.best:
            p.best = p.last
            self.save_policy("best")

    def _evaluated(self) -> tuple[list[Episode], list[Episode]]:
        """Answers as training samples them, and the most probable ones."""
        seeds, found = range(self.eval_seed, self.eval_seed + self.run.eval_episodes), []
        for group, greedy in (self.run.eval_samples, False), (1, True):
            if self.stop.at_once():
                raise Stopped
            rng = torch.Generator().manual_seed(self.eval_seed)  # the same noise at every evaluation; training's is left alone
            found.append(self.play(seeds, group, rng, held_out=True, greedy=greedy))
        return found[0], found[1]

    def save(self) -> None:
        tensors = leaves(self.state)
        if bad := [name for name, x in tensors.items() if not bool(torch.isfinite(x).all())]:
            raise self._diverged(f"{bad[0]} is not finite")
        p = self.progress
        all_ = {f"state.{k}": v for k, v in tensors.items()}
        all_ |= {"rng.torch": torch.get_rng_state(), "rng.sampler": self.rng.get_state()}
        meta = {"progress": vars(p), "totals": self.totals, "replay_steps": [], "torch": torch.__version__}
        checkpoint.save(self.folder, p.steps, meta, all_, None, self.run.keep)
        self.save_policy("last")

    def _restore(self, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        mine = leaves(self.state)
        found = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        checkpoint.fit(found, mine, checkpoint.checkpoints(self.folder)[-1])
        with checkpoint.fitting(self.folder):
            for name, x in mine.items():
                x.copy_(found[name])
            self.progress = Progress.read(meta["progress"])
            self.totals = {str(k): [float(x) for x in v] for k, v in meta["totals"].items()}
            torch.set_rng_state(tensors["rng.torch"])
            self.rng.set_state(tensors["rng.sampler"])

    def save_policy(self, name: str) -> None:
        """Its weights by the names that transformers has for them, and in words what they are."""
        file, p = self.folder / "policy" / f"{name}.safetensors", self.progress
        checkpoint.write_tensors(file, self.model.weights())
        checkpoint.write_sealed(file.with_suffix(".json"), self.about | {"step": p.steps, "return_mean": p.last})

    def _diverged(self, what: str) -> Diverged:
        return diverge.told(self.folder, self.progress.steps, what)


def model_of(run: LanguageRun) -> Model:
    """As the options name it, with the weights that it begins with."""
    beside = adapter(run.adapter)
    return parse(run.model).make(run.temperature, run.rank if run.adapter == "lora" else 0, run.precision, beside)


def graft(begin: Start, model: Model) -> None:
    """Gives the model the weights of another run, but for heads that it has not; its optimiser begins anew. Fault: they do not
    fit."""
    mine = model.weights()
    found = {k: x for k, x in begin.policy.items() if k in mine or not k.startswith("heads.")}
    checkpoint.fit(found, mine, begin.where)
    for name, p in mine.items():
        p.copy_(found[name])


def judged(sampled: Sequence[Episode], greedy: Sequence[Episode], k: int) -> dict[str, Any]:
    """What an evaluation says: `sampled` has k episodes of each task, one after the other; `greedy` the most probable ones."""
    returns, best = np.array([e.reward for e in sampled]).reshape(-1, k), np.array([e.reward for e in greedy])
    return {
        "return_mean": float(returns.mean()), "return_std": float(returns.std()), "greedy_return_mean": float(best.mean()),
        "returns": returns.mean(1).tolist(),
        f"pass@{k}": float((returns >= 1).any(1).mean()), "length_mean": float(np.mean([len(e.turns) for e in sampled])),
        "cut_off": _cut(sampled),
    }  # fmt: skip


def _figures(episodes: Sequence[Episode], group: int) -> dict[str, float]:
    """Of episodes that were played: tokens of an answer, the share cut off, and of groups whose returns are all the same."""
    returns, turns = np.array([e.reward for e in episodes]).reshape(-1, group), sum(len(e.turns) for e in episodes)
    tokens = sum(n >= 0 for e in episodes for n in e.said) / turns
    return {"answer_tokens": tokens, "cut_off": _cut(episodes), "groups_alike": float((returns.std(1) == 0).mean())}


def _cut(episodes: Sequence[Episode]) -> float:
    return float(np.mean([t["cut"] for e in episodes for t in e.turns]))
