"""The algorithms: a module each in thespis/algos, or a Python file of the user's."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import thespis.algos
from thespis import config
from thespis.core import Fault
from thespis.envs.flat import describe_error


@dataclass(frozen=True)
class Algorithm:
    name: str
    family: str
    paper: str
    summary: str
    module: ModuleType
    config: Any
    """its defaults: Config(), or a preset's"""


def algorithms() -> dict[str, Algorithm]:
    """Every algorithm by name: the name is its module's, the words are its header's; and every preset by its own name."""
    found: dict[str, Algorithm] = {}
    for family in pkgutil.iter_modules(thespis.algos.__path__):
        package = importlib.import_module(f"thespis.algos.{family.name}")
        for entry in pkgutil.iter_modules(package.__path__):
            algo = _describe(importlib.import_module(f"{package.__name__}.{entry.name}"), entry.name, family.name)
            found[entry.name] = algo
            papers = [part.strip().partition(", ") for part in header(algo.module).get("Presets", "").split(";")]
            for name, preset in getattr(algo.module, "PRESETS", {}).items():
                paper = next((paper for first, _, paper in papers if first == name), algo.paper)
                summary = f"{entry.name} with {_changes(preset)}"
                found[name] = dataclasses.replace(algo, name=name, paper=paper, summary=summary, config=preset)
    return found


def _changes(preset: Any) -> str:
    """What a preset sets otherwise than its Config does: "critics=1, delay=1"."""
    fields = [f for f in dataclasses.fields(preset) if getattr(preset, f.name) != f.default]
    return ", ".join(f"{f.name}={getattr(preset, f.name)}" for f in fields)


def algorithm(name: str | Path) -> Algorithm:
    """By its name, or by the path of a Python file of your own that declares Config, State and make."""
    name = str(name)
    if not name.endswith(".py"):
        if name not in (known := algorithms()):
            raise Fault(f"algorithm {name!r} is neither a .py file nor known{config.near(name, known)}")
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise Fault(f"algorithm {name}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own algorithm {path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        code = compile(path.read_bytes(), str(path), "exec")  # not exec_module, which leaves a __pycache__ beside the file
        exec(code, module.__dict__)
    except SyntaxError as error:
        raise Fault(f"algorithm {name} is not Python: {error}") from error
    except (Exception, SystemExit) as error:
        raise Fault(f"algorithm {name} raised {describe_error(error)}") from error
    if missing := [n for n in ("Config", "State", "make") if not callable(getattr(module, n, None))]:
        raise Fault(f"algorithm {name} does not declare {', '.join(missing)}")
    try:
        return _describe(module, name, "own")
    except TypeError as error:
        raise Fault(f"algorithm {name}: every field of Config needs a default ({error})") from error


def part_names(found: Algorithm) -> list[str]:
    """The parts that a user may give to its `make`, after cfg and spec."""
    return list(inspect.signature(found.module.make).parameters)[2:]


def _describe(module: ModuleType, name: str, family: str) -> Algorithm:
    summary = inspect.cleandoc(module.__doc__ or "").split("\n")[0].rstrip(".")
    return Algorithm(name, family, header(module).get("Paper", ""), summary, module, module.Config())


def header(module: ModuleType) -> dict[str, str]:
    """What a file's header says by its first words: {"Paper": ..., "Parent": ...}, each as one line without its full stop."""
    parts = re.split(r"^([A-Z]\w+):", inspect.cleandoc(module.__doc__ or ""), flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in zip(parts[1::2], parts[2::2], strict=True)}
