"""A long run takes no more memory, files or threads at its end than soon after its start."""

import json
import subprocess
import sys

import pytest

LONG = """
import json, os, sys, threading
import gymnasium as gym, thespis

seen, steps, every = [], int(sys.argv[2]), int(sys.argv[3])
PAGE = os.sysconf("SC_PAGE_SIZE")

class Watched(gym.Wrapper):
    count = 0

    def step(self, action):
        Watched.count += 1
        if Watched.count % (steps // 20) == 0:
            resident = int(open("/proc/self/statm").read().split()[1]) * PAGE
            seen.append((resident, len(os.listdir("/proc/self/fd")), threading.active_count()))
        return self.env.step(action)

train = thespis.train(
    "sac", env=lambda: Watched(gym.make("thespis/TimeLimit-v0")), out=sys.argv[1], steps=steps, warmup=100, hidden=(8,),
    batch_size=8, replay_size=1000, updates_per_step=0.05, log_every=every // 2, eval_every=every, checkpoint_every=every,
    eval_episodes=2, compile_after=-1, panel=False,
)
print(json.dumps(seen))
"""
MARGIN = 4 * 2**20


def watched(folder, steps, every):
    """(bytes in memory, open files, threads) at each twentieth of the run."""
    pytest.importorskip("resource")
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is read from /proc")
    args = [sys.executable, "-c", LONG, folder / "run", str(steps), str(every)]
    run = subprocess.run(args, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def assert_flat(seen):
    memory, files, threads = zip(*seen, strict=True)
    assert len(memory) >= 20
    assert max(memory[-3:]) - max(memory[3:6]) < MARGIN, memory
    assert len(set(files[3:])) == 1, files
    assert len(set(threads[3:])) == 1, threads


@pytest.mark.slow
def test_a_run_of_many_checkpoints_and_rows_stays_flat(tmp_path):
    assert_flat(watched(tmp_path, 8_000, 80))


@pytest.mark.soak
def test_two_hundred_thousand_steps_stay_flat(tmp_path, record):
    seen = watched(tmp_path, 200_000, 500)
    assert_flat(seen)
    memory, files, threads = zip(*seen, strict=True)
    megabytes = [round(m / 2**20, 1) for m in memory]
    rows = len((tmp_path / "run/metrics.jsonl").read_text().splitlines())
    figures = {"steps": 200_000, "checkpoints": 400, "rows of metrics": rows, "open files": files[-1], "threads": threads[-1]}
    record("long_run", one=figures | {"memory at each twentieth, MB": megabytes})
