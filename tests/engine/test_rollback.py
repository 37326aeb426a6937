"""Numbers that are no longer finite: none is ever saved, and a run may go back to its last checkpoint and explore otherwise."""

import itertools
import json
import os
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint, diverge

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 160, "eval_every": 50, "eval_episodes": 1,
    "log_every": 20, "checkpoint_every": 40, "keep": 9, "compile_after": -1, "sinks": (), "panel": False,
    "on_divergence": "rollback",
}  # fmt: skip

POISONED = '''"""SAC whose WHAT is NaN after its update number AT, as often as a file beside this one says."""

from pathlib import Path

import torch

from thespis.algos.continuous import sac
from thespis.core import replace, tree_map

Config, State = sac.Config, sac.State
LEFT = Path(__file__).with_suffix(".left")


def make(cfg, spec):
    learner, wrong = sac.make(cfg, spec), [False]

    def strikes(s):
        left = int(LEFT.read_text())
        if not s.critic.t == AT or left == 0:
            return False
        LEFT.write_text(str(left - 1))
        return True

    def update(s, b, k=0):
        s, m = learner.update(s, b, k)
        if not strikes(s):
            return s, m
        if "WHAT" == "loss":
            return s, m | {"critic_loss": m["critic_loss"] + torch.nan}
        if "WHAT" == "action":
            wrong[0] = True
            return s, m
        return replace(s, WHAT=tree_map(lambda x: x + torch.nan, s.WHAT)), m

    def act(policy, obs, explore):
        out = learner.act(policy, obs, explore)
        if wrong[0]:
            wrong[0] = False
            return out + torch.nan
        return out

    return replace(learner, update=update, act=act)
'''


def poisoned(folder, what, at, times):
    """`at` counts updates: the step is 30 more."""
    file = folder / "poisoned.py"
    file.write_text(POISONED.replace("WHAT", what).replace("AT", str(at)))
    file.with_suffix(".left").write_text(str(times))
    return str(file)


class Watched(gym.Wrapper):
    """Notes its actions, and sends this process Ctrl-C, twice, at the n-th of them."""

    actions, at = [], 0

    def step(self, action):
        Watched.actions.append(float(action[0]))
        if len(Watched.actions) == Watched.at:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return self.env.step(action)


def env():
    return Watched(gym.make("Pendulum-v1", max_episode_steps=30))


@pytest.fixture(autouse=True)
def unwatched():
    Watched.actions, Watched.at = [], 0


def rows(folder, upto=10**9):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in row.items() if k not in ("time/seconds", "time/steps_per_second")} for row in found]
    return [row for row in timeless if row["step"] <= upto]


def meta(path):
    return json.loads((path / "checkpoint.json").read_text())


def at(folder, step):
    return folder / "checkpoints" / f"{step:09d}"


def assert_finite(folder):
    files = list(folder.rglob("*.safetensors"))
    assert files
    for file in files:
        assert all(torch.isfinite(x).all() for x in load_file(file).values() if x.is_floating_point()), file
    assert all(value is not None for row in rows(folder) for value in row.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    thespis.train("sac", env=env, out=folder, **SMALL)
    assert "faults/rollbacks" not in rows(folder)[-1]
    return folder


@pytest.mark.parametrize(("what", "times"), [("loss", 3), ("actor", 1), ("critic", 1), ("target", 1), ("action", 2)])
def test_back_to_the_last_checkpoint_with_other_random_numbers(tmp_path, whole, what, times, capsys):
    """At update 61, of step 91: up to step 80 it is the undisturbed run bit for bit, then another, which is finite."""
    folder, algo = tmp_path / "run", poisoned(tmp_path, what, 61, times)
    assert thespis.train(algo, env=env, out=folder, **SMALL).finished
    said = [line for line in capsys.readouterr().out.splitlines() if "going on from there" in line]
    assert len(said) == times
    assert all(line.startswith("diverged by step ") and str(at(folder, 80)) in line for line in said)
    assert rows(folder)[-1]["faults/rollbacks"] == times
    assert meta(at(folder, 160))["progress"]["faults"] == {"rollbacks": times}
    assert [int(c.name) for c in checkpoint.checkpoints(folder)] == [0, 40, 80, 120, 160]
    assert rows(folder, 80) == rows(whole, 80)
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(whole)]
    for step in (0, 40, 80):
        assert (at(folder, step) / "tensors.safetensors").read_bytes() == (at(whole, step) / "tensors.safetensors").read_bytes()
    for first in (0, 40):
        name = f"replay/{first:09d}.safetensors"
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (load_file(f / "replay" / "000000080.safetensors") for f in (folder, whole))
    assert (ours["action"] == theirs["action"]).float().mean() < 0.2  # but where both are at the bounds
    assert ours["obs"][0].equal(theirs["obs"][0])  # the episode under way goes on
    assert meta(at(folder, 160))["progress"]["updates"] == 130
    assert_finite(folder)


def test_each_time_it_explores_otherwise(tmp_path):
    algo = poisoned(tmp_path, "loss", 61, 3)
    thespis.train(algo, env=env, out=tmp_path / "run", **SMALL | {"eval_every": 1000})
    start = 30 + 80  # an evaluation, and all up to the checkpoint; it is found out at step 100, and 20 steps are re-enacted
    lives = [np.array(Watched.actions[start + 40 * i :][:20]) for i in range(4)]
    again = [Watched.actions[start + 40 * i - 20 :][:20] for i in range(4)]
    assert again == [Watched.actions[start - 20 : start]] * 4
    for i, j in itertools.combinations(range(4), 2):
        assert (lives[i] == lives[j]).mean() < 0.2  # but where both are at the bounds


def test_killed_after_it_went_back_it_goes_on_bit_for_bit(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        Watched.actions, algo = [], poisoned(tmp_path / name, "critic", 61, 2)
        folder = tmp_path / name / "run"
        if name == "killed":
            Watched.at = 2 * 30 + 92 + 20 + 5  # evaluations at 0 and 50, steps to 92, where it diverges; 20 again, and five more
            with pytest.raises(KeyboardInterrupt):
                thespis.train(algo, env=env, out=folder, **SMALL)
            assert meta(checkpoint.checkpoints(folder)[-1])["rollback"]["times"] == 1
            Watched.at = 0
            assert thespis.resume(folder, env=env, algo=algo, panel=False).finished
        else:
            thespis.train(algo, env=env, out=folder, **SMALL)
    assert rows(tmp_path / "killed/run") == rows(tmp_path / "whole/run")
    assert rows(tmp_path / "killed/run")[-1]["faults/rollbacks"] == 2
    a, b = (load_file(at(tmp_path / name / "run", 160) / "tensors.safetensors") for name in ("whole", "killed"))
    assert [k for k in a if not a[k].equal(b[k])] == []


def test_before_the_first_checkpoint_it_begins_again(tmp_path, whole):
    folder, algo = tmp_path / "run", poisoned(tmp_path, "actor", 4, 2)
    assert thespis.train(algo, env=env, out=folder, **SMALL).finished
    assert rows(folder, 0) == rows(whole, 0)
    assert len(rows(folder, 0)) == 1
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(whole)]
    assert rows(folder)[-1]["faults/rollbacks"] == 2
    assert_finite(folder)


@pytest.mark.parametrize(("what", "at_update"), [("loss", 61), ("actor", 61), ("critic", 1)])
def test_what_diverges_every_time_ends_with_one_line(tmp_path, what, at_update, monkeypatch, capsys):
    algo, n = poisoned(tmp_path, what, at_update, 1000), diverge.IN_A_ROW
    monkeypatch.chdir(tmp_path)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items() if isinstance(v, int) and k != "panel"]
    argv = ["train", algo, "--env", "Pendulum-v1", "--out", "run", *flags, "--hidden", "8", "--sinks"]
    assert cli.main([*argv, "--on-divergence", "rollback"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("thespis: diverged by step ")
    assert err.count("\n") == 1
    assert f"from there it has diverged {n + 1} times, each time with other random numbers" in err
    assert int((tmp_path / "poisoned.left").read_text()) == 1000 - n - 1
    last = checkpoint.checkpoints(tmp_path / "run")[-1]
    assert meta(last)["progress"]["faults"] == {"rollbacks": n}
    assert_finite(tmp_path / "run")
    assert cli.main(["resume", "run", "--algo", algo]) == 2  # no less so when it is asked again
    (tmp_path / "poisoned.left").write_text("0")
    assert cli.main(["resume", "run", "--algo", algo]) == 0  # mended
    assert_finite(tmp_path / "run")


def test_a_checkpoint_further_on_allows_as_many_again(tmp_path):
    """At update 61 of step 91 and, once past the checkpoint of step 120, at update 101 of step 131: four times each."""
    file = poisoned(tmp_path, "loss", 61, 8)
    source = (tmp_path / "poisoned.py").read_text()
    (tmp_path / "poisoned.py").write_text(source.replace("s.critic.t == 61", "s.critic.t == (61 if left > 4 else 101)"))
    assert thespis.train(file, env=env, out=tmp_path / "run", **SMALL).finished
    assert rows(tmp_path / "run")[-1]["faults/rollbacks"] == 8
    assert [meta(at(tmp_path / "run", n)).get("rollback", {}).get("times") for n in (40, 80, 120)] == [None, 4, 4]


def test_tensorboard_and_the_best_policy_after_a_rollback(tmp_path):
    folder, algo = tmp_path / "run", poisoned(tmp_path, "loss", 61, 2)
    thespis.train(algo, env=env, out=folder, **SMALL | {"sinks": ("tensorboard",), "eval_every": 10, "log_every": 25})
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("eval/return_mean", "time/updates"):
        steps = [e.step for e in events.Scalars(name)]
        assert steps == sorted(set(steps)) == [row["step"] for row in rows(folder) if name in row]
    best = json.loads((folder / "policy" / "best.json").read_text())["return_mean"]
    assert best == meta(at(folder, 160))["progress"]["best"]
    assert best >= max(row["eval/return_mean"] for row in rows(folder) if "eval/return_mean" in row)


# --------------------------------------------------------------------------------------------- nothing of it is ever saved


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("critic", {"eval_every": 91}, r"by step 91: critic\.\S+ is not finite"),  # the actor still is: it would be "best"
        ("target", {"eval_every": 91}, r"by step 91: target\.\S+ is not finite"),
        (
            "loss",
            {"log_every": 1000, "eval_every": 1000},
            "by step 120: critic_loss is not finite",
        ),  # in the sums that a checkpoint holds
        ("loss", {"log_every": 1000, "eval_every": 91}, "by step 91: critic_loss is not finite"),
        ("action", {}, "by step 91: an action is not finite"),  # though every parameter is
        ("action", {"eval_every": 91}, "by step 91: an action is not finite"),  # in an evaluation
        ("actor", {}, r"by step 91: actor\.\S+ is not finite"),
    ],
)
def test_what_has_diverged_reaches_no_file(tmp_path, what, options, told):
    folder, algo = tmp_path / "run", poisoned(tmp_path, what, 61, 1)
    options = SMALL | {"on_divergence": "stop", "on_env_error": "restart"} | options  # no fault of the environment's
    with pytest.raises(Fault, match="^diverged " + told):
        thespis.train(algo, env=env, out=folder, **options)
    assert [int(c.name) for c in checkpoint.checkpoints(folder)] == [40, 80]
    assert all(json.loads(f.read_text())["step"] <= 80 for f in (folder / "policy").glob("*.json"))
    assert "faults/train" not in rows(folder)[-1]
    assert_finite(folder)
