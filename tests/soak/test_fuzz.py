"""Files that somebody changed: each is loaded rightly or refused with one Fault. No other exception, no crash, no hang, no
memory that the file does not warrant, and nothing in it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import thespis

FUZZ = Path(__file__).with_name("fuzz.py")
KINDS = [
    "config.json", "policy/*.json", "policy/*.safetensors", "checkpoint.json", "checkpoint tensors", "replay segment",
    "metrics.jsonl", "dataset metadata", "dataset HDF5",
]  # fmt: skip
ROOM = 300 * 2**20  # what loading may take beyond a load of the sound file, all of which are below 1 MB


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run of 60 steps with one checkpoint, and a dataset as Minari writes it."""
    h5py = pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("sound")
    small = {
        "steps": 60,
        "warmup": 20,
        "hidden": (8,),
        "batch_size": 8,
        "num_envs": 2,
        "eval_episodes": 1,
        "log_every": 8,
        "replay_size": 100,
    }
    thespis.train("sac", env="Pendulum-v1", out=folder / "run", panel=False, compile_after=-1, sinks=(), keep=1, **small)
    env = gym.make("Pendulum-v1")
    (folder / "data").mkdir()
    spaces = {
        key: json.dumps({"type": "Box", "dtype": "float32", "shape": s.shape, "low": s.low.tolist(), "high": s.high.tolist()})
        for key, s in (("observation_space", env.observation_space), ("action_space", env.action_space))
    }
    (folder / "data/metadata.json").write_text(json.dumps({"total_episodes": 3, "data_format": "hdf5", **spaces}))
    rng = np.random.default_rng(0)
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for i in range(3):
            columns = {
                "observations": rng.uniform(-1, 1, (41, 3)).astype(np.float32),
                "actions": rng.uniform(-2, 2, (40, 1)).astype(np.float32),
                "rewards": rng.normal(size=40),
                "terminations": np.zeros(40, bool),
                "truncations": np.arange(40) == 39,
            }
            for name, column in columns.items():
                more = {"compression": "gzip"} if i == 1 else {}
                file.create_dataset(f"episode_{i}/{name}", data=column, chunks=True, maxshape=(None, *column.shape[1:]), **more)
    return folder


def fuzz(sound, work, kind, count, first=0):
    """The outcomes; a crash of the process is one too, and the rest goes on behind it."""
    work.mkdir(exist_ok=True)
    args = [sys.executable, FUZZ, kind, str(first), str(count), sound, work]
    run = subprocess.run(args, capture_output=True, text=True, timeout=3600, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if run.returncode < 0:
        at = int((work / "at").read_text())
        rest = (
            fuzz(sound, work, kind, first + count - at - 1, at + 1) if at + 1 < first + count else {"outcomes": {}, "wrong": []}
        )
        return rest | {"wrong": [[at, f"crashed with signal {-run.returncode}"], *rest["wrong"]]}
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def assert_right(found, count):
    assert found["wrong"] == []
    assert sum(found["outcomes"].values()) == count
    assert found["outcomes"]["one Fault"] > count / 10
    assert found["grown"] < ROOM


@pytest.mark.slow
def test_a_changed_file_is_loaded_rightly_or_refused(sound, tmp_path):
    """The same, of each kind a few, in one process."""
    args = [sys.executable, FUZZ, "all", str(10**6), "25", sound, tmp_path]
    run = subprocess.run(args, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(KINDS)
    for line in lines:
        assert_right(json.loads(line), 25)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_over_ten_thousand_changed_files_are_loaded_rightly_or_refused(sound, tmp_path, record, kind):
    count = {"dataset HDF5": 3000, "dataset metadata": 1500, "config.json": 1500, "metrics.jsonl": 500}.get(kind, 600)
    count += 400 * kind.startswith("policy")
    found = fuzz(sound, tmp_path / "work", kind, count)
    assert_right(found, count)
    megabytes = round(found["grown"] / 2**20)
    record("fuzz", **{kind: {"files": count, "outcomes": found["outcomes"], "wrong": 0, "memory grew by, MB": megabytes}})
