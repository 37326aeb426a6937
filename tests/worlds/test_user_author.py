"""Users and authors: steps by hand, and the value of a pair in closed form beside pairs that are played."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thespis.worlds import feeds, user_author
from thespis.worlds.user_author import Authors, UserAuthor, Users, pair_value

ONE = Authors(np.array([0.4]), np.array([0.8]), np.array([2.0]))


def odds(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def alone(n: int, level: int, seed: int = 0) -> Users:
    """n users with one author, who is always shown, and cares alike for all."""
    s = Users(n, ONE, np.random.default_rng(seed))
    s.begin(np.ones(n, bool))
    s.level[:], s.keen[:] = level, False
    s.candidates = lambda n: np.zeros((n, 5), np.int64)  # type: ignore[method-assign]
    s.candidate = s.candidates(n)
    return s


def test_a_click_leads_to_a_follow_and_a_follow_to_gifts() -> None:
    n = 20_000
    s, shown = alone(n, 2), np.zeros(n, np.int64)
    reward, left = s.step(shown)
    clicked = reward[:, 0] == 1
    assert clicked.mean() == pytest.approx(odds(-0.5 + 0.4), abs=0.01)
    assert reward[clicked, 1].mean() == pytest.approx(odds(-2), abs=0.01)
    assert (reward[~clicked, 1:] == 0).all()
    assert (reward[:, 2] == 0).all()
    assert not left.any()
    assert s.keen.mean() == pytest.approx(0.1, abs=0.01)
    s.keen[:] = True
    s.count[:n, 0] = [3, 1, 0]
    obs = s.seen()
    np.testing.assert_allclose(obs[0, [0, 1, 2, 3]], [1, 0.6, 0.2, 0])
    np.testing.assert_allclose(obs[0, 5:8], [0.4, 0.8, math.log(2)])
    reward, _ = s.step(shown)
    clicked, gave = reward[:, 0] == 1, reward[:, 2] > 0
    assert clicked.mean() == pytest.approx(odds(-0.5 + 0.4 + 0.6 + 0.8 + 1), abs=0.01)
    assert gave[clicked].mean() == pytest.approx(odds(-0.5 + 0.8), abs=0.01)
    assert reward[gave, 2].mean() == pytest.approx(2, rel=0.03)
    assert (reward[:, 1] == 0).all()  # they follow already
    s.count[:, 0] = [1, 0, 0]
    follows = s.step(shown)[0]
    assert follows[follows[:, 0] == 1, 1].mean() == pytest.approx(odds(-2 + 0.8), abs=0.015)


def test_the_value_of_a_pair_is_what_playing_gives() -> None:
    """2,000 pairs of each level that care, shown 150 times: discounted sums within four standard errors of the closed form."""
    for level in (1, 2):
        s, n = alone(2_000, level, seed=level), 2_000
        total = sum(0.95**t * s.step(np.zeros(n, np.int64))[0] for t in range(150))
        wanted = pair_value(ONE, 0, level, 0.95)[0, 0, 0]
        error = np.asarray(total).std(0) / math.sqrt(n)
        np.testing.assert_array_less(np.abs(np.asarray(total).mean(0) - wanted), 4 * error + 1e-3)
    assert pair_value(ONE, 0, 2, 0.95)[0, 0, 0, 2] < pair_value(ONE, 0, 2, 0.95)[2, 1, 1, 2]  # a follower gives more
    np.testing.assert_allclose(pair_value(ONE, 0, 2, 0.0)[0, 0, 1], [odds(0.9), odds(0.9) * odds(-2), 0])


def test_a_log_has_whole_months_and_the_chances_of_who_acted() -> None:
    log = feeds.log(UserAuthor(), 12_000, n=100)
    assert len(log["rewards"]) == 12_000
    assert not log["terminals"].any()
    assert (np.flatnonzero(log["timeouts"]) == 119 + 120 * np.arange(100)).all()
    assert (1 / log["propensities"]).mean() == pytest.approx(5, rel=0.05)
    assert log["propensities"].min() >= user_author.UNIFORM / 5
    counters = log["observations"][:, 1:].reshape(-1, 5, 7)[..., :3]
    assert counters.max() == 1
    chosen = counters[np.arange(12_000), log["actions"]]
    assert (log["rewards"][chosen[:, 1] > 0, 1] == 0).all()
    assert (log["rewards"][chosen[:, 1] == 0, 2] == 0).all()
