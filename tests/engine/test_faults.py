"""What goes wrong while a run is under way: told in one line, with nothing lost that was learnt before."""

import json
import os
import shutil
import signal
import subprocess
import sys

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

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 120, "eval_every": 50, "eval_episodes": 2,
    "log_every": 20, "checkpoint_every": 40, "updates_per_step": 0.5, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Falling(gym.Env):
    """Observes (x, t), x' = 0.9 x + 0.1 a, pays x'; ends after 7 steps. `trouble` may befall it once: at the n-th call of a
    method, in training or in evaluation (the second environment that is made is the one that trains)."""

    trouble = None  # (role, method, n, what)
    made = 0
    calls = 0
    random = False

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.role = ("first", "train", "eval")[min(Falling.made, 2)]
        Falling.made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=None if Falling.random else seed)
        self.x, self.t = self.np_random.normal(), 0
        self.meet("reset")
        return self.obs(), {}

    def step(self, action):
        self.x, self.t = 0.9 * self.x + 0.1 * float(action[0]), self.t + 1
        what = self.meet("step")
        out = [self.obs(), self.x, self.t >= 7, False, {}]
        if what is not None:
            place, value = what
            out[place] = value
        return tuple(out)

    def obs(self):
        return np.array([self.x, self.t], np.float32)

    def meet(self, method):
        role, at, n, what = Falling.trouble or ("", "", 0, None)
        if (role, at) != (self.role, method):
            return None
        Falling.calls += 1
        if Falling.calls != n:
            return None
        if isinstance(what, BaseException):
            raise what
        if what in ("interrupt", "interrupt twice"):
            for _ in range(1 + (what == "interrupt twice")):
                os.kill(os.getpid(), signal.SIGINT)
            return None
        return what


gym.register("tests/Falling-v0", Falling)


def troubled(trouble=None, random=False):
    Falling.trouble, Falling.random, Falling.made, Falling.calls = trouble, random, 0, 0


@pytest.fixture(autouse=True)
def healthy():
    troubled()
    yield
    troubled()


def train(folder, **options):
    return thespis.train("sac", env="tests/Falling-v0", out=folder, **SMALL | options)


def resume(folder, **options):
    troubled(random=Falling.random)
    return thespis.resume(folder, panel=False, **options)


def memory(folder, num_envs=1):
    """The replay of the newest checkpoint, in order: obs, action, reward, terminated, ended, next obs."""
    ring = Replay(envs.world("tests/Falling-v0").spec, OffPolicy(0.99, 1, 16, 1_000_000 // 1000, 0, 1.0), num_envs)
    checkpoint.load(folder, ring, pytest.fail)
    return [torch.from_numpy(x).flatten(0, 1) for x in held(ring)]


def assert_true_to_life(rows):
    """Every row is a step of Falling, whatever happened in between."""
    obs, action, reward, terminated, ended, after = rows
    x = 0.9 * obs[:, 0] + 0.1 * action[:, 0]
    torch.testing.assert_close(after, torch.stack([x, obs[:, 1] + 1], -1))
    torch.testing.assert_close(reward, x)
    assert terminated.equal(after[:, 1] >= 7)
    goes_on = ~ended[:-1]
    assert obs[1:][goes_on].equal(after[:-1][goes_on])
    assert (obs[1:][ended[:-1]][:, 1] == 0).all()


def assert_finite(folder):
    found = list(folder.rglob("*.safetensors"))
    assert found
    for file in found:
        for name, x in load_file(file).items():
            assert not x.is_floating_point() or torch.isfinite(x).all(), (file, name)


def meta(folder):
    return json.loads((checkpoint.checkpoints(folder)[-1] / "checkpoint.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    troubled()
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    assert_true_to_life(memory(folder))
    return folder


# ------------------------------------------------------------------------------------------------------ the environment

STEP_FAULTS = {
    "raises": (ValueError("no fuel\nleft"), ["step raised ValueError: no fuel left"]),
    "nan": ((0, np.array([np.nan, 0], np.float32)), ["observation[0] is nan", "finite"]),
    "infinite": ((0, np.array([0, np.inf], np.float32)), ["observation[1] is inf"]),
    "shape": ((0, np.zeros(3, np.float32)), ["observation has the shape (3,)", "(2,)"]),
    "reward": ((1, float("nan")), ["reward is nan", "finite"]),
    "reward too large": ((1, 1e39), ["reward is 1e+39"]),
    "flag": ((2, "yes"), ["terminated is 'yes'", "True or False"]),
}


@pytest.mark.parametrize("kind", STEP_FAULTS)
def test_a_step_that_fails_in_training_names_step_and_field_and_loses_nothing(tmp_path, kind):
    what, words = STEP_FAULTS[kind]
    troubled(("train", "step", 57, what))
    with pytest.raises(Fault) as fault:
        train(tmp_path / "run")
    told = str(fault.value)
    assert told.startswith("step 57: tests/Falling-v0: ")
    assert all(word in told for word in words), told
    assert "a checkpoint is saved" in told
    assert "\n" not in told
    before, kept = memory(tmp_path / "run"), meta(tmp_path / "run")
    assert len(before[0]) == kept["progress"]["steps"] == 56
    assert kept["progress"]["updates"] == 13
    assert_finite(tmp_path / "run")

    assert resume(tmp_path / "run").finished  # mended
    after = memory(tmp_path / "run")
    assert_true_to_life(after)
    assert len(after[0]) == 120
    for x, y in zip(before, after, strict=True):  # nothing was lost; the last of them may have had its successor since
        assert x[:56].equal(y[:56])
    assert meta(tmp_path / "run")["progress"]["updates"] == 45
    assert_finite(tmp_path / "run")


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_reset_that_fails_in_training_loses_nothing(tmp_path, n):
    troubled(("train", "reset", n, OSError("no such level")))
    with pytest.raises(Fault, match=rf"^step {7 * (n - 1) + 1}: tests/Falling-v0: reset raised OSError: no such level") as fault:
        train(tmp_path / "run")
    if n == 1:  # nothing was learnt, and nothing is left
        assert list(tmp_path.iterdir()) == []
        return
    assert "a checkpoint is saved" in str(fault.value)
    kept = meta(tmp_path / "run")
    assert kept["progress"]["steps"] == kept["replay_steps"] == 7 * (n - 1)
    assert resume(tmp_path / "run").finished
    after = memory(tmp_path / "run")
    assert len(after[0]) == 120
    assert_true_to_life(after)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["episode/length"] == 7 for row in rows if "episode/length" in row)


@pytest.mark.parametrize("n", [1, 9, 20, 35, 50])  # of an episode of the evaluation at step 0, 50, 100 and at the end
@pytest.mark.parametrize("method", ["step", "reset"])
def test_an_evaluation_that_fails_is_done_again_and_the_run_equals_the_undisturbed_one(tmp_path, whole, n, method):
    if method == "reset":
        n = n // 7 + 1
    troubled(("eval", method, n, RuntimeError("no picture")))
    at = (0, 50, 100, 120)[(n - 1) // (14 if method == "step" else 2)]
    with pytest.raises(
        Fault, match=rf"^evaluation at step {at}: tests/Falling-v0: {method} raised RuntimeError: no picture"
    ) as fault:
        train(tmp_path / "run")
    if at == 0:  # there was nothing to save: the same command is given again
        assert list(tmp_path.iterdir()) == []
        troubled()
        assert train(tmp_path / "run").finished
    else:
        assert "a checkpoint is saved" in str(fault.value)
        assert meta(tmp_path / "run")["progress"]["steps"] == at
        assert resume(tmp_path / "run").finished
    assert_equal(tmp_path / "run", whole)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    troubled(("train", "step", 57, STEP_FAULTS["nan"][0]))
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items() if isinstance(v, int) and k != "panel"]
    argv = ["train", "sac", "--env", "tests/Falling-v0", "--out", "run", *flags, "--hidden", "8", "--sinks"]
    assert cli.main(argv) not in (0, 130)
    err = capsys.readouterr().err
    assert err.startswith("thespis: step 57: ")
    assert err.count("\n") == 1
    troubled()
    assert cli.main(["resume", "run"]) == 0
    assert capsys.readouterr().err == ""
    assert_true_to_life(memory(tmp_path / "run"))


def test_an_environment_that_fails_when_it_is_used_by_a_policy(whole):
    troubled(("train", "step", 3, STEP_FAULTS["shape"][0]))
    with pytest.raises(Fault, match=r"observation has the shape \(3,\)"):
        thespis.evaluate(whole, 2)


HERE = os.getpid()


class Mortal(gym.Wrapper):
    """In training, in a process of its own, at its fifth step it raises, or takes the process with it, until `mended` exists."""

    def __init__(self, mended, raises):
        super().__init__(gym.make("thespis/Counter-v0"))
        self.mended, self.raises, self.steps = mended, raises, 0

    def step(self, action):
        self.steps += 1
        evaluated = self.mended.parent / "run" / "metrics.jsonl"  # the evaluation at step 0 is in processes of its own too
        if self.steps == 5 and os.getpid() != HERE and not self.mended.exists() and evaluated.stat().st_size:
            if self.raises:
                raise ValueError("no fuel")
            os._exit(3)
        return self.env.step(action)


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "dies"])
def test_environments_in_processes_of_their_own(tmp_path, raises):
    def env():
        return Mortal(tmp_path / "mended", raises)

    options = SMALL | {"num_envs": 2, "vector": "async", "eval_every": 1000, "steps": 40, "warmup": 100}
    with pytest.raises(Fault) as fault:
        thespis.train("sac", env=env, out=tmp_path / "run", **options)
    assert str(fault.value).startswith("step 9: ")
    assert ("step raised ValueError: no fuel" if raises else "died") in str(fault.value)
    assert "a checkpoint is saved" in str(fault.value)
    assert meta(tmp_path / "run")["replay_steps"] == 4
    (tmp_path / "mended").touch()
    assert thespis.resume(tmp_path / "run", env=env, panel=False).finished
    assert meta(tmp_path / "run")["replay_steps"] == 20


# -------------------------------------------------------------------------------------------------------------- stopped


def test_a_second_interrupt_stops_at_once_and_the_last_checkpoint_stands(tmp_path, whole):
    troubled(("train", "step", 53, "interrupt twice"))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert meta(tmp_path / "run")["progress"]["steps"] == 40
    assert resume(tmp_path / "run").finished
    assert_equal(tmp_path / "run", whole)


def test_a_second_interrupt_at_the_command_line(tmp_path, monkeypatch, capsys, whole):
    shutil.copytree(whole, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    troubled(("train", "step", 9, "interrupt twice"))  # the first of them re-enacts the episode
    assert cli.main(["resume", "run", "--steps", "200"]) == 130
    err = capsys.readouterr().err
    assert err.startswith("thespis: interrupted")
    assert err.count("\n") == 1
    assert resume(tmp_path / "run").finished


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("checkpoints", "replay", "policy"):
        shutil.rmtree(folder / name)
    (folder / "curve.png").unlink()
    assert resume(folder).finished
    assert_equal(folder, whole)


def test_a_run_that_was_killed_between_its_last_checkpoint_and_the_policy(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for file in (folder / "policy").glob("last.*"):
        file.unlink()
    assert resume(folder).finished
    assert_equal(folder, whole)


def test_a_run_whose_checkpoints_were_deleted_does_not(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    before = {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}
    with pytest.raises(Fault, match="holds no checkpoint"):
        resume(folder, steps=120)
    (folder / "curve.png").write_bytes(before[folder / "curve.png"])
    assert {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")} == before


# ----------------------------------------------------------------------------------------------------- not deterministic


def test_an_environment_that_ignores_its_seed(tmp_path, capsys):
    """Where re-enacting leads elsewhere, the old episode is cut as by a time limit and a new one begins."""
    troubled(("train", "step", 53, "interrupt"), random=True)  # 53 = 7 * 7 + 4: within an episode
    assert not train(tmp_path / "run").finished
    last = checkpoint.checkpoints(tmp_path / "run")[-1]
    reached = load_file(last / "tensors.safetensors")["collector.obs"]
    assert reached[0, 1] == 4
    capsys.readouterr()

    troubled(("train", "step", 4 + 20, "interrupt"), random=True)  # after 4 steps that are re-enacted, 20 more
    assert not thespis.resume(tmp_path / "run", panel=False).finished
    said = [line for line in capsys.readouterr().out.splitlines() if "not deterministic" in line]
    assert len(said) == 1
    assert "environment 0" in said[0]
    assert "new episode" in said[0]
    rows = memory(tmp_path / "run")  # as the next resume will load it: the cut is found again
    obs, _, _, terminated, ended, after = rows
    assert len(obs) == 73
    assert ended[52]
    assert not terminated[52]
    assert after[52].equal(reached[0])  # bootstraps from the true last observation
    assert obs[53, 1] == 0
    assert_true_to_life(rows)

    capsys.readouterr()
    assert resume(tmp_path / "run").finished
    final = memory(tmp_path / "run")
    assert_true_to_life(final)
    for x, y in zip(rows, final, strict=True):
        assert x[:72].equal(y[:72])
    assert final[4][72] == (final[0][73, 1] == 0)
    assert "damaged" not in capsys.readouterr().out


def test_one_that_heeds_its_seed_is_not_suspected(tmp_path, capsys):
    troubled(("train", "step", 53, "interrupt"))
    assert not train(tmp_path / "run").finished
    capsys.readouterr()
    assert resume(tmp_path / "run").finished
    assert "deterministic" not in capsys.readouterr().out
    assert_true_to_life(memory(tmp_path / "run"))
    assert memory(tmp_path / "run")[4].nonzero().flatten().tolist() == list(range(6, 120, 7))


# ------------------------------------------------------------------------------------------------------------- diverging

POISONED = '''"""SAC whose {what} turns to NaN at its update number {at}."""

import torch

from thespis.algos.continuous import sac
from thespis.core import replace, tree_map

Config, State = sac.Config, sac.State


def make(cfg, spec):
    learner = sac.make(cfg, spec)

    def update(s, b, k=0):
        s, m = learner.update(s, b, k)
        poison = torch.where(s.critic.t >= {at}, torch.nan, 0.0)
        if "{what}" == "loss":
            return s, m | {{"critic_loss": m["critic_loss"] + poison}}
        return replace(s, {what}=tree_map(lambda x: x + poison, s.{what})), m

    return replace(learner, update=update)
'''


def poisoned(tmp_path, what, at):
    file = tmp_path / "poisoned.py"
    file.write_text(POISONED.format(what=what, at=at))
    return str(file)


@pytest.mark.parametrize(
    ("what", "at", "options", "told"),
    [
        ("loss", 61, {}, "by step 100: critic_loss is nan"),  # the next row of metrics tells it
        ("actor", 61, {}, r"by step 91: actor\.\S+ is not finite"),  # or an action that is none
        ("actor", 61, {"eval_every": 91}, r"by step 91: actor\.\S+ is not finite"),  # in an evaluation
        ("critic", 61, {}, r"by step 92: actor\.\S+ is not finite"),  # the actor follows the critic
        ("critic", 90, {}, r"by step 120: critic\.\S+ is not finite"),  # else the checkpoint
        ("target", 90, {}, r"by step 120: target\.\S+ is not finite"),
    ],
)
def test_a_learner_that_diverges_stops_and_spoils_nothing(tmp_path, what, at, options, told):
    algo, folder = poisoned(tmp_path, what, at), tmp_path / "run"
    with pytest.raises(Fault, match="^diverged " + told) as fault:
        thespis.train(algo, env="tests/Falling-v0", out=folder, **SMALL | {"updates_per_step": 1.0} | options)
    assert str(folder / "checkpoints" / "000000080") in str(fault.value)  # the last good one
    assert "\n" not in str(fault.value)
    assert [int(c.name) for c in checkpoint.checkpoints(folder)] == [40, 80]
    assert_finite(folder)
    assert thespis.load(folder, algo=algo).about["step"] == 80
    last = load_file(folder / "checkpoints" / "000000080" / "tensors.safetensors")
    kept = load_file(folder / "policy" / "last.safetensors")
    assert all(x.equal(last[f"state.actor.params.{k}"]) for k, x in kept.items())
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert not any(v is None for v in json.loads(line).values())
    troubled()
    assert thespis.resume(folder, algo="sac", panel=False).finished  # with an algorithm that is sound it goes on from there
    assert_finite(folder)
    assert_true_to_life(memory(folder))


def test_a_learning_rate_beyond_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items() if isinstance(v, int) and k != "panel"]
    argv = ["train", "sac", "--env", "tests/Falling-v0", "--out", "run", *flags, "--hidden", "8", "--lr", "1e30", "--sinks"]
    assert cli.main(argv) not in (0, 130)
    err = capsys.readouterr().err
    assert err.startswith("thespis: diverged by step ")
    assert err.count("\n") == 1
    assert not list((tmp_path / "run").glob("checkpoints/*")) or assert_finite(tmp_path / "run") is None


# --------------------------------------------------------------------------------------------------------------- killed

KILLS = '''
import json, os, random, signal, sys, time
import matplotlib.pyplot
import thespis
from thespis.engine import checkpoint

folder, options, seed = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
env = options.pop("env")


def begin(name):
    """A process that trains, or goes on where one was killed."""
    pid = os.fork()
    if pid:
        return pid
    try:
        out = os.open(f"{folder}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        path = f"{folder}/{name}"
        if os.path.exists(f"{path}/config.json"):
            thespis.resume(path, panel=False)
        else:
            thespis.train("sac", env=env, out=path, panel=False, **options)
        os._exit(0)
    finally:
        os._exit(1)


def reached(name):
    """The step of the newest checkpoint."""
    return max((int(c.name) for c in checkpoint.checkpoints(checkpoint.Path(f"{folder}/{name}"))), default=0)


pid, start = begin("whole"), time.monotonic()
while reached("whole") < options["steps"]:
    assert os.waitpid(pid, os.WNOHANG)[0] == 0
    time.sleep(0.01)
lasts = time.monotonic() - start
assert os.waitpid(pid, 0)[1] == 0
rng, kills = random.Random(seed), []
while reached("killed") < options["steps"]:
    pid = begin("killed")
    if len(kills) < 7:
        time.sleep(rng.uniform(0, 0.4 * lasts))
        os.kill(pid, signal.SIGKILL)
        kills.append(reached("killed"))
    assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL)
assert os.waitpid(begin("killed"), 0)[1] == 0  # it may have been killed after its last checkpoint
print(json.dumps(kills))
'''


@pytest.mark.parametrize(
    "options",
    [
        {"env": "InvertedPendulum-v5", "checkpoint_every": 2, "keep": 1},
        {"env": "Pendulum-v1", "checkpoint_every": 3, "num_envs": 2, "replay_size": 16, "n_step": 2},  # the ring wraps
    ],
    ids=["one", "two"],
)
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(tmp_path, options):
    options = {k: v for k, v in SMALL.items() if k != "panel"} | {
        "steps": 70, "updates_per_step": 1.0, "warmup": 10, "eval_every": 25, "eval_episodes": 1, "log_every": 9,
    } | options  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), json.dumps(options), "0"], capture_output=True, text=True, timeout=300
    )
    log = (tmp_path / "killed.log").read_text()
    assert run.returncode == 0, run.stderr + log
    kills = json.loads(run.stdout)  # after which checkpoint
    assert len(kills) >= 4
    assert "damaged" not in log
    assert "deterministic" not in log
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))
