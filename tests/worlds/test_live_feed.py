"""Live streams in a feed: its steps by hand, and the world solved as a finite one beside the world as it is played."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from thespis.worlds import feeds
from thespis.worlds.live_feed import MOST, TIRED, Audience, LiveFeed, Lives, best, states, value

SMALL = Audience(*(np.array(x) for x in ([-1.5, 0.5], [2.0, 0.5], [0.5, -1.0], [4.0, 20.0], [0.7, 0.3])), annoyed=0.6)
"""two users, two kinds of lives"""


def odds(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_live_is_watched_and_annoys_as_told() -> None:
    """20,000 users of one kind, two requests with a live and two without."""
    of = SMALL._replace(affinity=np.array([-0.4]), minutes=np.array([2.0]), pull=np.array([0.5]), live=np.array([4.0]))
    n = 20_000
    s = Lives(n, of._replace(share=np.ones(1)), np.random.default_rng(0))
    s.begin(np.ones(n, bool))
    np.testing.assert_allclose(s.seen()[0], [-0.4, math.log(2), 0, 0, 0.5, math.log(4)])
    np.testing.assert_allclose(s.behaviour()[0, 1], 0.05 + 0.85 * odds(-0.4 + 0.5 + math.log(4) - 2.5))
    reward, _ = s.step(np.ones(n, np.int64))
    watched = reward[:, 1] > 0
    assert watched.mean() == pytest.approx(odds(0.1), abs=0.01)
    assert reward[watched, 1].mean() == pytest.approx(4, rel=0.05)
    assert np.log(reward[watched, 1]).std() == pytest.approx(1.2, rel=0.03)
    assert (reward[watched, 0] - reward[watched, 1]).mean() == pytest.approx(0.8 * 2, rel=0.03)
    assert reward[~watched, 0].mean() == pytest.approx(2, rel=0.03)
    assert (reward[:, 2] == -1).all()
    np.testing.assert_array_equal(s.annoyed, np.where(watched, 0, 4))
    reward, left = s.step(np.ones(n, np.int64))
    again = reward[:, 1] > 0
    assert again.mean() == pytest.approx(odds(0.1 - 0.3 * 3), abs=0.01)
    assert reward[~watched & ~again, 0].mean() == pytest.approx(2 * math.exp(-0.05), rel=0.03)
    assert left[~watched & ~again].mean() == pytest.approx(1 - odds(3 - 0.6 * 2), abs=0.015)
    for _ in range(2):
        reward, _ = s.step(np.zeros(n, np.int64))
    assert (reward[:, 1:] == 0).all()
    assert set(s.tired) == {1}
    np.testing.assert_array_equal(s.annoyed, np.maximum(np.where(watched, 0, 4) - again + 4 * ~again - 2, 0))


def test_exact_value_is_what_playing_gives() -> None:
    """A policy that shows more to who cares: within four standard errors of 20,000 sessions played."""
    world = LiveFeed()
    world.of = SMALL
    rng = np.random.default_rng(0)

    def act(obs: np.ndarray) -> np.ndarray:
        return (rng.random(len(obs)) < chance(obs)).astype(np.int64)

    def chance(obs: np.ndarray) -> np.ndarray:
        return np.asarray(0.1 + 0.3 * (obs[..., 0] > 0) + 0.1 * (obs[..., 2] == 0))

    found = value(SMALL, chance(states(SMALL)))
    total, error, requests = feeds.worth(world, act, 20_000, seed=1)
    wanted = [found["watch"], found["live"], -found["requests"] * found["exposure"]]
    np.testing.assert_array_less(np.abs(total - wanted), 4 * error)
    assert requests == pytest.approx(found["requests"], rel=0.02)


def solved(of: Audience, price: float, exposure: float) -> np.ndarray:
    """The same by loops, a state at a time, a hundred times over: which states have a live shown."""
    shape = (len(of.affinity), MOST + 1, TIRED + 1)
    v = np.zeros(shape)
    shown = np.zeros((*shape, len(of.pull)))

    def stays(y: int) -> float:
        return odds(of.stay - of.annoyed * y / 4)

    for _ in range(100):
        new = np.zeros(shape)
        for (u, y, t), (k, share) in itertools.product(np.ndindex(shape), enumerate(of.share)):
            video = of.minutes[u] * math.exp(-of.bored * y / 4)
            p = odds(of.affinity[u] + of.pull[k] - of.weary * t)
            calm, worse = max(y - 1, 0), min(y + 4, 12)
            none = video + price * exposure + stays(calm) * v[u, calm, max(t - 1, 0)]
            seen = 0.8 * video + of.live[k] + stays(calm) * v[u, calm, 3]
            show = p * seen + (1 - p) * (video + stays(worse) * v[u, worse, 3]) - price * (1 - exposure)
            new[u, y, t] += share * max(none, show)
            shown[u, y, t, k] = show > none
        v = new
    return shown


def test_the_best_policy_is_that_of_dynamic_programming_and_no_other_is_better() -> None:
    short = SMALL._replace(stay=1.0)  # sessions are short, and a hundred steps ahead are enough
    np.testing.assert_array_equal(best(short, 1.0), solved(short, 0.0, 1.0))
    of = LiveFeed(users=20).of
    for exposure in (0.05, 0.1):
        show = best(of, exposure)
        most = value(of, show)
        assert exposure - 0.02 < most["exposure"] <= exposure
        rng = np.random.default_rng(0)
        for _ in range(60):  # a few states changed
            other = np.where(rng.random(show.shape) < 0.02, 1 - show, show)
            found = value(of, other)
            assert found["watch"] <= most["watch"] + 1e-9 or found["exposure"] > most["exposure"] + 1e-9


def test_greed_costs_minutes() -> None:
    """To show what gives most at once, as often as the best policy: fewer minutes, and users leave sooner."""
    of = LiveFeed(users=40).of
    m, show = states(of), best(of, 0.2)
    most = value(of, show)
    gain = 1 / (1 + np.exp(-m[..., 0] - m[..., 4] + 0.9 * m[..., 3])) * (np.exp(m[..., 5]) - 0.2 * np.exp(m[..., 1]))
    at = np.quantile(gain, np.linspace(0.5, 1, 60))
    greedy = min((value(of, (gain > x) * 1.0) for x in at), key=lambda v: abs(v["exposure"] - most["exposure"]))
    assert greedy["exposure"] == pytest.approx(most["exposure"], abs=0.02)
    assert greedy["watch"] < 0.97 * most["watch"]
    assert greedy["requests"] < most["requests"]
