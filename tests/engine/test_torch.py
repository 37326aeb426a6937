"""What a run sets in torch, keeps in its checkpoints, and leaves as it was."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import thespis
from thespis.engine import build, checkpoint
from thespis.engine.process import torch_settings
from thespis.engine.run import Run

TINY = {
    "env": "Pendulum-v1", "hidden": (32,), "batch_size": 16, "warmup": 20, "eval_every": 100, "eval_episodes": 1,
    "sinks": (), "panel": False,
}  # fmt: skip


def eager(source, inputs, threads):
    return lambda: True, lambda: lambda tensors: build.function(source)(*tensors)


def settings():
    return torch.get_num_threads(), torch.get_float32_matmul_precision()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("options", "during", "choice"), [
    ({}, (1, "highest"), 2), ({"threads": 1}, (1, "highest"), 1), ({"threads": 3, "precision": "bf16"}, (3, "medium"), 1),
])  # fmt: skip
def test_settings_are_the_runs_and_then_what_they_were(two_threads, options, during, choice):
    before = settings()
    with torch_settings(Run(**options)) as most:
        assert (settings(), most) == (during, choice)
    assert settings() == before


def test_the_threads_chosen_are_kept_for_the_run_that_goes_on(two_threads, tmp_path, monkeypatch):
    chosen = iter([2])
    monkeypatch.setattr("thespis.engine.compile.fastest_threads", lambda step, state, limit: next(chosen))
    monkeypatch.setattr("thespis.engine.build.begin", eager)
    for steps in (60, 90):  # the choice is made once: the second run has it from the first
        more = {"out": tmp_path / "run", **TINY} if steps == 60 else {}
        go = thespis.train if steps == 60 else thespis.resume
        args = ("sac",) if steps == 60 else (tmp_path / "run",)
        go(*args, steps=steps, **more, **({"compile_after": 10} if steps == 60 else {"panel": False}))
        last = checkpoint.checkpoints(tmp_path / "run")[-1]
        assert json.loads((last / "checkpoint.json").read_text())["threads"] == 2


def test_a_signal_to_stop_is_heeded_while_the_compiler_is_waited_for(tmp_path, monkeypatch):
    """And what is then gone on from is as if it had not been."""
    options = {**TINY, "seed": 3, "compile_after": 10}
    monkeypatch.setattr("thespis.engine.build.begin", eager)
    whole = thespis.train("sac", out=tmp_path / "whole", steps=60, **options)
    asked = []

    def ready():
        asked.append(0)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr("thespis.engine.build.begin", lambda *job: (ready, lambda: pytest.fail("waited on")))
    thespis.train("sac", out=tmp_path / "cut", steps=60, **options)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "cut")] == ["000000030"]  # 20 random steps, 10 updates
    monkeypatch.setattr("thespis.engine.build.begin", eager)
    cut = thespis.resume(tmp_path / "cut", panel=False)
    ours, theirs = (load_file(run.path / "policy" / "last.safetensors") for run in (cut, whole))
    assert all(ours[k].equal(theirs[k]) for k in theirs)


def test_bf16_keeps_float32_in_all_that_is_kept(tmp_path):
    thespis.train("sac", out=tmp_path / "run", steps=60, precision="bf16", compile_after=-1, **TINY)
    tensors = load_file(checkpoint.checkpoints(tmp_path / "run")[-1] / "tensors.safetensors")
    assert {x.dtype for name, x in tensors.items() if name.startswith("state.")} == {torch.float32}
    assert thespis.load(tmp_path / "run").act([0.5, 0.5, 0.0]).dtype == "float32"


@pytest.mark.parametrize(("given", "wanted"), [
    ({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None),
])  # fmt: skip
def test_idle_threads_soon_sleep_unless_told_otherwise(given, wanted):
    environ = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    code = "import thespis, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    out = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(wanted)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # the second as another device would be: rows are gathered there
def test_a_run_on_a_device_stops_and_goes_on(device, tmp_path):
    options = {**TINY, "seed": 3, "compile_after": -1, "device": device}
    whole = thespis.train("sac", out=tmp_path / "whole", steps=60, **options)
    thespis.train("sac", out=tmp_path / "cut", steps=40, **options)
    cut = thespis.resume(tmp_path / "cut", steps=60, panel=False)
    policies = [load_file(run.path / "policy" / "last.safetensors") for run in (whole, cut)]
    assert all(torch.equal(policies[0][k], policies[1][k]) for k in policies[0])
    once = thespis.train("sac", out=tmp_path / "host", steps=60, **{**options, "device": "cpu"})
    host = load_file(once.path / "policy" / "last.safetensors")
    assert all(torch.equal(host[k], policies[0][k]) for k in host)


def test_a_devices_generator_is_in_the_checkpoint(tmp_path, monkeypatch):
    state = [torch.tensor([7], dtype=torch.uint8)]
    beside = (lambda: state[0], lambda new: state.__setitem__(0, new))
    monkeypatch.setattr("thespis.engine.loop.device_generator", lambda device: beside)
    thespis.train("sac", out=tmp_path / "run", steps=30, compile_after=-1, **TINY)
    state[0] = torch.tensor([1], dtype=torch.uint8)
    thespis.resume(tmp_path / "run", steps=40, panel=False)
    assert state[0].item() == 7
