"""Wrappers by name: the order they go on in, their arguments, and that no file alone brings code in."""

import json

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis import cli, envs
from thespis.core import Fault
from thespis.finetuning import finetune

TINY = {"steps": 60, "warmup": 40, "batch_size": 8, "hidden": (8,), "eval_episodes": 1, "compile_after": -1, "quiet": True}
TINY |= {"sinks": (), "panel": False}
OURS = "tests.envs.test_wrappers:Plus(reward=2)"
LIMIT = "TimeLimit(max_episode_steps=5)"


class Plus(gym.Wrapper):
    """Adds to each reward."""

    def __init__(self, env, reward=0.0):
        super().__init__(env)
        self.more = reward

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        return obs, reward + self.more, *rest


def nothing(env):
    return 3


def test_the_last_is_outermost_and_values_are_literals():
    both = ["tests.envs.test_wrappers:Plus(reward=1e1)", "ClipReward(min_reward=-1, max_reward=1.5)"]
    flat = envs.world("Pendulum-v1", wrappers=both).make()
    flat.reset(seed=0)
    assert flat.step(np.zeros(1))[1] == 1.5  # -something + 10, clipped
    flat = envs.world("Pendulum-v1", wrappers=both[::-1]).make()
    flat.reset(seed=0)
    assert flat.step(np.zeros(1))[1] == pytest.approx(9.0, abs=0.999)
    stacked = envs.world("Pendulum-v1", {"g": 5.0}, ["FrameStackObservation(stack_size=3, padding_type='zero')"])
    assert stacked.spec.obs.dim == 9
    assert envs.world("Pendulum-v1", wrappers=[LIMIT]).spec.horizon == 5
    shaped = envs.world("Pendulum-v1", wrappers=["ReshapeObservation(shape=(3, 1))"])
    assert shaped.observation_space.shape == (3, 1)


@pytest.mark.parametrize(
    ("wrappers", "words"),
    [
        (["Timelimit"], "wrappers has 'Timelimit', which gymnasium.wrappers does not have; did you mean TimeLimit?"),
        (["TimeLimit(5)"], "wrappers has 'TimeLimit(5)'; allowed: Wrapper, module:Wrapper or"),
        (["TimeLimit(max_episode_steps=open('x'))"], "wrappers has \"TimeLimit(max_episode_steps=open('x'))\"; allowed"),
        (["TimeLimit"], "wrappers has 'TimeLimit', which cannot be made (TypeError"),
        (["no_such:X"], "wrappers has 'no_such:X'; its module cannot be imported (ModuleNotFoundError"),
        (["json:X"], "wrappers has 'json:X'; json has no X that can be called"),
        (["tests.envs.test_wrappers:nothing"], "wrappers has 'tests.envs.test_wrappers:nothing', which made 3; it must make"),
        ([3], "wrappers is [3]; allowed: any number of names"),
    ],
)  # fmt: skip
def test_what_is_no_wrapper_is_told_in_a_line(wrappers, words):
    with pytest.raises(Fault) as told:
        envs.world("Pendulum-v1", wrappers=wrappers)
    assert str(told.value).startswith(words)


def test_an_instance_is_made_already():
    with pytest.raises(Fault, match=r"wrappers is .* is made already"):
        envs.world(gym.make("Pendulum-v1"), wrappers=[LIMIT])


def test_a_run_keeps_them_and_code_is_named_again(tmp_path, capsys, monkeypatch):
    run = thespis.train("sac", "Pendulum-v1", wrappers=[OURS, LIMIT], out=tmp_path / "run", **TINY)
    assert json.loads((run.path / "config.json").read_text())["run"]["wrappers"] == [OURS, LIMIT]
    assert -16.3 * 5 + 10 < run.return_mean < 10.0  # five steps, each in -16.3 to 0 and 2 more
    for call in (thespis.resume, thespis.evaluate, lambda path: finetune(path, out=tmp_path / "tuned")):
        with pytest.raises(Fault, match=r"wrappers has 'tests.*:Plus\(reward=2\)', which is code that .* names: name all again"):
            call(run.path)
    found = thespis.evaluate(run, episodes=2, wrappers=[OURS, LIMIT])
    assert found["mean_length"] == 5
    bare = thespis.evaluate(run, episodes=2, wrappers=[LIMIT])
    assert np.subtract(found["returns"], bare["returns"]) == pytest.approx(10.0)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["resume", "run", "--steps", "70", "--wrappers", OURS, LIMIT]) == 0
    assert f"--wrappers '{OURS}' '{LIMIT}'" in capsys.readouterr().out  # the line that says how to go on
    assert "changes" not in json.loads((run.path / "config.json").read_text())


def test_gymnasiums_own_are_trusted_but_for_one_that_writes(tmp_path):
    run = thespis.train("sac", "Pendulum-v1", wrappers=LIMIT, out=tmp_path / "run", **TINY)
    assert thespis.evaluate(run, episodes=1)["mean_length"] == 5
    assert finetune(run, out=tmp_path / "tuned", quiet=True, panel=False).finished
    assert envs.wrappers.foreign([LIMIT, "RecordVideo(video_folder='x')", OURS]) == ["RecordVideo(video_folder='x')", OURS]


def test_statistics_of_a_wrapper_by_name_are_carried_to_evaluation_and_to_the_policy(tmp_path):
    run = thespis.train("sac", "Pendulum-v1", wrappers=["NormalizeObservation"], out=tmp_path / "run", **TINY)
    policy = thespis.load(run)
    assert policy.unnormalised is not None  # it takes the task's observations
    assert thespis.evaluate(run, episodes=1)["mean_length"] == 200


def test_check_env_takes_them(capsys):
    assert cli.main(["check-env", "Pendulum-v1", "--steps", "20", "--wrappers", OURS, LIMIT]) == 0
    assert "20 steps tried" in capsys.readouterr().out
