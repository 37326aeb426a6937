"""The table-top world: sliding and pushing have closed forms, and an episode is written out a second time, in float64."""

import math

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis.worlds.tabletop import Discs

ALL = np.ones(1, bool)


def alone(at: tuple[float, float], speed: tuple[float, float]) -> Discs:
    """A disc at a place with a speed, and the gripper in a corner."""
    d = Discs(1)
    d.hand[:, 0], d.disc[:, 0], d.speed[:, 0] = -0.5, at, speed
    return d


def test_a_disc_slides_as_far_as_friction_lets_it() -> None:
    d = alone((0, 0), (0.6, 0.8))
    for _ in range(5):
        d.step(np.zeros((1, 2), np.float32), ALL)
    far = 1 / (2 * 0.3 * 9.81)
    np.testing.assert_allclose(d.disc[:, 0], [0.6 * far, 0.8 * far], atol=0.006)  # half a piece's way: 0.01 s of 1 m/s
    assert not d.speed.any()


def test_a_pushed_disc_has_the_grippers_speed_and_presses_as_hard_as_friction() -> None:
    d = alone((0.0, 0.0), (0, 0))
    d.hand[:, 0] = -0.095, 0
    for _ in range(12):
        before = d.disc.copy()
        _, reward, _, _ = d.step(np.array([[1, 0]], np.float32), ALL)
    np.testing.assert_allclose((d.disc - before)[:, 0], [0.03, 0], atol=1e-4)  # 0.3 m/s for 0.1 s
    pressed = 0.09 - (d.disc[0, 0] - (d.hand[0, 0] + 0.003))  # the gripper moves first, 0.3 m/s for 0.01 s
    assert pressed == pytest.approx(0.1 * 0.3 * 9.81 / 100, abs=1e-4)  # m mu g / k
    np.testing.assert_allclose(reward[0], [1, 0], atol=1e-3)


def test_what_is_pushed_over_the_edge_has_fallen_and_lies() -> None:
    d = alone((0.48, 0.2), (1, 0))
    seen = [d.step(np.array([[1, 1]], np.float32), ALL)[:2] for _ in range(3)]
    for obs, reward in seen:
        assert obs[0, 8] == 1
        assert reward[0, 1] == -1
        assert obs[0, 2:4].tolist() == seen[0][0][0, 2:4].tolist()
    assert d.infos([0]) == {0: {"fallen": 1.0}}


def slow(seed: int, actions: np.ndarray) -> list[list[float]]:
    """Observation and rewards of each step, by scalars."""
    x, y, turn, far = np.random.default_rng(seed).uniform(size=4)
    disc, speed, fallen = [0.2 * x - 0.1, 0.2 * y - 0.1], [0.0, 0.0], False
    hand, told = [(0.3 + 0.15 * far) * f(2 * math.pi * turn) for f in (math.cos, math.sin)], []
    for action in actions.tolist():
        hardest = 0.0
        for _ in range(10):
            new = [min(max(h + 0.01 * 0.3 * a, -0.5), 0.5) for h, a in zip(hand, action, strict=True)]
            moved = [(b - a) / 0.01 for a, b in zip(hand, new, strict=True)]
            hand, apart = new, [d - h for d, h in zip(disc, new, strict=True)]
            distance, force = math.hypot(*apart), 0.0
            if distance < 0.09 and not fallen:
                closing = sum((m - s) * a / distance for m, s, a in zip(moved, speed, apart, strict=True))
                force = max(100 * (0.09 - distance) + closing, 0.0)
            speed = [s + 0.01 * force / 0.1 * a / distance for s, a in zip(speed, apart, strict=True)]
            left = max(0.0, 1 - 0.01 * 0.3 * 9.81 / max(math.hypot(*speed), 1e-9))
            speed = [0.0 if fallen else s * left for s in speed]
            disc = [d + 0.01 * s for d, s in zip(disc, speed, strict=True)]
            fallen, hardest = fallen or bool(max(map(abs, disc)) > 0.5), max(hardest, force)
        gap = max(math.hypot(*(d - h for d, h in zip(disc, hand, strict=True))) - 0.09, 0.0)
        reward = [(1 - math.tanh(10 * gap)) / 2 + 0.5 * (hardest > 0), -fallen - min(max(hardest / 0.6 - 1, 0.0), 1.0)]
        both = [2 * v for v in (*hand, *disc, *(d - h for d, h in zip(disc, hand, strict=True)))]
        told.append([*both, *(s / 0.3 for s in speed), float(fallen), *reward])
    return told


def test_episodes_are_those_of_a_slow_loop() -> None:
    """Chased discs, so that there are touches; half of the tables are asked in turn, and the others stay."""
    rows, n = Discs(6), 6
    obs = rows.reset(range(n), np.ones(n, bool))
    actions = np.zeros((50, n, 2), np.float32)
    found, rng = np.zeros((50, n, 11)), np.random.default_rng(0)
    for t in range(50):
        actions[t] = np.clip(8 * obs[:, 4:6] + rng.normal(0, 0.3, (n, 2)), -1, 1)
        for asked in (np.arange(n) % 2 == 0, np.arange(n) % 2 == 1):
            obs, reward, _, _ = rows.step(actions[t], asked)
            found[t, asked] = np.concatenate([obs, reward], 1)[asked]
    assert (found[..., 9] > 0.5).any(0).all()
    assert found[..., 8].any()
    for i in range(n):
        np.testing.assert_allclose(found[:, i], slow(i, actions[:, i]), atol=2e-3)


def test_it_is_cut_off_and_names_its_rewards() -> None:
    env = gym.make("thespis/Tabletop-v0")
    obs, _ = env.reset(seed=3)
    assert np.array_equal(obs, Discs(1).reset([3], ALL)[0])
    assert [env.step(env.action_space.sample())[3] for _ in range(50)] == [False] * 49 + [True]
    assert thespis.envs.world("thespis/Tabletop-v0").spec.rewards == ("reach", "safety")
