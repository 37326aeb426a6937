"""Collectors and learners that are killed, many times over."""

import os
import subprocess
import sys

import pytest

from tests.engine.test_remote import assert_true_to_life, family, gone, killed
from thespis import envs
from thespis.algos.continuous import sac
from thespis.data import Shards
from thespis.engine import checkpoint, remote

pytestmark = pytest.mark.soak
ray = pytest.importorskip("ray")


def test_fifty_kills_of_collectors(tmp_path, capsys):
    with remote.cluster(4, None):
        cuts, kills, _ = killed(tmp_path, kills=50, every=1.5, pace=0.03, collectors=4, steps=12_000, updates_per_step=0.02)
    assert kills == 50
    assert 0 < cuts <= capsys.readouterr().out.count("died; another takes its place") <= 50


def test_a_learner_that_is_killed_goes_on_and_leaves_no_process(tmp_path):
    """Three times, with a cluster of its own each time."""
    command = [sys.executable, "-m", "thespis"]
    train = "train sac --env thespis/Counter-v0 --collectors 2 --num-envs 2 --steps 100000 --warmup 100 --updates-per-step 0.1"
    small = "--hidden 8 --batch-size 16 --log-every 200 --checkpoint-every 400 --eval-every 100000 --eval-episodes 1"
    args = [*train.split(), *small.split(), "--compile-after", "-1", "--out", str(tmp_path / "run")]
    done, before = 0, family()
    for _ in range(3):
        learner = subprocess.Popen([*command, *args], stdout=subprocess.PIPE, text=True)
        args = ["resume", str(tmp_path / "run")]
        for line in learner.stdout:
            if line.startswith("step") and int(line.split()[1].split("/")[0].replace(",", "")) > done + 900:
                break
        started = family(learner.pid)
        assert len(started) > 2
        os.kill(learner.pid, 9)
        learner.wait()
        assert gone(started - before)
        now = int(checkpoint.checkpoints(tmp_path / "run")[-1].name)
        assert now > done
        done = now
    out = subprocess.run([*command, *args, "--steps", str(done + 1000)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    world = envs.world("thespis/Counter-v0")
    shards = Shards(world.spec, sac.make(sac.Config(), world.spec).experience, 2, 2)
    meta, _ = checkpoint.load(tmp_path / "run", shards, pytest.fail)
    assert meta["progress"]["steps"] == shards.added == done + 1000
    assert assert_true_to_life(shards) <= 3 * 4  # each time, the four episodes under way
