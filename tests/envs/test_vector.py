import os
import pickle
import signal

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs

from thespis import envs
from thespis.core import Fault
from thespis.envs.probes import Counter

KINDS = ["sync", "async"]


class Fragile(gym.Env):
    """Does what the action says: 0 goes on, and 0.25, 0.5, 0.75, 1 are four ways to fail."""

    observation_space = gs.Box(-1, 1, (2,), np.float64)
    action_space = gs.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        a = float(action[0])
        if a == 0.5:
            raise ValueError("broken\nhinge")
        if a == 0.75:
            os._exit(3)
        obs = np.array([0, np.nan]) if a == 0.25 else np.zeros(2)
        return obs, 0.0, False, False, {"ragged": np.zeros(np.random.randint(1, 9)), "x": 1.5}


@pytest.fixture
def make():
    made = []

    def vector(*args):
        made.append(envs.vector(*args))
        return made[-1]

    yield vector
    for v in made:
        v.close()


def told(call, *args, **kwargs):
    with pytest.raises(Fault) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_belongs_to_the_episode_of_its_seed(kind, make):
    """Four counters of 3 to 7 steps, reset as they end: each row's seed, step, reward and flags are known beforehand."""
    n = 4
    v = make(envs.world("thespis/Counter-v0"), n, kind)
    seeds = [10, 21, 32, 44]
    obs, _ = v.reset(seed=seeds)
    assert obs.dtype == np.float32
    t, ends = np.zeros(n, int), 0
    action = np.linspace(-1, 1, n, dtype=np.float32)[:, None]
    for _ in range(40):
        assert [x.tolist() for x in Counter.read(obs)] == [seeds, t.tolist()]
        before = obs.copy()
        last, reward, terminated, truncated, _ = v.step(action)
        assert (obs == before).all()  # what was returned is never written again
        t += 1
        assert [x.tolist() for x in Counter.read(last)] == [seeds, t.tolist()]  # the true last observation, always
        np.testing.assert_allclose(reward, t + action[:, 0], rtol=1e-7)
        over = np.array([t[i] == 3 + s % 5 for i, s in enumerate(seeds)])
        even = np.array([s % 2 == 0 for s in seeds])
        assert (terminated == (over & even)).all()
        assert (truncated == (over & ~even)).all()
        obs = last
        if over.any():
            ends += over.sum()
            seeds = [s + 7 if o else s for s, o in zip(seeds, over, strict=True)]
            t[over] = 0
            kept = last.copy()
            obs, _ = v.reset(seed=seeds, mask=over)
            assert (last == kept).all()
    assert ends > 20


def test_both_kinds_agree_bitwise(make):
    world = envs.world("HalfCheetah-v5")
    a, b = make(world, 2, "sync"), make(world, 2, "async")
    rng = np.random.default_rng(0)
    assert (a.reset(seed=[1, 2])[0] == b.reset(seed=[1, 2])[0]).all()
    for _ in range(20):
        action = rng.uniform(-1, 1, (2, 6)).astype(np.float32)
        x, y = a.step(action), b.step(action)
        assert x[0].tobytes() == y[0].tobytes()
        assert x[0].dtype == y[0].dtype == np.float32
        assert x[1].tolist() == list(y[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "lengths"), [("Pendulum-v1", [0, 30]), ("HalfCheetah-v5", [12, 25]), ("Hopper-v5", [4, 6])])
def test_reenact_goes_on_as_if_nothing_had_happened(kind, name, lengths, make):
    world = envs.world(name)
    dim, seeds = world.spec.action.dim, [3, 4]
    rng = np.random.default_rng(1)
    past = [rng.uniform(-1, 1, (n, dim)).astype(np.float32) for n in lengths]
    singles, expected = [world.make() for _ in seeds], []
    for env, seed, actions in zip(singles, seeds, past, strict=True):
        obs, total = env.reset(seed=seed)[0], 0.0
        for action in actions:
            obs, reward, terminated, truncated, _ = env.step(action)
            assert (terminated, truncated) == (False, False)
            total += reward
        expected.append((obs, total))
    v = make(world, 2, kind)
    obs, returns, steps = v.reenact(seeds, past)
    assert obs.tobytes() == np.array([e[0] for e in expected]).tobytes()
    assert returns.tolist() == [e[1] for e in expected]
    assert steps.tolist() == lengths
    action = rng.uniform(-1, 1, (2, dim)).astype(np.float32)
    obs, reward, *_ = v.step(action)
    ahead = [env.step(a) for env, a in zip(singles, action, strict=True)]
    assert obs.tobytes() == np.array([e[0] for e in ahead]).tobytes()
    assert reward.tolist() == [e[1] for e in ahead]


def test_reenact_tells_of_an_episode_that_ended_sooner(make):
    v = make(envs.world("thespis/Counter-v0"), 2, "sync")
    obs, returns, steps = v.reenact([5, 6], [np.zeros((2, 1)), np.zeros((9, 1))])  # of 3 and 4 steps
    assert steps.tolist() == [2, 4]
    assert returns.tolist() == [3, 10]
    assert Counter.read(obs)[1].tolist() == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("action", "text"),
    [
        (0.25, "Fragile: observation[1] is nan; it must be finite and at most 1e+15 in size "
         "(at step 2 after the reset with seed 8)"),
        (0.5, f"Fragile: step raised ValueError: broken hinge, test_vector.py line {Fragile.step.__code__.co_firstlineno + 3} "
         "(at step 2 after the reset with seed 8)"),
        (np.nan, "Fragile: action[0] is nan; it must be finite and at most 1e+15 in size "
         "(at step 2 after the reset with seed 8)"),
    ],
)  # fmt: skip
def test_a_fault_has_the_same_text_from_both_kinds_and_nothing_is_printed(kind, action, text, make, recwarn, capfd):
    v = make(envs.world(Fragile), 2, kind)
    v.reset(seed=[7, 8])
    v.step(np.zeros((2, 1), np.float32))
    assert told(v.step, np.array([[0], [action]], np.float32)) == text
    v.close()
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_the_death_of_a_process_is_a_fault(make, capfd):
    v = make(envs.world(Fragile), 3, "async")
    v.reset([1, 1, 1])
    text = told(v.step, np.array([[0], [0.75], [0]], np.float32))
    assert text == "Fragile: its process died (exit code 3): out of memory, or a crash"
    v = make(envs.world(Fragile), 2, "async")
    v.reset([1, 1])
    os.kill(v.envs[0].pid, signal.SIGKILL)
    assert "died (exit code -9)" in told(v.step, np.zeros((2, 1), np.float32))
    assert capfd.readouterr() == ("", "")


def test_a_fault_while_a_worker_makes_its_environment(make, capfd):
    parent = os.getpid()

    def licensed():
        if os.getpid() != parent:
            raise RuntimeError("one licence only")
        return Fragile()

    line = licensed.__code__.co_firstlineno + 2
    text = f"licensed: cannot be made (RuntimeError: one licence only, test_vector.py line {line})"
    assert told(envs.vector, envs.world(licensed), 2, "async") == text
    assert capfd.readouterr() == ("", "")


def test_workers_leave_ctrl_c_to_the_parent(make):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    try:
        v = make(envs.world(Fragile), 2, "async")
        v.reset([1, 1])
        for env in v.envs:
            os.kill(env.pid, signal.SIGINT)
        assert v.step(np.zeros((2, 1), np.float32))[0].shape == (2, 2)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # the parent's is as it was
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "source", ["Pendulum-v1", Fragile, lambda: Fragile(), Fragile()], ids=["id", "class", "function", "instance"]
)
def test_making_can_be_sent_to_a_process_that_is_not_a_fork(source):
    make = pickle.loads(cloudpickle.dumps(envs.world(source).make))
    assert make().reset(seed=1)[0].dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_choices(kind, make):
    v = make(envs.world("CartPole-v1"), 2, kind)
    v.reset(seed=[1, 2])
    single = envs.world("CartPole-v1").make()
    single.reset(seed=2)
    assert (v.step(np.array([0, 1]))[0][1] == single.step(1)[0]).all()
    assert told(v.step, np.array([0, 2])).startswith("CartPole-v1: action is 2; it must be an integer from 0 to 1")


def test_wrong_arguments():
    world = envs.world("thespis/Value-v0")
    assert told(envs.vector, world, 0) == "envs is 0; it must be an integer of 1 or more"
    assert told(envs.vector, world, True) == "envs is True; it must be an integer of 1 or more"
    assert told(envs.vector, world, 2, "ray") == "vector is 'ray'; it must be 'sync' or 'async'"


# ----------------------------------------------------------------------------------------------------- fewer will do


class Port(gym.Env):
    """Of which only `room` may be open at a time."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,))
    room, ballast, count = 2, 0, 0

    def __init__(self):
        if Port.count == Port.room:
            raise RuntimeError("no port is free")
        Port.count += 1
        self.held = np.ones(Port.ballast, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def close(self):
        Port.count -= 1


def test_where_fewer_will_do_there_are_as_many_as_can_be_made():
    Port.room, Port.ballast, Port.count = 2, 0, 0
    world = envs.world(Port)
    v = envs.vector(world, 5, spare=True)
    assert (v.num_envs, Port.count) == (2, 2)
    assert v.reset([1, 2])[0].shape == (2, 1)
    assert "no port is free" in told(envs.vector, world, 1, "sync", None, None, True)  # not one
    v.close()
    assert Port.count == 0
    assert "no port is free" in told(envs.vector, world, 5)
    assert Port.count == 0


def test_where_fewer_will_do_they_take_no_more_memory_than_there_is_room_for():
    Port.room, Port.ballast, Port.count = 99, 120_000_000, 0
    v = envs.vector(envs.world(Port), 10, spare=True)
    assert v.num_envs == 4  # of 500 MB
    v.close()
    Port.ballast = 0
    v = envs.vector(envs.world(Port), 10, spare=True)
    assert v.num_envs == 10
    v.close()
