"""Environments that draw from what is everybody's: an episode follows from its seed whatever draws beside it."""

import random

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs


class Drawing(gym.Env):
    """Observations come from a generator that is everybody's, from the step `since` on."""

    observation_space = gym.spaces.Box(-1e3, 1e3, (2,))

    def __init__(self, source, since=0):
        self.source, self.since = source, since
        self.action_space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (1,))})["a"]
        self.parts = gym.spaces.Box(0, 1, (2,))
        self.life = 0

    def draw(self):
        self.life += 1
        if self.life <= self.since:
            return np.zeros(2)
        if self.source == "numpy":
            return np.random.uniform(size=2)
        if self.source == "python":
            return np.array([random.random(), random.gauss(0, 1)])
        return np.repeat(self.action_space.sample(), 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw().astype(np.float32), {}

    def step(self, action):
        return self.draw().astype(np.float32), 0.0, False, False, {}


def episode(env, seed, steps, beside=lambda: None):
    rows = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        beside()
        rows.append(env.step(np.zeros(1, np.float32))[0])
    return np.array(rows)


@pytest.mark.parametrize("source", ["numpy", "python", "space"])
def test_an_episode_follows_from_its_seed_whatever_draws_beside_it(source):
    env, other = (envs.world(lambda: Drawing(source)).make() for _ in range(2))
    other.reset(seed=9)

    def beside():
        np.random.uniform(size=3)
        random.random()
        other.step(np.zeros(1, np.float32))

    one, two = episode(env, 5, 150), episode(env, 5, 150, beside)
    np.testing.assert_array_equal(one, two)
    assert len(np.unique(one)) > 100
    assert not np.array_equal(one, episode(env, 6, 150))


def test_what_others_draw_is_not_touched():
    np.random.seed(3)
    random.seed(3)
    wanted = np.random.uniform(size=4), random.random()
    np.random.seed(3)
    random.seed(3)
    env = envs.world(lambda: Drawing("numpy")).make()
    episode(env, 5, 10)
    assert np.random.uniform(size=4).tolist() == wanted[0].tolist()
    assert random.random() == wanted[1]


def test_one_that_begins_late_to_draw_is_noticed_at_its_next_reset():
    env = envs.world(lambda: Drawing("numpy", since=130)).make()
    episode(env, 5, 140)
    one, two = episode(env, 5, 20), episode(env, 5, 20, lambda: np.random.uniform())
    np.testing.assert_array_equal(one, two)


def test_one_with_a_generator_of_its_own_is_stepped_without_ado(monkeypatch):
    env = envs.world("Pendulum-v1").make()
    episode(env, 5, 110)
    calls = []
    monkeypatch.setattr(np.random, "get_state", lambda: calls.append(1))
    for _ in range(50):
        env.step(np.zeros(1, np.float32))
    assert not calls
