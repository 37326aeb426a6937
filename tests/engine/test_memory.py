"""What does not fit in memory is told in one line, before anything is made."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis import cli
from thespis.algos.continuous import sac
from thespis.core import Box, Fault, Spec, leaves
from thespis.engine import memory
from thespis.engine.run import Run

GB = 1_000_000_000


class Picture(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((84, 84, 4), np.uint8), {}

    def step(self, action):
        return np.zeros((84, 84, 4), np.uint8), 0.0, False, True, {}


@pytest.fixture
def ten(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 10 * GB)


@pytest.mark.parametrize(
    ("algo", "options", "line"),
    [  # 28,224 bytes and 4 + 10 beside; as floats 2 x 112,896 and 10
        ("sac", {}, "replay_size is 1,000,000; with observations of 28,224 numbers that takes 28.2 GB, and 10 GB are free: "
         "give 320,000 or less"),
        ("ppo", {"rollout": 10**6}, "rollout is 1,000,000; with observations of 28,224 numbers that takes 226 GB, and 10 GB "
         "are free: give 40,000 or less"),
        ("sac", {"replay_size": 100, "batch_size": 10**5}, "batch_size is 100,000; with observations of 28,224 numbers that "
         "takes 22.6 GB, and 10 GB are free: give 40,000 or less"),
    ],
)  # fmt: skip
def test_images_of_a_run_that_do_not_fit(tmp_path, ten, algo, options, line):
    with pytest.raises(Fault, match=f"^{re.escape(line)}$"):
        thespis.train(algo, env=Picture, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--replay-size", "1" + 14 * "0"], "replay_size is 100,000,000,000,000; with observations of 3 numbers"),
        (["--hidden", "1000000", "1000000"], "hidden is (1000000, 1000000): networks of that size take 88.0 TB in an update"),
        (["--hidden", 2 * ("1" + 10 * "0" + " ")], "hidden is (10000000000, 10000000000): networks of that size have"),
    ],
)  # fmt: skip
def test_one_line_on_the_command_line(tmp_path, ten, capsys, words, line):
    words = " ".join(words).split()
    assert cli.main(["train", "sac", "--env", "Pendulum-v1", "--out", str(tmp_path / "run"), *words]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_large_replay_that_fits_is_noted(ten):
    learner = sac.make(sac.Config(replay_size=250_000), Spec(Box(3), Box(1)))  # 26 bytes each
    assert memory.check_experience(learner, Spec(Box(3), Box(1)), Run()) == []
    learner = sac.make(sac.Config(replay_size=10**8), Spec(Box(3), Box(1)))
    note = "replay_size is 100,000,000; with observations of 3 numbers that takes 2.6 GB, and 10 GB are free"
    assert memory.check_experience(learner, Spec(Box(3), Box(1)), Run()) == [note]


def test_networks_are_counted_as_they_are_made():
    """Twice the State, to the byte: what is just too much for one is not for another."""
    learner = sac.make(sac.Config(hidden=(64, 64)), Spec(Box(3), Box(2)))
    size = 2 * sum(x.nbytes for x in leaves(learner.init()).values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free", lambda device: size)
        memory.check_networks(learner, "cpu", "hidden is 64")
        patch.setattr(memory, "free", lambda device: size - 1)
        with pytest.raises(Fault, match="hidden is 64"):
            memory.check_networks(learner, "cpu", "hidden is 64")


def test_what_is_free_is_more_than_nothing_and_less_than_all():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 10**7 < memory.free() < total


def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: None)
    learner = sac.make(sac.Config(replay_size=10**15), Spec(Box(3), Box(2)))
    memory.check_experience(learner, Spec(Box(3), Box(2)), Run())
