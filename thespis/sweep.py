"""Many runs of one algorithm: every combination of some settings, or a search among them, times seeds.

DIR/sweep.json                              what the sweep is and, of a search, each trial's values
DIR/lr=0.0001,tau=0.005/seed-0/             a run directory as any other; of a search DIR/trial-000/seed-0/
DIR/summary.png, summary.csv, summary.json  at its end

The state of a sweep is that of its runs: a run is done where its policy is of the last step. A search is a function of its past:
trial n is proposed by Optuna from the scores of those before it and a seed of its own, so nothing of Optuna's is kept on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from thespis import api, config, envs
from thespis.core import Fault
from thespis.engine import checkpoint, loop
from thespis.engine.lock import alone
from thespis.engine.remote import cluster
from thespis.engine.run import Run
from thespis.report import sweep as summary

RETRIES = 3  # of a run whose process dies
WAIT = 60.0  # seconds for another process to leave a run's directory
NOT_SWEPT = {
    "env": "a sweep is of one environment",
    "seed": "every setting has the same seeds; give --seeds, and the first of them with --seed",
    "collectors": "a sweep trains whole runs side by side",
    "ray_address": "it is where the sweep's runs are trained",
}
Values = dict[str, Any]
"""by the names of fields"""
Over = Mapping[str, str | Sequence[Any]]


# ------------------------------------------------------------------------------------------------------------ what is swept


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes: those listed or, of a range, all from the first to the second."""

    name: str
    values: tuple[Any, ...]
    range: bool = False

    @property
    def log(self) -> bool:
        """Of a range: more than a decade is searched on a logarithmic scale."""
        return self.range and self.values[0] > 0 and self.values[1] > 10 * self.values[0]

    def json(self) -> Any:
        values = [list(v) if isinstance(v, tuple) else v for v in self.values]
        return {"from": values[0], "to": values[1], "log": self.log} if self.range else values

    def of(self, value: Any, file: Path) -> Any:
        """A trial's value, from JSON. Raises Fault where it is none of these."""
        value = tuple(value) if isinstance(value, list) else value
        kinds = {type(v) for v in self.values}
        if type(value) not in kinds or not (self.values[0] <= value <= self.values[1] if self.range else value in self.values):
            raise Fault(f"{file} is damaged: {self.name} is {value!r} in a trial")
        return value

    def __str__(self) -> str:
        if not self.range:
            return f"{self.name}: {', '.join(map(_told, self.values))}"
        return f"{self.name}: from {_told(self.values[0])} to {_told(self.values[1])}{', on a log scale' if self.log else ''}"


def axis(algo: api.Algorithm, name: str, given: str | Sequence[Any], search: bool) -> Axis:
    """From the words of the command line, "1e-4,3e-4" or "1e-5..1e-2", or from a list of values."""
    hints = {c: typing.get_type_hints(c, include_extras=True) for c in (Run, algo.module.Config)}
    own = name.startswith("algo.")
    known = hints[algo.module.Config] | ({} if own else hints[Run])
    plain = name.removeprefix("algo.").replace("-", "_")
    if plain not in known:
        raise Fault(f"over: {name} is not an option of {algo.name}{config.near(plain, known)}")
    if not own and plain in NOT_SWEPT:
        raise Fault(f"over: {name} cannot be swept: {NOT_SWEPT[plain]}")
    hint, words = known[plain], given.split(",") if isinstance(given, str) else given
    span = isinstance(given, str) and ".." in given and ("," not in given)
    if span:
        assert isinstance(given, str)
        words = given.split("..")
    values = []
    for word in words:
        try:
            values.append(config.read(hint, word.strip()) if isinstance(word, str) else config.fit(hint, word))
        except (ValueError, OverflowError):
            raise Fault(f"over: {name} is {word!r}; allowed: {config.words(hint)}") from None
    if span:
        if not search:
            raise Fault(f"over: {name} is the range {given!r}, which is for a search: give --search N, or list values")
        if len(values) != 2 or any(type(v) not in (int, float) for v in values) or not values[0] < values[1]:
            raise Fault(f"over: {name} is {given!r}; a range is LOW..HIGH, of numbers")
    if not values:
        raise Fault(f"over: {name} has no values")
    if twice := [v for i, v in enumerate(values) if v in values[:i]]:
        raise Fault(f"over: {name} has {_told(twice[0])} twice")
    return Axis(plain, tuple(values), span)


@dataclass(frozen=True)
class Setting:
    """One combination of values, trained with every seed."""

    name: str
    """of its folder"""
    values: Values
    run: Run
    cfg: Any


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _name(values: Values) -> str:
    """A folder's: "lr=0.0001,tau=0.005"; what cannot stand there is told apart by a digest."""
    plain = ",".join(f"{k}={_told(v)}" for k, v in values.items())
    safe = re.sub(r"[^\w.=,+-]+", "-", plain)
    return safe if safe == plain and len(safe) <= 150 else f"{safe[:140]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


# --------------------------------------------------------------------------------------------------- a run, in its own process


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
            api.resume(folder, env=job["env"], algo=job["algo"], panel=False)
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
    CODE = "import sys; from thespis.sweep import child; sys.exit(child(sys.argv[1]))"

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


# ------------------------------------------------------------------------------------------------------------------ the search


def propose(axes: Sequence[Axis], past: Sequence[tuple[Values, float | None]], seed: int) -> Values:
    """Values for the next trial, by the tree-structured Parzen estimator. `past`: each trial and its score; None: under way."""
    optuna = _optuna()
    kinds = optuna.distributions
    spaces: dict[str, Any] = {}
    for a in axes:
        if a.range:
            kind = kinds.IntDistribution if all(type(v) is int for v in a.values) else kinds.FloatDistribution
            spaces[a.name] = kind(a.values[0], a.values[1], log=a.log)
        else:  # by their places: a choice of Optuna's may not be a tuple
            spaces[a.name] = kinds.CategoricalDistribution(list(range(len(a.values))))
    listed = {a.name: a.values for a in axes if not a.range}
    states, level = optuna.trial.TrialState, optuna.logging.get_verbosity()
    own = int(np.random.SeedSequence([seed, len(past)]).generate_state(1)[0])
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=own, constant_liar=True)  # of several at once no two are alike
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for values, score in past:
                study.add_trial(
                    optuna.trial.create_trial(
                        state=states.RUNNING if score is None else states.COMPLETE, value=score, distributions=spaces,
                        params={k: listed[k].index(v) if k in listed else v for k, v in values.items()},
                    )
                )  # fmt: skip
            found = study.ask(spaces).params
    finally:
        optuna.logging.set_verbosity(level)
    return {k: listed[k][v] if k in listed else v for k, v in found.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Fault(f'search needs Optuna ({error}): pip install "thespis[sweep]"') from error
    return optuna


# ------------------------------------------------------------------------------------------------------------------- the sweep


def sweep(
    algo: str | Path = "sac", env: str = "HalfCheetah-v5", *, over: Over | None = None, seeds: int = 5, search: int = 0,
    parallel: int = 1, out: str | Path | None = None, say: Callable[[str], object] = print, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trains every setting with every seed, and returns (and leaves in DIR) what came of it; see docs/sweep.md.

    `over` gives fields of Run or of the algorithm's Config their values: lists, or text as after --over. Without `search` every
    combination is a setting; with it, so many are proposed by Optuna, where text may be a range such as "1e-5..1e-2". Seeds are
    the `seeds` numbers from the option `seed` on. DIR is runs/sweep-ALGO-ENV unless `out` names one; where the same sweep is
    there, it goes on. `options` are those of `train`; `parallel` runs at a time, on Ray's cluster at `ray_address` or on one of
    its own. Raises Fault, before anything is written, for what you can mend.
    """
    found = api.algorithm(algo)
    if not isinstance(env, str):
        raise Fault(f"env is {env!r}; a sweep needs an id, as each run makes it in a process of its own")
    world = envs.world(env)
    run, cfg = api.configure(found, world, options)
    limits = config.check(_Limits(seeds, search, parallel))
    if run.collectors:
        raise Fault(f"collectors is {run.collectors}; {NOT_SWEPT['collectors']}: leave it out, and see --parallel")
    axes = [axis(found, name, values, bool(search)) for name, values in (over or {}).items()]
    if twice := next((a.name for i, a in enumerate(axes) if a.name in [b.name for b in axes[:i]]), None):
        raise Fault(f"over: {twice} is named twice")
    if search:
        _optuna()
        if not axes:
            raise Fault("search: nothing to search; name ranges or values with --over")
    label = re.sub(r"[^\w.-]+", "-", f"sweep-{Path(found.name).stem}-{world.name}")
    folder = Path(out).expanduser() if out else Path("runs") / label
    if run.data and Path(run.data).expanduser().is_dir():
        run = dataclasses.replace(run, data=str(Path(run.data).expanduser().resolve()))
    made = _Sweep(found, world, dataclasses.replace(run, ray_address=None), cfg, axes, limits, folder, say)
    made.try_all()
    with cluster(parallel, run.ray_address, "parallel") if parallel > 1 or run.ray_address else _nothing() as _:
        return made(lambda: OnRay(parallel) if parallel > 1 or run.ray_address else OneByOne())


@dataclass(frozen=True)
class _Limits:
    seeds: config.Count
    search: config.Natural
    parallel: config.Count


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@dataclass
class _Sweep:
    algo: api.Algorithm
    world: envs.World
    run: Run
    cfg: Any
    axes: list[Axis]
    limits: _Limits
    folder: Path
    say: Callable[[str], object]
    trials: list[Values] = field(default_factory=list)
    """of a search: what was proposed"""
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    """by setting and seed: why a run has no score"""

    @property
    def seeds(self) -> list[int]:
        return list(range(self.run.seed, self.run.seed + self.limits.seeds))

    def setting(self, values: Values, name: str | None = None) -> Setting:
        fields = {f.name for f in dataclasses.fields(self.algo.module.Config)}
        run = config.check(dataclasses.replace(self.run, **{k: v for k, v in values.items() if k not in fields}))
        cfg = config.check(dataclasses.replace(self.cfg, **{k: v for k, v in values.items() if k in fields}))
        return Setting(_name(values) if name is None else name, values, run, cfg)

    @property
    def settings(self) -> list[Setting]:
        """Of a grid all, of a search those that were proposed."""
        if self.limits.search:
            return [self.setting(values, f"trial-{i:03d}") for i, values in enumerate(self.trials)]
        return [
            self.setting(dict(zip([a.name for a in self.axes], values, strict=True)))
            for values in itertools.product(*(a.values for a in self.axes))
        ]

    def try_all(self) -> None:
        """Every fault of a setting is told before anything is written; of a range, those of its ends."""
        for values in itertools.product(*(a.values for a in self.axes)):
            setting = self.setting(dict(zip([a.name for a in self.axes], values, strict=True)))
            api.ready(self.algo, setting.cfg, setting.run, self.world, {})

    # ---------------------------------------------------------------------------------------------------------- its file

    def about(self) -> dict[str, Any]:
        run = config.to_json(self.run)
        for name in ("env", "seed", "ray_address"):
            del run[name]
        return {
            "algo": self.algo.name, "env": self.world.name, "algo_config": config.to_json(self.cfg), "run": run,
            "over": {a.name: a.json() for a in self.axes}, "seeds": self.seeds, "search": self.limits.search,
            "trials": [{k: list(v) if isinstance(v, tuple) else v for k, v in t.items()} for t in self.trials],
            "thespis": api.thespis.__version__,
        }  # fmt: skip

    def write(self) -> None:
        checkpoint.write_sealed(self.folder / "sweep.json", self.about())

    def open(self) -> None:
        """Takes up the sweep that is in the folder. Raises Fault where that is another one."""
        file = self.folder / "sweep.json"
        if not file.exists():
            if any(p.name != ".lock" for p in self.folder.iterdir()):
                raise Fault(f"out: {self.folder} exists and is no sweep; give another with --out")
            return
        old = checkpoint.read_json(file)
        if not isinstance(old, dict):
            raise Fault(f"{file} is damaged: it is no sweep")
        checkpoint.unseal(old, file)
        if other := differs(old, self.about()):
            raise Fault(f"out: {self.folder} holds another sweep: {other}; give another with --out")
        self.trials = [{a.name: a.of(trial[a.name], file) for a in self.axes} for trial in old["trials"]]

    # ---------------------------------------------------------------------------------------------------------- its runs

    def job(self, setting: Setting, seed: int) -> Job:
        run = config.to_json(setting.run) | {"seed": seed}
        del run["env"]
        place = str((self.folder / setting.name / f"seed-{seed}").resolve())
        options = run | config.to_json(setting.cfg)
        own = self.algo.name.endswith(".py")
        algo = str(Path(self.algo.name).resolve()) if own else self.algo.name
        return {"folder": place, "algo": algo, "env": self.world.name, "options": options, "key": [setting.name, seed]}

    def score(self, setting: Setting, seed: int) -> float | None:
        """The last evaluation of a run that is done. Raises Fault where another run is in its place."""
        folder = self.folder / setting.name / f"seed-{seed}"
        file = folder / "config.json"
        if not file.exists():
            return None
        about, wanted = checkpoint.read_json(file), {"algo_config": config.to_json(setting.cfg), "run": {"seed": seed}}
        wanted["run"]["steps"] = setting.run.steps
        if not isinstance(about, dict) or (other := differs(about, wanted)):
            raise Fault(f"{folder} holds another run: {other if isinstance(about, dict) else 'it is damaged'}; move it away")
        if not (file := folder / "policy" / "last.json").exists():
            return None
        last = checkpoint.read_json(file)
        if not isinstance(last, dict):
            raise Fault(f"{file} is damaged, or was not written by Thespis")
        checkpoint.unseal(last, file)
        return last["return_mean"] if last["step"] >= setting.run.steps else None

    def scores(self, setting: Setting) -> dict[int, float]:
        found = {seed: self.score(setting, seed) for seed in self.seeds}
        return {seed: score for seed, score in found.items() if score is not None}

    def past(self) -> list[tuple[Values, float | None]]:
        """A trial of which no run can be finished counts as the worst there was."""
        found: list[tuple[Values, float | None]] = []
        all_scores = [(s, self.scores(s)) for s in self.settings]
        whole = [float(np.mean(list(x.values()))) for _, x in all_scores if len(x) == len(self.seeds)]
        for setting, scores in all_scores:
            mean = float(np.mean(list(scores.values()))) if len(scores) == len(self.seeds) else None
            bad = any((setting.name, seed) in self.failed for seed in self.seeds)
            found.append((setting.values, min(whole, default=None) if bad else mean))
        return found

    def __call__(self, pool: Callable[[], Pool]) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder):
            self.open()
            jobs = [self.job(s, seed) for seed in self.seeds for s in self.settings if self.score(s, seed) is None]
            self.write()
            whole = (self.limits.search or len(self.settings)) * len(self.seeds)
            done = len(self.settings) * len(self.seeds) - len(jobs)
            what = f"{self.limits.search} trials" if self.limits.search else f"{len(self.settings)} settings"
            already = f", {done} done already" if done else ""
            count = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "1 seed"
            self.say(f"sweep    {self.folder}: {what}, {count} of each, {whole} runs{already}")
            for a in self.axes:
                self.say(f"over     {a}")
            with loop.stop_signals() as stop:
                finished = self._train(deque(jobs), pool(), stop, whole)
            return self._told(finished)

    def _train(self, waiting: deque[Job], pool: Pool, stop: threading.Event, whole: int) -> bool:
        """True where every run came to its end, or failed."""
        deaths: dict[str, int] = {}
        by_name = {s.name: s for s in self.settings}
        told = False
        try:
            while True:
                while not stop.is_set() and pool.busy < pool.slots:
                    if not waiting and len(self.trials) < self.limits.search:
                        setting = self._next()
                        by_name[setting.name] = setting
                        waiting += [self.job(setting, seed) for seed in self.seeds]
                    if not waiting:
                        break
                    job = waiting.popleft()
                    again = "resumed" if (Path(job["folder"]) / "checkpoints").is_dir() else "begun  "
                    self.say(f"{again}  {_label(job)}")
                    pool.start(job)
                if not pool.busy:
                    return not stop.is_set()
                if stop.is_set() and not told:
                    told = True
                    self.say("stopping: each run under way writes its checkpoint")
                    pool.stop()
                if (ended := pool.wait(0.5)) is None:
                    continue
                job, fault = ended
                setting_name, seed = job["key"]
                score = self.score(by_name[setting_name], seed)
                if score is not None:
                    left = sum(len(self.scores(s)) for s in by_name.values())
                    self.say(f"done     {_label(job)}: return {score:,.1f} ({left} of {whole})")
                elif stop.is_set():
                    continue
                elif isinstance(fault, Died) and (n := deaths.get(job["folder"], 0)) < RETRIES:
                    deaths[job["folder"]] = n + 1
                    self.say(f"died     {_label(job)} ({fault}); it goes on from its checkpoint, time {n + 1} of {RETRIES}")
                    waiting.appendleft(job)
                else:
                    why = (
                        f"died {RETRIES + 1} times ({fault})" if isinstance(fault, Died) else fault or "was stopped from outside"
                    )
                    self.failed[setting_name, seed] = why
                    self.say(f"failed   {_label(job)}: {why}")
        finally:
            pool.close()

    def _next(self) -> Setting:
        self.trials.append(propose(self.axes, self.past(), self.run.seed))
        self.write()
        setting = self.settings[-1]
        self.say(f"trial    {setting.name}: " + summary.words(setting.values))
        return setting

    # ------------------------------------------------------------------------------------------------------- its summary

    def _told(self, finished: bool) -> dict[str, Any]:
        rows = []
        for setting in self.settings:
            scores = self.scores(setting)
            values = {k: list(v) if isinstance(v, tuple) else v for k, v in setting.values.items()}
            rows.append(summary.row(values, setting.name, scores))
        found = {
            "finished": finished, "out": str(self.folder), "algo": self.algo.name, "env": self.world.name,
            "steps": self.run.steps, "search": self.limits.search, "over": {a.name: a.json() for a in self.axes},
            "settings": rows, "failed": [{"run": f"{s}/seed-{n}", "why": why} for (s, n), why in self.failed.items()],
        }  # fmt: skip
        if finished and any(row["seeds"] for row in rows):
            for name, fill in ("png", summary.picture), ("csv", summary.table):
                checkpoint.write(self.folder / f"summary.{name}", lambda p, fill=fill: fill(found, p))  # type: ignore[misc]
            found |= {"picture": str(self.folder / "summary.png"), "csv": str(self.folder / "summary.csv")}
            checkpoint.write_json(self.folder / "summary.json", found)
        return found


def _label(job: Job) -> str:
    name, seed = job["key"]
    return ", ".join([*([name.replace(",", ", ")] if name else []), f"seed {seed}"])


def differs(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What an old sweep or run sets otherwise than a new one, in words; more seeds, values or trials are no difference."""
    for part in (p for p in ("algo_config", "run") if p in new):
        found = old.get(part)
        had = found if isinstance(found, dict) else {}
        for name, value in new[part].items():
            if had.get(name) != value:
                return f"its {name} is {had.get(name)!r}, here {value!r}"
    for name in (n for n in ("algo", "env") if n in new):
        if old.get(name) != new[name]:
            return f"its {name} is {old.get(name)!r}, here {new[name]!r}"
    if "over" not in new:
        return None
    over, trials, seeds = (old.get(name) for name in ("over", "trials", "seeds"))
    if not isinstance(over, dict) or not isinstance(trials, list) or not isinstance(seeds, list):
        return "its sweep.json is none that this version writes"
    if list(over) != list(new["over"]):
        return f"it is over {' and '.join(over) or 'nothing'}, here {' and '.join(new['over']) or 'nothing'}"
    if bool(old.get("search")) != bool(new["search"]):
        return f"it is {'a search' if old.get('search') else 'a grid'}"
    for name, values in over.items():
        fixed = new["search"] or isinstance(values, dict)
        if fixed and values != new["over"][name]:
            return f"its {name} is {json.dumps(values)}, here {json.dumps(new['over'][name])}"
        if not fixed and (gone := [v for v in values if v not in new["over"][name]]):
            return f"it has {name} {gone[0]!r} too"
    if any(not isinstance(trial, dict) or trial.keys() != over.keys() for trial in trials):
        return "its trials are none that this version writes"
    if gone := [seed for seed in seeds if seed not in new["seeds"]]:
        return f"it has seed {gone[0]} too"
    if new["search"] and len(trials) > new["search"]:
        return f"it has {len(trials)} trials already"
    return None
