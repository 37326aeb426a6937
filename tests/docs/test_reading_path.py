"""The promise of docs/sac.md: one gradient step of SAC is understood from at most 6 files and 500 lines.

What counts is every file, whole, that defines a name of ours that algos/continuous/sac.py uses, and what those files use in
turn. A package's __init__ that only hands a name on is read through to the file that defines it. A name that only types a
field of Config is left out (thespis.config): which numbers a field may hold is no part of the step.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[2]
SAC = HOUSE / "thespis/algos/continuous/sac.py"
FILES, LINES = 6, 500


def file_of(module: str, house: Path) -> Path | None:
    """The file of a module by its full name, where there is one."""
    path = house / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def names_of_ours(tree: ast.Module) -> dict[str, str]:
    """The name in the file -> the full name of what it stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            if node.module and node.module.split(".")[0] == "thespis":
                found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        if isinstance(node, ast.Import):
            assert not any(a.name.split(".")[0] == "thespis" for a in node.names), "import thespis.x is not read here"
    return found


def uses(tree: ast.Module) -> Iterator[str]:
    """Every name and every name.attribute of the file, but for the types of Config's fields."""
    body = [n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.name == "Config")]
    fields = [n for c in tree.body if isinstance(c, ast.ClassDef) and c.name == "Config" for n in c.body]
    body += [ast.Expr(n.value) if isinstance(n, ast.AnnAssign) and n.value else n for n in fields if not _bare(n)]
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name):
            yield node.id


def _bare(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and node.value is None


def defining_file(name: str, house: Path) -> Path | None:
    """The file that defines thespis.a.b.name, through every __init__ that hands it on; None for a package by itself."""
    module, _, last = name.rpartition(".")
    path = file_of(module, house)
    assert path is not None, name
    if path.name != "__init__.py":
        return path
    given = names_of_ours(ast.parse(path.read_text()))
    if last in given:
        return defining_file(given[last], house)
    inner = file_of(name, house)
    return None if inner is None or inner.name == "__init__.py" else inner


def reading_path(start: Path, house: Path) -> list[Path]:
    """Every file to open, in the order in which a reader meets them."""
    found: list[Path] = []
    waiting = [start]
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        found.append(path)
        tree = ast.parse(path.read_text())
        ours = names_of_ours(tree)
        for use in uses(tree):
            first, _, attribute = use.partition(".")
            if first not in ours:
                continue
            place = defining_file(ours[first], house)
            if place is None and attribute:  # a package of ours, `ops` in ops.backup
                place = defining_file(f"{ours[first]}.{attribute}", house)
            if place is not None:
                waiting.append(place)
    return found


def lines(path: Path) -> int:
    """As wc -l counts them."""
    return path.read_text().count("\n")


def test_one_step_of_sac_is_at_most_6_files_and_500_lines() -> None:
    path = {p.relative_to(HOUSE).as_posix(): lines(p) for p in reading_path(SAC, HOUSE)}
    assert len(path) <= FILES, path
    assert sum(path.values()) <= LINES, path


def test_the_table_of_the_docs_names_those_files_and_their_lines() -> None:
    text = (HOUSE / "docs/sac.md").read_text()
    rows = re.findall(r"^\| \d+ \| `(thespis/[\w/]+\.py)` \| (\d+) \|", text, re.MULTILINE)
    assert {name for name, _ in rows} == {p.relative_to(HOUSE).as_posix() for p in reading_path(SAC, HOUSE)}
    for name, most in rows:  # "at most", in fives, so that not every line somewhere is an edit here
        have = lines(HOUSE / name)
        assert int(most) - 20 <= have <= int(most), f"docs/sac.md says that {name} has at most {most} lines; it has {have}"
    total = re.search(r"at most (\d+) lines in all", text)
    assert total, "docs/sac.md gives no total"
    assert int(total[1]) == sum(int(most) for _, most in rows) <= LINES


# ------------------------------------------------------------------------------------- the reader itself, on a small house


def house(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_goes_through_an_init_to_the_file_that_defines_a_name_and_on_from_there(tmp_path: Path) -> None:
    small = house(
        tmp_path,
        {
            "thespis/__init__.py": "",
            "thespis/core.py": "class Batch: ...\n",
            "thespis/config.py": "Count = int\nLimit = int\ndefault = 3\n",
            "thespis/ops/__init__.py": "from thespis.ops.a import used\nfrom thespis.ops.b import unused\n",
            "thespis/ops/a.py": "from thespis.core import Batch\ndef used(b: Batch): ...\n",
            "thespis/ops/b.py": "def unused(): ...\n",
            "thespis/ops/c.py": "def direct(): ...\n",
            "x.py": "from thespis import ops\nfrom thespis.config import Count\n"
            "class Config:\n    n: Count = 1\ndef make(cfg):\n    return ops.used\n",
            "y.py": "from thespis.ops import c\nfrom thespis.config import Count, Limit, default\n"
            "class Config:\n    n: Count = default\ndef make(cfg):\n    return c.direct\n",
            "z.py": "from thespis.config import Limit\nclass Config:\n    n: Limit\ndef make(n: Limit): ...\n",
        },
    )

    def path(name: str) -> set[str]:
        return {p.relative_to(small).as_posix() for p in reading_path(small / name, small)}

    assert path("x.py") == {"x.py", "thespis/ops/a.py", "thespis/core.py"}
    assert path("y.py") == {"y.py", "thespis/ops/c.py", "thespis/config.py"}  # a default of a field is part of the algorithm
    assert path("z.py") == {"z.py", "thespis/config.py"}  # outside Config a type counts
