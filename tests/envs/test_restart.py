"""Environments that fail are closed, or killed, and made anew; the others never notice, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from thespis import envs
from thespis.core import Fault
from thespis.envs.vector import IN_A_ROW

KINDS = ["sync", "async"]
GOOD, RAISE, DIE, HANG, SEGV = 0.0, 0.2, 0.4, 0.6, 0.8
PAST_HANG = 3600


class Moody(gym.Env):
    """Observes (its seed, its step), and does what the action says."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, close_hangs=False, log=None):
        self.file, self.close_hangs, self.seed = os.open(os.devnull, os.O_RDONLY), close_hangs, -1
        if log:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = seed, 0
        return self.obs(), {}

    def step(self, action):
        a = round(float(action[0]), 1)
        self.t += 1
        if a == RAISE:
            raise ValueError("out of fuel")
        if a == DIE:
            os._exit(3)
        if a == HANG:
            while True:  # does not listen to anybody
                time.sleep(PAST_HANG)
        if a == SEGV:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.obs(), float(self.t), False, False, {}

    def obs(self):
        return np.array([self.seed, self.t], np.float32)

    def close(self):
        os.close(self.file)
        if self.close_hangs:
            time.sleep(PAST_HANG)


@pytest.fixture
def make():
    made = []

    def vector(*args, **options):
        made.append(envs.vector(*args, **options))
        return made[-1]

    yield vector
    for v in made:
        v.close()


def act(*actions):
    return np.array(actions, np.float32)[:, None]


def handles():
    return len(os.listdir("/proc/self/fd"))


def children(pid):
    return [int(x) for t in Path(f"/proc/{pid}/task").iterdir() for x in (t / "children").read_text().split()]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def soon(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        (RAISE, "sync", "step raised ValueError: out of fuel"),
        (RAISE, "async", "step raised ValueError: out of fuel"),
        (DIE, "async", "its process died (exit code 3)"),
        (SEGV, "async", "its process died (exit code -11)"),
        (HANG, "async", "gave no answer in time, and was killed; see --env-timeout"),
    ],
)
def test_who_fails_is_made_anew_and_the_others_never_notice(what, kind, text, make):
    told = []
    v = make(envs.world(Moody), 3, kind, 2.0 if what == HANG else None, told.append)
    v.reset([1, 2, 3])
    v.step(act(GOOD, GOOD, GOOD))
    before = v.envs[1]
    obs, reward, terminated, truncated, failed = v.step(act(GOOD, what, GOOD))
    assert failed.tolist() == [False, True, False]
    assert [str(t).startswith(f"Moody: {text}") for t in told] == [True]
    assert obs[[0, 2]].tolist() == [[1, 2], [3, 2]]
    obs, failed = v.reset([0, 9, 0], failed)
    assert not failed.any()
    assert v.envs[1] is not before
    assert obs.tolist() == [[1, 2], [9, 0], [3, 2]]  # nobody else was reset
    obs, reward, terminated, truncated, failed = v.step(act(GOOD, GOOD, GOOD), np.array([False, True, False]))
    assert obs.tolist() == [[1, 2], [9, 1], [3, 2]]  # nor stepped
    obs, reward, terminated, truncated, failed = v.step(act(GOOD, GOOD, GOOD))
    assert obs.tolist() == [[1, 3], [9, 2], [3, 3]]
    assert reward.tolist() == [3, 2, 3]
    assert not (terminated | truncated | failed).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_always_fails_ends_it_with_one_line(kind, make):
    told = []
    v = make(envs.world(Moody), 2, kind, None, told.append)
    v.reset([1, 2])
    for _ in range(IN_A_ROW - 1):
        *_, failed = v.step(act(GOOD, RAISE))
        v.reset([1, 2], failed)
    end = f"out of fuel.*; environment 1 has failed {IN_A_ROW} times in a row without a good step$"
    with pytest.raises(Fault, match=end) as fault:
        v.step(act(GOOD, RAISE))
    assert "\n" not in str(fault.value)
    assert len(told) == IN_A_ROW


def test_a_good_step_in_between_is_enough(make):
    v = make(envs.world(Moody), 1, "sync", None, lambda fault: None)
    for _ in range(3 * IN_A_ROW):
        v.reset([1])
        v.step(act(GOOD))
        v.step(act(RAISE))


def test_what_cannot_be_made_again_is_a_fault_like_others(make):
    lives = []

    def once():
        lives.append(1)
        if 3 <= len(lives) <= 5:
            raise OSError("no licence left")
        return Moody()

    told = []
    v = make(envs.world(once), 1, "sync", None, told.append)  # two lives: one to look at
    v.reset([1])
    *_, failed = v.step(act(RAISE))
    while failed.any():
        obs, failed = v.reset([7], failed)
    assert obs.tolist() == [[7, 0]]
    assert ["cannot be made (OSError: no licence left" in str(t) for t in told] == [False, True, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_that_fails_while_it_is_brought_back(kind, make):
    v = make(envs.world(Moody), 2, kind, None, lambda fault: None)
    obs, returns, steps = v.reenact([5, 6], [act(GOOD, GOOD), act(GOOD, RAISE)])
    assert obs[0].tolist() == [5, 2]
    assert (returns[0], steps.tolist()) == (3.0, [2, -1])


@pytest.mark.parametrize(("kind", "times", "what"), [("sync", 1000, RAISE), ("async", 40, RAISE), ("async", 40, DIE)])
def test_many_restarts_leave_nothing_behind(kind, times, what, make):
    restarts(kind, times, what, make)


@pytest.mark.soak
@pytest.mark.parametrize("what", [RAISE, DIE])
def test_a_thousand_processes_leave_nothing_behind(what, make):
    restarts("async", 1000, what, make)


def restarts(kind, times, what, make):
    told = []
    v = make(envs.world(Moody), 2, kind, None, told.append)
    v.reset([1, 1])
    before = handles()
    for _ in range(times):
        v.step(act(GOOD, GOOD))
        *_, failed = v.step(act(GOOD, what))
        v.reset([1, 1], failed)
    assert len(told) == times
    assert handles() == before
    if kind == "async":
        assert sorted(children(v.nursery.pid)) == sorted(env.pid for env in v.envs)
        assert len(os.listdir(f"/proc/{v.nursery.pid}/fd")) <= before
        nurse, pids = v.nursery.pid, [env.pid for env in v.envs]
        v.close()
        assert all(gone(pid) for pid in [nurse, *pids])


def test_a_close_that_hangs_is_cut_short(make):
    v = make(envs.world(lambda: Moody(close_hangs=os.getpid() != HERE)), 2, "async", 1.0, lambda fault: None)
    pids = [env.pid for env in v.envs]
    v.reset([1, 2])
    v.step(act(GOOD, RAISE))  # closes the second
    assert gone(pids[1])
    assert not gone(pids[0])
    v.close()
    assert gone(pids[0])


HERE = os.getpid()


def test_ctrl_c_while_an_environment_hangs(make, monkeypatch):
    """As a second Ctrl-C does: an exception in the middle of waiting. What follows is closing, which must not wait for ever."""
    monkeypatch.setattr(sys.modules["thespis.envs.vector"], "GRACE", 1.0)
    v = make(envs.world(Moody), 2, "async")
    pids = [env.pid for env in v.envs]
    v.reset([1, 2])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            v.step(act(GOOD, HANG))
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    v.close()
    assert all(gone(pid) for pid in pids)


def test_processes_that_an_environment_started_go_with_it(make):
    class Parent(Moody):
        def reset(self, *, seed=None, options=None):
            self.other = subprocess.Popen(["sleep", str(PAST_HANG)])
            self.obs = lambda: np.array([self.other.pid, 0], np.float32)
            self.t = 0
            return self.obs(), {}

    v = make(envs.world(Parent), 1, "async", None, lambda fault: None)
    pid = int(v.reset([1])[0][0, 0])
    assert not gone(pid)
    v.step(act(DIE))
    assert soon(lambda: gone(pid))


KILLED = """
import sys
from pathlib import Path
import importlib.util
import numpy as np
from thespis import envs

spec = importlib.util.spec_from_file_location("moody", sys.argv[1])
moody = importlib.util.module_from_spec(spec)
spec.loader.exec_module(moody)
world = envs.world(lambda: moody.Moody(log=Path(sys.argv[2])))
a, b = envs.vector(world, 2, "async"), envs.vector(world, 1, "async")
a.reset([1, 2])
b.reset([1])
print("ready", flush=True)
a.step(moody.act(moody.GOOD, moody.HANG))
"""


def test_no_process_outlives_a_parent_that_was_killed(tmp_path):
    """Not even one that hangs; with two sets of environments, whose pipes the later processes have inherited."""
    log = tmp_path / "pids"
    with subprocess.Popen([sys.executable, "-c", KILLED, __file__, str(log)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        pids = [int(x) for x in log.read_text().split() if int(x) != parent.pid] + children(parent.pid)
        assert len(pids) == 3 + 2
        assert not any(map(gone, pids))
        time.sleep(0.2)  # so that it hangs in its step
        parent.kill()
    assert soon(lambda: all(map(gone, pids)))
