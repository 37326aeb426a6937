"""One environment for training and evaluation; and wrappers that gather statistics: what training gathered is what others use."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import thespis
from tests.engine.test_resume import outcome, same
from thespis import envs
from thespis.core import Fault
from thespis.envs.statistics import pooled

SMALL = {
    "steps": 160, "warmup": 40, "hidden": (8,), "eval_every": 60, "eval_episodes": 3, "log_every": 40, "checkpoint_every": 1000,
    "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Task(gym.Env):
    """Observations of 100 +- 5, rewards of 1,000, an end after 20 steps."""

    observation_space = gym.spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    made, allowed = 0, 99

    def __init__(self):
        if Task.made == Task.allowed:
            raise RuntimeError("the port is in use")
        Task.made += 1

    def obs(self):
        return (100 + 5 * self.np_random.uniform(-1, 1, 2)).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        return self.obs(), 1000.0 + float(action[0]), False, self.t >= 20, {}

    def close(self):
        Task.made -= 1


@pytest.fixture(autouse=True)
def free():
    Task.made, Task.allowed = 0, 99


def normalised():
    return gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(Task()))


# ------------------------------------------------------------------------------------------------------ one environment


def test_where_no_second_can_be_made_the_one_that_trains_is_evaluated_and_resumed(tmp_path, capsys):
    Task.allowed = 1
    whole = thespis.train("sac", env=Task, out=tmp_path / "whole", **SMALL)
    assert "no second environment can be made (Task: cannot be made (RuntimeError: the port is in use" in capsys.readouterr().out
    assert whole.return_mean == pytest.approx(20_000, abs=20)
    short = thespis.train("sac", env=Task, out=tmp_path / "short", **SMALL | {"steps": 120})
    thespis.resume(short, steps=160, env=Task, panel=False)
    same(outcome(tmp_path / "whole"), outcome(tmp_path / "short"))
    assert Task.made == 0
    assert thespis.evaluate(whole, 3, env=Task)["mean_return"] == pytest.approx(20_000, abs=20)


def test_own_refuses_and_same_is_by_choice(tmp_path):
    Task.allowed = 1
    with pytest.raises(Fault, match="the port is in use"):
        thespis.train("sac", env=Task, out=tmp_path / "own", eval_env="own", **SMALL)
    Task.made, Task.allowed = 0, 99
    run = thespis.train("sac", env=Task, out=tmp_path / "same", eval_env="same", **SMALL)
    assert run.finished


def test_an_evaluation_cuts_the_episode_and_no_transition_crosses_it(tmp_path):
    """Evaluations at steps 50, 100 and 150 cut episodes of 20 steps at their tenth."""
    run = thespis.train("sac", env=Task, out=tmp_path / "run", eval_env="same", **SMALL | {"eval_every": 50})
    lengths = [row["episode/length"] for row in run_rows(run) if "episode/length" in row]
    assert lengths
    assert set(lengths) == {20}  # those that were cut are no episodes


def run_rows(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_no_episodes_no_evaluation(tmp_path):
    Task.allowed = 1
    run = thespis.train("sac", env=Task, out=tmp_path / "run", **SMALL | {"eval_episodes": 0})
    assert run.finished
    assert run.return_mean is None
    assert not [row for row in run_rows(run) if "eval/return_mean" in row]
    assert thespis.load(run).act(np.full(2, 100, np.float32)).shape == (1,)


# ------------------------------------------------------------------------------------------------------------- statistics


def test_evaluation_load_and_resume_use_what_training_gathered_and_returns_are_the_tasks_own(tmp_path):
    whole = thespis.train("sac", env=normalised, out=tmp_path / "whole", **SMALL)
    assert whole.return_mean == pytest.approx(20_000, abs=20)
    rows = [row["episode/return"] for row in run_rows(whole) if "episode/return" in row]
    assert np.allclose(rows, 20_000, atol=20)
    policy = thespis.load(whole)
    mean, count = np.array(policy.about["gathered"]["1.mean"]), policy.about["gathered"]["1.count"]
    assert np.abs(mean - 100).max() < 2
    assert count == pytest.approx(160 + 8, abs=0.01)  # each step and each of eight resets, and no step of an evaluation
    short = thespis.train("sac", env=normalised, out=tmp_path / "short", **SMALL | {"steps": 120})
    thespis.resume(short, steps=160, env=normalised, panel=False)
    same(outcome(tmp_path / "whole"), outcome(tmp_path / "short"))
    assert thespis.evaluate(whole, 3, env=normalised)["mean_return"] == pytest.approx(20_000, abs=20)


def test_a_policy_normalises_by_itself_where_the_wrapper_is_the_last_to_touch_observations(tmp_path):
    run = thespis.train("sac", env=lambda: gym.wrappers.NormalizeObservation(Task()), out=tmp_path / "run", **SMALL)
    policy, found = thespis.load(run), thespis.load(run).about["gathered"]
    obs = np.array([103.0, 98.0], np.float32)
    seen = (obs - np.array(found["0.mean"])) / np.sqrt(np.array(found["0.var"]) + 1e-8)
    bare = policy.unnormalised
    wanted = bare.act(policy.params, torch.tensor(seen, dtype=torch.float32)[None], False)[0].numpy()
    np.testing.assert_allclose(policy.act(obs), wanted, atol=1e-5)


def test_an_environment_made_anew_has_what_was_gathered(tmp_path):
    world = envs.world(normalised)
    v = envs.vector(world, 1, restart=lambda fault: None)
    v.reset([1])
    for _ in range(5):
        v.step(np.zeros((1, 1), np.float32))
    before = v.gathered()[0]
    v._close(0, 0.0)
    v.use([before], False)
    after = v.gathered()[0]
    assert {k: x.tolist() for k, x in after.items()} == {k: x.tolist() for k, x in before.items()}
    v.close()


def test_several_pooled_are_the_moments_of_all():
    rows = [np.random.default_rng(i).normal(i, 1 + i, (50 * (i + 1), 2)) for i in range(3)]
    parts = [{"0.mean": x.mean(0), "0.var": x.var(0), "0.count": np.array(float(len(x)))} for x in rows]
    out, every = pooled(parts), np.concatenate(rows)
    np.testing.assert_allclose(out["0.mean"], every.mean(0))
    np.testing.assert_allclose(out["0.var"], every.var(0))


def test_what_does_not_repeat_itself_is_said(tmp_path, capsys):
    class Own(Task):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng()

        def obs(self):
            return self.rng.uniform(-1, 1, 2).astype(np.float32)

    thespis.train("sac", env=Own, out=tmp_path / "run", **SMALL)
    said = capsys.readouterr().out
    assert said.count("Own does not repeat itself") == 1
    thespis.train("sac", env=Task, out=tmp_path / "other", **SMALL)
    assert "does not repeat" not in capsys.readouterr().out
