"""Collectors and learners that are killed, many times over."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.engine.test_remote import assert_true_to_life, family, gone, killed, living
from thespis import envs
from thespis.algos.continuous import sac
from thespis.data import Shards
from thespis.engine import checkpoint, cluster

pytestmark = pytest.mark.soak
ray = pytest.importorskip("ray")


def test_fifty_kills_of_collectors(tmp_path, capsys, record):
    with cluster.cluster(4, None):
        cuts, kills, _ = killed(tmp_path, kills=50, every=1.5, pace=0.03, collectors=4, steps=12_000, updates_per_step=0.02)
    assert kills == 50
    assert 0 < cuts <= capsys.readouterr().out.count("died; another takes its place") <= 50
    record("collectors", alone={"kills": kills, "steps": 12_000, "rows": 12_000, "cuts": cuts})


def test_a_learner_that_is_killed_goes_on_and_leaves_no_process(tmp_path, record):
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
    cuts = rows(tmp_path / "run", done + 1000)
    assert cuts <= 3 * 4  # each time, the four episodes under way
    record("collectors", learner={"kills": 3, "steps": done + 1000, "rows": done + 1000, "cuts": cuts})


@contextlib.contextmanager
def standing(folder):
    """A cluster that somebody else has started, on loopback, with a token: its address, its first process and the environment
    variables of who knows the token."""
    token, log, place = folder / "token", folder / "ray.log", tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets
    token.write_text("0123456789abcdef" * 4)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        port, other = (str(s.getsockname()[1]) for s in (one, two))
    knows = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"} | {"RAY_AUTH_TOKEN_PATH": str(token)}
    options = f"--head --block --num-cpus 2 --port {port} --ray-client-server-port {other} --temp-dir {place}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options.split()]
    with log.open("w") as said:
        head = subprocess.Popen(
            [*command, "--include-dashboard=false", "--disable-usage-stats"], stdout=said, stderr=said, start_new_session=True,
            env=knows | {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        )  # fmt: skip
    started = {head.pid}
    try:
        until = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", head.pid, knows
        assert head.poll() is None
    finally:
        started |= family(head.pid)
        head.terminate()
        head.wait(60)
        if not gone(started, 30):
            for pid in started & living().keys():
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def collecting(head):
    """The collectors' processes in the cluster of this first process."""
    found = set()
    for pid in family(head):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Worker"):
                found.add(pid)
    return found


TINY = """
    train sac --env thespis/Counter-v0 --collectors 2 --num-envs 2 --warmup 100 --updates-per-step 0.1 --hidden 8 --batch-size 16
    --log-every 200 --checkpoint-every 400 --eval-every 100000 --eval-episodes 1 --compile-after -1
"""


def reached(learner, steps):
    """Waits until the run says that it is beyond these steps."""
    for line in learner.stdout:
        if line.startswith("step") and int(line.split()[1].split("/")[0].replace(",", "")) > steps:
            return
    pytest.fail("the run ended")


def rows(run, steps):
    """Those of a run of TINY: as many as steps, each one true. Returns how many episodes were cut."""
    world = envs.world("thespis/Counter-v0")
    shards = Shards(world.spec, sac.make(sac.Config(), world.spec).experience, 2, 2)
    meta, _ = checkpoint.load(run, shards, pytest.fail)
    assert meta["progress"]["steps"] == shards.added == steps
    return assert_true_to_life(shards)


def test_a_cluster_is_joined_left_standing_and_joined_again(tmp_path, record):
    with standing(tmp_path) as (address, head, knows):
        command, out = [sys.executable, "-m", "thespis"], str(tmp_path / "run")
        args = [*command, *TINY.split(), "--out", out, "--steps", "100000", "--ray-address", address]
        wrong = knows | {"RAY_AUTH_TOKEN": "another" * 8}
        refused = subprocess.run(args, env=wrong, capture_output=True, text=True, timeout=180)
        assert refused.returncode == 2
        assert "it asks for a token other than this process's" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()

        learner = subprocess.Popen(args, env=knows, stdout=subprocess.PIPE, text=True)
        dead = set()
        while len(dead) < 10:
            reached(learner, 800 * len(dead))
            if alive := collecting(head) - dead:
                os.kill(min(alive), signal.SIGKILL)
                dead.add(min(alive))
        reached(learner, 9000)
        learner.kill()  # its orphans end though their cluster does not
        learner.wait()
        until = time.monotonic() + 60
        while collecting(head):
            assert time.monotonic() < until
            time.sleep(0.2)
        done = int(checkpoint.checkpoints(tmp_path / "run")[-1].name)
        port = address.partition(":")[2]
        again = [*command, "resume", out, "--steps", str(done + 300), "--ray-address", f"localhost:{port}"]
        ended = subprocess.run(again, env=knows, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        cuts = rows(tmp_path / "run", done + 300)
        assert cuts <= 10 * 2 + 4  # of the collectors that were killed, and those under way
        assert json.loads((tmp_path / "run/config.json").read_text())["run"]["ray_address"] == f"localhost:{port}"
    record("collectors", joined={"kills": len(dead), "learner_kills": 1, "steps": done + 300, "rows": done + 300, "cuts": cuts})
