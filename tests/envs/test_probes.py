import gymnasium as gym
import numpy as np
import pytest

from thespis import core, envs
from thespis.envs import probes

NAMES = ["OneStep", "Value", "Discount", "Observation", "ActionObservation", "TimeLimit", "Counter"]


def episode(name, seed, act):
    """[(obs, action, reward, terminated, truncated, next_obs)]"""
    env, rows = envs.world(f"thespis/{name}-v0").make(), []
    obs, _ = env.reset(seed=seed)
    while not rows or not (rows[-1][3] or rows[-1][4]):
        a = act(obs)
        following, reward, terminated, truncated, _ = env.step(a)
        rows.append((obs, a, reward, terminated, truncated, following))
        obs = following
    return rows


def always(a):
    return lambda obs: np.array([a], np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_registered_and_sound(name):
    for suffix, action in ("", core.Box(1)), ("Discrete", core.Discrete(2)):
        world = envs.world(f"thespis/{name}{suffix}-v0")
        assert world.spec.action == action
        env = gym.make(f"thespis/{name}{suffix}-v0", disable_env_checker=True)
        for seed in range(3):
            obs, _ = env.reset(seed=seed)
            over = False
            while not over:
                assert env.observation_space.contains(obs)
                obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
                over = terminated or truncated


def test_one_step():
    assert [row[2:5] for row in episode("OneStep", 0, always(0.5))] == [(0.0, True, False)]
    assert [row[2:5] for row in episode("OneStep", 0, always(-1.0))] == [(-9.0, True, False)]
    assert [row[2] for row in episode("OneStepDiscrete", 0, lambda _: 0)] == [-4.0]
    assert [row[2] for row in episode("OneStepDiscrete", 0, lambda _: 1)] == [0.0]


def test_one_step_with_entropy():
    from math import e, erf, log, pi, sqrt

    # alpha -> 0: an uncut normal of variance alpha / 2k, whose entropy is log(2 pi e variance) / 2
    soft = probes.OneStep.soft(1e-3)
    assert soft["mean"] == pytest.approx(0.5, abs=1e-9)
    assert soft["std"] == pytest.approx(sqrt(1e-3 / 8), rel=1e-6)
    assert soft["entropy"] == pytest.approx(0.5 * log(2 * pi * e * 1e-3 / 8), rel=1e-6)
    # any alpha: the integral in closed form by the error function
    for alpha in 0.1, 1.0, 10.0:
        s = sqrt(alpha / 8)
        mass = 0.5 * (erf(0.5 / s / sqrt(2)) - erf(-1.5 / s / sqrt(2)))
        assert probes.OneStep.soft(alpha)["value"] == pytest.approx(alpha * log(mass * s * sqrt(2 * pi)), rel=1e-6)
    # alpha -> infinity: uniform on [-1, 1]
    soft = probes.OneStep.soft(1e6)
    assert soft["mean"] == pytest.approx(0, abs=1e-5)
    assert soft["entropy"] == pytest.approx(log(2), abs=1e-5)


def test_value():
    assert [row[2:5] for row in episode("Value", 0, always(0.3))] == [(1.0, True, False)]


def test_discount():
    rows = episode("Discount", 0, always(0.3))
    assert [row[2:5] for row in rows] == [(0.0, False, False), (1.0, True, False)]
    assert [row[0].tolist() for row in rows] == [[0], [1]]


def test_observation():
    rows = [episode("Observation", seed, always(0.3)) for seed in range(20)]
    assert all(len(r) == 1 and r[0][2] == r[0][0].item() for r in rows)
    assert {r[0][2] for r in rows} == {-1.0, 1.0}
    assert [r[0][2] for r in rows] == [episode("Observation", seed, always(-1))[0][2] for seed in range(20)]  # by the seed alone


def test_action_observation():
    for seed in range(5):
        (row,) = episode("ActionObservation", seed, lambda obs: obs / 2)
        assert row[2:5] == (0.0, True, False)
        (row,) = episode("ActionObservation", seed, lambda obs: -obs / 2)
        assert row[2] == -4.0
        (row,) = episode("ActionObservationDiscrete", seed, lambda obs: int(obs[0] > 0))
        assert row[2] == 0.0


def test_time_limit_truncates_and_never_terminates():
    rows = episode("TimeLimit", 0, always(0.3))
    assert [row[2:5] for row in rows] == [(1.0, False, False)] * 9 + [(1.0, False, True)]
    assert envs.world("thespis/TimeLimit-v0").spec.horizon == 10


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 2**20 - 1, 2**31, 123456789012345678])
def test_counter(seed):
    rows = episode("Counter", seed, always(0.25))
    n = 3 + seed % 5
    assert len(rows) == n
    for t, row in enumerate(rows):
        for obs, step in (row[0], t), (row[5], t + 1):
            assert [int(x) for x in probes.Counter.read(obs)] == [seed, step]
        assert row[2] == t + 1.25
        assert row[3:5] == (t == n - 1 and seed % 2 == 0, t == n - 1 and seed % 2 == 1)
    seeds, steps = probes.Counter.read(np.array([row[0] for row in rows]))
    assert (seeds == seed).all()
    assert steps.tolist() == list(range(n))


def test_registering_twice_is_silent(recwarn):
    import importlib

    importlib.reload(probes)
    assert not recwarn.list
