"""Simulators in JAX: against a probe whose every number is known, and against the simulators' own step, row by row."""

import os
import signal
from functools import cache, partial

import cloudpickle
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import thespis
from tests.engine.test_resume import outcome, same
from thespis import cli, envs
from thespis.core import Fault
from thespis.envs import jaxed
from thespis.envs.rows import Batched

brax = pytest.importorskip("brax.envs", reason="the extra jax is not installed")
jax = pytest.importorskip("jax", reason="the extra jax is not installed")
jnp = jax.numpy

PROBE = "brax/thespis_probe"


class Probe(brax.Env):
    """Seed s, step t: observes (s or 10,000, t, x), where x is chaotic, for a reward of t + action. An episode lasts 3 + s % 5
    steps, but for ever where 1000 <= s < 10,000; it is terminated where s is even, else cut off. An action of 0.99 makes x NaN,
    one of -0.99 the reward 1e16.
    """

    observation_size, action_size, backend = 3, 1, "none"

    def reset(self, rng):
        zero = jnp.float32(0)
        obs = jnp.array([jnp.minimum(rng[1], 10_000).astype(float), 0, jax.random.uniform(rng)])
        return brax.State(rng[1], obs, zero, zero, {}, {"truncation": zero})

    def step(self, state, action):
        seed, (_, t, x), a = state.pipeline_state, state.obs, action[0]
        t = t + 1
        ends = (seed < 1000) | (seed >= 10_000)
        done = (ends & (t >= 3 + seed % 5)).astype(float)
        x = jnp.where(a == jnp.float32(0.99), jnp.nan, jnp.sin(20 * x + a))
        reward = jnp.where(a == jnp.float32(-0.99), 1e16, t + a)
        return state.replace(obs=state.obs.at[1:].set([t, x]), reward=reward, done=done, info={"truncation": done * (seed % 2)})


brax.register_environment("thespis_probe", Probe)


@cache
def world(name=PROBE):
    return envs.world(name)


def batch(n, restart=None, name=PROBE):
    return envs.vector(world(name), n, restart=restart)


def actions(rng, n, dim=1):
    return rng.uniform(-0.9, 0.9, (n, dim)).astype(np.float32)


def told(call, *args, **kwargs):
    with pytest.raises(Fault) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ the probe


def test_every_row_belongs_to_the_episode_of_its_seed_under_any_mask():
    """Rows that are stepped, reset or left alone by chance: each one's seed, step, reward and flags are known beforehand."""
    n, rng = 5, np.random.default_rng(0)
    v, seeds, t = batch(n), np.arange(10, 10 + n), np.zeros(n, int)
    obs, failed = v.reset(seeds)
    assert (obs.dtype, failed.any()) == (np.float32, False)
    np.testing.assert_array_equal(obs[:, 2], [jax.random.uniform(jax.random.PRNGKey(s)) for s in seeds.tolist()])
    ends = {True: 0, False: 0}
    for _ in range(200):
        mask, action, before = rng.random(n) < 0.7, actions(rng, n), obs.copy()
        obs, reward, terminated, truncated, failed = v.step(action, mask)
        t += mask
        np.testing.assert_array_equal(obs[:, 0], seeds)
        np.testing.assert_array_equal(obs[:, 1], t)
        np.testing.assert_allclose(obs[mask, 2], np.sin(20 * before[mask, 2] + action[mask, 0]), atol=1e-5)
        assert (obs[~mask] == before[~mask]).all()
        np.testing.assert_allclose(reward[mask], (t + action[:, 0])[mask], rtol=1e-6)
        over = t == 3 + seeds % 5
        assert (terminated[mask] == (over & (seeds % 2 == 0))[mask]).all()
        assert (truncated[mask] == (over & (seeds % 2 == 1))[mask]).all()
        assert not failed.any()
        for flag in (True, False):
            ends[flag] += int((over & (seeds % 2 == flag)).sum())
        if over.any():
            seeds, t = np.where(over, seeds + 7, seeds), np.where(over, 0, t)
            kept = obs
            obs, _ = v.reset(seeds, over)
            assert (obs[~over] == kept[~over]).all()
            assert (obs[over, 1] == 0).all()
    assert min(ends.values()) > 10


def test_what_was_returned_is_never_written_again_and_belongs_to_the_caller():
    v, rng = batch(2), np.random.default_rng(0)
    first, _ = v.reset([1000, 1001])
    kept = first.copy()
    out = v.step(actions(rng, 2))
    then = [x.copy() for x in out]
    last = v.step(actions(rng, 2))
    assert (first == kept).all()
    assert all((x == y).all() for x, y in zip(out, then, strict=True))
    for x in last[:2]:
        x[:] = 7
    assert not any((x == 7).any() for x in v.step(actions(rng, 2), np.zeros(2, bool))[:2])


def test_actions_beyond_the_bounds_are_clipped():
    v = batch(2)
    v.reset([1000, 1001])
    assert v.step(np.array([[3], [-2]]))[1].tolist() == [2, 0]  # the first step's 1, and the action


def test_what_jax_has_crosses_without_a_copy():
    rows = jaxed.Rows(PROBE, 4)
    out = rows.programs.reset(rows.state, np.arange(4, dtype=np.uint32), np.ones(4, bool))[1]
    rows.programs = type("", (), {"reset": staticmethod(lambda *_: (None, out))})
    obs = rows.reset(range(4), np.ones(4, bool))
    if jax.default_backend() == "cpu":
        assert obs.ctypes.data == out.unsafe_buffer_pointer()


def test_a_batch_is_compiled_once_whatever_is_asked_of_it():
    programs = jaxed.simulator(PROBE)
    programs.step.clear_cache()
    programs.reset.clear_cache()
    for n in (6, 7, 6):
        v, rng = batch(n), np.random.default_rng(0)
        v.reset(range(1000, 1000 + n))
        v.step(actions(rng, n).astype(np.float64))
        v.step(actions(rng, n), np.arange(n) < 3)
        v.reset([0] * n, np.arange(n) == 2)
        v.reenact([1000] * n, [actions(rng, i) for i in range(n)])
        v.step(actions(rng, n))
    assert (programs.reset._cache_size(), programs.step._cache_size()) == (2, 2)


def test_the_same_seeds_and_actions_give_the_same_bits_and_reenact_brings_them_back():
    n, rng = 4, np.random.default_rng(1)
    a, b, seeds = batch(n), batch(n), [1000, 1001, 5, 1003]
    past, total = [actions(rng, k) for k in (30, 0, 4, 17)], np.zeros(n)  # an episode of 3 steps: the fourth comes too late
    a.reset(seeds)
    for t in range(30):
        going = np.array([t < min(len(p), 3 if s == 5 else 99) for p, s in zip(past, seeds, strict=True)])
        action = np.stack([p[t] if g else np.zeros(1, np.float32) for p, g in zip(past, going, strict=True)])
        obs, reward, *_ = a.step(action, going)
        total[going] += reward[going]
    b.reset([7] * n)
    for _ in range(2):  # other episodes are under way
        b.step(actions(rng, n))
    again, returns, steps = b.reenact(seeds, past)
    assert again.tobytes() == obs.tobytes()
    assert returns.tolist() == total.tolist()
    assert steps.tolist() == [30, 0, 3, 17]
    action, asked = actions(rng, n), np.arange(n) != 2
    for x, y in zip(a.step(action, asked), b.step(action, asked), strict=True):
        assert x.tobytes() == y.tobytes()
    _, _, steps = b.reenact(seeds, past, np.arange(n) == 1)  # the others stay as they are
    assert steps.tolist() == [-1, 0, -1, -1]
    assert b.step(action, asked & (np.arange(n) != 1))[0][[0, 3], 1].tolist() == [32, 19]


def test_of_several_observations_state_is_seen_and_images_alone_are_refused():
    """brax's own test environment: an action above 0 adds 0.02 to the speed of a point, which then moves for 0.02 seconds."""
    for mode in ("dict_state", "dict_pixels"):
        brax.register_environment(
            f"thespis_{mode}", partial(brax.fast.Fast, mode == "dict_state", brax.fast.ObservationMode(mode))
        )
    v = batch(2, name="brax/thespis_dict_state")
    v.reset([0, 1])
    for k in range(1, 6):
        obs, reward, *_ = v.step(np.array([[1], [-1]]))
        np.testing.assert_allclose(obs, [[4e-4 * k * (k + 1) / 2, 0.02 * k], [0, 0]], rtol=1e-5)
        np.testing.assert_allclose(reward, obs[:, 0], rtol=1e-6)
    text = "observes pixels/view_0, pixels/view_1; it must have an observation of numbers, 'state'"
    assert told(envs.world, "brax/thespis_dict_pixels").endswith(text)


def test_a_world_can_be_sent_to_another_process():
    copy = cloudpickle.loads(cloudpickle.dumps(world()))
    a, b = batch(2), envs.vector(copy, 2)
    assert type(b) is Batched
    assert a.reset([5, 6])[0].tobytes() == b.reset([5, 6])[0].tobytes()


def test_a_time_limit_cuts_off_and_one_environment_agrees():
    v, one = batch(2), world().make()
    assert world().spec.horizon == 1000  # brax.envs.create's default
    v.reset([2000, 2001])
    one.reset(seed=2000)
    zero = np.zeros((2, 1), np.float32)
    for t in range(1, 1001):
        obs, reward, terminated, truncated, _ = v.step(zero)
        single = one.step(zero[0])
        assert terminated.tolist() == [False, False]
        assert truncated.tolist() == [t == 1000] * 2
        assert single[1:4] == (reward[0], False, t == 1000)
        assert single[0][1] == t == obs[0, 1]
    assert "step was called on an episode that is over" in told(v.step, zero)


@pytest.mark.filterwarnings("ignore:.*A Box observation space:UserWarning")
def test_one_environment_is_one_of_gymnasium():
    env = jaxed.single(PROBE)
    check_env(env.unwrapped, skip_render_check=True)
    a, b = env.reset(seed=3)[0], env.reset()[0]
    assert a[0] == 3
    assert env.reset(seed=3)[0].tobytes() == a.tobytes()
    assert env.reset()[0].tobytes() == b.tobytes()  # unseeded, it goes on from the last seed
    assert "declares []" in told(world().make, render_mode="rgb_array")


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (0.99, "observation[2] is nan; it must be finite and at most 1e+15 in size (at step 2 after the reset with seed 1001)"),
        (-0.99, "reward is 1.0000000272564224e+16; it must be finite and at most 1e+15 in size "
         "(at step 2 after the reset with seed 1001)"),
        (np.nan, "action[0] is nan; it must be finite and at most 1e+15 in size (at step 2 after the reset with seed 1001)"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_a_fault_and_with_restart_its_row_alone_begins_anew(action, text):
    zero, bad = np.zeros((3, 1), np.float32), np.array([[0], [action], [0]], np.float32)
    v = batch(3)
    v.reset([1000, 1001, 1002])
    v.step(zero)
    assert told(v.step, bad) == f"{PROBE}: {text}"
    said = []
    v = batch(3, said.append)
    v.reset([1000, 1001, 1002])
    good, *_ = v.step(zero)
    obs, reward, _, _, failed = v.step(bad)
    assert [str(f) for f in said] == [f"{PROBE}: {text}"]
    assert failed.tolist() == [False, True, False]
    assert obs[:, 1].tolist() == [2, 1, 2]
    assert (obs[1] == good[1]).all()
    assert reward.tolist() == [2, 1, 2]
    obs, failed = v.reset([0, 1003, 0], failed)
    assert obs[:, 0].tolist() == [1000, 1003, 1002]
    obs, reward, *_, failed = v.step(zero)
    assert (reward.tolist(), failed.any()) == ([3, 1, 3], False)


def test_a_row_that_fails_ten_times_without_a_good_step_ends_it():
    v = batch(1, lambda fault: None)
    for _ in range(9):
        v.reset([1000])
        v.step(np.full((1, 1), 0.99))
    v.reset([1000])
    assert "environment 0 has failed 10 times in a row" in told(v.step, np.full((1, 1), 0.99))


def test_processes_and_time_limits_are_refused_in_a_line(capsys, tmp_path):
    assert told(envs.vector, world(), 2, "async").startswith(f"vector is 'async'; the environments of {PROBE} are one program")
    assert told(envs.vector, world(), 2, "sync", 1.5).startswith(f"env_timeout is 1.5; {PROBE} has no processes")
    args = ["train", "sac", "--env", PROBE, "--num-envs", "2", "--out", str(tmp_path / "run")]
    for more, text in (["--vector", "async"], "vector is 'async'"), (["--env-timeout", "3"], "env_timeout is 3"):
        assert cli.main([*args, *more]) == 2
        said = capsys.readouterr().err
        assert text in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("brax/Ant", "env is 'brax/Ant', which brax does not have; did you mean brax/ant?"),
        ("brax/inverted_pendulums", "did you mean brax/inverted_pendulum or"),
        ("brax/zzz", "which brax does not have; it has ant, "),
    ],
)
def test_an_unknown_name_is_told_with_those_like_it(name, text):
    assert text in told(envs.world, name)


def test_an_unknown_name_of_playground_is_told_with_those_like_it():
    pytest.importorskip("mujoco_playground", reason="the extra jax is not installed")
    assert told(envs.world, "playground/CartPoleBalance").endswith("did you mean playground/CartpoleBalance?")
    assert "did you mean playground/FishSwim?" in told(envs.world, "playground/FishSwims")


# --------------------------------------------------------------------------------------------------------------- a run


SMALL = {
    "num_envs": 8, "hidden": (8,), "batch_size": 16, "warmup": 64, "steps": 400, "eval_every": 160, "eval_episodes": 3,
    "log_every": 80, "checkpoint_every": 160, "updates_per_step": 0.1, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


def test_a_run_stopped_and_resumed_is_bitwise_the_one_never_stopped(tmp_path, monkeypatch):
    whole = thespis.train("sac", env=PROBE, out=tmp_path / "whole", **SMALL)
    step, count = Batched.step, [0]

    def interrupting(self, *args):
        count[0] += self.num_envs == 8
        if count[0] == 27:
            count[0] += 1
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    monkeypatch.setattr(Batched, "step", interrupting)
    stopped = thespis.train("sac", env=PROBE, out=tmp_path / "stopped", **SMALL)
    assert not stopped.finished
    assert thespis.resume(stopped, panel=False).finished
    same(outcome(whole.path), outcome(stopped.path))
    result = thespis.evaluate(whole, episodes=3, seed=4)
    lengths = 3 + np.random.default_rng(4).integers(2**31, size=3) % 5
    assert result["mean_length"] == lengths.mean()
    assert (np.abs(result["returns"] - lengths * (lengths + 1) / 2) <= lengths).all()  # the steps' numbers, and actions


# ------------------------------------------------------------------------------------------------ the simulators' own


def plain(name):
    """The environment as its own package makes it."""
    if name.startswith("brax/"):
        return brax.get_environment(name.partition("/")[2])
    registry = pytest.importorskip("mujoco_playground", reason="the extra jax is not installed").registry
    return registry.load(name.partition("/")[2], config_overrides={"impl": "jax"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System:UserWarning", "ignore::DeprecationWarning:brax.*")
@pytest.mark.parametrize("name", ["brax/inverted_pendulum", "playground/CartpoleBalance"])
def test_a_batch_is_the_simulators_own_step_row_by_row(name):
    """The package's reset and step, one environment at a time, beside a batch of 3, an environment of one, and a re-enactment."""
    env, seeds, rng = plain(name), [11, 2**31 - 1, 13], np.random.default_rng(0)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    v, one = batch(3, name=name), world(name).make()
    states, (obs, _) = [reset(jax.random.PRNGKey(s)) for s in seeds], v.reset(seeds)
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(obs, [s.obs for s in states], **close)
    np.testing.assert_allclose(one.reset(seed=seeds[0])[0], obs[0], **close)
    past, over, total = [[] for _ in seeds], np.zeros(3, bool), np.zeros(3)
    for _ in range(12):
        action = actions(rng, 3, env.action_size)
        obs, reward, terminated, truncated, _ = v.step(action, ~over)
        for i in np.flatnonzero(~over):
            past[i].append(action[i])
            states[i] = step(states[i], action[i])
            total[i] += reward[i]
            np.testing.assert_allclose(obs[i], states[i].obs, **close)
            np.testing.assert_allclose(reward[i], states[i].reward, **close)
            assert terminated[i] == bool(states[i].done)
        if not over[0]:
            single = one.step(action[0])
            np.testing.assert_allclose(single[0], obs[0], **close)
            assert single[2:4] == (terminated[0], truncated[0])
        over |= terminated | truncated
    again, returns, steps = batch(3, name=name).reenact(seeds, [np.array(p) for p in past])
    assert again.tobytes() == obs.tobytes()
    assert returns.tolist() == total.tolist()
    assert steps.tolist() == [len(p) for p in past]
    if name.startswith("playground/"):
        from mujoco_playground import registry

        assert world(name).spec.horizon == registry.get_default_config("CartpoleBalance").episode_length
