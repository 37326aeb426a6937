"""Studies: a killed one is, when it has gone on, what one that was never stopped is; what is refused, and what the table says."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import language

TWO = '''"""Twice, from the same start."""

from thespis.study import train

SMALL = {
    "env": "thespis/Chains-v0", "model": "tiny:dim=16,layers=1,heads=2,context=64", "answer_tokens": 6, "eval_episodes": 2,
    "eval_samples": 1, "sinks": (), "checkpoint_every": 16, "log_every": 16, "eval_every": 64,
}
STAGES = {
    "sft": train("sft", steps=64, batch_size=16, **SMALL),
    "grpo": train("grpo", start_from="{sft}", steps=32, questions=2, group=4, **SMALL),
}
'''
OWN = '''"""A file of rows, and what is learnt from it."""

import json
import random

from thespis.study import last, make, train


def rows(folder, seed, count):
    said = [{"prompt": "say", "answer": str(random.randrange(10))} for _ in range(count)]
    (folder / "rows.jsonl").write_text("\\n".join(map(json.dumps, said)))


SEEDS = 2
STAGES = {
    "data": make(rows, count=8),
    "learnt": train(
        "sft", data="{data}/rows.jsonl", steps=32, batch_size=8, model="tiny:dim=16,layers=1,heads=2", eval_episodes=2, sinks=()
    ),
    "agent": train("ppo", env="Pendulum-v1", steps=64, rollout=32, batch_size=32, hidden=(8,), eval_episodes=1, sinks=()),
}


def table(folders):
    return {"rows": {"count": len((folders["data"] / "rows.jsonl").open().readlines())}, "agent": {"return": last(folders["agent"])["return_mean"]}}
'''  # noqa: E501


def learnt(folder: Path) -> dict[str, bytes]:
    """All that a study has learnt and told, but for times."""
    kept = [*folder.rglob("last.safetensors"), *folder.rglob("rows.jsonl"), folder / "table.csv"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thespis.language._draw", lambda _: None)


def test_a_killed_study_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, said, ends, count = tmp_path / "two.py", list[str](), list[bool | None](), 0
    file.write_text(TWO)
    assert thespis.study(file, out=tmp_path / "whole", seeds=1, quiet=True)["finished"]
    learn = language._Training.learn

    def stopped(self: language._Training) -> None:
        nonlocal count
        count += 1
        if count in (1, 3):
            os.kill(os.getpid(), signal.SIGINT)
        if count == 7:  # in the second stage, between two checkpoints, as where the power fails
            raise MemoryError
        learn(self)

    monkeypatch.setattr(language._Training, "learn", stopped)
    for _ in range(4):
        try:
            ends.append(thespis.study(file, out=tmp_path / "often", seeds=1, quiet=True, say=said.append)["finished"])
        except MemoryError:
            ends.append(None)
    assert ends == [False, False, None, True]
    assert sum(line.startswith("resumed") for line in said) == 3
    assert sum(line.startswith("begun") for line in said) == 2  # each stage once
    assert learnt(tmp_path / "whole") == learnt(tmp_path / "often")
    assert len(learnt(tmp_path / "whole")) == 3


def test_any_run_and_any_file_can_be_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    assert cli.main(["study", "own.py", "--json", "--set", "data.count=9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"]["rows"]["count"] == {"mean": 9.0, "interval95": [9.0, 9.0], "values": [9.0, 9.0]}
    returns = found["rows"]["agent"]["return"]
    assert returns["mean"] == pytest.approx(sum(returns["values"]) / 2)
    assert min(returns["values"]) <= returns["interval95"][0] < returns["interval95"][1] <= max(returns["values"])
    made = Path("runs/study-own")
    rows = [(made / f"seed-{i}/data/rows.jsonl").read_text() for i in range(2)]
    assert rows[0] != rows[1]
    # one more seed, and nothing that is finished is done again
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*.safetensors")}
    assert cli.main(["study", "own.py", "--seeds", "3", "--set", "data.count=9", "--quiet"]) == 0
    assert "3; the interval" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in before}
    # what a stage writes follows from the seed, and takes its place whole
    shutil.rmtree(made / "seed-1/data")
    (made / "seed-1/.data.tmp").mkdir()
    about = json.loads((made / "study.json").read_text())
    from thespis.engine import checkpoint

    del about["sha256"]
    checkpoint.write_sealed(made / "study.json", about | {"done": [d for d in about["done"] if d != "seed-1/data"]})
    thespis.study("own.py", seeds=3, options={"data.count": 9}, quiet=True)
    assert (made / "seed-1/data/rows.jsonl").read_text() == rows[1]
    for change, words in (
        ({}, "stage data: its count is 9, here 8"),
        ({"data.count": 9, "learnt.steps": 48}, "stage learnt: its steps is 32, here 48"),
    ):
        with pytest.raises(Fault, match=words):
            thespis.study("own.py", options=change)
    Path("own.py").write_text(OWN.replace("randrange(10)", "randrange(9)"))
    with pytest.raises(Fault, match="stage data: its source is"):
        thespis.study("own.py", options={"data.count": 9})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"{data}/rows.jsonl"', '"{date}/rows.jsonl"', "stage learnt: '{date}/rows.jsonl' names 'date'; allowed: data, seed"),
        ('"sft", data', '"stf", data', "algorithm 'stf' is neither a .py file nor known; did you mean sft?"),
        ("steps=32", "steps=0", "stage learnt: steps is 0; allowed: a whole number 1 or more"),
        ("steps=32", "stps=32", "stage learnt: stps is not an option of sft; did you mean steps?"),
        ("steps=32", "steps=32, seed=1", "stage learnt: seed is the study's; leave it out"),
        ('"learnt"', '"Learnt"', "stage 'Learnt': its name must be a word in small letters, and not 'seed'"),
        ("STAGES", "STEPS", "study own.py does not declare STAGES, a dictionary of what train() and make() give"),
        ("SEEDS = 2", "1 / 0", "study own.py raised ZeroDivisionError: division by zero"),
        ("SEEDS = 2", "SEEDS = 0", "seeds is 0; allowed: a whole number 1 or more"),
        ("SEEDS = 2", "SEEDS =", "study own.py is not Python: "),
        ("return_mean", "return_man", "study own.py: its table raised KeyError: 'return_man'"),
        ("count):", "count):\n    assert not seed", "seed 1, data: rows raised AssertionError: "),
    ],
)
def test_a_mistake_in_a_study_costs_a_line(tmp_path: Path, monkeypatch, capsys, old: str, new: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN.replace(old, new))
    assert cli.main(["study", "own.py", "--quiet", "--set", "agent.steps=32"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"thespis: {words}")
    assert line.count("\n") == 1
    assert (" raised " in words and "Zero" not in words) == Path("runs").exists()  # nothing is written, but where it has begun


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "study 'nothing' is neither a .py file nor known"),
        (["nothing.py"], "study nothing.py: there is no such file"),
        (
            ["sft_grpo", "--set", "steps"],
            "--set is 'steps'; allowed: STAGE.NAME=VALUE or NAME=VALUE, as in --set grpo.steps=1000",
        ),
        (["sft_grpo", "--set", "grop.steps=1"], "grop.steps: the study has no stage 'grop'; did you mean grpo?"),
        (["sft_grpo", "--set", "grpo.stps=1"], "grpo.stps: stps is not an option of grpo; did you mean steps?"),
        (["sft_grpo", "--set", "steps=x"], "steps is 'x'; allowed: a whole number 1 or more"),
        (["sft_grpo", "--seeds", "0"], "seeds is 0; allowed: a whole number 1 or more"),
        (["sft_grpo", "--out", "full"], "out: full exists and is no study; give another with --out"),
    ],
)
def test_a_wrong_command_costs_a_line(tmp_path: Path, monkeypatch, capsys, words: list[str], line: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").write_text("")
    assert cli.main(["study", *words]) == 2
    assert capsys.readouterr().err.startswith(f"thespis: {line}")
    assert not Path("runs").exists()


def test_the_studies_are_listed_and_every_one_can_begin(capsys) -> None:
    from thespis.study import studies
    from thespis.study.stages import check

    assert cli.main(["study"]) == 0
    told = capsys.readouterr().out
    for name, found in studies().items():
        assert name in told
        assert found.summary
        assert found.paper
        check(found.module.STAGES)
