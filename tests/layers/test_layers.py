"""The import rule: an arrow may only point down. Reads the source with ast, so an import hidden in a function counts too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2] / "thespis"

FLOOR = {
    **dict.fromkeys(("fault", "core", "config", "ops", "turns"), 1),
    **dict.fromkeys(("data", "envs", "worlds", "nets", "optim", "lm"), 2),
    **dict.fromkeys(("engine", "algos", "report"), 3),
    **dict.fromkeys(
        (
            "adapters",
            "serving",
            "algorithms",
            "directory",
            "language",
            "learner",
            "policy",
            "training",
            "cli",
            "api",
            "record",
            "estimate",
            "export",
            "hub",
            "sb3",
            "checking",
            "finetuning",
            "sweep",
            "study",
            "studies",
            "__init__",
            "__main__",
        ),
        4,
    ),
}
TOP = {
    "algorithms": 0,
    "directory": 1,
    "policy": 2,
    "language": 2,
    "learner": 2,
    "training": 3,
    "adapters": 3,
    "serving": 3,
    "api": 4,
    "record": 4,
    "estimate": 4,
    "export": 5,
    "hub": 5,
    "sb3": 5,
    "checking": 5,
    "finetuning": 5,
    "sweep": 5,
    "study": 5,
    "studies": 6,
    "cli": 6,
}  # on floor 4 too an arrow points down; all may use the package's face
SIDEWAYS = {("core", "fault"), ("config", "fault"), ("ops", "core")}  # the only arrows within a floor below the fourth
ONLY = {"report": {"fault"}}  # it reads files and nothing else of ours

PURE = {"algos", "ops", "nets", "optim"}  # what is traced into one graph: no host values, no devices, no clock, no disk
IMPURE_METHODS = {"item", "tolist", "numpy", "to", "cpu", "cuda", "open"}
IMPURE_NAMES = {"builtins.print", "builtins.open", "time", "datetime", "torch.manual_seed", "torch.distributions"}

# A file that we did not write must not be able to run code when it is read.
UNSAFE = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "torch.load", "torch.save", "torch.serialization"}
UNSAFE |= {"torch.export.load", "torch.jit.load"}  # both unpickle


# ------------------------------------------------------------------------------------------------------------ the reader


def imports(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str, str]]:
    """(line, the name in the file, the full name of what it stands for) for every import wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                yield node.lineno, a.asname or a.name.split(".")[0], a.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            for a in node.names:
                yield node.lineno, a.asname or a.name, ".".join([*base, a.name])


def uses(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, full name) of every import, name and attribute, with `import numpy as np` undone; not imported: builtins.NAME."""
    stands_for = {}
    for line, name, full in imports(tree, package):
        stands_for[name] = name if full.startswith(name + ".") else full
        yield line, full
    for node in ast.walk(tree):
        attributes: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, ".".join([stands_for.get(inner.id, f"builtins.{inner.id}"), *attributes])


def within(name: str, names: set[str]) -> bool:
    return any(name == n or name.startswith(n + ".") for n in names)


def names_us(tree: ast.Module) -> bool:
    """Whether a string in the file begins as the name of one of our modules does."""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return any(s.startswith("thespis.") for s in strings)


def room_of(name: str) -> str:
    """The room of a full name: "thespis.nets.mlp" -> "nets". What is not a room is taken from the package's face, __init__."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


# -------------------------------------------------------------------------------------------------------------- the rules


def arrow(room: str, file: Path, name: str) -> str | None:
    """What is wrong with `file` of `room` using `name` of ours."""
    other = room_of(name)
    if room == other:
        alone = room == "algos" and file.name != "__init__.py"
        return "an algorithm uses no other" if alone else None
    if room in ONLY and other not in ONLY[room]:
        return f"{room} may use only {', '.join(ONLY[room])}"
    if FLOOR[other] > FLOOR[room]:
        return "runs up"
    if FLOOR[other] == FLOOR[room] < 4 and (room, other) not in SIDEWAYS:
        return "runs sideways"
    if room in TOP and other in TOP and TOP[other] >= TOP[room]:
        return "runs up on floor 4"
    return None


def faults(house: Path) -> list[str]:
    """Every broken rule in the package at `house`, a line each."""
    found = []
    for path in sorted(house.rglob("*.py")):
        file = path.relative_to(house)
        room = file.parts[0].removesuffix(".py")
        if room not in FLOOR:
            found.append(f"{file}: the room {room} stands on no floor")
            continue
        tree, package = ast.parse(path.read_text()), ["thespis", *file.parts[:-1]]

        def fault(line: int, what: str, file: Path = file) -> None:
            found.append(f"{file}:{line}: {what}")

        for line, _, full in imports(tree, package):
            if within(full, {"thespis"}) and (wrong := arrow(room, file, full)):
                fault(line, f"{full}: {wrong}")
        for line, full in uses(tree, package):
            if within(full, UNSAFE):
                fault(line, f"{full} reads or writes pickles")
            if FLOOR[room] < 4 and full.split(".")[-1] in ("import_module", "__import__") and names_us(tree):
                fault(line, f"{full}: only floor 4 may choose a module of ours at run time")
            if room in PURE and within(full, IMPURE_NAMES):
                fault(line, f"{full} does not belong in {room}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if room in PURE and isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
                fault(node.lineno, f".{node.func.attr}() does not belong in {room}")
            for k in node.keywords:
                if k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False):
                    fault(node.lineno, "allow_pickle reads pickles")
    return found


LINES = 400
SHORT_THINGS = {"cli.py"}  # many of one kind; a reader opens the one that is asked for


def rings(house: Path) -> list[list[str]]:
    """Files that import one another in a circle, inside functions too. The __init__ files, which hand names on, are left out."""
    paths = [p for p in house.rglob("*.py") if p.name != "__init__.py"]
    files = {".".join(("thespis", *p.relative_to(house).with_suffix("").parts)): p for p in paths}
    uses = {
        name: {
            place
            for _, _, full in imports(ast.parse(path.read_text()), name.split(".")[:-1])
            for place in (full, full.rpartition(".")[0])
            if place in files and place != name
        }
        for name, path in files.items()
    }
    while free := [name for name in uses if not uses[name] & uses.keys()]:  # those that use none of what is left
        for name in free:
            del uses[name]
    while used := [name for name in uses if not any(name in others for others in uses.values())]:  # and that none uses
        for name in used:
            del uses[name]
    return [sorted(uses)] if uses else []


def test_no_file_imports_itself_by_a_detour() -> None:
    assert not rings(HOUSE)


def test_every_file_is_read_in_a_sitting() -> None:
    long = {str(p.relative_to(HOUSE)): n for p in HOUSE.rglob("*.py") if (n := p.read_text().count("\n")) > LINES}
    assert set(long) <= SHORT_THINGS, long


def test_a_ring_is_found(tmp_path: Path) -> None:
    house = house_with(tmp_path, "envs/a.py", "def f():\n    from thespis.envs.b import g")
    (house / "envs/b.py").write_text("from thespis.envs import c")
    (house / "envs/c.py").write_text("from thespis.envs.d import x")
    (house / "envs/d.py").write_text("x = 1")
    assert rings(house) == []
    (house / "envs/d.py").write_text("import thespis.envs.b")
    assert rings(house) == [["thespis.envs.b", "thespis.envs.c", "thespis.envs.d"]]


def test_the_house() -> None:
    assert len(list(HOUSE.rglob("*.py"))) > 10
    assert not faults(HOUSE), "\n" + "\n".join(faults(HOUSE))


# ------------------------------------------------------------------------------------- the reader itself, on small houses


def house_with(tmp_path: Path, file: str, source: str) -> Path:
    path = tmp_path / "thespis" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    return tmp_path / "thespis"


@pytest.mark.parametrize(
    ("file", "source", "what"),
    [
        # up
        ("core.py", "import thespis.ops", "sideways"),
        ("core.py", "from thespis import nets", "up"),
        ("ops/returns.py", "from thespis.data import Replay", "up"),
        ("optim.py", "from thespis.algos.continuous.sac import make", "up"),
        ("nets/heads.py", "def f():\n    from thespis.engine import loop", "up"),
        ("data/replay.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from thespis import engine", "up"),
        ("data/replay.py", "from ..engine import loop", "up"),
        ("data/replay.py", "from .. import engine", "up"),
        ("engine/loop.py", "import thespis.cli as c", "up"),
        ("engine/loop.py", "import thespis", "up"),
        ("engine/loop.py", "from thespis import train", "up"),
        ("engine/loop.py", "from thespis import *", "up"),
        # sideways
        ("nets/actors.py", "from thespis.optim import fresh", "sideways"),
        ("envs/make.py", "from thespis import worlds", "sideways"),
        ("worlds/grid.py", "import thespis.envs.make", "sideways"),
        ("engine/loop.py", "from thespis.algos.continuous import sac", "sideways"),
        ("algos/continuous/sac.py", "from thespis import engine", "sideways"),
        ("algos/continuous/td3.py", "from thespis.algos.continuous.sac import make", "no other"),
        ("algos/continuous/td3.py", "from .sac import make", "no other"),
        ("algos/continuous/td3.py", "from thespis.algos import continuous", "no other"),
        ("report/curve.py", "from thespis.ops import backup", "only fault"),
        ("api.py", "from thespis.export import export", "floor 4"),
        ("hub.py", "from thespis import export", "floor 4"),
        ("algorithms.py", "from thespis.directory import open_run", "floor 4"),
        ("policy.py", "from thespis.api import train", "floor 4"),
        ("sweep/pool.py", "from thespis.cli import main", "floor 4"),
        ("sb3.py", "def f():\n    from thespis import cli", "floor 4"),
        # round the back
        ("engine/loop.py", "import importlib\nimportlib.import_module(f'thespis.algos.{name}')", "floor 4"),
        ("attic/old.py", "", "no floor"),
        # pickles, anywhere
        ("cli.py", "import pickle", "pickles"),
        ("api.py", "def f():\n    from joblib import load", "pickles"),
        ("engine/save.py", "import cloudpickle as safe", "pickles"),
        ("engine/save.py", "import torch as t\nt.load('x')", "pickles"),
        ("engine/save.py", "from torch import save", "pickles"),
        ("engine/save.py", "import torch.serialization", "pickles"),
        ("export.py", "import torch\ntorch.export.load('x')", "pickles"),
        ("engine/save.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "pickles"),
        ("engine/save.py", "import numpy as np\nnp.load('x', allow_pickle=why)", "pickles"),
        # host values, devices, clock and disk in what is traced
        ("algos/continuous/sac.py", "def f(x):\n    return x.mean().item()", "item"),
        ("algos/continuous/sac.py", "def f(x):\n    return x.to('cuda')", "to()"),
        ("ops/returns.py", "def f(x):\n    return x.cpu()", "cpu"),
        ("ops/returns.py", "def f(x):\n    return x.numpy()", "numpy"),
        ("nets/heads.py", "def f(x):\n    return x.cuda()", "cuda"),
        ("nets/heads.py", "print(1)", "print"),
        ("nets/heads.py", "__import__('thespis.engine')", "floor 4"),
        ("optim.py", "open('x')", "open"),
        ("optim.py", "from time import perf_counter", "time"),
        ("optim.py", "import time as clock", "time"),
        ("algos/continuous/sac.py", "import torch\ntorch.manual_seed(0)", "manual_seed"),
        ("algos/continuous/sac.py", "from torch.distributions import Normal", "distributions"),
        ("algos/continuous/sac.py", "import torch\ntorch.distributions.Normal(0, 1)", "distributions"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, source: str, what: str) -> None:
    found = faults(house_with(tmp_path, file, source))
    assert found
    assert all(line.startswith(file) for line in found)
    assert any(what in line for line in found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ops/returns.py", "from thespis.core import Params"),
        ("nets/__init__.py", "from thespis.nets.functions import mlp"),
        (
            "algos/continuous/sac.py",
            "from thespis import nets, ops\nfrom thespis.core import Batch\nfrom thespis.optim import descend",
        ),
        ("algos/continuous/sac.py", "def f(time, x):\n    return time + x.times"),
        ("engine/loop.py", "import time\nfrom thespis import data, envs\nprint(x.item(), time.time())"),
        ("engine/save.py", "import numpy as np\nfrom safetensors.torch import load, save\nnp.load('x', allow_pickle=False)"),
        ("engine/log.py", "from importlib import import_module, metadata\nimport_module('wandb')"),
        ("report/curve.py", "from thespis.fault import Fault"),
        ("api.py", "from thespis import algos, engine, report"),
        ("cli.py", "from importlib import import_module\nfrom thespis.api import train\nfrom thespis.export import export"),
        ("export.py", "import torch\nfrom thespis import api\nfrom thespis.engine import remote\ntorch.export.save"),
        ("__init__.py", "from thespis.api import train"),
    ],
)
def test_a_kept_rule_is_not(tmp_path: Path, file: str, source: str) -> None:
    assert not faults(house_with(tmp_path, file, source))
