"""Numbers that an environment says in `info` become metrics by name: of training, of evaluations, wherever it is stepped."""

import json
import os
import signal

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis import cli, envs
from thespis.engine.progress import NAMES, Progress
from thespis.envs.flat import MOST, numbers

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 120, "eval_every": 60, "eval_episodes": 4,
    "log_every": 30, "checkpoint_every": 40, "updates_per_step": 0.5, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Telling(gym.Env):
    """Episodes of 5 steps. In `info` are the seed's last digit (until the last step: 99), and whether it is even."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    digits = ()
    interrupt = 0
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.digit, self.t = seed % 10, 0
        Telling.digits = (*Telling.digits, self.digit)
        return np.zeros(1, np.float32), {"digit": 99}

    def step(self, action):
        self.t, Telling.steps = self.t + 1, Telling.steps + 1
        if Telling.steps == Telling.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        last = self.t == 5
        info = {
            "digit": self.digit if last else 99,
            "is_success": np.bool_(self.digit % 2 == 0),
            "words": "none",
            "mask": np.ones(3),
        }
        return np.zeros(1, np.float32), 1.0, False, last, info


@pytest.fixture(autouse=True)
def fresh():
    Telling.digits, Telling.interrupt, Telling.steps = (), 0, 0


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_a_number_in_an_info():
    class Odd:
        def __array__(self, *args, **kwargs):
            raise ValueError("not now")

    info = {
        "flag": True, "no": np.False_, "int": np.int8(-3), "float": np.float32(0.5), "zero-d": np.array(7),
        "one": np.array([[8.0]]),
        "nested": {"a": 1, "deep": {"b": 2.0, "deeper": {"c": 3}}}, "episode": {"r": np.array([9.0]), "l": 5},
        "text": "5", "list": [6.0], "two": np.ones(2), "none": None, "nan": float("nan"), "inf": np.inf, "huge": 10**400,
        "odd": Odd(), "complex": 1j, "bytes": b"1", 3: 4.0, "line\nbreak": 1.0, "long" * 20: 1.0,
    }  # fmt: skip
    assert numbers(info) == {
        "flag": 1, "no": 0, "int": -3, "float": 0.5, "zero-d": 7, "one": 8, "nested/a": 1, "nested/deep/b": 2, "episode/r": 9,
        "episode/l": 5,
    }  # fmt: skip
    assert len(numbers({str(i): i for i in range(MOST + 50)})) == MOST


def test_means_are_over_the_episodes_that_have_the_number_and_names_are_bounded():
    p = Progress()
    assert p.means([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {}]) == {"a": 1.5, "b": 5.0}
    assert len(p.means([{f"n{i}": 0.0 for i in range(NAMES)}])) == NAMES - 2
    assert p.means([{"new": 1.0, "b": 7.0}]) == {"b": 7.0}
    assert len(p.names) == NAMES
    back = Progress.read(json.loads(json.dumps(vars(p) | {"episodes": [(1.0, 2, {"a": 0.1}), (3.0, 4)]})))
    assert back.names == p.names
    assert back.episodes == [(1.0, 2, {"a": 0.1}), (3.0, 4, {})]  # (3.0, 4): as older checkpoints have them


def numbered(folder):
    """The rows, with the numbers of `info` alone."""
    return [{k: v for k, v in row.items() if "/info/" in k or k == "step"} for row in rows(folder)]


@pytest.mark.parametrize("n", [1, 2])
def test_the_last_steps_numbers_are_in_the_rows_of_training_and_evaluation(tmp_path, n):
    run = thespis.train("sac", env=Telling, out=tmp_path / "run", num_envs=n, **SMALL)
    began = list(Telling.digits)  # of the evaluation at step 0, then of training, up to the first row
    found = rows(run.path)
    evaluations = [row for row in found if "eval/return_mean" in row]
    assert {row["eval/info/digit"] for row in evaluations} == {np.mean(began[:4])}  # the same seeds each time
    assert {row["eval/info/is_success"] for row in evaluations} == {np.mean([d % 2 == 0 for d in began[:4]])}
    training = [row for row in found if "episode/return" in row]
    assert len(training) == 4
    assert training[0]["episode/info/digit"] == np.mean(began[4 : 4 + 30 // 5])
    assert not any("words" in name or "mask" in name for row in found for name in row)
    if n == 2:
        other = thespis.train("sac", env=Telling, out=tmp_path / "async", num_envs=n, vector="async", **SMALL)
        assert numbered(other.path) == numbered(run.path)
    Telling.digits = ()
    result = thespis.evaluate(run, 4, env=Telling)
    digits = Telling.digits
    assert result["info"] == {"digit": np.mean(digits), "is_success": np.mean([d % 2 == 0 for d in digits])}


def test_they_are_resumed_to_the_bit(tmp_path):
    whole = thespis.train("sac", env=Telling, out=tmp_path / "whole", **SMALL)
    Telling.steps, Telling.interrupt = 0, 20 + 47  # in the middle of training, between two rows
    run = thespis.train("sac", env=Telling, out=tmp_path / "run", **SMALL)
    assert run.stopped == "signal"
    Telling.interrupt = 0
    assert thespis.resume(run, env=Telling, panel=False).finished
    assert_equal(run.path, whole.path)


def test_what_says_nothing_has_none_and_its_step_is_an_empty_dictionary():
    env = envs.world("thespis/Counter-v0").make()
    env.reset(seed=1)
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(np.zeros(1))
        over = terminated or truncated
        assert info == {} or over


def test_a_row_keeps_its_numbers_where_another_is_stepped():
    """As where one environment failed, and is stepped again while the others wait."""
    vector = envs.vector(envs.world(Telling), 2)
    vector.reset([11, 22])
    for _ in range(5):
        vector.step(np.zeros((2, 1)))
    assert vector.infos == {0: {"digit": 1, "is_success": 0}, 1: {"digit": 2, "is_success": 1}}
    vector.reset([33, 44], np.array([True, False]))
    vector.step(np.zeros((2, 1)), np.array([True, False]))
    assert vector.infos == {1: {"digit": 2, "is_success": 1}}
    vector.close()


@pytest.mark.draws
def test_success_is_on_the_terminal_and_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gym.register("tests/Telling-v0", Telling)
    try:
        run = thespis.train("sac", env="tests/Telling-v0", out="run", **SMALL)
        lines = [line for line in capsys.readouterr().out.splitlines() if "return" in line]
        rate = rows(run.path)[0]["eval/info/is_success"]
        assert all(f"is_success {rate:.4g}" in line for line in lines)
        assert not any("digit" in line for line in lines)
        page = (run.path / "report" / "index.html").read_text()
        assert "Success" in page
        assert "digit" not in page
        assert cli.main(["evaluate", "run", "--episodes", "2"]) == 0
        assert "is_success" in capsys.readouterr().out
    finally:
        del gym.registry["tests/Telling-v0"]
