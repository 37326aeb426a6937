"""Broken environments, one fault each, and what check_env says of them."""

import re
import time

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis import cli
from thespis.checking import check_env


class Sound(gym.Env):
    """A walk on a line whose episodes last 10 to 19 steps, by the seed."""

    observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t, self.end = self.np_random.uniform(-1, 1), 0, 10 + self.np_random.integers(10)
        return self.seen(), {}

    def step(self, action):
        self.x, self.t = self.x + float(action[0]), self.t + 1
        return self.seen(), -abs(self.x), bool(self.t >= self.end), False, {}

    def seen(self):
        return np.array([self.x, self.t], np.float32)


def broken(**methods):
    """Sound with some methods others: each is given the sound one's result."""

    class Broken(Sound):
        pass

    for name, change in methods.items():

        def method(self, *args, change=change, name=name, **options):
            return change(self, getattr(Sound, name)(self, *args, **options))

        setattr(Broken, name, method)
    return Broken


def values(**named):
    """What replaces those values of a step."""
    names = ("obs", "reward", "terminated", "truncated", "info")
    return lambda self, step: tuple(named[n](self, v) if n in named else v for n, v in zip(names, step, strict=True))


def several(reward):
    """One that should give two rewards."""
    sound = broken(step=values(reward=lambda self, x: reward))
    return type("Several", (sound,), {"reward_space": gym.spaces.Box(-1, 1, (2,), np.float32)})


def fails(self, step):
    raise ZeroDivisionError("no mass")


class Forgets(Sound):
    def reset(self, *, seed=None, options=None):
        walked = getattr(self, "x", 0.0)
        _, info = super().reset(seed=seed)
        self.x += walked
        return self.seen(), info


class NeedsSeed(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=int(seed))


WRONG = {
    r"observation has the shape \(3,\); its space has \(2,\)": broken(seen=lambda self, obs: np.append(obs, obs[:1])),
    "observation has nan in it; every number must be finite": broken(step=values(obs=lambda self, x: x * np.nan)),
    r"observation\[0\] is 500; its space goes from -100 to 100": broken(step=values(obs=lambda self, x: x * 0 + 500)),
    "observation has the dtype complex|observation is .*; it must be numbers": broken(seen=lambda self, obs: "left"),
    "reward is 'high'; it must be one number": broken(step=values(reward=lambda self, x: "high")),
    r"reward is array\(\[.*\]\); it must be one number": broken(step=values(reward=lambda self, x: np.ones(2))),
    "reward is 1.0; it must be 2 numbers: reward_0, reward_1": several(1.0),
    "reward_1 is nan; it must be finite": several(np.array([1.0, np.nan])),
    "reward is inf; it must be finite": broken(step=values(reward=lambda self, x: np.inf)),
    "terminated is None; it must be True or False": broken(step=values(terminated=lambda self, x: None)),
    "step returned 4 values; it must return 5 values": broken(step=lambda self, step: (*step[:3], step[4])),
    "reset returned .*; it must return 2 values": broken(reset=lambda self, result: result[0]),
    "info is None; it must be a dict": broken(step=values(info=lambda self, x: None)),
    "step raised ZeroDivisionError: no mass, test_checking.py line [0-9]+": broken(step=fails),
    r"reset raised TypeError: .*\(at reset\(\) of episode 2": NeedsSeed,
    "observation is another one in another environment after the same seed and the same 1 actions": broken(
        step=values(obs=lambda self, x: x + np.float32(np.random.default_rng().uniform()))
    ),
    "reward is another one in another environment": broken(
        step=values(reward=lambda self, x: float(np.random.default_rng().uniform()))
    ),
    "observation is another one in the same environment after the same seed and the same 0 actions": Forgets,
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_place(text):
    found = check_env(WRONG[text])
    assert len(found.wrong) == 1
    assert re.search(text, found.wrong[0]), found.wrong[0]
    assert "test_checking.py line " in found.wrong[0]


NOTES = {
    r"all [0-9]+ episodes were terminated at step 5: if that is a time limit": broken(
        step=values(terminated=lambda self, x: self.t == 5)
    ),
    "episodes were truncated, and at different steps: if the task is over": broken(
        step=lambda self, s: (s[0], s[1], False, s[2], s[4])
    ),
    "no episode ended in 1,000 steps": broken(step=values(terminated=lambda self, x: False, obs=lambda self, x: x * 0)),
    "every reward was -1: random actions": broken(step=values(reward=lambda self, x: -1.0)),
    "rewards are [0-9.e+]+ in size on average.*--reward-unit": broken(step=values(reward=lambda self, x: 1e6 * x)),
}


@pytest.mark.parametrize("text", NOTES)
def test_what_is_doubtful_is_noted(text):
    found = check_env(NOTES[text])
    assert found.wrong == []
    assert any(re.search(text, note) for note in found.notes), found.notes


def test_bounds_and_slow_steps_and_large_observations_are_noted():
    class Wide(Sound):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        action_space = gym.spaces.Box(-1e6, 1e6, (1,), np.float32)

        def step(self, action):
            time.sleep(0.002)
            return super().step(action)

    found = check_env(Wide, steps=60)
    assert found.wrong == []
    for text in ("actions reach from -1e+06 to 1e+06", "observations reach", "a step takes 2"):
        assert any(text in note for note in found.notes), found.notes


def test_a_sound_one_is_told_so_with_its_numbers(capsys):
    found = thespis.check_env(Sound, steps=300)
    assert (found.wrong, found.notes) == ([], [])
    assert found.numbers["steps"] == 300
    assert 300 / 19 - 1 <= found.numbers["episodes"] <= 30
    assert found.numbers["observation_largest"] <= 100
    assert cli.main(["check-env", "Pendulum-v1", "--steps", "50", "--env-args", "g=5"]) == 0
    assert capsys.readouterr().out.endswith("Pendulum-v1: nothing is wrong\n")


def test_masked_and_mixed_actions_are_drawn_as_allowed():
    class Masked(Sound):
        action_space = gym.spaces.Discrete(3)

        def reset(self, **how):
            obs, _ = super().reset(**how)
            return obs, {"action_mask": np.array([1, 0, 1], np.int8)}

        def step(self, action):
            assert action != 1
            return (*super().step([float(action)])[:4], {"action_mask": np.array([1, 0, 1], np.int8)})

    assert check_env(Masked).wrong == []


def test_the_command_ends_with_1_where_something_is_wrong(capsys):
    gym.register("tests/Broken-v0", entry_point=broken(step=values(reward=lambda self, x: "high")))
    assert cli.main(["check-env", "tests/Broken-v0"]) == 1
    assert capsys.readouterr().out.startswith(
        "wrong    reward is 'high'; it must be one number (at step 1 of episode 1; test_che"
    )
    assert cli.main(["check-env", "Pendulm-v1"]) == 1
    assert cli.main(["check-env"]) == 2
