"""Real trainings, killed by SIGKILL at a hundred moments: each that comes to its end is bitwise the one left in peace."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from thespis.engine import checkpoint

COMMON = [
    *("--compile-after", "-1", "--batch-size", "16", "--warmup", "60", "--eval-episodes", "1", "--log-every", "70"),
    *("--eval-every", "900", "--checkpoint-every", "24"),
]  # fmt: skip
RUNS = {  # kills, what to train
    "one environment": (40, ["sac", "--env", "Pendulum-v1", "--hidden", "8", "--steps", "2400", "--keep", "1"]),
    "three, n-step, ring that wraps": (
        40,
        ["sac", "--env", "InvertedPendulum-v5", "--hidden", "8", "--steps", "3600", "--num-envs", "3", "--n-step", "3",
         "--replay-size", "300", "--updates-per-step", "0.5"],
    ),
    "a policy with memory, own processes": (
        30,
        ["srl", "--env", "Pendulum-v1", "--hidden", "8", "--model-hidden", "8", "--steps", "1800", "--num-envs", "2",
         "--vector", "async", "--updates-per-step", "0.5"],
    ),
}  # fmt: skip


def begin(folder, log, train):
    """A process that trains, or goes on where one was killed."""
    args = ["resume", folder] if (folder / "config.json").exists() else ["train", *train, *COMMON, "--out", folder, "--seed", "3"]
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", "thespis", *map(str, args)], stdout=out, stderr=out)


def outcome(folder):
    """Every tensor of the last checkpoint and of both policies, what is said beside them, every row of metrics; no clocks."""
    last = checkpoint.checkpoints(folder)[-1]
    found = {f: load_file(f) for f in (last / "tensors.safetensors", *sorted((folder / "policy").glob("*.safetensors")))}
    said = [json.loads(f.read_text()) for f in sorted((folder / "policy").glob("*.json"))]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("time/s")} for row in rows]
    about = checkpoint._meta(last)
    progress = {k: v for k, v in about["progress"].items() if k != "seconds"}
    tensors = {f"{f.relative_to(folder)} {k}": v for f, part in found.items() for k, v in part.items()}
    return tensors, [said, rows, progress, about["collector"], about["counts"]]


def names(folder, *inner):
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(os.path.join(folder, *inner))
    return []


def kill(process, folder, kind, rng):
    """SIGKILL at a moment of that kind; False where the process had ended before. Says whether a file was being written."""
    started, before = time.monotonic(), set(names(folder, "checkpoints"))
    wait = rng.uniform(0, 4) if kind == "anywhere" else rng.uniform(0, 0.6)
    reached = kind == "anywhere"
    while process.poll() is None:
        if kind == "anywhere" and time.monotonic() - started > wait:
            break
        now = set(names(folder, "checkpoints"))
        if not reached and any(not n.startswith(".") for n in now - before):  # it has gone on
            reached, started = True, time.monotonic()
        if reached and kind == "stepping" and time.monotonic() - started > wait:
            break
        if reached and kind == "writing":  # as one is begun, a random moment later
            inner = [*now, *names(folder, "replay"), *names(folder, "policy")]
            if any(n.endswith(".tmp") for n in inner):
                time.sleep(rng.uniform(0, 0.004))
                break
            if time.monotonic() - started > 10:
                break  # the eye was too slow for it
        if time.monotonic() - started > 600:
            process.kill()
            pytest.fail("it hangs")
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    died = process.wait() == -signal.SIGKILL
    left = [n for part in ("checkpoints", "replay", "policy") for n in names(folder, part) if n.endswith(".tmp")]
    return died, bool(left)


@pytest.mark.soak
@pytest.mark.parametrize("name", RUNS)
def test_killed_a_hundred_times_it_ends_as_if_nothing_had_been(tmp_path, record, name):
    wanted, train = RUNS[name]
    whole, log = tmp_path / "whole", tmp_path / "log"
    assert begin(whole, log, train).wait() == 0, log.read_text()
    expected, said = outcome(whole)
    rng, kills, torn, runs, compared = random.Random(name), {}, 0, 0, 0
    while sum(kills.values()) < wanted or not runs:
        folder = tmp_path / f"killed{runs}"
        while True:
            process = begin(folder, log, train)
            if sum(kills.values()) < wanted:
                kind = rng.choice(["anywhere", "stepping", "stepping", "writing", "writing", "writing"])
                died, half = kill(process, folder, kind, rng)
                kills[kind] = kills.get(kind, 0) + died
                torn += died and half
            if (code := process.wait()) != -signal.SIGKILL:
                assert code == 0, log.read_text()
                break
        runs += 1
        tensors, others = outcome(folder)
        assert tensors.keys() == expected.keys()
        assert [k for k in tensors if not tensors[k].equal(expected[k])] == []
        assert others == said
        assert not list(folder.rglob("*.tmp"))
        compared = len(tensors)
    words = log.read_text()
    assert "damaged" not in words
    assert "deterministic" not in words
    assert "in use" not in words
    figures = {"kills": kills, "kills in all": sum(kills.values()), "kills that left a file half written": torn}
    record("kills", **{name: figures | {"runs compared": runs, "tensors compared in each": compared, "differences": 0}})
