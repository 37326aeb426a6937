"""What ends an evaluation or a run before its time: limits, signals, the clock. What was under way is done again, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import thespis
from thespis import cli, envs
from thespis.core import Fault
from thespis.engine import checkpoint, evaluate, process
from thespis.engine.evaluate import Course, Evaluator
from thespis.engine.run import Run

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 120, "eval_every": 50, "eval_episodes": 2,
    "log_every": 20, "checkpoint_every": 40, "updates_per_step": 0.5, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Endless(gym.Env):
    """Pays 1 a step. Without an end, unless there is a `limit`. `signals`: sent to this process at the n-th step of all."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    limit = 10**9
    signals = {}  # noqa: RUF012
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t, Endless.steps = self.t + 1, Endless.steps + 1
        for number in Endless.signals.get(Endless.steps, ()):
            os.kill(os.getpid(), number)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, False, self.t >= self.limit, {}


class Ending(Endless):
    limit = 7


@pytest.fixture(autouse=True)
def quiet():
    Endless.signals, Endless.steps = {}, 0
    yield
    Endless.signals = {}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def still(obs, rows):
    return torch.zeros(len(obs), 1)


# -------------------------------------------------------------------------------------------------- without an end


def test_an_episode_without_an_end_is_cut_and_counted():
    result = Evaluator(envs.world(Endless), 12, seed=0, longest=30)(still)
    assert result["returns"] == [30.0] * 12
    assert result["length_mean"] == 30
    assert result["cut"] == 12
    ends = Evaluator(envs.world(Ending), 12, seed=0, longest=7)(still)  # it ends by itself with its last step
    assert (ends["returns"], ends["cut"]) == ([7.0] * 12, 0)


def test_how_long_is_stated_or_the_environments_own_where_that_is_longer():
    longest = [evaluate.LONGEST, evaluate.LONGEST, 50_000, 5]
    given = [(Endless, None), (50, None), (50_000, None), (50_000, 5)]
    for wanted, (env, steps) in zip(longest, given, strict=True):
        make = env if env is Endless else lambda limit=env: gym.wrappers.TimeLimit(Ending(), limit)
        assert Evaluator(envs.world(make), 1, seed=0, longest=steps).longest == wanted


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_what_came_does_not_depend_on_how_often_the_critic_is_asked(monkeypatch, chunk):
    """Reward 1 a step, a bonus of 1/2, and a critic that always says 5, at gamma 0.9: the geometric sum."""
    monkeypatch.setattr(evaluate, "CHUNK", chunk)
    asked = []
    course = Course(lambda o, a: (asked.append(len(o)), (torch.full((len(o),), 5.0), torch.full((len(o),), 0.5)))[1])
    course.add(np.zeros(3, np.float32), np.zeros(1, np.float32), 99.0)
    course.clear()  # that attempt failed
    asked.clear()
    for _ in range(7):
        course.add(np.zeros(3, np.float32), np.zeros(1, np.float32), 1.0)
    said, came = course.came(0.9, terminated=False)
    assert said == 5
    assert came == pytest.approx((1 - 0.9**6) / 0.1 + 0.5 * (1 - 0.9**7) / 0.1 - 0.5 + 0.9**6 * 5)
    assert sum(asked) == 7
    assert max(asked) <= chunk


def test_training_goes_on_in_an_episode_without_an_end_and_the_evaluation_is_told_apart(tmp_path, capsys):
    run = thespis.train("sac", env=Endless, out=tmp_path / "run", eval_steps=25, **SMALL)
    assert run.finished
    assert run.return_mean == 25
    evaluations = [row for row in rows(run.path) if "eval/return_mean" in row]
    assert [row["eval/cut"] for row in evaluations] == [2, 2, 2, 2]
    assert not any("episode/return" in row for row in rows(run.path))  # no episode of training has ended
    said = [line for line in capsys.readouterr().out.splitlines() if "--eval-steps" in line]
    assert len(said) == 1
    assert "evaluation at step 0: 2 episodes had no end after 25 steps" in said[0]
    found = thespis.evaluate(run, 3, env=Endless)
    assert (found["cut"], found["returns"]) == (3, [25.0] * 3)
    assert thespis.evaluate(run, 3, steps=9, env=Endless)["returns"] == [9.0] * 3


def test_what_ends_is_not_called_cut(tmp_path, capsys):
    run = thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL)
    assert run.return_mean == 7
    assert not any("eval/cut" in row for row in rows(run.path))
    assert "--eval-steps" not in capsys.readouterr().out


def test_a_slow_evaluation_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("thespis.engine.evaluations.SLOW", 0.0)
    thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL)
    said = [line for line in capsys.readouterr().out.splitlines() if "of 2 episodes ended" in line]
    assert len(said) == 1
    assert said[0].startswith("evaluation at step 0: 0 of 2 episodes ended after 0 s")


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    Endless.signals = {}
    thespis.train("sac", env=Ending, out=folder, **SMALL)
    return folder


@pytest.fixture
def a_terminal():
    """SIGHUP is heeded, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("a_terminal")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("at", [3, 14 + 50 + 9, 14 + 50 + 14 + 20, 14 + 120 + 28 + 5])  # evaluation, evaluation, training, last
def test_a_signal_is_heeded_at_once_in_an_evaluation_too_and_resuming_equals_never_stopping(tmp_path, whole, name, at):
    Endless.signals = {at: [getattr(signal, name)]}
    run = thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL)
    assert (run.finished, run.stopped) == (False, "signal")
    assert Endless.steps <= at + 2  # both episodes side by side
    assert thespis.resume(run, env=Ending, panel=False).finished
    assert_equal(run.path, whole)


def test_an_evaluation_that_was_made_up_for_is_in_the_checkpoint(tmp_path, whole):
    """Else it would be done, and logged, a third time where the run is killed before its next checkpoint."""
    Endless.signals = {3: [signal.SIGINT]}
    run = thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL)
    Endless.steps, Endless.signals = 0, {14 + 5: [signal.SIGINT] * 2}  # there and then, without a checkpoint
    with pytest.raises(KeyboardInterrupt):
        thespis.resume(run, env=Ending, panel=False)
    assert thespis.resume(run, env=Ending, panel=False).finished
    assert_equal(run.path, whole)


def test_one_that_would_last_for_hours_ends_with_the_first_signal(tmp_path):
    Endless.signals = {1000: [signal.SIGTERM]}
    began = time.monotonic()
    run = thespis.train("sac", env=Endless, out=tmp_path / "run", eval_steps=10**9, **SMALL)
    assert run.stopped == "signal"
    assert time.monotonic() - began < 30
    assert run.return_mean is None
    assert rows(run.path) == []
    assert len(checkpoint.checkpoints(run.path)) == 1


def test_a_second_interrupt_in_an_evaluation_stops_there_and_then(tmp_path):
    Endless.signals = {5: [signal.SIGINT] * 2}
    with pytest.raises(KeyboardInterrupt):
        thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED = """
import os, pty, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests themselves run under nohup
pid, terminal = pty.fork()
if pid == 0:
    signal.alarm(100)  # should it not be heeded, no run is left behind
    flags = "--steps 1e7 --warmup 100 --hidden 8 --log-every 20 --eval-episodes 1 --updates-per-step 0.01 --compile-after -1"
    command = ["-m", "thespis", "train", "sac", "--env", "thespis/Counter-v0", "--out", sys.argv[1], *flags.split()]
    os.execv(sys.executable, [sys.executable, *command])
said = b""
while b"step 20/" not in said and b"evaluation" not in said:
    said += os.read(terminal, 1000)
time.sleep(1)
os.close(terminal)  # the window is closed
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_terminal_that_is_closed_leaves_a_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", CLOSED, str(tmp_path / "run")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in (120, 130)  # 120: Python could not flush to the terminal
    assert len(checkpoint.checkpoints(tmp_path / "run")) >= 1
    assert (tmp_path / "run" / "policy" / "last.json").exists()


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    command = [sys.executable, "-m", "thespis", "train", "sac", "--env", "thespis/Counter-v0", "--out", str(tmp_path / "run"),
               "--steps", "300", "--warmup", "100", "--hidden", "8", "--log-every", "10", "--eval-episodes", "1",
               "--compile-after", "-1"]  # fmt: skip
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.readline()
    run.stdout.close()  # as | head -1 does
    error = run.communicate(timeout=120)[1].decode()
    assert "Traceback" not in error
    assert rows(tmp_path / "run")[-1]["step"] == 300


# ---------------------------------------------------------------------------------------------------------- the clock


def test_hours_that_are_over_stop_the_run_with_a_checkpoint(tmp_path, whole, capsys):
    run = thespis.train("sac", env=Ending, out=tmp_path / "run", max_hours=1e-9, **SMALL)
    assert (run.finished, run.stopped) == (False, "max_hours")
    assert "stopped at step 0: max_hours is 1e-09" in capsys.readouterr().out
    assert len(checkpoint.checkpoints(run.path)) == 1
    assert thespis.resume(run, env=Ending, panel=False).stopped == "max_hours"  # counted anew
    assert thespis.resume(run, max_hours=1, env=Ending, panel=False).finished
    assert_equal(run.path, whole)
    assert json.loads((run.path / "config.json").read_text())["run"]["max_hours"] == 1


def test_hours_in_the_midst_of_training(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(process.time, "monotonic", lambda: float(Endless.steps))  # a step a second
    run = thespis.train("sac", env=Ending, out=tmp_path / "run", max_hours=50 / 3600, **SMALL)
    assert run.stopped == "max_hours"
    assert [int(c.name) for c in checkpoint.checkpoints(run.path)] == [50 - 14]
    monkeypatch.undo()
    assert thespis.resume(run, max_hours=1, env=Ending, panel=False).finished
    assert_equal(run.path, whole)


def test_the_exit_code_is_that_of_a_stop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {"env": "thespis/Counter-v0", "steps": 200, "warmup": 100, "hidden": 8, "eval-episodes": 1, "compile-after": -1}
    flags = [f"--{k}={v}" for k, v in small.items()] + ["--out=run"]
    assert cli.main(["train", "sac", *flags, "--max-hours", "1e-9"]) == 130
    assert "go on    thespis resume run" in capsys.readouterr().out
    assert cli.main(["resume", "run", "--max-hours", "1"]) == 0
    assert cli.main(["resume", "run", "--max-hours", "0"]) == 2
    assert "max_hours is 0" in capsys.readouterr().err.replace("--max-hours", "max_hours")


# --------------------------------------------------------------------------------------------- crashes in an evaluation


class Crashing(Ending):
    """In processes of their own: once, where an episode begins from a seed that one began from before, as only evaluations do,
    it takes its process with it. In this one, all is well."""

    here = os.getpid()
    folder = None

    def reset(self, *, seed=None, options=None):
        if os.getpid() != self.here:
            with open(self.folder / "seeds", "a+") as file:
                file.seek(0)
                again = str(seed) in file.read().split()
                file.write(f"{seed} ")
            if again and not (self.folder / "crashed").exists():
                (self.folder / "crashed").touch()
                os._exit(139)
        return super().reset(seed=seed)


@pytest.mark.parametrize("options", [{"vector": "async"}, {"env_timeout": 30.0}], ids=["async", "timeout"])
def test_a_crash_in_an_evaluation_is_survived_as_one_in_training_is(tmp_path, monkeypatch, whole, options):
    monkeypatch.setattr(Crashing, "folder", tmp_path)
    run = thespis.train("sac", env=Crashing, out=tmp_path / "run", on_env_error="restart", **SMALL, **options)
    assert run.finished
    assert (tmp_path / "crashed").exists()
    assert rows(run.path)[-1]["faults/eval"] == 1
    found, wanted = ([r["eval/returns"] for r in rows(f) if "eval/returns" in r] for f in (run.path, whole))
    assert found == wanted


def test_where_nothing_restarts_it_the_run_ends_in_one_line_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Crashing, "folder", tmp_path)
    with pytest.raises(Fault, match=r"^evaluation at step 50: .* its process died .*; a checkpoint is saved$"):
        thespis.train("sac", env=Crashing, out=tmp_path / "run", vector="async", **SMALL)
    assert thespis.resume(tmp_path / "run", env=Crashing, panel=False).finished


def test_evaluations_are_in_processes_where_training_is():
    world = envs.world(Ending)
    kinds = [evaluate.kind(world, Run(**given)) for given in ({}, {"vector": "async"}, {"collectors": 2})]
    assert kinds == ["sync", "async", "async"]


def test_a_fault_before_the_first_step_leaves_no_directory(tmp_path):
    class Broken(Ending):
        def step(self, action):
            raise ValueError("motor 3 is not connected")

    with pytest.raises(Fault, match="motor 3 is not connected") as fault:
        thespis.train("sac", env=Broken, out=tmp_path / "run", **SMALL)
    assert str(fault.value).startswith("evaluation at step 0: ")
    assert "checkpoint" not in str(fault.value)
    assert list(tmp_path.iterdir()) == []
    assert thespis.train("sac", env=Ending, out=tmp_path / "run", **SMALL).finished  # the mended command, given again


# --------------------------------------------------------------------------------------------- as it explores


class Repeat(gym.Env):
    """Two actions, twenty steps, and nothing to see: pays 1 where the action is another than the one before, at first 0."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last = self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward, self.last, self.t = float(action != self.last), action, self.t + 1
        return np.zeros(1, np.float32), reward, False, self.t >= 20, {}


def test_actions_may_be_sampled_in_evaluations(tmp_path):
    """The likeliest action is always the same, so it is paid once at most; a fair coin is paid 10 of 20 times."""
    options = SMALL | {"eval_episodes": 20}
    runs = {
        policy: thespis.train("sac_discrete", env=Repeat, out=tmp_path / policy, eval_policy=policy, **options)
        for policy in ("mean", "sampled", "both")
    }
    mean, sampled, both = (next(r for r in rows(run.path) if "eval/returns" in r) for run in runs.values())
    assert mean["eval/return_mean"] <= 1
    assert 6 < sampled["eval/return_mean"] < 12
    assert len(set(sampled["eval/returns"])) > 3
    assert both["eval/return_mean"] == mean["eval/return_mean"]
    assert both["eval/sampled_return_mean"] == sampled["eval/return_mean"]
    assert both["eval/sampled_length_mean"] == 20
    assert thespis.evaluate(runs["mean"], 20, env=Repeat)["mean_return"] <= 1
    assert 6 < thespis.evaluate(runs["mean"], 20, explore=True, env=Repeat)["mean_return"] < 12
    for a, b in (("mean", "sampled"), ("mean", "both")):  # what is evaluated changes nothing of what is learnt
        mine, other = (checkpoint.checkpoints(runs[name].path)[-1] / "tensors.safetensors" for name in (a, b))
        assert mine.read_bytes() == other.read_bytes()


def test_a_devices_generator_is_as_it_was(monkeypatch):
    state = [torch.arange(3)]
    monkeypatch.setattr(process, "device_generator", lambda device: (lambda: state[0], lambda x: state.__setitem__(0, x)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with process.seeded("cuda", 0):
        state[0] = torch.zeros(3)  # as torch.manual_seed and a policy that samples there leave it
    assert state[0].tolist() == [0, 1, 2]
    assert torch.get_rng_state().equal(before)
