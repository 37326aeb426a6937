"""The stages of a study: what a file declares, what is asked of it, and what is wrong with that."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from thespis import config
from thespis.algorithms import algorithm, header
from thespis.engine.language_run import LanguageRun
from thespis.engine.run import Run
from thespis.fault import Fault

HOME = Path(__file__).parents[1] / "studies"
GIVEN = ("start_from",)
"""options of `thespis.train` that are neither the run's nor the algorithm's"""


@dataclass(frozen=True)
class Stage:
    """What `train` and `make` give."""

    does: str | Callable[..., object]
    """an algorithm, or a function"""
    options: dict[str, Any]

    def names(self) -> dict[str, Any]:
        """Its options by name: of a run the type of each, of a function None."""
        if not isinstance(self.does, str):
            return dict.fromkeys(self.options)
        algo = algorithm(self.does)
        runs = LanguageRun if algo.family == "language" else Run
        found = [typing.get_type_hints(x, include_extras=True) for x in (runs, type(algo.declared))]
        return found[0] | found[1] | dict.fromkeys(GIVEN, str)

    def json(self) -> dict[str, Any]:
        if isinstance(self.does, str):
            what = {"train": self.does}
        else:
            source = hashlib.sha256(inspect.getsource(self.does).encode()).hexdigest()
            what = {"make": self.does.__name__, "source": source}
        return what | {"options": json.loads(json.dumps(self.options, default=str))}


def train(algo: str, **options: Any) -> Stage:
    """A stage that is a run."""
    return Stage(algo, options)


def make(function: Callable[..., object], **options: Any) -> Stage:
    """A stage that writes files: function(folder, seed, **options)."""
    return Stage(function, options)


def last(folder: Path) -> dict[str, float]:
    """The numbers of a run's last evaluation, by their names without "eval/"; none where there was no evaluation."""
    from thespis.report.curve import rows

    found: dict[str, float] = {}
    for row in rows(folder):
        told = {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/") and isinstance(v, int | float)}
        found = told or found
    return found


@dataclass(frozen=True)
class Study:
    """What the text of a study's file says of it; the file is run when `module` is first asked for."""

    name: str
    paper: str
    summary: str
    file: Path

    @cached_property
    def module(self) -> ModuleType:
        """Fault: a file that raises, or declares no stages."""
        if self.file.parent == HOME:
            return importlib.import_module(f"thespis.studies.{self.file.stem}")
        module = ModuleType(f"own study {self.file.stem}")
        module.__file__ = str(self.file)
        sys.modules[module.__name__] = module  # where dataclasses look a class's module up
        try:
            exec(compile(self.file.read_bytes(), str(self.file), "exec"), module.__dict__)  # leaves no __pycache__ beside it
        except (Exception, SystemExit) as error:
            raise Fault(f"study {self.name} raised {told(error)}") from error
        stages = getattr(module, "STAGES", None)
        if not isinstance(stages, dict) or not stages or not all(isinstance(s, Stage) for s in stages.values()):
            raise Fault(f"study {self.name} does not declare STAGES, a dictionary of what train() and make() give")
        return module


def studies() -> dict[str, Study]:
    """Those that Thespis has, by name."""
    return {file.stem: _read(file.stem, file) for file in sorted(HOME.glob("[!_]*.py"))}


# ------------------------------------------------------------------------------------------------------- what is asked


def find(name: str | Path) -> Study:
    if not str(name).endswith(".py"):
        if str(name) not in (known := studies()):
            raise Fault(f"study {str(name)!r} is neither a .py file nor known{config.near(str(name), known)}")
        return known[str(name)]
    if not Path(name).is_file():
        raise Fault(f"study {name}: there is no such file")
    try:
        return _read(str(name), Path(name))
    except (SyntaxError, ValueError) as error:
        raise Fault(f"study {name} is not Python: {error}") from error


def _read(name: str, file: Path) -> Study:
    docstring = ast.get_docstring(ast.parse(file.read_bytes(), str(file))) or ""
    return Study(name, header(docstring).get("Paper", ""), docstring.split("\n")[0].rstrip("."), file)


def changed(stages: Mapping[str, Stage], options: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages with other values of their options; text stands for a value as on the command line."""
    found = dict(stages)
    for key, value in options.items():
        named, _, name = key.rpartition(".")
        if named and named not in stages:
            raise Fault(f"{key}: the study has no stage {named!r}{config.near(named, stages)}")
        known = {s: stages[s].names() for s in ([named] if named else stages)}
        if not any(name in hints for hints in known.values()):
            names = {k for hints in known.values() for k in hints}
            raise Fault(f"{key}: {name} is not an option of {named or 'any stage'}{config.near(name, names)}")
        for s, hints in known.items():
            if name in hints:
                found[s] = dataclasses.replace(found[s], options=found[s].options | {name: _value(key, hints[name], value)})
    return found


def _value(key: str, hint: Any, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        if hint is None:  # of a function: JSON, or else text
            try:
                return json.loads(given)
            except ValueError:
                return given
        return given if re.search(r"\{\w+\}", given) else config.read(hint, given)
    except (ValueError, OverflowError):
        raise Fault(f"{key} is {given!r}; allowed: {config.words(hint)}") from None


def check(stages: Mapping[str, Stage]) -> None:
    """Fault: what is wrong with the stages' algorithms, options and references, as far as can be told before they begin."""
    earlier: list[str] = []
    for name, stage in stages.items():
        if not re.fullmatch(r"[a-z]\w*", name) or name == "seed":
            raise Fault(f"stage {name!r}: its name must be a word in small letters, and not 'seed'")
        for word in _words(stage.options):
            for other in re.findall(r"\{(\w+)\}", word):
                if other not in (*earlier, "seed"):
                    raise Fault(f"stage {name}: {word!r} names {other!r}; allowed: {', '.join((*earlier, 'seed'))}")
        earlier.append(name)
        if isinstance(stage.does, str):
            _check_run(name, stage)


def _check_run(name: str, stage: Stage) -> None:
    assert isinstance(stage.does, str)
    from thespis.directory import configured

    algo = algorithm(stage.does)
    run: Any = LanguageRun() if algo.family == "language" else Run()
    plain = {k: v for k, v in stage.options.items() if k not in GIVEN and not isinstance(v, Mapping)}
    if "seed" in plain:
        raise Fault(f"stage {name}: seed is the study's; leave it out")
    try:
        configured(algo, run, algo.config, plain)
    except Fault as fault:
        raise Fault(f"stage {name}: {fault}") from None


def _words(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _words(list(value.values()))
    elif isinstance(value, Sequence):
        for x in value:
            yield from _words(x)


def filled(value: Any, places: Mapping[str, str]) -> Any:
    """The value, with the folders of stages for their names in its texts."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda m: places[m[1]], value) if type(value) is str else value
    if isinstance(value, Mapping):
        return {k: filled(v, places) for k, v in value.items()}
    return type(value)(filled(v, places) for v in value) if isinstance(value, list | tuple) else value


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
