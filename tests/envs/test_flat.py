import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs

from thespis import core, envs
from thespis.core import Fault

FREE = gs.Box(-np.inf, np.inf, (2,), np.float64)


class Script(gym.Env):
    """Says what it is told to say: `first` at a reset and then `results`, one a step; an exception is raised."""

    def __init__(self, *results, first=((0.0, 0.0), {}), observation_space=FREE, action_space=None):
        self.observation_space = observation_space
        self.action_space = gs.Box(-2, 2, (1,)) if action_space is None else action_space
        self.first, self.results, self.acts, self.resets = first, list(results), [], []

    def reset(self, *, seed=None, options=None):
        self.resets.append((seed, options))
        return self.say(self.first)

    def step(self, action):
        self.acts.append(action)
        return self.say(self.results[len(self.acts) - 1])

    def say(self, result):
        if isinstance(result, Exception):
            raise result
        return result


def good(obs=(1.0, 2.0), reward=0.5, terminated=False, truncated=False, info=None):
    return obs, reward, terminated, truncated, info or {}


def flat(*results, **how):
    env = envs.Flat(Script(*results, **how), "Script")
    env.reset(seed=7)
    return env


def told(call, *args, **kwargs):
    with pytest.raises(Fault) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


NONE = np.zeros(1, np.float32)


def test_what_the_learner_sees():
    said = {"x": np.float32(2), "won": True, "text": "a", "z": np.ones(2)}
    env = flat(good(np.array([3.0, 4.0]), np.float64(0.25), np.True_, np.False_, said))
    obs, reward, terminated, truncated, info = env.step(np.array([0.5], np.float32))
    assert obs.dtype == np.float32
    assert obs.tolist() == [3, 4]
    assert type(reward) is float
    assert reward == 0.25
    assert terminated is True
    assert truncated is False
    assert info == {"x": 2.0, "won": 1.0}  # plain numbers only
    assert env.env.acts[0].tolist() == [1.0]  # half of the way to 2
    assert env.observation_space == gs.Box(-np.inf, np.inf, (2,), np.float32)
    assert env.action_space == gs.Box(-1, 1, (1,), np.float32)


def test_choices():
    env = flat(good(2, 1), action_space=gs.Discrete(3, start=4), observation_space=gs.Discrete(4), first=(0, {}))
    assert env.action_space == gs.Discrete(3)
    assert env.step(np.int64(1))[0].tolist() == [0, 0, 1, 0]
    assert env.env.acts == [5]
    env = flat(good(), action_space=gs.MultiDiscrete([[2, 3]]))
    assert env.action_space == gs.MultiDiscrete([2, 3])
    env.step(np.array([1, 2]))
    assert env.env.acts[0].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("reward", "number"),
    [(1, 1), (np.int8(-1), -1), (np.float32(0.5), 0.5), (np.array(2.5), 2.5), (np.array([2.5]), 2.5), (True, 1)],
)
def test_rewards_that_will_do(reward, number):
    result = flat(good(reward=reward)).step(NONE)[1]
    assert type(result) is float
    assert result == number


@pytest.mark.parametrize("flag", [True, 1, np.True_, np.array(True), np.array([1])])
def test_flags_that_will_do(flag):
    assert flat(good(terminated=flag)).step(NONE)[2:4] == (True, False)
    assert flat(good(truncated=flag)).step(NONE)[2:4] == (False, True)


WHEN = " (at step 1 after the reset with seed 7)"
FIVE = "it must return 5 values: observation, reward, terminated, truncated, info (a dict)"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (good((1.0, math.nan)), "observation[1] is nan; it must be finite and at most 1e+15 in size"),
        (good((math.inf, 0.0)), "observation[0] is inf; it must be finite and at most 1e+15 in size"),
        (good((1.0, 2.0, 3.0)), "observation has the shape (3,); it must have (2,)"),
        (good(np.zeros((1, 2))), "observation has the shape (1, 2); it must have (2,)"),
        (good(reward=math.inf), "reward is inf; it must be a number, finite and at most 1e+15 in size"),
        (good(reward=np.float64("nan")), "reward is np.float64(nan); it must be a number, finite and at most 1e+15 in size"),
        (good(reward=-1e39), "reward is -1e+39; it must be a number, finite and at most 1e+15 in size"),
        (good(reward=10**39), f"reward is {10**39}; it must be a number, finite and at most 1e+15 in size"),
        (good(reward=None), "reward is None; it must be a number, finite and at most 1e+15 in size"),
        (good(reward="1"), "reward is '1'; it must be a number, finite and at most 1e+15 in size"),
        (good(reward=1j), "reward is 1j; it must be a number, finite and at most 1e+15 in size"),
        (good(reward=np.ones(2)), "reward is array([1., 1.]); it must be a number, finite and at most 1e+15 in size"),
        (good(terminated=None), "terminated is None; it must be True or False"),
        (good(terminated=2), "terminated is 2; it must be True or False"),
        (good(truncated=0.0), "truncated is 0.0; it must be True or False"),
        (good(truncated=np.array([True, False])), "truncated is array([ True, False]); it must be True or False"),
        (((1.0, 2.0), 0.0, False, {}), f"step returned 4 values; {FIVE}"),
        (((1.0, 2.0), 0.0, False, False, None), f"step returned ((1.0, 2.0), 0.0, False, False, None); {FIVE}"),
        (None, f"step returned None; {FIVE}"),
    ],
)
def test_what_step_must_not_return(result, text):
    assert told(flat(result).step, NONE) == f"Script: {text}{WHEN}"


def test_what_reset_must_not_return():
    env = envs.Flat(Script(first=np.zeros(2)), "Script")
    must = "it must return 2 values: observation, info (a dict)"
    assert told(env.reset, seed=3) == f"Script: reset returned array([0., 0.]); {must} (at the reset with seed 3)"
    env = envs.Flat(Script(first=((0.0, 0.0), 1, 2)), "Script")
    assert told(env.reset) == f"Script: reset returned 3 values; {must} (at the reset without a seed)"
    env = envs.Flat(Script(first=((0.0, math.nan), {})), "Script")
    assert (
        told(env.reset, seed=3)
        == "Script: observation[1] is nan; it must be finite and at most 1e+15 in size (at the reset with seed 3)"
    )


def test_what_the_environment_raises_is_told_and_chained():
    error = ValueError("the torque\n  is too large")
    env = flat(good(), error)
    env.step(NONE)
    with pytest.raises(Fault) as caught:
        env.step(NONE)
    line = Script.say.__code__.co_firstlineno + 2
    text = f"Script: step raised ValueError: the torque is too large, test_flat.py line {line}"
    assert str(caught.value) == f"{text} (at step 2 after the reset with seed 7)"
    assert caught.value.__cause__ is error
    env = envs.Flat(Script(first=KeyError("x")), "Script")
    assert told(env.reset, seed=1) == f"Script: reset raised KeyError: 'x', test_flat.py line {line} (at the reset with seed 1)"
    long = told(flat(RuntimeError("x" * 1000)).step, NONE)
    assert 240 < len(long) < 400


def test_a_wrong_length_that_a_wrapper_sees_first():
    env = envs.Flat(gym.wrappers.TimeLimit(Script(((1.0, 2.0), 0.0, False, {})), 5), "Script")
    env.reset(seed=7)
    assert told(env.step, NONE) == f"Script: step returned a wrong number of values; {FIVE}{WHEN}"


def test_wrong_actions():
    env = flat(good(), good(), good())
    assert told(env.step, np.array([math.nan])) == f"Script: action[0] is nan; it must be finite and at most 1e+15 in size{WHEN}"
    assert told(flat(good()).step, np.zeros(2)) == f"Script: action has the shape (2,); it must have (1,){WHEN}"


@pytest.mark.parametrize("end", [{"terminated": True}, {"truncated": True}])
def test_no_step_after_the_end(end):
    env = flat(good(**end), good())
    env.step(NONE)
    text = "Script: step was called on an episode that is over or not begun; reset must come first"
    assert told(env.step, NONE) == text + WHEN
    assert len(env.env.acts) == 1
    env.reset()
    env.step(NONE)
    assert told(envs.Flat(Script(), "Script").step, NONE).startswith("Script: step was called")


def test_a_close_that_fails_is_a_warning():
    env = flat()
    env.env.close = lambda: 1 / 0
    with pytest.warns(UserWarning, match=r"^Script: close raised ZeroDivisionError: division by zero, test_flat.py line \d+$"):
        env.close()


def test_options_are_passed_on():
    env = flat()
    given = {"difficulty": 3, "reenact": []}
    env.reset(seed=np.int64(4), options=given)
    env.reset(options={"reenact": np.zeros((0, 1))})
    assert env.env.resets == [(7, None), (4, {"difficulty": 3}), (None, None)]
    assert type(env.env.resets[1][0]) is int  # gymnasium refuses numpy's
    assert given == {"difficulty": 3, "reenact": []}


def test_reenact_stops_where_the_episode_ends():
    env = flat(good(reward=1), good((5.0, 6.0), 2.5, truncated=True), good())
    obs, info = env.reset(options={"reenact": np.zeros((3, 1))})
    assert obs.tolist() == [5, 6]
    assert info == {"reenacted": 2, "return": 3.5}
    assert told(env.step, NONE).startswith("Script: step was called on an episode that is over")


@pytest.mark.parametrize("name", ["Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "CartPole-v1"])
def test_reenactment_is_bitwise(name):
    world = envs.world(name)
    env, rng = world.make(), np.random.default_rng(0)

    def random():
        box = isinstance(world.spec.action, core.Box)
        return rng.uniform(-1.2, 1.2, world.spec.action.dim).astype(np.float32) if box else rng.integers(2)

    for seed in 1, 2, 3:  # each from an environment that has lived before
        actions, total, over = [], 0.0, False
        start, _ = env.reset(seed=seed)
        for _ in range(5 if name in ("Hopper-v5", "CartPole-v1") else 60):
            actions.append(random())
            obs, reward, terminated, truncated, _ = env.step(actions[-1])
            total += reward
            over |= terminated or truncated
        assert not over
        again = world.make()
        back, info = again.reset(seed=seed, options={"reenact": np.array(actions)})
        assert not np.array_equal(start, obs)
        assert back.tobytes() == obs.tobytes()
        assert info == {"reenacted": len(actions), "return": total}
        act = random()
        next_a, next_b = env.step(act), again.step(act)
        assert next_a[0].tobytes() == next_b[0].tobytes()
        assert next_a[1:4] == next_b[1:4]
