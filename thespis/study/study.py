"""What a study does: its stages for each seed, from where they are, and its table."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thespis import __version__, config
from thespis.engine.run import Run
from thespis.fault import Fault
from thespis.study.stages import Stage, Study, changed, check, filled, find, last, told


def study(
    name: str | Path, *, out: str | Path | None = None, seeds: int | None = None, seed: int = 0,
    options: Mapping[str, Any] | None = None, quiet: bool = False, say: Callable[[str], object] = print,
) -> dict[str, Any]:  # fmt: skip
    """Runs the stages of a study for each seed, and returns its table: {"finished", "out", "study", "seeds", "rows", "csv"}.

    `name` is one that `thespis study` lists, or a .py file. `seeds`: how many, from `seed` on (default: the study's). `options`
    are other values of stages' options: {"grpo.steps": 1_000}, or {"steps": 1_000} for all stages that have it. DIR is `out`, or
    runs/study-NAME. The same call goes on where it was stopped: finished stages are left alone, one that had begun is resumed.
    `rows` has {row: {column: {"mean", "interval95", "values"}}}, and is empty until the study is finished. Raises Fault, before
    anything is written, for a mistake that you can correct.
    """
    found = find(name)
    limits = config.check(_Limits(getattr(found.module, "SEEDS", 5) if seeds is None else seeds, seed))
    stages = changed(found.module.STAGES, options or {})
    check(stages)
    from thespis.directory import place
    from thespis.engine.lock import alone

    folder = place(out) if out else Path("runs") / f"study-{found.file.stem}"
    run = _Run(found, stages, range(limits.seed, limits.seed + limits.seeds), folder, quiet, say)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return run()


@dataclass(frozen=True)
class _Limits:
    seeds: config.Count
    seed: config.Natural


# -------------------------------------------------------------------------------------------------------- what is done


@dataclass
class _Run:
    study: Study
    stages: dict[str, Stage]
    seeds: Sequence[int]
    folder: Path
    quiet: bool
    say: Callable[[str], object]
    done: list[str] = dataclasses.field(default_factory=list)
    """finished stages, as "seed-0/sft\""""

    def __call__(self) -> dict[str, Any]:
        self.open()
        wanted = [(seed, stage) for seed in self.seeds for stage in self.stages]
        already = sum(_key(*w) in self.done for w in wanted)
        self.say(
            f"study    {self.folder}: {len(self.stages)} stages, seeds {self.seeds[0]} to {self.seeds[-1]}"
            + (f"; {already} of {len(wanted)} done already" if already else "")
        )
        for seed, stage in wanted:
            if _key(seed, stage) not in self.done and not self.finish(seed, stage):
                return self.found(False, {})
        return self.tell()

    def open(self) -> None:
        """Takes up the study that is in the folder, or writes what it is. Fault: another is there."""
        from thespis.engine import checkpoint

        file = self.folder / "study.json"
        if not file.exists():
            if any(p.name != ".lock" for p in self.folder.iterdir()):
                raise Fault(f"out: {self.folder} exists and is no study; give another with --out")
            self.write()
            return
        old = checkpoint.read_json(file)
        if not isinstance(old, dict):
            raise Fault(f"{file} is damaged: it is no study")
        checkpoint.unseal(old, file)
        for name, stage in self.stages.items():
            if other := _differs(old["stages"].get(name), stage.json()):
                raise Fault(f"out: {self.folder} holds another study: stage {name}: {other}; give another with --out")
        self.done = list(old["done"])
        self.write()

    def write(self) -> None:
        from thespis.engine import checkpoint

        stages = {name: stage.json() for name, stage in self.stages.items()}
        about = {"study": self.study.name, "stages": stages, "done": self.done, "thespis": __version__}
        checkpoint.write_sealed(self.folder / "study.json", about)

    def place(self, seed: int, stage: str) -> Path:
        return (self.folder / _key(seed, stage)).resolve()

    def finish(self, seed: int, name: str) -> bool:
        """Brings a stage to its end, from where it is; False where it was stopped before."""
        stage, folder = self.stages[name], self.place(seed, name)
        places = {"seed": str(seed)} | {other: str(self.place(seed, other)) for other in self.stages}
        options = filled(stage.options, places)
        try:
            does = _train if isinstance(stage.does, str) else _make
            finished = does(stage.does, folder, seed, options, self.quiet, lambda how: self.say(f"{how}  seed {seed}, {name}"))
        except Fault as fault:
            raise Fault(f"seed {seed}, {name}: {fault}") from fault
        if finished:
            self.done.append(_key(seed, name))
            self.write()
        return finished

    def tell(self) -> dict[str, Any]:
        """The table, written to the folder."""
        from thespis.engine import checkpoint

        function = getattr(self.study.module, "table", _usual)
        rows: dict[str, dict[str, Any]] = {}
        try:
            tables = [function({stage: self.place(seed, stage) for stage in self.stages}) for seed in self.seeds]
            for row in tables[0]:
                for column in tables[0][row]:
                    rows.setdefault(row, {})[column] = _spread([float(t[row][column]) for t in tables])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise Fault(f"study {self.study.name}: its table raised {told(error)}") from error
        found = self.found(True, rows)
        checkpoint.write_json(self.folder / "table.json", found)
        checkpoint.write(self.folder / "table.csv", functools.partial(_write_csv, found))
        return found | {"csv": str(self.folder / "table.csv")}

    def found(self, finished: bool, rows: dict[str, Any]) -> dict[str, Any]:
        return {
            "finished": finished, "out": str(self.folder), "study": self.study.name, "seeds": list(self.seeds), "rows": rows,
        }  # fmt: skip


def _train(algo: Any, folder: Path, seed: int, options: dict[str, Any], quiet: bool, say: Callable[[str], object]) -> bool:
    from thespis import api
    from thespis.directory import is_run

    if is_run(folder):
        say("resumed")
        return api.resume(folder, quiet=quiet).finished
    say("begun  ")
    return api.train(algo, out=folder, seed=seed, quiet=quiet, **options).finished


def _make(
    function: Any, folder: Path, seed: int, options: dict[str, Any], quiet: bool, say: Callable[[str], object]
) -> bool:  # fmt: skip
    from thespis.directory import quietly
    from thespis.engine import checkpoint, process
    from thespis.envs.generators import global_generators_kept

    def fill(aside: Path) -> None:
        aside.mkdir()
        function(aside, seed, **options)

    if folder.exists():  # it takes its place when it is whole
        return True
    say("begun  ")
    with process.torch_settings(Run()), process.seeded("cpu", seed), global_generators_kept(seed), quietly(quiet):
        try:
            checkpoint.write(folder, fill)
        except (Fault, OSError):
            raise
        except Exception as error:
            raise Fault(f"{function.__name__} raised {told(error)}") from error
    return True


def _key(seed: int, stage: str) -> str:
    return f"seed-{seed}/{stage}"


def _differs(old: Any, new: dict[str, Any]) -> str | None:
    """What an old stage has otherwise than a new one, in words. None: nothing, or there is no old one."""
    if old is None or old == new:
        return None
    was, now = ({**{k: v for k, v in x.items() if k != "options"}, **x["options"]} for x in (old, new))
    name = next(k for k in was | now if was.get(k) != now.get(k))
    return f"its {name} is {was.get(name)!r}, here {now.get(name)!r}"


def _usual(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """A row of a run: its returns and pass@k at the last evaluation."""
    told = {name: last(folder) for name, folder in folders.items() if (folder / "metrics.jsonl").exists()}
    return {n: {k: x for k, x in t.items() if k.endswith("return_mean") or k.startswith("pass@")} for n, t in told.items() if t}


def _spread(values: list[float]) -> dict[str, Any]:
    import numpy as np

    from thespis.report.statistics import interval

    scores = [np.array(values)]
    both = None if len(values) < 2 else [float(x) for x in interval(lambda s: s[0].mean(), scores)]
    return {"mean": float(np.mean(values)), "interval95": both, "values": values}


def _write_csv(found: dict[str, Any], path: Path) -> None:
    with path.open("w", newline="") as file:
        to = csv.writer(file)
        to.writerow(["row", "column", "mean", "low", "high", *(f"seed {s}" for s in found["seeds"])])
        for row, columns in found["rows"].items():
            for column, x in columns.items():
                to.writerow([row, column, x["mean"], *(x["interval95"] or ("", "")), *x["values"]])
