"""Two processes never work in one run directory, and a crash leaves no lock behind."""

import subprocess
import sys
import threading

import pytest

import thespis
from thespis.core import Fault
from thespis.engine.lock import alone

HOLD = """
import sys, pathlib
from thespis.engine.lock import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_until_the_first_is_gone_however_it_goes(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(Fault, match="is in use: another process trains there"), alone(tmp_path):
        pass
    process.kill()
    process.wait()
    with alone(tmp_path), pytest.raises(Fault, match="in use"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_run_that_goes_on_elsewhere_is_not_touched(tmp_path):
    options = {
        "env": "thespis/Counter-v0",
        "steps": 60,
        "warmup": 10,
        "hidden": (4,),
        "batch_size": 4,
        "compile_after": -1,
        "sinks": (),
    }
    run = thespis.train("sac", out=tmp_path / "run", panel=False, **options)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    process = holder(run.path)
    with pytest.raises(Fault, match="in use"):
        thespis.resume(run, steps=100, panel=False)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    process.kill()
    process.wait()
    assert thespis.resume(run, steps=100, panel=False).finished


def test_a_start_and_a_resume_at_once(tmp_path):
    """While a training runs in this process, its directory is refused to any other."""
    inside, told = threading.Event(), []

    class Nosy(thespis.envs.probes.Counter):
        def step(self, action):
            if not inside.is_set():
                inside.set()
                with pytest.raises(Fault, match="in use") as fault:
                    thespis.resume(tmp_path / "run", env=Nosy, panel=False)
                told.append(str(fault.value))
            return super().step(action)

    options = {"steps": 40, "warmup": 10, "hidden": (4,), "batch_size": 4, "compile_after": -1, "sinks": ()}
    assert thespis.train("sac", Nosy, out=tmp_path / "run", panel=False, **options).finished
    assert len(told) == 1
