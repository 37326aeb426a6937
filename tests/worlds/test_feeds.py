"""Worlds of recommendation: their chances by hand, their logs, and what logs say of a policy beside what it is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from thespis import cli
from thespis.estimate import ncis
from thespis.worlds import feeds
from thespis.worlds.short_video import Catalogue, ShortVideo


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    return feeds.log(ShortVideo(), 60_000, seed=1)


def odds(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_video_is_watched_liked_and_left_as_told() -> None:
    """Two users and two videos; 20,000 sessions of two steps, by hand."""
    env = gym.make("thespis/ShortVideo-v0", videos=2, users=2).unwrapped
    e = np.eye(8)
    env.of = Catalogue(e[[0, 0]], e[[0, 1]], np.array([20.0, 10.0]), *np.array([[0.5, 0], [-1, 0], [-2, 0], [-1, 0]], float))
    n = 20_000
    s = env.sessions(n, np.random.default_rng(0))
    s.begin(np.ones(n, bool))
    np.testing.assert_allclose(s.seen()[0], [2] + [0] * 17)
    first = np.exp([2 + 0.25, 0])
    np.testing.assert_allclose(s.behaviour()[0], 0.8 * first / first.sum() + 0.1)
    bored = 0.0
    for recent in (0.0, 0.3):
        reward, left = s.step(np.zeros(n, np.int64))
        share = odds(0.5 + 2.5 - bored)
        wanted = [2 * share, odds(-1 + 1.25), odds(-2 + 1.25), -odds(-1 - 1.25)]
        np.testing.assert_allclose(reward.mean(0), wanted, atol=0.015)
        assert reward[:, 0].std() == pytest.approx(2 * share * math.sqrt(math.exp(0.25) - 1), rel=0.05)
        bored = 0.8 * bored + recent
        assert left.mean() == pytest.approx(1 - odds(2.2 - 0.3 * bored + share - 0.5), abs=0.01)
        np.testing.assert_allclose(s.bored, bored)


def test_a_log_holds_whole_sessions_and_the_propensities_of_who_acted(log: dict[str, Any]) -> None:
    ends = np.flatnonzero(log["terminals"] | log["timeouts"])
    assert ends[-1] == len(log["rewards"]) - 1 >= 59_999
    begins = np.append(0, ends[:-1] + 1)
    assert (log["observations"][begins, 8:] == 0).all()
    inner = np.setdiff1d(np.arange(len(log["rewards"]) - 1), ends)
    np.testing.assert_array_equal(log["next_observations"][inner], log["observations"][inner + 1])
    assert log["propensities"].min() >= 0.2 / 20
    assert (1 / log["propensities"]).mean() == pytest.approx(20, rel=0.03)  # sum over choices of p / p
    again = feeds.log(ShortVideo(), 100, seed=1)
    np.testing.assert_array_equal(again["rewards"][0], log["rewards"][0])


def test_ncis_beside_the_true_value(log: dict[str, Any]) -> None:
    """Of a policy near who acted: within 1% of its exact mean reward in the states of the log, and within 6% of what a step gives
    where the policy goes by itself, to users who are more bored, above it."""
    world = ShortVideo()
    lengths, obs = np.diff(np.flatnonzero(log["terminals"] | log["timeouts"]), prepend=-1), log["observations"].astype(float)

    def chances(obs: np.ndarray) -> np.ndarray:  # twice as keen on matching topics
        score = np.exp(2 * obs[:, :8].astype(float) @ world.of.topic.T)
        return np.asarray(0.8 * score / score.sum(1, keepdims=True) + 0.2 / 20)

    chance, s = chances(obs), world.sessions(len(obs), np.random.default_rng(0))
    s.taste, s.bored, here = obs[:, :8] / 2, obs[:, 16], np.zeros(2)
    for video in range(20):
        share, odds = s.chances(np.full(len(obs), video))
        given = np.stack([world.of.seconds[video] * share / 10, odds[:, 0]], 1)
        here += (chance[:, video, None] * given).mean(0)
    ratio = np.take_along_axis(chance, log["actions"][:, None], 1)[:, 0] / log["propensities"]
    value, interval, effective = ncis(ratio, log["rewards"], lengths)
    assert value[0] == pytest.approx(here[0], rel=0.01)
    assert value[1] == pytest.approx(here[1], rel=0.05)
    assert (interval[0, :2] < here).all()
    assert (here < interval[1, :2]).all()
    assert 0.3 * len(ratio) < effective < len(ratio)
    rng = np.random.default_rng(0)
    total, _, steps = feeds.worth(world, lambda obs: feeds.chosen(chances(obs), rng), 5_000, seed=5)
    assert value[0] == pytest.approx(total[0] / steps, rel=0.06)
    assert value[0] > 1.01 * total[0] / steps  # its known bias: users in the log were less bored


def test_ncis_by_hand() -> None:
    value, _, effective = ncis(np.array([2.0, 30.0, 0.0]), np.array([[1.0, 0], [2.0, 1], [9.0, 9]]), np.array([2, 1]))
    np.testing.assert_allclose(value, [(2 * 1 + 10 * 2) / 12, 10 / 12])
    assert effective == pytest.approx(12**2 / (4 + 100))


def test_log_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "log.npz"
    assert cli.main(["log", "thespis/ShortVideo-v0", "--out", str(out), "--steps", "50", "--env-args", "videos=3"]) == 0
    with np.load(out) as found:
        assert found["actions"].max() < 3
        assert len(found["propensities"]) == len(found["rewards"]) >= 50
    for args, told in (
        (["thespis/ShortVideo-v0", "--out", str(out)], f"out: {out} exists; give another"),
        (["CartPole-v1", "--out", str(tmp_path / "a.npz")], "env is 'CartPole-v1'; allowed: a world that is a feed"),
        (["thespis/ShortVideo-v0", "--out", str(tmp_path / "a.csv")], "allowed: a file .npz"),
    ):
        assert cli.main(["log", *args]) == 2
        assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]
