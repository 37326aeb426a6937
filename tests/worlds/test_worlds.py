"""The worlds against their definitions, written out a second time."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from thespis import core, envs, worlds


@pytest.mark.parametrize("name", sorted(worlds.WORLDS))
def test_registered_sound_and_told(name: str) -> None:
    env = gym.make(f"thespis/{name}-v0")
    several = hasattr(env.unwrapped, "reward_space")  # the checker knows one reward
    checked = gym.wrappers.TransformReward(env.unwrapped, lambda r: float(np.sum(r))) if several else env.unwrapped
    check_env(checked, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env.unwrapped).__doc__ or ""), word


@pytest.mark.parametrize("name", sorted(worlds.WORLDS))
def test_an_episode_follows_from_its_seed_and_its_actions(name: str) -> None:
    def episode(seed: int) -> list[float]:
        env, seen = gym.make(f"thespis/{name}-v0"), []
        env.action_space.seed(0)
        seen += envs.spaces.flatten(env.observation_space, env.reset(seed=seed)[0]).tolist()
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [*envs.spaces.flatten(env.observation_space, obs).tolist(), *np.ravel(reward).tolist()]
            over = terminated or truncated
        return seen

    assert episode(3) == episode(3)


def test_importing_thespis_registers_the_worlds_and_imports_none() -> None:
    for name, (module, limit) in worlds.WORLDS.items():
        spec = gym.spec(f"thespis/{name}-v0")
        assert spec.entry_point == f"thespis.worlds.{module}:{name}"  # a string: imported when the first one is made
        assert spec.max_episode_steps == limit
    source = Path(worlds.__file__).read_text()
    assert {line for line in source.splitlines() if line.startswith(("import", "from"))} == {
        "import gymnasium as gym",
        "from gymnasium.envs.registration import registry",
    }


# --------------------------------------------------------------------------------------------------------------- MultiGoal


def test_multi_goal_moves_costs_and_ends_as_told() -> None:
    env = gym.make("thespis/MultiGoal-v0").unwrapped
    rng = np.random.default_rng(1)
    ends = 0
    for seed in range(20):
        at = np.array(env.reset(seed=seed)[0], float)
        heading = [(1, 0), (-1, 0), (0, 1), (0, -1)][seed % 4]
        for _ in range(12):
            action = (0.7 * np.array(heading) + 0.2 * rng.normal(size=2)).astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(action)
            dx, dy = (min(max(float(x), -1), 1) for x in action)
            at = np.array([min(max(at[0] + dx, -7), 7), min(max(at[1] + dy, -7), 7)])
            nearest = min((at[0] - x) ** 2 + (at[1] - y) ** 2 for x, y in ((5, 0), (-5, 0), (0, 5), (0, -5)))
            wanted = -30 * (dx * dx + dy * dy) - nearest + (10 if nearest < 1 else 0)
            np.testing.assert_allclose(obs, at, atol=1e-5)
            assert reward == pytest.approx(wanted, abs=1e-4)
            assert (terminated, truncated) == (nearest < 1, False)
            if terminated:
                ends += 1
                break
    assert ends > 10


def test_multi_goal_is_the_same_from_each_side() -> None:
    """A quarter turn of start and actions turns the path and leaves the rewards."""
    env = gym.make("thespis/MultiGoal-v0").unwrapped
    turn = np.array([[0, -1], [1, 0]], np.float32)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32)
    told = []
    for turns in range(4):
        spin = np.linalg.matrix_power(turn, turns)
        env.reset(seed=5)
        env.at = spin @ env.at
        told.append([env.step(spin @ a)[1] for a in actions])
    np.testing.assert_allclose(told, [told[0]] * 4, rtol=1e-5, atol=1e-4)


def test_multi_goal_starts_near_the_middle_stays_between_walls_and_is_cut_off() -> None:
    env = gym.make("thespis/MultiGoal-v0")
    starts = np.array([env.reset(seed=seed)[0] for seed in range(400)])
    assert starts.std(0) == pytest.approx([0.1, 0.1], rel=0.15)
    assert starts.mean(0) == pytest.approx([0, 0], abs=0.02)
    env.reset(seed=0)
    for t in range(30):  # to a corner, past the goals
        obs, _, terminated, truncated, _ = env.step(np.ones(2, np.float32))
        assert not terminated
        assert truncated == (t == 29)
    assert obs.tolist() == [7, 7]
    assert envs.world("thespis/MultiGoal-v0").spec == core.Spec(core.Box(2), core.Box(2), horizon=30)


def test_multi_goal_takes_other_weights() -> None:
    env = gym.make("thespis/MultiGoal-v0", action_cost=10.0, distance_cost=0.0, goal_reward=3.0).unwrapped
    env.reset(seed=0)
    env.at = np.array([3.5, 0], np.float32)
    assert env.step(np.array([0.1, 0], np.float32))[1] == pytest.approx(-0.1, rel=1e-5)
    assert env.step(np.array([1, 0], np.float32))[1:3] == (pytest.approx(-7.0), True)


# ---------------------------------------------------------------------------------------------------------------- TwoPeaks


def test_two_peaks() -> None:
    """Height 1 at both peaks and 1/2 at the decoy; half a peak's height at 0.15 sqrt(2 log 2) from it; level under a mirror."""
    env = gym.make("thespis/TwoPeaks-v0").unwrapped
    half = 0.15 * np.sqrt(2 * np.log(2))
    for a, wanted in ((0.6, 1), (-0.6, 1), (0, 0.5), (0.6 + half, 0.5), (-0.6 - half, 0.5), (half, 0.25)):
        assert env.reset(seed=0)[0].tolist() == [0]
        obs, reward, terminated, truncated, _ = env.step(np.array([a], np.float32))
        assert reward == pytest.approx(wanted, abs=1e-5)
        assert (obs.tolist(), terminated, truncated) == ([0], True, False)
    a = np.linspace(-1, 1, 2_001)
    r = env.reward(a)
    np.testing.assert_allclose(r, r[::-1], atol=1e-12)
    tops = a[1:-1][(r[1:-1] > r[:-2]) & (r[1:-1] > r[2:])]
    np.testing.assert_allclose(tops, [-0.6, 0, 0.6], atol=1e-9)
    assert gym.make("thespis/TwoPeaks-v0", decoy=0.9).unwrapped.reward(np.array(0.0)) == pytest.approx(0.9)


# --------------------------------------------------------------------------------------------------------------- pendulums


def test_pendulums_are_gymnasiums_and_show_less() -> None:
    whole, hidden, pixels = (gym.make(name) for name in ("Pendulum-v1", "thespis/HiddenPendulum-v0", "thespis/PixelPendulum-v0"))
    rng = np.random.default_rng(0)
    obs = whole.reset(seed=3)[0]
    np.testing.assert_allclose(hidden.reset(seed=3)[0], obs[:2], atol=1e-6)
    pixels.reset(seed=3)
    for _ in range(200):
        action = rng.uniform(-2, 2, 1).astype(np.float32)
        obs, *wanted = whole.step(action)
        seen, *found = hidden.step(action)
        picture, *drawn = pixels.step(action)
        np.testing.assert_allclose(seen, obs[:2], atol=1e-6)
        assert found == drawn == [float(wanted[0]), *wanted[1:]]
        drawn_anew = pixels.unwrapped.draw(float(np.arctan2(obs[1], obs[0]))).astype(int)
        np.testing.assert_allclose(picture, drawn_anew, atol=1)
    assert found[2] is True  # cut off


def test_the_hidden_cart_is_gymnasiums_and_shows_less() -> None:
    whole, hidden = gym.make("CartPole-v1"), gym.make("thespis/HiddenCartPole-v0")
    np.testing.assert_array_equal(hidden.reset(seed=3)[0], whole.reset(seed=3)[0][::2])
    over = False
    while not over:
        action = int(whole.unwrapped.state[2] > 0)
        (obs, *wanted), (seen, *found) = whole.step(action), hidden.step(action)
        np.testing.assert_array_equal(seen, obs[::2])
        assert found[:3] == wanted[:3]
        over = bool(found[1])


def test_a_picture_is_the_rod_where_it_is() -> None:
    env = gym.make("thespis/PixelPendulum-v0", size=64).unwrapped
    step = 2.6 / 63
    for angle in (0.0, 0.4, np.pi / 2, -2.0, np.pi):
        picture = env.draw(angle)[..., 0].astype(float)
        assert picture.shape == (64, 64)
        assert picture.max() == 255
        assert picture.sum() / 255 * step**2 == pytest.approx(0.24 + np.pi * 0.12**2, rel=0.02)  # a stripe with round ends
        row, column = (np.indices(picture.shape) * picture).sum((1, 2)) / picture.sum()  # its middle is half a rod away
        right, up = column * step - 1.3, 1.3 - row * step
        np.testing.assert_allclose((right, up), (np.sin(angle) / 2, np.cos(angle) / 2), atol=0.01)
    assert gym.make("thespis/PixelPendulum-v0", render_mode="rgb_array").unwrapped.metadata["render_modes"] == ["rgb_array"]


# ------------------------------------------------------------------------------------------------------------ worlds of tables


FINITE = [name for name, (module, _) in worlds.WORLDS.items() if module == "finite"]


@pytest.mark.parametrize("name", FINITE)
def test_a_world_of_tables_moves_by_its_tables(name: str) -> None:
    """How often each state follows, over 4,000 episodes at random, is within five standard deviations of its chance."""
    env = gym.make(f"thespis/{name}-v0").unwrapped
    counts, rng = np.zeros_like(env.chance), np.random.default_rng(0)
    np.testing.assert_allclose(env.chance.sum(-1), 1)
    assert env.gain.min() >= 0
    assert env.gain.max() <= 1
    for seed in range(1_000):
        (h, x), over = env.reset(seed=seed)[0], False
        while not over:
            action = int(rng.integers(env.action_space.n))
            (_, y), reward, over, truncated, _ = env.step(action)
            assert reward == env.gain[h, x, action]
            counts[h, x, action, y] += 1
            h, x = h + 1, y
        assert (h, truncated) == (len(env.gain), False)
    total = counts.sum(-1, keepdims=True)
    spread = 5 * np.sqrt(env.chance * (1 - env.chance) * total) + 1e-9
    assert (np.abs(counts - total * env.chance) <= spread).all()
    assert envs.world(f"thespis/{name}-v0").spec.horizon == len(env.gain)


def test_what_worlds_of_tables_are_worth() -> None:
    """The optimal values in closed form; of RiverSwim by value iteration over its definition, place by place."""
    for horizon, actions in ((4, 3), (6, 4)):
        lock = gym.make("thespis/Lock-v0", horizon=horizon, actions=actions).unwrapped
        best = lock.best().max(-1)
        np.testing.assert_allclose(best, np.tile([1.0, 1.0, 0.0], (horizon, 1)))
        at_random = np.zeros(3)
        for h in reversed(range(horizon)):
            at_random = (lock.gain[h] + lock.chance[h] @ at_random).mean(-1)
        assert at_random[0] == pytest.approx(actions**-horizon)
        assert (lock.right != gym.make("thespis/Lock-v0", horizon=horizon, actions=actions, code=1).unwrapped.right).any()
    sea = gym.make("thespis/DeepSea-v0", size=9).unwrapped
    assert sea.best()[0, 0].tolist() == pytest.approx([0.01, 1.0])  # one step aside, and only what left earns is left
    river, places, ahead = gym.make("thespis/RiverSwim-v0", horizon=12).unwrapped, 6, [0.0] * 6
    for _ in range(12):
        now = []
        for s in range(places):
            left = (0.005 if s == 0 else 0) + ahead[max(s - 1, 0)]
            if s == 0:
                right = 0.6 * ahead[1] + 0.4 * ahead[0]
            elif s == places - 1:
                right = 1 + 0.6 * ahead[s] + 0.4 * ahead[s - 1]
            else:
                right = 0.35 * ahead[s + 1] + 0.6 * ahead[s] + 0.05 * ahead[s - 1]
            now.append(max(left, right))
        ahead = now
    np.testing.assert_allclose(river.best()[0].max(-1), ahead)
