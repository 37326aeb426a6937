"""The algorithms: a module each in thespis/algos, or a Python file of the user's."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from thespis import config
from thespis.fault import Fault

HOME = Path(__file__).parent / "algos"


@dataclass(frozen=True)
class Algorithm:
    """What the text of an algorithm's file says of it. The file is run when `module` or `config` is first asked for: that imports
    torch."""

    name: str
    family: str
    """its folder in thespis/algos; "own" for a file of the user's"""
    paper: str
    summary: str
    file: Path

    @cached_property
    def module(self) -> ModuleType:
        """Fault: a file of the user's that raises, or does not declare what it must."""
        return _run(self) if self.family == "own" else importlib.import_module(f"thespis.algos.{self.family}.{self.file.stem}")

    @cached_property
    def config(self) -> Any:
        """Its defaults: Config(), or a preset's."""
        return _default(self.name, self.module)

    @cached_property
    def declared(self) -> Any:
        """The same numbers, of a class with the same fields, from the Config of the file alone."""
        try:
            return _default(self.name, _declarations(self.file, _parsed(self.file)))
        except Exception:  # a file of the user's whose Config needs more than its own lines
            return self.config


def algorithms() -> dict[str, Algorithm]:
    """Every algorithm and preset by name. An algorithm's name is that of its module, its description is the module's header."""
    found: dict[str, Algorithm] = {}
    for file in sorted(HOME.glob("*/[!_]*.py")):
        tree = _parsed(file)
        algo = found[file.stem] = _read(file.stem, file.parent.name, file, tree)
        if not any("PRESETS" in _names(node) for node in tree.body):
            continue
        papers = [part.strip().partition(", ") for part in header(ast.get_docstring(tree)).get("Presets", "").split(";")]
        for name, preset in _declarations(file, tree).PRESETS.items():
            paper = next((paper for first, _, paper in papers if first == name), algo.paper)
            found[name] = dataclasses.replace(algo, name=name, paper=paper, summary=f"{algo.name} with {_changes(preset)}")
    return found


def algorithm(name: str | Path) -> Algorithm:
    """By its name, or by the path of a Python file of your own that declares Config, State and make."""
    name = str(name)
    if not name.endswith(".py"):
        if file := next((f for f in HOME.glob("*/[!_]*.py") if f.stem == name), None):
            return _read(name, file.parent.name, file, _parsed(file))
        if name not in (known := algorithms()):
            hint = config.near(name, known) if config.nearest(name, known) else "; 'thespis list' names those that are"
            raise Fault(f"algorithm {name!r} is neither a .py file nor known{hint}")
        return known[name]
    if not Path(name).is_file():
        raise Fault(f"algorithm {name}: there is no such file")
    try:
        return _read(name, "own", Path(name), _parsed(Path(name)))
    except (SyntaxError, ValueError) as error:
        raise Fault(f"algorithm {name} is not Python: {error}") from error


def fitting(spec: Any) -> dict[str, Algorithm]:
    """The algorithms by name that, as they come, take the observations and actions of such an environment."""

    def fits(algo: Algorithm) -> bool:
        try:
            algo.module.make(algo.config, spec)
        except Fault:
            return False
        return spec.bounded or "unbounded" in takes(algo)

    return {name: algo for name, algo in algorithms().items() if fits(algo)}


def digest(found: Algorithm) -> str:
    """The SHA-256 of its file, which tells whether two runs are of the same text."""
    return hashlib.sha256(found.file.read_bytes()).hexdigest()


def takes(algo: Algorithm) -> set[str]:
    """What it takes beyond what all do: "unbounded" actions, the action "mask", "images" as images, several "rewards"."""
    return set(getattr(algo.module, "TAKES", ()))


def check_actions(algo: Algorithm, world: Any) -> None:
    """Fault: the world's actions have no bounds, and the algorithm needs them; it has several rewards, and the algorithm learns
    from one."""
    from thespis.envs.actions import missing_bound

    _check_rewards(algo, world)
    if world.spec.bounded or "unbounded" in takes(algo):
        return
    raise Fault(
        f"{algo.name}: {missing_bound(world.action_space)}, and every action needs two finite bounds: give the environment's "
        "action_space the lowest and highest useful value, or wrap it: gymnasium.wrappers.TransformAction(env, lambda a: a, "
        f"gymnasium.spaces.Box(-1, 1, {world.action_space.shape})); 'thespis list --for {world.name}' names the algorithms that "
        "need none"
    )


def _check_rewards(algo: Algorithm, world: Any) -> None:
    if (many := len(world.spec.rewards)) == 1 or "rewards" in takes(algo):
        return
    names, ones = ", ".join(world.spec.rewards), ",".join("1" * many)
    more = "; or each agent a learner of its own, as --agents separate (agents=)" if world.spec.agents > 1 else ""
    raise Fault(
        f"weights: {world.name} has {many} rewards ({names}), and {algo.name} learns from one: give each a weight in their "
        f"sum, as --weights {ones} (weights=){more}"
    )


def tell_mask(algo: Algorithm, world: Any) -> None:
    """Says that the world's action mask is not heeded, where it is not."""
    if world.spec.mask and "mask" not in takes(algo):
        print(f"{algo.name} does not heed the action mask of {world.name}: it will take forbidden actions", file=sys.stderr)


def tell_images(algo: Algorithm, world: Any, parts: Mapping[str, Any]) -> None:
    """Says that the world's images are one long vector to an algorithm without convolutions that was given no networks."""
    if world.spec.images and "images" not in takes(algo) and not parts:
        acts = [(name, other) for name, other in algorithms().items() if other.family not in ("own", "supervised")]
        others = [name for name, other in acts if "images" in takes(other)]
        print(
            f"{algo.name} sees the images of {world.name} as one long vector, and learns little from it: take "
            f"{' or '.join(others)} with --frame-stack 3, or give networks of your own (docs/pixels.md)",
            file=sys.stderr,
        )


def part_names(found: Algorithm) -> list[str]:
    """The parts that a user may give to its `make`, after cfg and spec."""
    return list(inspect.signature(found.module.make).parameters)[2:]


def header(docstring: str | None) -> dict[str, str]:
    """What a file's header says by its first words: {"Paper": ..., "Parent": ...}, each as one line without its full stop."""
    parts = re.split(r"^([A-Z]\w+):", inspect.cleandoc(docstring or ""), flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


# ------------------------------------------------------------------------------------------------------------- the text


def _read(name: str, family: str, file: Path, tree: ast.Module) -> Algorithm:
    docstring = ast.get_docstring(tree) or ""
    summary = inspect.cleandoc(docstring).split("\n")[0].rstrip(".")
    return Algorithm(name, family, header(docstring).get("Paper", ""), summary, file)


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


def _declarations(file: Path, tree: ast.Module) -> ModuleType:
    """A module with the Config and the PRESETS of the file, made by the statements that these two need and no others."""
    wanted, needed = {"Config", "PRESETS"}, []
    for node in reversed(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in wanted or _future(node)]
        if wanted & set(_names(node)) or _future(node):
            needed.append(node)
            wanted |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    module = ModuleType(f"Config of {file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses, and tyro for the words under a field, look a class's module up
    exec(compile(ast.Module(needed[::-1], []), str(file), "exec"), module.__dict__)
    return module


def _names(node: ast.stmt) -> Iterator[str]:
    """Those that a statement at the top of a file gives a meaning."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (a.asname or a.name.partition(".")[0] for a in node.names)
    else:
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _default(name: str, module: ModuleType) -> Any:
    presets = getattr(module, "PRESETS", {})
    try:
        return presets[name] if name in presets else module.Config()
    except TypeError as error:
        raise Fault(f"algorithm {name}: every field of Config needs a default ({error})") from error


def _changes(preset: Any) -> str:
    """What a preset sets otherwise than its Config does: "critics=1, delay=1"."""
    fields = [f for f in dataclasses.fields(preset) if getattr(preset, f.name) != f.default]
    return ", ".join(f"{f.name}={getattr(preset, f.name)}" for f in fields)


# ------------------------------------------------------------------------------------------------- a file of the user's


def _run(algo: Algorithm) -> ModuleType:
    from thespis.envs.flat import describe_error

    spec = importlib.util.spec_from_file_location(f"own algorithm {algo.file.stem}", algo.file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        # not exec_module, which leaves a __pycache__ beside the file
        code = compile(algo.file.read_bytes(), str(algo.file), "exec")
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise Fault(f"algorithm {algo.name} raised {describe_error(error)}") from error
    if missing := [n for n in ("Config", "State", "make") if not callable(getattr(module, n, None))]:
        raise Fault(f"algorithm {algo.name} does not declare {', '.join(missing)}")
    return module
