"""make new: three files that work as they are, or one line and none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
NAME = "a" * 24  # the longest: lines must still fit


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of what make new reads, to write in."""
    for room in ("thespis", "tools", "tests/layers"):
        shutil.copytree(HOUSE / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOUSE / "pyproject.toml", tmp_path)
    return tmp_path


def new(house: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, house / "tools" / "new.py", *args], capture_output=True, text=True, check=False)


def files(house: Path) -> set[str]:
    return {str(p.relative_to(house)) for p in house.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_what_it_writes_keeps_the_rules_and_passes_its_own_test(house: Path) -> None:
    before = files(house)
    made = new(house, NAME, "continuous")
    assert made.returncode == 0, made.stderr
    written = {f"thespis/algos/continuous/{NAME}.py", f"tests/papers/test_{NAME}.py", f"bench/rows/{NAME}.toml"}
    assert files(house) - before == written
    for path in written:
        text = (house / path).read_text()
        assert "NAME" not in text
        assert "FAMILY" not in text
    # in a fresh process at the copy's root, so that it is the copy's thespis that is imported
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/papers", "tests/layers"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    run = subprocess.run(tests, cwd=house, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *sorted(p for p in written if p.endswith(".py"))]
        run = subprocess.run(ruff, cwd=house, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "which name"),
        (("",), "which name"),
        (("Sac",), "lower-case"),
        (("2sac",), "lower-case"),
        (("../evil",), "lower-case"),
        (("class",), "lower-case"),
        (("a" * 25,), "lower-case"),
        (("sac",), "is taken"),
        (("continuous",), "is taken"),
        (("fresh", "nowhere"), "there are agents, constrained, continuous"),
        (("fresh", "onpolicy"), "copy thespis/algos/onpolicy/ppo.py"),
        (("there",), "is there already"),
    ],
)
def test_a_bad_name_is_one_line_and_writes_nothing(house: Path, args: tuple[str, ...], says: str) -> None:
    (house / "tests/papers").mkdir()
    (house / "tests/papers/test_there.py").write_text("# somebody's own\n")
    before = files(house)
    made = new(house, *args)
    assert made.returncode == 1
    assert says in made.stderr
    assert made.stderr.count("\n") == 1
    assert made.stdout == ""
    assert files(house) == before
    assert (house / "tests/papers/test_there.py").read_text() == "# somebody's own\n"
