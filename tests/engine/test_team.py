"""Learners that torchrun starts: one run directory, written by one of them, that can be gone on from."""

import json
import signal
import subprocess
import sys

import pytest

import thespis
from tests.engine.test_remote import family, gone, listening
from thespis import envs
from thespis.algos.continuous import sac
from thespis.core import Fault
from thespis.data import Replay
from thespis.engine import checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "thespis"]
SMALL = {"hidden": (8,), "steps": 100, "warmup": 10, "eval_episodes": 1, "sinks": (), "panel": False}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"device": "meta"}, "device is 'meta'; learners that torchrun"),
        ({"collectors": 2}, "collectors is 2; learners that torchrun"),
    ],
)
def test_what_does_not_go_with_torchrun_is_told(monkeypatch, tmp_path, options, what):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("thespis.learner._check_device", lambda device: None)
    with pytest.raises(Fault, match=what):
        thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", **SMALL | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stopped_and_resumed_as_one(tmp_path):
    folder = tmp_path / "run"
    options = "--steps 100000 --warmup 100 --hidden 8 --batch-size 16 --updates-per-step 0.5 --log-every 100 --eval-episodes 1"
    train = ["train", "sac", "--env", "thespis/Counter-v0", *options.split(), "--compile-after", "60", "--out", str(folder)]
    torchrun = subprocess.Popen([*TORCHRUN, *train], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in torchrun.stdout:
        if "critic_loss" in line:
            break
    learners = family(torchrun.pid) - {torchrun.pid}
    assert len(learners) >= 2
    assert listening(learners) <= {"0100007F", "00000000000000000000000001000000"}
    torchrun.send_signal(signal.SIGINT)
    out = torchrun.communicate(timeout=120)[0]
    assert out.count("go on    thespis resume") == 1
    assert gone(learners)
    (stopped,) = (int(path.name) for path in checkpoint.checkpoints(folder))
    assert stopped % 2 == 0
    code = subprocess.run([*TORCHRUN, "resume", str(folder), "--steps", str(stopped + 200)], stdout=subprocess.DEVNULL).returncode
    assert code == 0
    world = envs.world("thespis/Counter-v0")
    replay = Replay(world.spec, sac.make(sac.Config(), world.spec).experience)
    meta, tensors = checkpoint.load(folder, replay, pytest.fail)
    assert meta["progress"]["steps"] == stopped + 200 == 2 * replay.steps
    assert meta["progress"]["updates"] == (stopped + 200 - 100) // 2 == tensors["state.actor.t"]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
