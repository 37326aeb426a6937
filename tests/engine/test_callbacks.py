"""Functions that are called with each row of metrics: what they see, how they end a run, and what they cannot harm."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 20, "steps": 120, "eval_every": 40, "eval_episodes": 1,
    "log_every": 20, "checkpoint_every": 60, "compile_after": -1, "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip


class Paying(gym.Env):
    """Episodes of 10 steps whose return is how many episodes this environment has begun."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    begun = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.begun = 0, self.begun + 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t / 10, np.float32), self.begun / 10, False, self.t == 10, {}


class Same(Paying):
    """Every episode returns 1."""

    def reset(self, **how):
        self.begun = 0
        return super().reset(**how)


def train(path, callback=None, env=Paying, **options):
    return thespis.train("sac", env=env, out=path, callback=callback, **(SMALL | options))


def progress(run):
    return json.loads((checkpoint.checkpoints(run.path)[-1] / "checkpoint.json").read_text())["progress"]


def test_every_row_is_seen_and_drawing_changes_nothing(tmp_path):
    whole, seen = train(tmp_path / "whole"), []

    def look(row):
        torch.rand(3)
        row.metrics["step"] = None  # its own copy
        seen.append((row.step, {k for k in row.metrics if k != "step"}))
        return True

    looked = train(tmp_path / "looked", [look])
    rows = [json.loads(line) for line in (looked.path / "metrics.jsonl").read_text().splitlines()]
    assert seen == [(row["step"], row.keys() - {"step"}) for row in rows]
    assert len(seen) == 6 + 4  # rows of training, and evaluations from step 0 on
    assert_equal(looked.path, whole.path)


@pytest.mark.parametrize("said", [False, np.bool_(False), "enough"])
def test_a_callback_ends_a_run_that_is_finished_then(tmp_path, said):
    run = train(tmp_path / "run", lambda row: said if row.step >= 60 else None)
    assert (run.finished, run.stopped) == (True, said if isinstance(said, str) else "the callback <lambda> said so")
    assert (progress(run)["steps"], progress(run)["ended"]) == (60, run.stopped)
    again = thespis.resume(run, env=Paying, quiet=True, panel=False)
    assert (again.finished, again.stopped, progress(again)["steps"]) == (True, run.stopped, 60)


def test_a_run_that_was_ended_goes_on_with_another_option_to_the_bit(tmp_path):
    whole, run = train(tmp_path / "whole", env=Same), train(tmp_path / "run", lambda row: row.step < 60, env=Same)
    assert progress(run)["steps"] == 60
    for more in ({"log_every": 20, "callback": lambda row: None}, {"keep": 3}):
        thespis.resume(run, env=Same, quiet=True, panel=False, **more)
        assert progress(run)["steps"] == 120
    assert_equal(run.path, whole.path)


def test_stop_at_ends_a_run_at_the_first_evaluation_that_reaches_it(tmp_path, capsys):
    run = train(tmp_path / "run", stop_at=2.5)  # the n-th evaluation returns n: of steps 0, 40, 80
    assert (progress(run)["steps"], run.stopped) == (80, "eval/return_mean is 3, and stop_at 2.5")
    best = thespis.load(run, "best").about
    assert (best["step"], best["return_mean"]) == (80, pytest.approx(3.0))
    with pytest.raises(Fault, match="stop_at is 3; it looks at evaluations, and eval_episodes is 0"):
        train(tmp_path / "none", stop_at=3.0, eval_episodes=0)
    assert not (tmp_path / "none").exists()
    words = ["--steps", "500", "--warmup", "20", "--hidden", "8", "--eval-episodes", "1", "--stop-at", "-5000"]
    assert cli.main(["train", "sac", "--env", "Pendulum-v1", *words, "--out", str(tmp_path / "cli")]) == 0
    out = capsys.readouterr().out
    assert "ends at step 0: eval/return_mean is -" in out
    assert out.endswith("--stop-at None\n")
    assert cli.main(["resume", str(tmp_path / "cli")]) == 0
    assert "it goes on with another option" in capsys.readouterr().out


@pytest.mark.parametrize("at", [20, 40, 60])  # at a row alone, at one with an evaluation, at one with a checkpoint
def test_a_callback_that_fails_loses_nothing(tmp_path, at):
    def fails(row):
        if row.step == at:
            raise ValueError("no room")

    whole = train(tmp_path / "whole", env=Same)
    told = f"^step {at}: the callback fails raised ValueError: no room, test_callbacks.py line [0-9]+; a checkpoint is saved$"
    with pytest.raises(Fault, match=told):
        train(tmp_path / "run", fails, env=Same)
    assert thespis.resume(tmp_path / "run", env=Same, quiet=True, panel=False).finished
    assert_equal(tmp_path / "run", whole.path)


def test_a_policy_is_saved_under_a_name(tmp_path):
    def keep(row):
        if row.step == 40:
            row.save("at-40")

    run = train(tmp_path / "run", keep)
    assert thespis.load(run, "at-40").about["step"] == 40
    for name in ("last", "../x", ""):
        with pytest.raises(Fault, match=r"save: name is .*; allowed: letters, digits, _ and -"):
            train(tmp_path / "bad", lambda row, name=name: row.save(name))


@pytest.mark.parametrize("bad", [3, "early", [3]])
def test_what_is_no_function_is_told(tmp_path, bad):
    with pytest.raises(Fault, match=r"callback is .*; allowed: a function of one row of metrics, or a list of such"):
        train(tmp_path / "run", bad)
    assert not (tmp_path / "run").exists()
