"""Collecting: every row is a step that happened, and every episode can be brought back."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from tests.engine.ring import held
from thespis import envs
from thespis.core import Box, Fault, OffPolicy
from thespis.data import Replay
from thespis.engine.collect import Collector
from thespis.envs.probes import Counter


def collector(env="thespis/Counter-v0", n=1, seed=0, kind="sync", length=1000):
    world = envs.world(env)
    ring = Replay(world.spec, OffPolicy(0.99, 1, 8, length * n, 0, 1.0), n)
    return Collector(envs.vector(world, n, kind), world.spec, ring, seed)


def steps(c, n):
    for _ in range(n):
        c.step(None)


def assert_true_to_life(columns):
    """Counter observes its seed and its step: each row is one step of one episode, which ends as its seed says."""
    obs, action, reward, terminated, ended, after = columns
    (seed, step), (next_seed, next_step) = Counter.read(obs), Counter.read(after)
    assert (seed == next_seed).all()
    assert (next_step == step + 1).all()
    np.testing.assert_allclose(reward, next_step + action[..., 0], rtol=1e-6)
    over = next_step == 3 + seed % 5
    assert (ended == over).all()
    assert (terminated == (over & (seed % 2 == 0))).all()
    goes_on = ~ended[:-1]
    assert (seed[1:] == seed[:-1])[goes_on].all()
    assert (step[1:] == np.where(goes_on, next_step[:-1], 0)).all()
    assert (seed[1:] != seed[:-1])[~goes_on].all()


def half(obs, rows):
    """Half of the step, as the action: it tells whether the observation that was acted on is the row's."""
    return obs[:, 3:] / 20


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("n", [1, 3])
def test_rows_are_what_happened(n, kind):
    c = collector(n=n, kind=kind)
    done = [episode for t in range(60) for episode in c.step(half if t % 3 else None)]
    c.envs.close()
    columns = held(c.replay)
    assert_true_to_life(columns)
    obs, action = columns[:2]
    assert np.allclose(action[1::3, :, 0], obs[1::3, :, 3] / 20)
    seeds = Counter.read(obs)[0]
    assert len(np.unique(seeds)) >= n * 60 // 7
    for i in range(n):  # the environments have episodes of their own
        assert not set(seeds[:, i]) & set(np.delete(seeds, i, 1).ravel())
    # what is told of the episodes that ended: their returns and lengths, in order
    ended, reward = columns[4], columns[2]
    expected = []
    start = np.zeros(n, int)
    for t in range(60):
        for i in np.flatnonzero(ended[t]):
            expected.append((reward[start[i] : t + 1, i].sum(), t + 1 - start[i]))
            start[i] = t + 1
    np.testing.assert_allclose([e[:2] for e in done], expected, rtol=1e-5)


def test_random_actions_are_uniform_over_the_space():
    c = collector()
    steps(c, 400)
    a = np.sort(c.replay.action[:400, 0])
    assert np.abs(a - np.linspace(-1, 1, 400)).max() < 2 * 1.63 / math.sqrt(400)  # Kolmogorov and Smirnov at 1%
    c = collector("thespis/CounterDiscrete-v0")
    steps(c, 400)
    assert 150 < int(c.replay.action[:400].sum()) < 250


def test_the_seed_decides():
    def run(seed):
        c = collector(n=2, seed=seed)
        steps(c, 30)
        return held(c.replay)

    a, b, c = run(1), run(1), run(2)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert not (a[1] == c[1]).any()
    assert not (Counter.read(a[0])[0] == Counter.read(c[0])[0]).any()


@pytest.mark.parametrize(("kind", "stop"), [*(("sync", stop) for stop in range(1, 12)), ("async", 4), ("async", 7)])
def test_stopped_after_any_step_it_goes_on_exactly(kind, stop):
    whole, first, second = collector(n=2), collector(n=2, kind=kind), collector(n=2, kind=kind, seed=99)
    told = [whole.step(half if t % 2 else None) for t in range(20)]
    again = [first.step(half if t % 2 else None) for t in range(stop)]
    json, tensors = first.save()
    second.replay = first.replay
    second.restore(json, {k: v.clone() for k, v in tensors.items()}, pytest.fail)
    again += [second.step(half if t % 2 else None) for t in range(stop, 20)]
    first.envs.close()
    second.envs.close()
    assert again == told
    assert all((x == y).all() for x, y in zip(held(second.replay), held(whole.replay), strict=True))


def test_before_the_first_step_too():
    first, second, whole = collector(), collector(seed=99), collector()
    json, tensors = first.save()
    second.restore(json, tensors, pytest.fail)
    steps(whole, 10)
    steps(second, 10)
    assert all((x == y).all() for x, y in zip(held(second.replay), held(whole.replay), strict=True))


class Fickle(gym.Env):
    """What it is told is at odds with what it does: `kind` says how a second life differs from the first."""

    lives = 0

    def __init__(self, kind, constant=False):
        self.kind, self.constant = kind, constant
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        Fickle.lives += 1
        self.life = Fickle.lives

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        length = 3 if self.kind == "ends" and self.life > 2 else 10
        return self.obs(), 1.0, self.t == length, False, {}

    def obs(self):
        if self.constant:
            return np.zeros(2, np.float32)
        return np.array([self.life if self.kind == "differs" else 0, self.t], np.float32)


@pytest.mark.parametrize(("kind", "constant"), [("differs", False), ("ends", False), ("ends", True)])
def test_where_an_episode_cannot_be_brought_back_it_is_cut_and_a_new_one_begins(kind, constant):
    Fickle.lives = 0

    def make():
        return Fickle(kind, constant)

    first = collector(make)
    steps(first, 5)
    json, tensors = first.save()
    second, said = collector(make, seed=99), []
    second.replay = first.replay
    second.restore(json, tensors, said.append)
    assert len(said) == 1
    assert said[0].startswith("environment 0 is not deterministic, or another environment than before: re-enacting its episode")
    steps(second, 2)
    obs, _, _, terminated, ended, after = held(second.replay)
    assert ended[:, 0].tolist() == [False] * 4 + [True, False, False]
    assert not terminated.any()
    assert (after[4, 0] == tensors["obs"][0].numpy()).all()
    if not constant:
        assert obs[:, 0, 1].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert len(second.actions[0]) == 2


def test_only_the_environment_that_strays_begins_anew():
    count = [0]

    class Second(Counter):
        def __init__(self):
            super().__init__()
            count[0] += 1
            self.shift = 7 if count[0] == 6 else 0  # the second of the second three: each world makes one more to look at

        def obs(self):
            obs = super().obs()
            return obs + np.array([self.shift, 0, 0, 0], np.float32)

    first = collector(Second, n=2)  # makes the 1st to look at, 2nd and 3rd to step
    while first.over.any() or first.replay.steps < 4:
        first.step(None)
    json, tensors = first.save()
    second, said = collector(Second, n=2), []  # 4th to look at, 5th, 6th
    second.replay = first.replay
    second.restore(json, tensors, said.append)
    assert len(said) == 1
    assert "environment 1" in said[0]
    before = second.seeds.copy()
    second.step(None)
    assert second.seeds[0] == before[0]
    assert second.seeds[1] != before[1]
    ended = held(second.replay)[4]
    assert not ended[-2, 0]
    assert ended[-2, 1]


class Failing(gym.Wrapper):
    """Raises at one of its resets or steps, counted over all of its kind."""

    method, at = "", 0
    count = 0

    def fail(self, method):
        if method == Failing.method:
            Failing.count += 1
            if Failing.count == Failing.at:
                raise ValueError("out of fuel")

    def reset(self, **options):
        self.fail("reset")
        return self.env.reset(**options)

    def step(self, action):
        self.fail("step")
        return self.env.step(action)


@pytest.mark.parametrize("method", ["step", "reset"])
@pytest.mark.parametrize("at", [1, 2, 5, 8])
def test_a_failure_leaves_what_can_be_saved_and_gone_on_from(method, at):
    """Whichever of two environments fails, and wherever: no row is lost, none is made up."""
    Failing.method, Failing.at, Failing.count = method, at, 0

    def make():
        return Failing(gym.make("thespis/Counter-v0"))

    first = collector(make, n=2)
    with pytest.raises(Fault, match=f"{method} raised ValueError: out of fuel"):
        steps(first, 100)
    count, before = first.replay.steps, held(first.replay)
    json, tensors = first.save()
    Failing.at = 0
    second = collector(make, n=2, seed=99)
    second.replay = first.replay
    second.restore(json, tensors, pytest.fail)
    steps(second, 20)
    after = held(second.replay)
    assert_true_to_life(after)
    assert len(after[0]) == count + 20
    assert all((x == y[:count]).all() for x, y in zip(before, after, strict=True))


def test_other_action_spaces():
    class Many(gym.Env):
        observation_space = spaces.Box(-1, 1, (1,), np.float32)
        action_space = spaces.MultiDiscrete([2, 5])

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), float(action.sum()), False, False, {}

    c = collector(Many)
    steps(c, 100)
    assert c.replay.action[:100].max(0).tolist() == [1, 4]
    assert c.replay.action[:100].min(0).tolist() == [0, 0]
    json, tensors = c.save()
    second = collector(Many)
    second.replay = c.replay
    second.restore(json, tensors, pytest.fail)
    assert collector().spec.action == Box(1)


def test_a_run_acts_at_random_at_first_and_then_draws_from_its_policy(tmp_path):
    """With a step size of nothing, so that the policy stays what it was."""
    result = thespis.train(
        "sac", "Pendulum-v1", out=tmp_path / "run", steps=500, warmup=250, lr=1e-30, hidden=(8,), batch_size=2,
        updates_per_step=0.1, eval_every=500, eval_episodes=1, checkpoint_every=500, compile_after=-1, sinks=(), panel=False,
    )  # fmt: skip
    data = load_file(result.path / "replay" / "000000000.safetensors")
    p = {k: v.double().numpy() for k, v in load_file(result.path / "policy" / "last.safetensors").items()}
    out = np.maximum(data["obs"].numpy() @ p["w0"] + p["b0"], 0) @ p["w1"] + p["b1"]
    action = data["action"].double().numpy()[:, 0]
    assert np.abs(np.sort(action[:250]) - np.linspace(-1, 1, 250)).max() < 2 * 1.63 / math.sqrt(250)
    with np.errstate(divide="ignore"):  # float32 rounds some to 1
        noise = (np.arctanh(action[250:]) - out[250:, 0]) / np.exp(out[250:, 1])
    quantile = torch.special.ndtr(torch.from_numpy(np.sort(noise))).numpy()
    assert np.abs(quantile - np.linspace(0, 1, 250)).max() < 1.63 / math.sqrt(250)  # Kolmogorov and Smirnov at 1%
