"""Environments that do everything wrong: the run goes on, what was skipped is counted, and replay holds only what happened."""

import collections
import json
import os
import random
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from tests.engine.ring import held
from thespis import cli, envs
from thespis.core import Fault, OffPolicy
from thespis.data import Replay
from thespis.engine import checkpoint
from thespis.engine.evaluate import ATTEMPTS, Evaluator
from thespis.envs.probes import Counter

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 40, "num_envs": 3, "steps": 300, "eval_every": 150, "eval_episodes": 5,
    "log_every": 30, "checkpoint_every": 90, "updates_per_step": 0.5, "compile_after": -1, "sinks": (), "panel": False,
    "on_env_error": "restart",
}  # fmt: skip


class Falling(gym.Env):
    """Observes (x, t), x' = 0.9 x + 0.1 a, pays x'; terminates after 7 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.x, self.t = seed, self.np_random.normal(), 0
        return self.obs(), {}

    def step(self, action):
        self.x, self.t = 0.9 * self.x + 0.1 * float(action[0]), self.t + 1
        return self.obs(), self.x, self.t >= 7, False, {}

    def obs(self):
        return np.array([self.x, self.t], np.float32)


def memory(folder, num_envs):
    """The replay of the newest checkpoint, (T, n, ...): obs, action, reward, terminated, ended, next obs."""
    ring = Replay(envs.world(Falling).spec, OffPolicy(0.99, 1, 16, 100_000, 0, 1.0), num_envs)
    checkpoint.load(folder, ring, pytest.fail)
    return [torch.from_numpy(x) for x in held(ring)]


def assert_true_to_life(columns):
    """Every row is a step of Falling, whatever happened in between."""
    obs, action, reward, terminated, ended, after = columns
    x = 0.9 * obs[..., 0] + 0.1 * action[..., 0]
    torch.testing.assert_close(after, torch.stack([x, obs[..., 1] + 1], -1))
    torch.testing.assert_close(reward, x)
    assert terminated.equal(after[..., 1] >= 7)
    assert (ended | ~terminated).all()
    goes_on = ~ended[:-1]
    assert obs[1:][goes_on].equal(after[:-1][goes_on])
    assert (obs[1:][ended[:-1]][:, 1] == 0).all()


def meta(folder):
    return json.loads((checkpoint.checkpoints(folder)[-1] / "checkpoint.json").read_text())


def last_faults(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {k.removeprefix("faults/"): v for k, v in rows[-1].items() if k.startswith("faults/")}


# ----------------------------------------------------------------------------------------------- a thousand, of all kinds


def wrong(place, value):
    def spoil(result):
        result = list(result)
        result[place] = value
        return tuple(result)

    return spoil


def raising(error):
    def spoil(result):
        raise error

    return spoil


STEPS = {
    "raises": raising(ValueError("out of fuel")),
    "raises nothing known": raising(type("Odd", (Exception,), {})()),
    "asserts": raising(AssertionError()),
    "runs out of memory": raising(MemoryError()),
    "recurses": raising(RecursionError("maximum recursion depth exceeded")),
    "exits": raising(SystemExit(1)),
    "nan": wrong(0, np.array([np.nan, 0], np.float32)),
    "inf": wrong(0, np.array([0, -np.inf])),
    "absurd observation": wrong(0, np.array([0, 1e30], np.float32)),
    "float64 beyond float32": wrong(0, np.array([0, 1e300])),
    "shape": wrong(0, np.zeros(3, np.float32)),
    "dimension": wrong(0, np.zeros((1, 2), np.float32)),
    "dtype": wrong(0, np.array(["left", "right"])),
    "objects": wrong(0, np.array([None, {}], object)),
    "no observation": wrong(0, None),
    "reward nan": wrong(1, float("nan")),
    "reward inf": wrong(1, -float("inf")),
    "reward 1e30": wrong(1, 1e30),
    "reward 1e300": wrong(1, np.float64(1e300)),
    "reward none": wrong(1, None),
    "reward vector": wrong(1, np.ones(2)),
    "reward text": wrong(1, "much"),
    "terminated": wrong(2, "yes"),
    "truncated": wrong(3, 0.5),
    "info": wrong(4, None),
    "four": lambda result: result[:4],
    "six": lambda result: (*result, None),
    "list": list,
    "nothing": lambda result: None,
}
RESETS = {
    "raises": raising(OSError("no such level")),
    "nan": wrong(0, np.array([np.nan, 0], np.float32)),
    "shape": wrong(0, np.zeros((2, 2), np.float32)),
    "alone": lambda result: result[0],
    "info": wrong(1, []),
}
LEFT = 1000


class Rough(Falling):
    """Of its calls every seventh, by chance, goes wrong in one of all ways, until LEFT are used up."""

    role, counts, good, alive = "train", collections.Counter(), collections.Counter(), 0
    rng = random.Random(0)

    def __init__(self):
        if Rough.role != "look" and self.strikes():
            self.count("make")
            raise OSError("no licence left")
        Rough.alive += 1

    def reset(self, **options):
        return self.spoilt("reset", RESETS, super().reset(**options))

    def step(self, action):
        return self.spoilt("step", STEPS, super().step(action))

    def spoilt(self, call, ways, result):
        if not self.strikes():
            Rough.good[Rough.role, call] += 1
            return result
        way = Rough.rng.choice(list(ways))
        self.count(f"{call}: {way}")
        return ways[way](result)

    def strikes(self):
        chance = 0.08 if Rough.role == "eval" else 0.14  # of an evaluation's episodes none may fail ten times in a row
        return sum(Rough.counts.values()) < LEFT and Rough.rng.random() < chance

    def count(self, way):
        Rough.counts[Rough.role, way] += 1

    def close(self):
        Rough.alive -= 1
        if Rough.rng.random() < 0.1:
            raise RuntimeError("cannot close")


@pytest.mark.filterwarnings("ignore:Rough. close raised", "ignore:overflow encountered in cast")
def test_a_thousand_faults(tmp_path, monkeypatch, capsys):
    Rough.role, Rough.alive, Rough.rng = "look", 0, random.Random(0)
    Rough.counts, Rough.good = collections.Counter(), collections.Counter()
    evaluate = Evaluator.__call__

    def evaluating(self, *args):
        before, Rough.role = Rough.role, "eval"
        try:
            return evaluate(self, *args)
        finally:
            Rough.role = before

    def begun(self, *args, begin=Evaluator.__init__):
        begin(self, *args)  # the last that is made before the first step
        Rough.role = "train"

    monkeypatch.setattr(Evaluator, "__call__", evaluating)
    monkeypatch.setattr(Evaluator, "__init__", begun)
    options = SMALL | {"steps": 6000, "eval_every": 1000, "log_every": 500, "checkpoint_every": 900, "updates_per_step": 0.05}
    thespis.train("sac", env=Rough, out=tmp_path / "run", **options)

    struck = {role: sum(n for (r, _), n in Rough.counts.items() if r == role) for role in ("train", "eval")}
    assert sum(struck.values()) == LEFT
    assert len({way for role, way in Rough.counts if role == "train"}) == len(STEPS) + len(RESETS) + 1
    assert struck["eval"] > 10
    assert last_faults(tmp_path / "run") == struck  # the metrics are exact
    assert meta(tmp_path / "run")["progress"]["faults"] == struck
    counts = [json.loads(line).get("faults/train", 0) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert counts == sorted(counts)

    columns = memory(tmp_path / "run", 3)
    assert_true_to_life(columns)
    assert columns[0].shape[:2] == (2000, 3)
    assert Rough.good["train", "step"] == 6000  # nothing that happened was lost
    ended, terminated = columns[4], columns[3]
    cut = int((ended & ~terminated).sum())
    assert 300 < cut < struck["train"]  # the others struck before a first good step
    assert all(torch.isfinite(x).all() for f in (tmp_path / "run").rglob("*.safetensors") for x in load_file(f).values())
    assert Rough.alive == 0  # each that was made was closed
    said = capsys.readouterr().out
    assert [f"fault {n} in train" in said for n in ("1", "10", "100", "2")] == [True, True, True, False]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["eval/length_mean"] for row in rows if "eval/length_mean" in row} == {7}  # whole episodes all the same


# ------------------------------------------------------------------------------------------------- exact, and in processes


class Fated(Falling):
    """What befalls it depends on the seed and the step alone: the same fate in every life, of the kind `how`."""

    def __init__(self, how="raise"):
        self.how = how

    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed, options=options)
        if seed % 6 == 0:
            self.strike("raise")
        return out

    def step(self, action):
        out = super().step(action)
        return self.strike(self.how) or out if (self.seed + self.t) % 9 == 0 and self.t % 2 else out

    def strike(self, how):
        if how == "raise":
            raise ValueError("fate")
        if how == "reward":
            return self.obs(), 1e30, False, False, {}
        if how == "die":
            os._exit(9)
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "hang":
            time.sleep(3600)
        return None


def fated(how="raise"):
    return lambda: Fated(how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    thespis.train("sac", env=fated(), out=folder, **SMALL)
    assert_true_to_life(memory(folder, 3))
    faults = last_faults(folder)
    assert faults["train"] > 40
    assert faults["eval"] > 0
    return folder


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("reward", {}), ("raise", {"vector": "async"}), ("raise", {"env_timeout": 60.0}),
        ("die", {"env_timeout": 60.0}), ("segfault", {"env_timeout": 60.0}),
    ],
)  # fmt: skip
def test_every_kind_of_fault_ends_in_the_same_run(tmp_path, whole, how, options):
    """In this process or in others, raised, returned or fatal: bit for bit, and count for count."""
    thespis.train("sac", env=fated(how), out=tmp_path / "run", **SMALL | options)
    assert_equal(tmp_path / "run", whole)


def hangs(tmp_path, steps):
    small = SMALL | {"steps": steps, "eval_every": 10_000, "eval_episodes": 1}
    thespis.train("sac", env=fated("raise"), out=tmp_path / "wanted", **small)
    thespis.train("sac", env=fated("hang"), out=tmp_path / "run", **small | {"env_timeout": 1.0})
    assert_equal(tmp_path / "run", tmp_path / "wanted")
    return last_faults(tmp_path / "run")


def test_what_hangs_is_replaced(tmp_path):
    assert 2 <= sum(hangs(tmp_path, 12).values()) <= 12


@pytest.mark.soak
def test_what_hangs_dozens_of_times_is_replaced(tmp_path):
    assert sum(hangs(tmp_path, 600).values()) == 78  # most of them hangs


class Interrupted(Fated):
    """Ctrl-C comes at its n-th step of all."""

    at = count = 0

    def step(self, action):
        Interrupted.count += 1
        if Interrupted.count == Interrupted.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


def test_stopped_anywhere_among_faults_it_goes_on_bit_for_bit(tmp_path, whole):
    rng = np.random.default_rng(0)
    for trial in range(3):
        folder, stops = tmp_path / f"run{trial}", 0
        Interrupted.count, Interrupted.at = 0, int(rng.integers(20, 120))
        result = thespis.train("sac", env=Interrupted, out=folder, **SMALL)
        while not result.finished:
            stops += 1
            Interrupted.count, Interrupted.at = 0, int(rng.integers(20, 200))
            result = thespis.resume(folder, env=Interrupted, panel=False)
        assert stops
        assert_equal(folder, whole)


def test_a_fault_while_an_episode_is_brought_back_begins_another(tmp_path, capsys):
    """It happened before and does not happen again: the run says so, counts it and goes on."""

    class Once(Falling):
        lives = 0

        def __init__(self):
            Once.lives += 1
            self.life = Once.lives

        def step(self, action):
            if self.life == 5 and self.t == 1:  # in the second process the first that is stepped
                raise ValueError("not again")
            if self.life == 2 and self.t == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(action)

    options = SMALL | {"num_envs": 1, "eval_episodes": 1}
    assert not thespis.train("sac", env=Once, out=tmp_path / "run", **options).finished  # lives 1 to 3: looked at, train, eval
    assert meta(tmp_path / "run")["progress"]["steps"] == 4
    capsys.readouterr()
    assert thespis.resume(tmp_path / "run", env=Once, panel=False).finished
    said = capsys.readouterr().out
    assert "step raised ValueError: not again" in said
    assert "environment 0 is not deterministic" in said
    assert last_faults(tmp_path / "run") == {"train": 1}
    columns = memory(tmp_path / "run", 1)
    assert_true_to_life(columns)
    assert columns[4][:5, 0].tolist() == [False, False, False, True, False]


# ------------------------------------------------------------------------------------------------------------ the limits


def test_without_restart_the_run_ends_as_ever(tmp_path):
    with pytest.raises(Fault, match=r"^evaluation at step 0: Fated: reset raised ValueError: fate, [^;]*$"):
        thespis.train("sac", env=fated(), out=tmp_path / "run", **SMALL | {"on_env_error": "stop"})
    assert not (tmp_path / "run").exists()  # nothing was learnt


@pytest.mark.parametrize("method", ["step", "reset"])
def test_an_environment_that_always_fails_ends_the_run_with_one_line(tmp_path, method, monkeypatch, capsys):
    class Hopeless(Falling):
        healthy = 100

        def reset(self, **options):
            if method == "reset" and Hopeless.healthy < 0:
                raise OSError("no level left")
            return super().reset(**options)

        def step(self, action):
            Hopeless.healthy -= 1
            if method == "step" and Hopeless.healthy < 0:
                raise OSError("no level left")
            return super().step(action)

    gym.register("tests/Hopeless-v0", Hopeless)
    monkeypatch.chdir(tmp_path)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items() if isinstance(v, int) and k != "panel"]
    argv = ["train", "sac", "--env", "tests/Hopeless-v0", "--out", "run", *flags, "--hidden", "8", "--sinks"]
    assert cli.main([*argv, "--on-env-error", "restart"]) == 2
    del gym.registry["tests/Hopeless-v0"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "OSError: no level left" in err
    assert "has failed 10 times in a row without a good step; a checkpoint is saved" in err
    assert_true_to_life(memory(tmp_path / "run", 3))
    assert thespis.resume(tmp_path / "run", env=Falling, panel=False).finished
    assert_true_to_life(memory(tmp_path / "run", 3))


def test_evaluations_try_again_from_the_same_seed_and_then_from_the_next():
    struck = []

    class Failing(Counter):
        bad, once = set(), True

        def step(self, action):
            out = super().step(action)
            if self.t == 2 and self.episode in Failing.bad:
                struck.append(self.episode)
                if Failing.once:
                    Failing.bad = set()
                raise ValueError("out of fuel")
            return out

    def expected(seed):
        n = 3 + seed % 5
        return n * (n + 1) / 2 + n / 4

    begun, told = [], []
    e = Evaluator(envs.world(Failing), 12, 4, None, told.append)

    def evaluate():
        return e(lambda obs, rows: torch.full((len(obs), 1), 0.25), lambda rows: begun.append(rows.tolist()))["returns"]

    Failing.bad = {e.seeds[3]}
    assert evaluate() == pytest.approx([expected(s) for s in e.seeds])  # as if nothing had been
    assert (begun, len(told)) == ([[3]], 1)
    Failing.bad, Failing.once = {e.seeds[11], e.seeds[11] + 1}, False
    assert evaluate() == pytest.approx([expected(s) for s in [*e.seeds[:11], e.seeds[11] + 2]])
    assert struck[1:] == [e.seeds[11], e.seeds[11], e.seeds[11] + 1]
    assert (begun[1:], len(told)) == ([[11]] * 3, 4)
    Failing.bad = {e.seeds[0] + i for i in range(20)}
    with pytest.raises(Fault, match=f"^Failing: an episode of the evaluation failed {ATTEMPTS} times$"):
        evaluate()
    e.close()


@pytest.mark.parametrize("bad", ["0", "-1", "soon"])
def test_a_time_limit_that_is_none(bad, capsys):
    assert cli.main(["train", "sac", "--env", "Pendulum-v1", "--env-timeout", bad]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "env" in err
    assert "timeout" in err
