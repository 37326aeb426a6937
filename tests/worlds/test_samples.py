"""Worlds of samples: their numbers from seeds, one by one and many at once, and their judges by hand."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs
from thespis.worlds import samples


def test_numbers_of_a_seed_are_splitmix64s() -> None:
    """The known first outputs for the state 1234567, by the published routine in Python's whole numbers."""

    def splitmix(state: int) -> int:
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert splitmix(1234567) == 6457827717110365317  # as the authors' vectors have it
    for seed in (0, 5, 2**31):
        got = samples.uniform(np.array([seed]), 3, 1)[0]
        for i, x in enumerate(got):
            state = seed * 0xBF58476D1CE4E5B9 + (2**32 + i) * 0x9E3779B97F4A7C15
            assert x == ((splitmix(state % 2**64) >> 11) + 0.5) / 2**53
    many = samples.normal(np.arange(20_000), 2, 0)
    assert np.abs(many.mean(0)).max() < 0.02
    np.testing.assert_allclose(np.cov(many.T), np.eye(2), atol=0.03)
    assert np.corrcoef(many[:-1, 0], many[1:, 0])[0, 1] == pytest.approx(0, abs=0.03)


def test_many_at_once_are_as_each_alone() -> None:
    world = envs.world("thespis/Gaussians-v0", {"noise": 0.5})
    together, single = envs.vector(world, 3), world.make()
    seeds, rng = [4, 90, 7], np.random.default_rng(0)
    obs, failed = together.reset(seeds)
    assert not failed.any()
    for _ in range(3):
        action = rng.uniform(-1.2, 1.2, (3, 2)).astype(np.float32)
        after, reward, terminated, truncated, _ = together.step(action)
        for i, seed in enumerate(seeds):
            assert single.reset(seed=seed)[0].tolist() == obs[i].tolist()
            seen, one, *ends, info = single.step(action[i])
            assert seen.tolist() == after[i].tolist()
            assert one == pytest.approx(float(reward[i]), abs=1e-6)
            assert ends == [terminated[i], truncated[i]] == [True, False]
            told = {k: v for k, v in info.items() if isinstance(v, float) and k in together.infos[i]}
            assert together.infos[i] == pytest.approx(told)
            assert set(told) == {"true", "held_out"}
        seeds = [seed + 100 for seed in seeds]
        obs, _ = together.reset(seeds)


def test_the_judge_of_gaussians_by_hand() -> None:
    world = gym.make("thespis/Gaussians-v0").unwrapped
    places = {0: (0.75, 0.0), 3: (-0.75 * math.sqrt(0.5), 0.75 * math.sqrt(0.5)), 5: (-0.75 * math.sqrt(0.5),) * 2}
    for x in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        square = {k: (x[0] - a) ** 2 + (x[1] - b) ** 2 for k, (a, b) in places.items()}
        height = {0: 1.0, 3: 0.8, 5: 0.6}
        told = world.judge(x[None], x[None], np.zeros(1))
        assert float(told["reward"][0]) == pytest.approx(max(height[k] * math.exp(-s / 0.045) for k, s in square.items()))
        assert float(told["held_out"][0]) == pytest.approx(max(height[k] / (1 + s / 0.04) for k, s in square.items()))


def test_the_recorded_points_are_of_eight_clouds_and_are_drawn() -> None:
    world = gym.make("thespis/Gaussians-v0").unwrapped
    data = world.recorded(8_000)
    far = np.linalg.norm(data["actions"][:, None] - world.centres, axis=-1)
    cloud = far.argmin(1)
    assert np.bincount(cloud, minlength=8) == pytest.approx(np.full(8, 1_000), rel=0.15)
    np.testing.assert_allclose(np.std(data["actions"] - world.centres[cloud], axis=0), 0.06, rtol=0.05)
    picture = world.draw(data["observations"][:1], np.array([[0.5, -0.5]]))
    blue = np.argwhere((picture == (31, 95, 209)).all(-1))
    assert len(blue) == 5
    np.testing.assert_allclose(blue.mean(0), [300, 300], atol=2)  # right of the middle, and below it


def test_the_judges_of_talking_signals_by_hand() -> None:
    world = gym.make("thespis/Talking-v0").unwrapped
    obs, _ = world.reset(seed=3)
    voice = obs[:16].astype(float)
    rng = np.random.default_rng(0)
    for take in range(2):
        x = rng.uniform(-1, 1, 32)
        after, reward, terminated, truncated, _ = world.step(x)
        mouth, head = x[:16], x[16:]
        speed = math.sqrt(sum((head[i + 1] - head[i]) ** 2 for i in range(15)) / 15)
        jerk = math.sqrt(sum((head[i + 3] - 3 * head[i + 2] + 3 * head[i + 1] - head[i]) ** 2 for i in range(13)) / 13)
        rough = sum((y[i + 2] - 2 * y[i + 1] + y[i]) ** 2 for y in (mouth, head) for i in range(14)) / 14
        wanted = [np.corrcoef(mouth, voice)[0, 1], -abs(math.log(speed / 0.15)) - 0.25 * jerk / speed, -math.sqrt(rough)]
        np.testing.assert_allclose(reward, wanted, atol=1e-4)
        assert (terminated, truncated) == (take == 1, False)
        assert after[:16].tolist() == obs[:16].tolist(), "one voice"
        assert not np.array_equal(after[16:], obs[16:]), "fresh noise"
        obs = after
    data = world.recorded(2_000)
    told = world.judge(data["observations"][:, :16], data["actions"], np.zeros(0))
    assert 0.3 < told["lip_sync"].mean() < 0.7, "it follows the voice, but not well"


def test_the_judges_of_drawn_digits_by_a_loop() -> None:
    pytest.importorskip("sklearn")
    from scipy.stats import multivariate_normal

    from thespis.worlds.digits import digits

    world = samples.DrawnDigits()
    known, labels = digits("train")
    others, told = digits("test")
    x = 2 * others.reshape(-1, 64)[:50].astype(float) - 1
    asked = np.random.default_rng(0).integers(10, size=50)
    got = world.judge(np.eye(10)[asked], x, np.arange(50))
    rows = 2 * known.reshape(-1, 64).astype(float) - 1
    means = np.stack([rows[labels == k].mean(0) for k in range(10)])
    covariance = sum((a - means[k])[:, None] * (a - means[k]) for a, k in zip(rows, labels, strict=True)) / len(rows)
    normals = [multivariate_normal(mean, covariance + 0.3 * np.eye(64)) for mean in means]
    for i in range(50):  # Bayes' rule with one normal distribution a class
        log = np.array([each.logpdf(x[i]) for each in normals])
        prob, ink = np.exp(log - log.max()), min(sum((1 + y) / 2 for y in x[i]) / 64 / 0.6, 1)
        assert got["reward"][i] == pytest.approx(prob[asked[i]] / prob.sum() * ink, abs=1e-8)
    all_others = 2 * others.reshape(-1, 64).astype(float) - 1
    for i in range(0, 50, 10):
        nearest = np.array(
            [min(((x[i] - y) ** 2).sum() for y, k in zip(all_others, told, strict=True) if k == c) for c in range(10)]
        )
        weight = np.exp(-(nearest - nearest.min()) / (2 * 1.5**2))
        ink = min(sum(y > 0 for y in x[i]) / 64 / 0.6, 1)
        assert got["held_out"][i] == pytest.approx(weight[asked[i]] / weight.sum() * ink, abs=1e-9)
    bold = world.judge(np.eye(10)[told[:50]], np.clip(x + 0.7, -1, 1), np.arange(50))
    assert bold["reward"].mean() > 1.3 * world.judge(np.eye(10)[told[:50]], x, np.arange(50))["reward"].mean()


def test_digits_are_recorded_as_asked_for_and_drawn_in_a_row_each() -> None:
    pytest.importorskip("sklearn")
    world = samples.DrawnDigits()
    data = world.recorded(300)
    asked = data["observations"][:, :10].argmax(1)
    assert np.bincount(asked, minlength=10).min() > 15
    known = {row.tobytes(): k for row, k in zip(world.known.astype(np.float32), world.labels, strict=True)}
    assert all(known[row.tobytes()] == k for row, k in zip(data["actions"], asked, strict=True))
    page = world.draw(data["observations"], data["actions"])
    assert page.shape == (300, 600, 3)
    first = np.flatnonzero(asked == 7)[0]
    tile = page[7 * 30 + 3 : 8 * 30 - 3 : 3, 3:27:3, 0]
    np.testing.assert_allclose(tile, 255 * (1 - data["actions"][first].reshape(8, 8)) / 2, atol=0.51)
