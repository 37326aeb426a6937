"""Many runs of one algorithm: every combination of some settings, or a search among them, times seeds.

DIR/sweep.json                              what the sweep is and, of a search, each trial's values
DIR/lr=0.0001,tau=0.005/seed-0/             a run directory as any other; of a search DIR/trial-000/seed-0/
DIR/summary.png, summary.csv, summary.json  at its end

The state of a sweep is that of its runs: a run is done where its policy is of the last step. A search is a function of its past:
trial n is proposed by Optuna from the scores of those before it and a seed of its own, so nothing of Optuna's is kept on disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thespis import api, config, envs
from thespis.core import Fault
from thespis.directory import place
from thespis.engine import checkpoint, process
from thespis.engine.cluster import cluster
from thespis.engine.lock import alone
from thespis.engine.run import Run
from thespis.report import sweep as summary
from thespis.sweep.axes import NOT_SWEPT, Axis, Over, Setting, Values, axis, folder_name
from thespis.sweep.pool import Died, Job, OneByOne, OnRay, Pool
from thespis.sweep.search import import_optuna, propose

RETRIES = 3  # of a run whose process dies


def sweep(
    algo: str | Path = "sac", env: str | None = None, *, over: Over | None = None, seeds: int = 5, search: int = 0,
    parallel: int = 1, out: str | Path | None = None, say: Callable[[str], object] = print, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trains every setting with every seed; returns the summary, and writes it to DIR with the runs. See docs/sweep.md.

    `over` maps options (fields of Run or of the algorithm's Config) to their values: lists, or text as after --over. Without
    `search` every combination of values is a setting; with it, Optuna proposes that many, and text may be a range such as
    "1e-5..1e-2". `seeds` is how many seeds, counted from the option `seed`. DIR is `out`, or runs/sweep-ALGO-ENV; a sweep that is
    there already continues. `parallel` is how many runs train at a time, on the Ray cluster at `ray_address` or on a new one.
    `options` are those of `train`. Raises Fault, before anything is written, for a mistake that you can correct.
    """
    found = api.algorithm(algo)
    if not isinstance(env, str | None):
        raise Fault(f"env is {env!r}; a sweep needs an id, as each run makes it in a process of its own")
    world = api.world_of(env, options.get("data"), options.get("env_args", ()), options.get("wrappers", ()))
    if not world.simulated:
        raise Fault(f"env: a sweep compares returns, and {world.name} is recorded data: name an environment to evaluate in")
    run, cfg = api.configure(found, world, options)
    if not isinstance(over, Mapping | None):
        raise Fault(f"over is {envs.spaces.short(over)}; allowed: values by the names of options, as in {{'lr': [1e-4, 3e-4]}}")
    limits = config.check(_Limits(seeds, search, parallel))
    if run.collectors:
        raise Fault(f"collectors is {run.collectors}; {NOT_SWEPT['collectors']}: leave it out, and see --parallel")
    axes = [axis(found, name, values, bool(search)) for name, values in (over or {}).items()]
    if twice := next((a.name for i, a in enumerate(axes) if a.name in [b.name for b in axes[:i]]), None):
        raise Fault(f"over: {twice} is named twice")
    if search:
        import_optuna()
        if not axes:
            raise Fault("search: nothing to search; name ranges or values with --over")
    label = re.sub(r"[^\w.-]+", "-", f"sweep-{Path(found.name).stem}-{world.name}")
    folder = place(out) if out else Path("runs") / label
    if run.data and Path(run.data).expanduser().exists():
        run = dataclasses.replace(run, data=str(Path(run.data).expanduser().resolve()))
    one = dataclasses.replace(run, ray_address=None, max_hours=None)
    made = _Sweep(found, world, one, cfg, axes, limits, run.max_hours, folder, say)
    made.try_all()
    with cluster(parallel, run.ray_address, "parallel") if parallel > 1 or run.ray_address else nullcontext():
        return made(lambda: OnRay(parallel) if parallel > 1 or run.ray_address else OneByOne())


@dataclass(frozen=True)
class _Limits:
    seeds: config.Count
    search: config.Natural
    parallel: config.Count


@dataclass
class _Sweep:
    algo: api.Algorithm
    world: envs.World
    run: Run
    cfg: Any
    axes: list[Axis]
    limits: _Limits
    max_hours: float | None
    """of the sweep, not of each run"""
    folder: Path
    say: Callable[[str], object]
    trials: list[Values] = field(default_factory=list)
    """of a search: what was proposed"""
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    """by setting and seed: why a run has no score"""
    done: int = 0
    """runs that have been told to be done"""

    @property
    def seeds(self) -> list[int]:
        return list(range(self.run.seed, self.run.seed + self.limits.seeds))

    def setting(self, values: Values, name: str | None = None) -> Setting:
        fields = {f.name for f in dataclasses.fields(self.algo.module.Config)}
        run = config.check(dataclasses.replace(self.run, **{k: v for k, v in values.items() if k not in fields}))
        cfg = config.check(dataclasses.replace(self.cfg, **{k: v for k, v in values.items() if k in fields}))
        return Setting(folder_name(values) if name is None else name, values, run, cfg)

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
            api.ready(self.algo, setting.cfg, setting.run, self.world, {}, setting.run.data)

    # ---------------------------------------------------------------------------------------------------------- its file

    def about(self) -> dict[str, Any]:
        run = config.to_json(self.run)
        for name in ("env", "seed", "ray_address", "max_hours"):
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
        folder = str((self.folder / setting.name / f"seed-{seed}").resolve())
        options = run | config.to_json(setting.cfg)
        is_file = self.algo.name.endswith(".py")
        algo = str(Path(self.algo.name).resolve()) if is_file else self.algo.name
        return {"folder": folder, "algo": algo, "env": self.world.name, "options": options, "key": [setting.name, seed]}

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
        return last["return_mean"] if last["step"] >= setting.run.steps or last.get("ended") else None

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
            done = self.done = len(self.settings) * len(self.seeds) - len(jobs)
            what = f"{self.limits.search} trials" if self.limits.search else f"{len(self.settings)} settings"
            already = f", {done} done already" if done else ""
            count = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "1 seed"
            self.say(f"sweep    {self.folder}: {what}, {count} of each, {whole} runs{already}")
            for a in self.axes:
                self.say(f"over     {a}")
            with process.stop_signals(self.max_hours) as stop:
                finished = self._train(deque(jobs), pool(), stop, whole)
            return self._summary(finished)

    def _train(self, waiting: deque[Job], pool: Pool, stop: process.Stop, whole: int) -> bool:
        """True where every run came to its end, or failed."""
        deaths: dict[str, int] = {}
        by_name = {s.name: s for s in self.settings}
        announced = False
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
                if stop.is_set() and not announced:
                    announced = True
                    self.say("stopping: each run under way writes its checkpoint")
                    pool.stop()
                if (ended := pool.wait(0.5)) is None:
                    continue
                job, fault = ended
                setting_name, seed = job["key"]
                score = self.score(by_name[setting_name], seed)
                if score is not None:
                    self.done += 1
                    self.say(f"done     {_label(job)}: return {score:,.1f} ({self.done} of {whole})")
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

    def _summary(self, finished: bool) -> dict[str, Any]:
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
