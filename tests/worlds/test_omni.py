"""Omni beside its rules, written out for one body in float64."""

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs
from thespis.worlds.omni import Muscles

ALL = np.ones(40, bool)


def moved(at, speed, contracted, action, strength=0.004):
    """One step of one body, wall by wall."""
    contracted = [0.5 * (c + (min(max(a, -1), 1) + 1) / 2) for c, a in zip(contracted, action, strict=True)]
    speed, n = list(speed), len(action)
    for i, c in enumerate(contracted):
        angle = 2 * np.pi * i / n
        speed[0] += 0 if i else -0.2 * speed[0]  # once
        speed[1] += 0 if i else -0.2 * speed[1]
        speed[0], speed[1] = speed[0] + strength * c * np.cos(angle), speed[1] + strength * c * np.sin(angle)
    end, stopped = [min(max(at[i] + speed[i], -1), 1) for i in (0, 1)], [False, False]
    (x, y), (u, v) = at, end
    if (x < 0.25) != (u < 0.25) and abs(y + (v - y) * (0.25 - x) / (u - x)) <= 0.25:
        stopped[0] = True
    for side in (-0.25, 0.25):
        if (y < side) != (v < side) and 0 <= x + (u - x) * (side - y) / (v - y) <= 0.25:
            stopped[1] = True
    end = [at[i] if stopped[i] else end[i] for i in (0, 1)]
    speed = [speed[i] if abs(end[i] - at[i] - speed[i]) < 1e-12 else 0.0 for i in (0, 1)]
    return end, speed, contracted


def test_bodies_move_as_the_rules_say() -> None:
    rng = np.random.default_rng(0)
    rows = Muscles(40)
    rows.reset([0] * 40, ALL)
    at, speed, contracted = rng.uniform(-0.4, 0.4, (40, 2)), rng.normal(0, 0.1, (40, 2)), rng.uniform(0, 1, (40, 8))
    blocked = 0
    for _ in range(60):
        rows.at, rows.speed, rows.contracted = at.astype(np.float32), speed.astype(np.float32), contracted.astype(np.float32)
        action = rng.normal(size=(40, 8))
        obs, reward, terminated, truncated = rows.step(action.astype(np.float32), ALL)
        slow = [moved(*row) for row in zip(at, speed, contracted, action, strict=True)]
        end, new, held = (np.array(x) for x in zip(*slow, strict=True))
        same = np.isclose(obs[:, :2], end, atol=1e-5).all(1)  # float32 may decide otherwise at the very edge of a wall
        assert same.mean() > 0.97
        np.testing.assert_allclose(obs[same, 2:4], 20 * new[same], atol=1e-4)
        np.testing.assert_allclose(reward[same], np.column_stack([1 - (held**2).mean(1), end - at])[same], atol=1e-5)
        blocked += int((new == 0).any(1).sum())
        assert not (terminated | truncated).any()
        at, speed, contracted = end, new + rng.normal(0, 0.05, (40, 2)), held
    assert blocked > 50


def test_muscles_that_face_each_other_cancel_out_and_cost() -> None:
    rows = Muscles(40)
    rows.reset([0] * 40, ALL)
    for _ in range(60):
        _, reward, _, _ = rows.step(np.ones((40, 8), np.float32), ALL)
    assert np.abs(rows.at).max() < 1e-5
    np.testing.assert_allclose(reward[:, 0], 0, atol=1e-6)
    rows.step(-np.ones((40, 8), np.float32), ALL)
    assert rows.contracted[0, 0] == pytest.approx(0.5)


def test_what_runs_right_is_caught_by_the_wall_and_goes_round_it_from_the_left() -> None:
    """Full pull of the three muscles that face a way ends at speed 5 * 0.004 * (1 + 2 / 2^0.5) a step."""
    towards = {"right": (7, 0, 1), "left": (3, 4, 5), "up": (1, 2, 3)}

    def pull(rows: Muscles, way: str, steps: int) -> None:
        action = -np.ones((1, 8), np.float32)
        action[0, towards[way]] = 1
        for _ in range(steps):
            rows.step(action, np.ones(1, bool))

    rows = Muscles(1)
    rows.reset([0], np.ones(1, bool))
    pull(rows, "right", 60)
    assert 0.15 < rows.at[0, 0] <= 0.25
    rows.reset([0], np.ones(1, bool))
    pull(rows, "left", 12)
    assert rows.speed[0, 0] == pytest.approx(-0.02 * (1 + 2**0.5), rel=0.1)
    pull(rows, "up", 20)
    pull(rows, "right", 60)
    assert rows.at[0, 0] == 1


def test_many_are_what_one_is_and_the_return_counts_fitness_alone() -> None:
    world = envs.world("thespis/Omni-v0")
    assert (world.rewards, world.counts, world.spec.horizon) == (("fitness", "x", "y"), (1, 0, 0), 60)
    many, one = envs.vector(world, 3), gym.make("thespis/Omni-v0")
    assert type(many).__name__ == "Batched"
    rng = np.random.default_rng(1)
    many.reset([0, 1, 2])
    obs, _ = one.reset(seed=5)
    total = np.zeros(3)
    for t in range(60):
        action = rng.uniform(-1, 1, (3, 8)).astype(np.float32)
        seen, reward, terminated, truncated, _ = many.step(action)
        obs, mine, over, cut, _ = one.step(action[1])
        np.testing.assert_array_equal(seen[1], obs)
        np.testing.assert_array_equal(reward[1].astype(np.float32), mine)
        assert (terminated[1], truncated[1]) == (over, cut) == (False, t == 59)
        total += reward[1]
    np.testing.assert_allclose(total[1:], obs[:2], atol=1e-5)
    assert world.total(total) == total[0]


def test_weights_make_one_reward_of_the_batch_and_contexts_stand_behind_it() -> None:
    world = envs.weighted(envs.world("thespis/Omni-v0", {"muscles": 3}), ["fitness=1,x=2"])
    vector = envs.vector(world, 2)
    vector.reset([0, 0])
    _, reward, *_ = vector.step(np.array([[1, -1, -1], [-1, -1, -1]], np.float32))
    np.testing.assert_allclose(reward, vector.task_reward @ [1, 2, 0])
    assert reward[0] == pytest.approx(1 - 0.25 / 3 + 2 * 0.002)
    wide = envs.vector(envs.contexts.widened(envs.world("thespis/Omni-v0"), 2), 2)
    wide.contexts = np.array([[1, 2], [3, 4]], np.float32)
    seen, _ = wide.reset([0, 0])
    assert seen[:, -2:].tolist() == [[1, 2], [3, 4]]
    before, *_ = wide.step(np.ones((2, 8), np.float32))
    obs, returns, steps = wide.reenact([0, 0], [np.ones((1, 8), np.float32)] * 2)
    np.testing.assert_array_equal(obs, before)
    assert (returns.shape, steps.tolist()) == ((2, 3), [1, 1])


def test_a_picture_of_omni_shows_the_way():
    env = gym.make("thespis/Omni-v0", render_mode="rgb_array")
    env.reset()
    for _ in range(30):  # only the muscle that pulls to the right: into the wall
        env.step(np.where(np.arange(8) == 0, 1, -1).astype(np.float32))
    picture = env.render()
    assert picture.shape == (300, 300, 3)
    assert picture[150, 160].tolist() == [31, 95, 209]
    assert picture[150, 140].tolist() == [255, 255, 255]
    assert env.unwrapped.rows.at[0, 0] <= 0.25


def test_the_ant_ends_where_its_rewards_say():
    env = gym.make("thespis/AntOmni-v0", reach=2.0)
    obs, _ = env.reset(seed=3)
    start, total, action = obs[:2].copy(), np.zeros(3), np.full(8, 0.5, np.float32)
    for _ in range(20):
        obs, reward, *_ = env.step(action)
        total += reward
    np.testing.assert_allclose(total[0], 20 * 0.75, rtol=1e-6)
    np.testing.assert_allclose(total[1:], (obs[:2] - start) / 2, atol=1e-5)
    assert obs.shape == (29,)
