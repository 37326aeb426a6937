"""`make run`: it does what its row of the bench was measured with, and installs what its pages tell to do."""

import re
import shlex
import tomllib
from pathlib import Path

HOUSE = Path(__file__).parents[2]
MAKE = (HOUSE / "Makefile").read_text()


def test_it_is_the_row_that_was_measured():
    row = tomllib.loads((HOUSE / "bench/rows/first_run.toml").read_text())
    what = row["curves"][row["reference"]]
    (command,) = re.findall(r"thespis (train sac --env HalfCheetah.*?) --out", MAKE.replace("\\\n", " "))
    words = shlex.split(command.replace("$(or $(SEED),0)", "0"))
    assert words[:2] == ["train", what["algo"]]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    wanted = {"env": row["env"], "steps": row["steps"], "seed": 0} | what["options"]
    assert given.keys() == {f"--{name}" for name in wanted}
    for name, value in wanted.items():
        assert type(value)(given[f"--{name}"]) == value


def test_it_installs_what_draws():
    (extras,) = re.findall(r'--editable "\.\[(.*)\]"\n\t@touch \$@\n\n\$\(PEERS\)', MAKE)
    assert "video" in extras.split(",")
    needs = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["optional-dependencies"]["video"]
    pinned = (HOUSE / "constraints.txt").read_text()
    assert any("classic-control" in need for need in needs)  # Pendulum's pictures
    assert all(f"\n{name}==" in pinned for name in ("imageio-ffmpeg", "pygame-ce"))
