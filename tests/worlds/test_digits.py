"""Worlds of pictures: which they are, and that the mean return is the accuracy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis.worlds.digits import CORRUPTIONS, canvases, corrupted, digits, enlarged, moved

pytest.importorskip("sklearn")


def test_the_two_parts_are_all_of_the_digits_and_share_none() -> None:
    from sklearn.datasets import load_digits

    (train, told), (test, held) = digits("train"), digits("test")
    both = np.concatenate([train, test]).reshape(-1, 64) * 16
    assert (len(train), len(test)) == (900, 897)
    order = [np.lexsort(x.T) for x in (both, load_digits().data)]
    np.testing.assert_array_equal(both[order[0]], load_digits().data[order[1]])
    np.testing.assert_array_equal(np.concatenate([told, held])[order[0]], load_digits().target[order[1]])
    with pytest.raises(ValueError, match="split is 'all'"):
        digits("all")  # type: ignore[arg-type]


def test_enlarging_is_linear_between_the_centres_of_pixels() -> None:
    ramp = np.tile(np.arange(8, dtype=np.float32), (1, 8, 1))
    wide = enlarged(ramp, 16)[0]
    np.testing.assert_allclose(wide[3, 1:-1], np.arange(0.25, 7, 0.5)[:14])
    np.testing.assert_allclose(wide[3, [0, -1]], [0, 7])
    np.testing.assert_array_equal(enlarged(ramp, 8), ramp)
    for size in (0, 12):
        with pytest.raises(ValueError, match="allowed: 8 or a multiple"):
            enlarged(ramp, size)


def test_the_reward_is_1_for_the_class_of_the_picture_and_its_labels_are_those_of_the_other_part() -> None:
    env = gym.make("thespis/Digits-v0", size=16)
    pictures, labels = digits("test")
    looked = {(np.rint(255 * enlarged(p[None], 16)).astype(np.uint8)).tobytes(): k for p, k in zip(pictures, labels, strict=True)}
    seen = set()
    for seed in range(40):
        obs, _ = env.reset(seed=seed)
        assert env.observation_space.contains(obs)
        right = looked[obs.tobytes()]
        seen.add(int(right))
        assert env.step((right + seed % 2) % 10)[1:4] == (1.0 - seed % 2, True, False)
    assert len(seen) == 10
    recorded = env.unwrapped.recorded()
    np.testing.assert_array_equal(recorded["actions"], digits("train")[1])
    assert recorded["observations"].shape == (900, 16, 16, 1)
    assert not {x.tobytes() for x in recorded["observations"]} & looked.keys()


def test_a_learner_from_data_takes_the_labels_of_its_world_and_is_resumed_to_the_bit(tmp_path) -> None:
    from tests.engine.runs import assert_equal

    small = {"log_every": 150, "eval_every": 150, "eval_episodes": 100, "compile_after": -1, "sinks": (), "panel": False}
    whole = thespis.train("classifier", "thespis/Digits-v0", out=tmp_path / "whole", steps=300, **small)
    assert whole.return_mean > 0.85  # by chance 0.1
    half = thespis.train("classifier", "thespis/Digits-v0", out=tmp_path / "half", steps=150, **small)
    assert_equal(thespis.resume(half, steps=300, panel=False).path, whole.path)
    other = thespis.train("ppo_discrete", "thespis/Digits-v0", out=tmp_path / "ppo", steps=128, **small)
    assert other.finished  # it learns from its own steps


def test_corruptions_by_hand() -> None:
    rng, x = np.random.default_rng(0), np.random.default_rng(1).random((300, 16, 16)).astype(np.float32)
    spoilt = {name: corrupted(x, name, rng) for name in CORRUPTIONS}
    for name, y in spoilt.items():
        assert y.dtype == np.float32, name
        assert 0 <= y.min() < y.max() <= 1, name
        assert not np.array_equal(x, y), name
    flat = np.full((400, 16, 16), 0.5, np.float32)
    noise = corrupted(flat, "noise", rng)
    assert (noise == 1).mean() == pytest.approx(0.133, abs=0.005)  # 0.45 times a normal number beyond 0.5
    assert (spoilt["impulse"] != x).mean() == pytest.approx(0.24, abs=0.01)
    assert spoilt["blur"][0, 5, 7] == pytest.approx(x[0, 3:8, 5:10].mean(), rel=1e-5)
    np.testing.assert_allclose(spoilt["contrast"].std((1, 2)), 0.25 * x.std((1, 2)), rtol=1e-4)
    np.testing.assert_allclose((spoilt["inversion"] != x).sum((1, 2)), 64, atol=2)
    fog = corrupted(flat, "fog", rng)
    np.testing.assert_allclose(np.diff(fog, 2, axis=2)[np.abs(fog - 0.5).max((1, 2)) < 0.49], 0, atol=1e-5)  # planes
    with pytest.raises(ValueError, match="corruption is 'rain'; allowed: noise"):
        corrupted(x, "rain", rng)
    shifted = moved(x, rng)
    assert {int(np.array_equal(a[1:, 1:], b[:-1, :-1])) for a, b in zip(x, shifted, strict=True)} == {0, 1}
    same = [np.array_equal(a, b) for a, b in zip(x, shifted, strict=True)]
    assert np.mean(same) == pytest.approx(1 / 9, abs=0.06)


def test_the_corrupted_world_labels_what_it_spoilt_and_is_the_same_for_a_seed() -> None:
    one, two = (gym.make("thespis/CorruptedDigits-v0", corruption="blur", repeats=2).unwrapped for _ in range(2))
    np.testing.assert_array_equal(one.rows, two.rows)
    assert one.rows.shape == (2 * 897, 16, 16, 1)
    np.testing.assert_array_equal(one.labels, np.tile(digits("test")[1], 2))
    assert np.array_equal(
        one.recorded()["observations"], gym.make("thespis/Digits-v0", size=16).unwrapped.recorded()["observations"]
    )


def test_two_digits_are_both_there_apart_and_the_higher_one_is_the_label() -> None:
    pictures, labels = digits("test")
    seen, told = canvases("test", 200, 24, np.random.default_rng(0))
    known = {(np.rint(255 * p).astype(np.uint8)).tobytes(): int(k) for p, k in zip(pictures, labels, strict=True)}
    for canvas, label in zip(seen[..., 0], told, strict=True):
        found = [
            (row, known[window.tobytes()])
            for row in range(17) for column in range(17)
            if (window := np.ascontiguousarray(canvas[row : row + 8, column : column + 8])).tobytes() in known
        ]  # fmt: skip
        assert len(found) == 2
        (high, first), (low, _) = found  # rows come in their order
        assert low - high >= 8
        assert first == label
    env = gym.make("thespis/TwoDigits-v0", size=16, pictures=20).unwrapped
    assert env.observation_space.shape == (16, 16, 1)
    for canvas in canvases("train", 30, 24, np.random.default_rng(0))[0][..., 0]:  # other people's digits
        assert not any(canvas[r : r + 8, c : c + 8].tobytes() in known for r in range(17) for c in range(17))
    with pytest.raises(ValueError, match="size is 15; allowed: 16 or more"):
        canvases("train", 1, 15, np.random.default_rng(0))
