"""Arguments of the wrong kind, from Python: one line that names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

import thespis
from thespis import cli
from thespis.algos.continuous import sac
from thespis.core import Box, Fault, Spec
from thespis.engine import memory
from thespis.engine.run import Run
from thespis.record import record
from thespis.sweep.sweep import _Limits, _Sweep

ENV = "thespis/Observation-v0"
RUN = "allowed: a path of a run directory, or what train returned"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *((lambda given=given: thespis.train(env=ENV, out=given), ["out is", repr(given), "allowed: a path"])
          for given in (5, b"x", ["x"])),
        *((lambda f=f, given=given: f(given), ["run is", RUN]) for given in (None, 5, b"x", object())
          for f in (thespis.load, thespis.evaluate, thespis.resume, thespis.report, thespis.compare)),
        (lambda: thespis.export(None, "onnx"), ["run is None", RUN]),
        (lambda: thespis.push(None, "a/b"), ["run is None", RUN]),
        (lambda: thespis.import_sb3(None, ENV), ["file is None", "allowed: a path"]),
        (lambda: record("nosuch", 5), ["out is 5", "allowed: a path"]),
        (lambda: thespis.sweep(env=ENV, out=5), ["out is 5", "allowed: a path"]),
        (lambda: thespis.sweep(env=ENV, over=["lr"]), ["over is ['lr']", "{'lr': [1e-4, 3e-4]}"]),
        (lambda: thespis.sweep(env=ENV, over={"lr": 3}), ["over: lr is 3", "a list of values"]),
        (lambda: thespis.train(env=ENV, panel="yes"), ["panel is 'yes'", "True, False or None"]),
        (lambda: thespis.train(env=ENV, device="gpu"), ["device is 'gpu'", "allowed here: cpu"]),
        (lambda: thespis.train(env=ENV, out="file"), ["out: file exists and is a file"]),
        (lambda: thespis.train(env=ENV, out="file/run"), ["out is file/run; file is a file"]),
        (lambda: record("nosuch", "file/set"), ["out is file/set; file is a file"]),
        (lambda: thespis.load("nosuch"), ["nosuch does not exist"]),
        (lambda: thespis.evaluate("nosuch"), ["nosuch does not exist"]),
        (lambda: thespis.report("nosuch"), ["nosuch is not a run directory: it does not exist"]),
        (lambda: thespis.resume("nosuch"), ["nosuch is not a run directory: it does not exist"]),
        (lambda: thespis.resume("."), [". is not a run directory: it has no config.json"]),
    ],
)  # fmt: skip
def test_one_line(tmp_path, monkeypatch, call, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(Fault) as fault:
        call()
    assert all(word in str(fault.value) for word in words), fault.value
    assert "\n" not in str(fault.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_replay_smaller_than_a_batch_is_noted() -> None:
    spec = Spec(Box(3), Box(1))
    for size, said in ((255, ["replay_size is 255, less than batch_size (256): rows repeat in every batch"]), (256, [])):
        assert memory.check_experience(sac.make(sac.Config(replay_size=size), spec), spec, Run()) == said


def test_a_locale_without_the_signs_of_a_line_ends_in_no_traceback(monkeypatch, tmp_path) -> None:
    """Of cli.main's own prints: what the encoding has not is shown as another sign."""
    with (tmp_path / "said").open("w", encoding="ascii") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr(cli, "COMMANDS", {"say": lambda args: print("1.0 \u00b1 0.5")})
        cli.main(["say"])
    assert (tmp_path / "said").read_text() == "1.0 ? 0.5\n"


class Four:
    """A pool that has done four runs when it is first asked."""

    slots = 4

    def __init__(self) -> None:
        self.jobs: deque[Any] = deque()

    @property
    def busy(self) -> int:
        return len(self.jobs)

    def start(self, job: Any) -> None:
        self.jobs.append(job)

    def wait(self, seconds: float) -> Any:
        return self.jobs.popleft(), None

    def close(self) -> None:
        pass


def test_a_sweep_counts_what_it_has_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_Sweep, "score", lambda self, setting, seed: 1.0)
    said: list[str] = []
    algo = thespis.algorithms()["sac"]
    world = thespis.envs.world(ENV)
    made = _Sweep(algo, world, Run(env=ENV), sac.Config(), [], _Limits(4, 0, 4), None, tmp_path, said.append)
    jobs = deque(made.job(made.settings[0], seed) for seed in made.seeds)
    assert made._train(jobs, Four(), type("Stop", (), {"is_set": lambda self: False})(), 4)  # type: ignore[arg-type]
    assert [line[-8:] for line in said if line.startswith("done")] == [f"({n} of 4)" for n in (1, 2, 3, 4)]
